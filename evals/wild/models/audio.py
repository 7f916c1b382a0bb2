"""Sound: separated, coded, recognised."""

from evals.wild.entry import Entry, floats, tokens

WAVE = floats(2, 1, 1600)
ASTEROID = {"n_src": 2, "n_filters": 32, "bn_chan": 16, "n_repeats": 1}

ENTRIES = (
    Entry(
        "descript-audio-codec",
        "dac.model:DAC",
        (WAVE,),
        {
            "encoder_dim": 8,
            "encoder_rates": [2, 4],
            "decoder_dim": 32,
            "decoder_rates": [4, 2],
            "n_codebooks": 2,
            "codebook_size": 16,
            "sample_rate": 16000,
        },
    ),
    Entry(
        "asteroid",
        "asteroid.models:ConvTasNet",
        (WAVE,),
        {**ASTEROID, "n_blocks": 2, "hid_chan": 32, "skip_chan": 16},
    ),
    Entry("asteroid", "asteroid.models:DPRNNTasNet", (WAVE,), {**ASTEROID, "hid_size": 16, "chunk_size": 20}),
    Entry(
        "asteroid",
        "asteroid.models:DPTNet",
        (WAVE,),
        {"n_src": 2, "n_filters": 32, "n_repeats": 1, "chunk_size": 20, "ff_hid": 32},
    ),
    Entry(
        "asteroid",
        "asteroid.models:SuDORMRFNet",
        (WAVE,),
        {"n_src": 2, "bn_chan": 16, "num_blocks": 2, "n_filters": 32},
    ),
    Entry(
        "asteroid", "asteroid.models:LSTMTasNet", (WAVE,), {"n_src": 2, "n_layers": 1, "hid_size": 32, "n_filters": 32}
    ),
    Entry(
        "openunmix",
        "openunmix.model:OpenUnmix",
        (floats(2, 2, 65, 8),),
        {"nb_bins": 65, "hidden_size": 32, "nb_layers": 1},
    ),
    Entry(
        "openai-whisper",
        "whisper.model:AudioEncoder",
        (floats(2, 16, 40),),
        {"n_mels": 16, "n_ctx": 20, "n_state": 64, "n_head": 4, "n_layer": 2},
    ),
    Entry(
        "openai-whisper",
        "whisper.model:TextDecoder",
        (tokens(8), floats(2, 20, 64)),
        {"n_vocab": 64, "n_ctx": 16, "n_state": 64, "n_head": 4, "n_layer": 2},
    ),
    Entry(
        "speechbrain",
        "speechbrain.lobes.models.ECAPA_TDNN:ECAPA_TDNN",
        (floats(2, 24, 20),),
        {"input_size": 20, "channels": [32, 32, 32, 32, 96], "attention_channels": 16, "lin_neurons": 24},
    ),
    Entry(
        "demucs",
        "demucs.demucs:Demucs",
        (floats(2, 2, 2048),),
        {
            "sources": ["a", "b"],
            "channels": 8,
            "depth": 2,
            "dconv_attn": 9,
            "dconv_lstm": 9,
            "resample": False,
            "norm_starts": 9,
        },
    ),
    Entry(
        "julius", "julius:FFTConv1d", (floats(2, 8, 256),), {"in_channels": 8, "out_channels": 16, "kernel_size": 32}
    ),
    Entry(
        "encodec",
        "encodec.modules.seanet:SEANetEncoder",
        (WAVE,),
        {"n_filters": 8, "dimension": 32, "ratios": [4, 2], "lstm": 1},
    ),
    Entry(
        "encodec",
        "encodec.modules.seanet:SEANetDecoder",
        (floats(2, 32, 40),),
        {"n_filters": 8, "dimension": 32, "ratios": [4, 2], "lstm": 0},
    ),
    Entry(
        "vocos",
        "vocos.models:VocosBackbone",
        (floats(2, 20, 40),),
        {"input_channels": 20, "dim": 32, "intermediate_dim": 64, "num_layers": 2},
    ),
)
