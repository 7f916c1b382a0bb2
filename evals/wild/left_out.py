"""Packages that were looked at and are not in the list, with the reason."""

LEFT_OUT = {
    "schnetpack": "2.2.0 could not be installed",
    "spectrans": "0.1.0 could not be installed",
    "physicsnemo": "its build fails; `nvidia-physicsnemo` is installed",
    "alphagenome-pytorch": "0.3.1 could not be installed",
    "imagen-pytorch": "reads a text encoder's config from the network when imported",
    "e2-tts-pytorch": "imports jaraco through inflect, which is not in the list's environment",
    "voicebox-pytorch": "imports naturalspeech2-pytorch, which is not in the list's environment",
    "faenet": "imports torch_scatter, which is not in the list's environment",
    "torchtitan": "its models take the block masks of flex attention as inputs",
    "pytorch-widedeep": "imports spacy",
    "tsai": "imports fasthtml through fastai",
    "pytorch-forecasting": "its models are made from a data set of its own",
    "celldetection": "0.4.9 looks up numpy.uint32 in a table of numkong 7.8 that lacks it",
    "deeptab": "imports pretab",
    "parallel-wavegan": "its build fails",
}
