"""Packages that were looked at and are not in the list, with the reason."""

LEFT_OUT = {
    "schnetpack": "2.2.0 is not on the index",
    "spectrans": "0.1.0 is not on the index",
    "physicsnemo": "its build fails; `nvidia-physicsnemo` is installed",
    "alphagenome-pytorch": "0.3.1 is not on the index",
    "imagen-pytorch": "reads a text encoder's config from the network when imported",
    "e2-tts-pytorch": "imports nltk's data",
    "voicebox-pytorch": "imports naturalspeech2-pytorch, whose needs do not fit beside the rest",
    "descript-audio-codec": "imports a wrapper of ffmpeg",
    "faenet": "imports torch_scatter, which has no wheel for the pinned torch",
    "torchtune": "imports torchao.dtypes.nf4tensor, which torchao 0.18 lacks",
    "torchtitan": "imports triton, which has no use on CPUs",
    "pytorch-widedeep": "imports spacy",
    "nvidia-physicsnemo": "imports nvtx",
    "tsai": "imports fasthtml through fastai",
    "pytorch-forecasting": "imports skbase",
    "celldetection": "imports numkong",
    "deeptab": "imports pretab",
    "parallel-wavegan": "its build fails",
}
