"""Time series and recurrences."""

from evals.wild.entry import Entry, class_of, floats

SERIES = floats(4, 24, 6)
CHANNELS_FIRST = floats(4, 6, 24)
VARIATES = {"num_variates": 6, "lookback_len": 24, "dim": 32, "depth": 2, "heads": 4, "dim_head": 8, "pred_length": 12}


def nhits():
    """A model of neuralforecast over windows of one series."""
    given = {"h": 6, "input_size": 24, "mlp_units": [[32, 32]] * 3, "max_steps": 1}
    return class_of("neuralforecast.models.nhits:NHITS")(**given)


def windows(**more):
    """Windows as the models of neuralforecast take them."""
    none = dict.fromkeys(("futr_exog", "hist_exog", "stat_exog"))
    return {"insample_y": floats(4, 24, 1), "insample_mask": floats(4, 24, 1), **none, **more}


ENTRIES = (
    Entry("neuralforecast", nhits, (windows(),)),
    Entry("isab-pytorch", "isab_pytorch:ISAB", (floats(2, 24, 32),), {"dim": 32, "heads": 4, "num_latents": 6}),
    Entry("itransformer", "iTransformer:iTransformer", (SERIES,), {**VARIATES, "flash_attn": False}),
    Entry(
        "itransformer",
        "iTransformer:iTransformer2D",
        (SERIES,),
        {**VARIATES, "num_time_tokens": 4, "flash_attn": False},
    ),
    Entry("pytorch-tcn", "pytorch_tcn:TCN", (CHANNELS_FIRST,), {"num_inputs": 6, "num_channels": [32, 32]}),
    Entry("ncps", "ncps.torch:CfC", (floats(4, 6, 8),), {"input_size": 8, "units": 32, "backbone_units": 32}),
    Entry("ncps", "ncps.torch:LTC", (floats(4, 4, 8),), {"input_size": 8, "units": 16}),
    Entry("s5-pytorch", "s5:S5Block", (floats(2, 16, 32),), {"dim": 32, "state_dim": 16, "bidir": False}),
    Entry("s5-pytorch", "s5:S5", (floats(2, 16, 32),), {"width": 32, "state_width": 16}),
    Entry(
        "nflows",
        "nflows.nn.nets:ResidualNet",
        (floats(4, 12),),
        {"in_features": 12, "out_features": 6, "hidden_features": 32},
    ),
    Entry(
        "nflows",
        "nflows.nn.nets:MLP",
        (floats(4, 12),),
        {"in_shape": (12,), "out_shape": (6,), "hidden_sizes": [32, 32]},
    ),
)
