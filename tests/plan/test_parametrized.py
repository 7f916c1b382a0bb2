"""Styles reach through parametrizations: what a weight is made of is cut, its norm is reduced, nothing is gathered."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import shardwright as sw
from shardwright.plan.made_of import TensorInfo, made_by_parametrization


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def doubled(layer):
    parametrize.register_parametrization(layer, "weight", Doubled())
    parametrize.register_parametrization(layer, "bias", Doubled())
    return layer


def pruned(layer):
    prune.random_unstructured(layer, "weight", 0.3)
    return prune.random_unstructured(layer, "bias", 0.3)


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
    # The old hooks set the weight in forward, which the exporter warns of.
    pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning"),
]
KINDS = {
    # kind → how it is made, what the column-wise and the row-wise layer reduce of their weights
    "weight_norm": (parametrizations.weight_norm, [], ["rows"]),
    "weight_norm of columns": (lambda m: parametrizations.weight_norm(m, dim=1), ["columns"], []),
    "weight_norm of all": (lambda m: parametrizations.weight_norm(m, dim=None), ["one"], ["one"]),
    "old weight_norm": (nn.utils.weight_norm, [], ["rows"]),
    "old weight_norm of columns": (lambda m: nn.utils.weight_norm(m, dim=1), ["columns"], []),
    "old weight_norm of all": (lambda m: nn.utils.weight_norm(m, dim=None), ["one"], ["one"]),
    "spectral_norm": (parametrizations.spectral_norm, ["one"], ["one"]),
    "old spectral_norm": (nn.utils.spectral_norm, ["one"], ["one"]),
    "pruned": (pruned, [], []),
    "of one's own": (doubled, [], []),
}


class Block(nn.Module):
    def __init__(self, make, width, hidden):
        super().__init__()
        self.up, self.down = make(nn.Linear(width, hidden)), make(nn.Linear(hidden, width))

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def exported(make, width, hidden):
    torch.manual_seed(0)
    model, x = Block(make, width, hidden).eval().double(), torch.randn(3, width).double()
    with torch.no_grad():
        return torch.export.export(model, (x,)), x


@pytest.mark.parametrize(("width", "hidden", "ranks"), [(128, 512, 2), (101, 401, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_cut_and_only_norms_are_reduced(kind, width, hidden, ranks):
    make, up, down = KINDS[kind]
    program, x = exported(make, width, hidden)
    sharded = sw.shard(program, mesh=ranks, plan={"up": "colwise", "down": "rowwise"})
    assert sw.verify(sharded, program, (x,)).ok
    sizes = {"rows": width * 8, "columns": width * 8, "one": 8}
    wanted = [*(sizes[one] for one in (*up, *down)), 3 * width * 8]
    assert [c.kind for c in sharded.collectives] == ["all_reduce"] * len(wanted)
    # A product of vectors may be summed before it or after.
    assert all(c.num_bytes in (size, max(size, width * 8)) for c, size in zip(sharded.collectives, wanted, strict=True))
    matrices = [w for w in sharded.weights if min(w.shape, default=0) > 1 and len(w.shape) > 1]
    assert matrices
    for weight in matrices:
        dim = 0 if weight.name.startswith("up") else 1
        assert isinstance(weight.layouts["tp"], sw.Shard), weight.name
        assert weight.layouts["tp"].dim == dim
    assert all(isinstance(w.layouts["tp"], sw.Shard) for w in sharded.weights if w.name.startswith("up.bias"))


def test_an_embedding_and_a_transposed_linear():
    from transformers.pytorch_utils import Conv1D

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = parametrizations.weight_norm(nn.Embedding(40, 16))
            self.up, self.down = (parametrizations.weight_norm(Conv1D(*size), dim=1) for size in ((64, 16), (16, 64)))

        def forward(self, ids):
            return self.down(torch.relu(self.up(self.embed(ids))))

    torch.manual_seed(0)
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        program = torch.export.export(Model().eval(), (ids,))
    plan = {"embed": "embedding_rowwise", "up": "colwise", "down": "rowwise"}
    sharded = sw.shard(program, mesh=2, plan=plan)
    assert sw.verify(sharded, program, (ids,)).ok
    cuts = {w.name: w.layouts["tp"] for w in sharded.weights if w.name.endswith("original1")}
    assert [layout.dim for layout in cuts.values()] == [0, 1, 0]


def test_a_parametrization_that_works_on_the_whole_weight_is_right():
    program, x = exported(parametrizations.orthogonal, 12, 20)
    sharded = sw.shard(program, mesh=3, plan={"up": "colwise", "down": "rowwise"})
    assert sw.verify(sharded, program, (x,)).ok


def test_a_module_without_a_weight_of_any_kind_is_still_named():
    program, _ = exported(parametrizations.weight_norm, 12, 20)
    with pytest.raises(sw.PlanError, match=r"does not fit module 'up\.parametrizations\.weight'"):
        sw.shard(program, mesh=2, plan={"up.parametrizations.weight": "colwise"})


@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm", "old spectral_norm", "pruned"])
def test_the_name_of_the_weight_itself_means_what_it_is_made_of(kind):
    program, x = exported(KINDS[kind][0], 128, 512)
    by_module = sw.shard(program, mesh=2, plan={"up": "colwise", "down": sw.Shard(1)})
    plan = {"up.weight": "colwise", "up.bias": "colwise", "down.weight": sw.Shard(1)}
    by_name = sw.shard(program, mesh=2, plan=plan)
    for one, other in zip(by_module.weights, by_name.weights, strict=True):
        assert one.layouts == other.layouts, one.name
    assert sw.verify(by_name, program, (x,)).ok


def test_names_that_only_look_like_a_hook_s_are_not_made():
    shapes = {"a.causal_mask": (4, 4), "a.scale_v": (4,), "b.weight_g": (4, 1), "b.weight_v": (4, 4), "c.x_orig": (2,)}
    made = made_by_parametrization({name: TensorInfo(shape) for name, shape in shapes.items()})
    assert made == {"b.weight": ["b.weight_g", "b.weight_v"], "c.x": ["c.x_orig"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_of_autodeploy_reaches_through_as_well(kind):
    program, x = exported(KINDS[kind][0], 16, 32)
    by_style = sw.shard(program, mesh=2, plan={"up": "colwise", "down": "rowwise"})
    borrowed = sw.shard(program, mesh=2, plan=sw.autodeploy_plan({"tp_plan": {"up": "colwise", "down": "rowwise"}}))
    for one, other in zip(by_style.weights, borrowed.weights, strict=True):
        assert one.layouts == other.layouts, one.name
    assert sw.verify(borrowed, program, (x,)).ok
