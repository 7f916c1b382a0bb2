"""Tables, clicks and recommendations."""

import torch

from evals.wild.entry import Drawn, Entry, class_of, floats, ints

ROWS = floats(8, 12)
BLOCKS = {"d_in": 12, "d_out": 4, "n_blocks": 2, "d_block": 32}
TABNET = {"input_dim": 12, "output_dim": 4, "group_attention_matrix": None}


def clicks():
    """A model of deepctr-torch over four columns of numbers and categories."""
    sparse, dense = class_of("deepctr_torch.inputs:SparseFeat"), class_of("deepctr_torch.inputs:DenseFeat")
    columns = [sparse("item", 32, 8), sparse("user", 16, 8), dense("price", 1), dense("age", 1)]
    return class_of("deepctr_torch.models:DeepFM")(columns, columns, dnn_hidden_units=(32, 32))


ENTRIES = (
    Entry("deepctr-torch", clicks, (Drawn((8, 4), 16, as_floats=True),)),
    Entry("torch-rechub", "torch_rechub.basic.layers:CrossNetwork", (ROWS,), {"input_dim": 12, "num_layers": 3}),
    Entry("torch-rechub", "torch_rechub.basic.layers:MLP", (ROWS,), {"input_dim": 12, "dims": [32, 16]}),
    Entry("pytorch-tabnet", "pytorch_tabnet.tab_network:TabNetNoEmbeddings", (ROWS,), TABNET),
    Entry("rtdl-revisiting-models", "rtdl_revisiting_models:MLP", (ROWS,), {**BLOCKS, "dropout": 0.1}),
    Entry(
        "rtdl-revisiting-models",
        "rtdl_revisiting_models:ResNet",
        (ROWS,),
        {**BLOCKS, "d_hidden_multiplier": 2.0, "dropout1": 0.1, "dropout2": 0.0},
    ),
    Entry(
        "rtdl-revisiting-models",
        "rtdl_revisiting_models:FTTransformer",
        (ROWS, ints(8, 2, below=3)),
        {
            "n_cont_features": 12,
            "cat_cardinalities": [3, 5],
            "d_out": 4,
            "n_blocks": 2,
            "d_block": 32,
            "attention_n_heads": 4,
            "attention_dropout": 0.1,
            "ffn_d_hidden_multiplier": 2.0,
            "ffn_dropout": 0.1,
            "residual_dropout": 0.0,
        },
    ),
    Entry(
        "rtdl-num-embeddings",
        "rtdl_num_embeddings:PeriodicEmbeddings",
        (ROWS,),
        {"n_features": 12, "d_embedding": 16, "lite": False},
    ),
    Entry(
        "rtdl-num-embeddings",
        "rtdl_num_embeddings:LinearReLUEmbeddings",
        (ROWS,),
        {"n_features": 12, "d_embedding": 16},
    ),
    Entry(
        "tabm",
        "tabm:TabM",
        (ROWS,),
        {
            "n_num_features": 12,
            "d_out": 4,
            "n_blocks": 2,
            "d_block": 32,
            "dropout": 0.1,
            "k": 8,
            "start_scaling_init": "random-signs",
        },
    ),
    Entry(
        "tab-transformer-pytorch",
        "tab_transformer_pytorch:TabTransformer",
        (ints(8, 3, below=4), floats(8, 5)),
        {
            "categories": (4, 5, 6),
            "num_continuous": 5,
            "dim": 32,
            "dim_out": 2,
            "depth": 2,
            "heads": 4,
            "dim_head": 8,
            "mlp_act": torch.nn.ReLU(),
        },
    ),
    Entry(
        "tab-transformer-pytorch",
        "tab_transformer_pytorch:FTTransformer",
        (ints(8, 3, below=4), floats(8, 5)),
        {"categories": (4, 5, 6), "num_continuous": 5, "dim": 32, "dim_out": 2, "depth": 2, "heads": 4, "dim_head": 8},
    ),
)
