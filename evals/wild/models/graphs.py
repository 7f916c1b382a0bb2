"""Graphs, points and molecules."""

from evals.wild.entry import Entry, floats, ints

NODES = floats(12, 16)
EDGES = ints(2, 30, below=12)
BASIC = {"in_channels": 16, "hidden_channels": 32, "num_layers": 2, "out_channels": 8}


def geometric(name, args, given):
    """A model of torch-geometric."""
    return Entry("torch-geometric", f"torch_geometric.nn.models:{name}", args, given)


ENTRIES = (
    geometric("GCN", (NODES, EDGES), BASIC),
    geometric("GAT", (NODES, EDGES), {**BASIC, "heads": 4}),
    geometric("GraphSAGE", (NODES, EDGES), BASIC),
    geometric("GIN", (NODES, EDGES), BASIC),
    geometric("EdgeCNN", (NODES, EDGES), BASIC),
    geometric(
        "AttentiveFP",
        (NODES, EDGES, floats(30, 8), ints(12, below=1)),
        {
            "in_channels": 16,
            "hidden_channels": 32,
            "out_channels": 8,
            "edge_dim": 8,
            "num_layers": 2,
            "num_timesteps": 2,
        },
    ),
    geometric("MLP", (NODES,), {"channel_list": [16, 32, 32, 8]}),
    geometric("LightGCN", (EDGES,), {"num_nodes": 12, "embedding_dim": 16, "num_layers": 2}),
    geometric(
        "LINKX",
        (NODES, EDGES),
        {"num_nodes": 12, "in_channels": 16, "hidden_channels": 32, "out_channels": 8, "num_layers": 2},
    ),
    geometric(
        "SGFormer",
        (NODES, EDGES, ints(12, below=1)),
        {"in_channels": 16, "hidden_channels": 32, "out_channels": 8},
    ),
    geometric("NeuralFingerprint", (NODES, EDGES, ints(12, below=1)), BASIC),
    Entry(
        "egnn-pytorch",
        "egnn_pytorch:EGNN",
        (floats(2, 12, 32), floats(2, 12, 3)),
        {"dim": 32},
    ),
    Entry(
        "egnn-pytorch",
        "egnn_pytorch:EGNN_Network",
        (ints(2, 12, below=21), floats(2, 12, 3)),
        {"num_tokens": 21, "dim": 32, "depth": 2, "num_nearest_neighbors": 4},
    ),
    Entry(
        "graph-transformer-pytorch",
        "graph_transformer_pytorch:GraphTransformer",
        (floats(2, 12, 64), floats(2, 12, 12, 32)),
        {"dim": 64, "depth": 2, "edge_dim": 32, "dim_head": 16, "with_feedforwards": True},
    ),
    Entry(
        "adjacent-attention-pytorch",
        "adjacent_attention_network:AdjacentAttentionNetwork",
        (floats(2, 12, 64), ints(2, 12, 12, below=2)),
        {"dim": 64, "depth": 2, "dim_head": 16},
    ),
    Entry(
        "point-transformer-pytorch",
        "point_transformer_pytorch:PointTransformerLayer",
        (floats(2, 12, 64), floats(2, 12, 3)),
        {"dim": 64, "num_neighbors": 4},
    ),
    Entry(
        "point-transformer-pytorch",
        "point_transformer_pytorch:MultiheadPointTransformerLayer",
        (floats(2, 12, 64), floats(2, 12, 3)),
        {"dim": 64, "dim_head": 16},
    ),
    Entry(
        "equiformer-pytorch",
        "equiformer_pytorch:Equiformer",
        (ints(2, 8, below=12), floats(2, 8, 3)),
        {"num_tokens": 12, "dim": (16, 8), "dim_head": (8, 8), "heads": (4, 4), "depth": 1, "num_degrees": 2},
    ),
    Entry(
        "se3-transformer-pytorch",
        "se3_transformer_pytorch:SE3Transformer",
        (floats(2, 8, 32), floats(2, 8, 3)),
        {"dim": 32, "heads": 4, "depth": 1, "dim_head": 8, "num_degrees": 2},
    ),
)
