"""What is written for a rank: values that several read, biases of partial sums, numbers that the program reads."""

import torch
from torch import nn
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor import Shard as TorchShard
from torch.distributed.tensor.parallel import ColwiseParallel, PrepareModuleOutput

import shardwright as sw
from tests.support.models import redraw
from tests.support.sharding import check_as_given, kinds


class Shared(nn.Module):
    """One cut value that two readers need whole."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 12)

    def forward(self, x):
        y = self.fc(x)
        return y.softmax(-1) + y.cumsum(-1)


def test_one_gather_serves_all_readers():
    assert kinds(check_as_given(redraw(Shared()), (torch.randn(3, 8),), 2, {"fc": "colwise"})) == {"all_gather": 1}


def test_a_bias_joins_a_partial_sum_once_without_a_division():
    model = redraw(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)))
    sharded = check_as_given(model, (torch.randn(3, 8),), 3, {"0": "colwise", "2": "rowwise"})
    ranks = [sharded.exported(rank) for rank in range(3)]
    assert torch.equal(ranks[0].state_dict["2.bias"], model[2].bias)
    assert all(not rank.state_dict["2.bias"].any() for rank in ranks[1:])
    for rank in ranks:
        targets = [str(node.target) for node in rank.graph.nodes if node.op == "call_function"]
        assert targets == [
            "aten.linear.default",
            "aten.relu.default",
            "aten.linear.default",
            "_c10d_functional.all_reduce.default",
            "_c10d_functional.wait_tensor.default",
            "aten.detach.default",
        ]


def test_a_number_read_off_a_tensor_is_that_of_the_whole():
    """How many elements, or how they lie in memory: a rank's piece would say something else."""

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

        def forward(self, x):
            return self.down(self.up(x) / x.shape[0])

    x = torch.randn(6, 8)
    rows = {0: torch.export.Dim("rows", min=2)}
    exported = torch.export.export(redraw(Counts()), (x,), dynamic_shapes=(rows,))
    linear, div = (next(n for n in exported.graph.nodes if n.name == name) for name in ("linear", "div"))
    with exported.graph.inserting_after(linear):
        count = exported.graph.call_function(torch.ops.aten.sym_numel.default, (linear,))
    count.meta["val"] = linear.meta["val"].numel()
    div.args = (linear, count)
    exported.graph_module.recompile()
    sharded = sw.shard(exported, mesh=2, plan={"up": "colwise", "down": "rowwise"})
    assert sw.verify(sharded, exported, (x,)).ok


def test_what_was_gathered_lies_otherwise_in_memory():
    """A transposed view that is gathered comes back contiguous; undoing the transposition is then no view any more."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(8, 16)

        def forward(self, x):
            return self.proj(x).view(2, 3, 4, 4).transpose(1, 2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = Heads()

        def forward(self, x):
            return self.heads(x).transpose(1, 2).view(2, 3, 16)

    whole = PrepareModuleOutput(output_layouts=TorchShard(1), desired_output_layouts=TorchReplicate())
    sharded = check_as_given(
        redraw(Model()), (torch.randn(2, 3, 8),), 2, {"heads.proj": ColwiseParallel, "heads": whole}
    )
    assert kinds(sharded) == {"all_gather": 1}
    exported = sharded.exported(0)
    strides = [n.meta["val"].stride() for n in exported.graph.nodes if n.name.startswith("transpose")]
    assert (48, 4, 12, 1) in strides
