"""All-reduces write to operands that die, and to no others; on real ranks the numbers stay."""

import pytest
import torch
from torch import fx, nn

import shardwright as sw
from shardwright.lean.overwrite import reduce_dying, reduce_in_place
from tests.support.models import MEGATRON, Decoder, redraw
from tests.support.ranks import on_ranks

REDUCE = torch.ops._c10d_functional.all_reduce.default
IN_PLACE = reduce_dying
IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))


def module_of(model, args, plan, **given):
    return sw.shard(torch.export.export(redraw(model), args), mesh=2, plan=plan, **given).exported(rank=0).module()


def targets(module):
    return [node.target for node in module.graph.nodes]


def test_what_a_projection_has_just_made_is_reduced_in_place():
    module = module_of(Decoder(layers=3), (IDS,), MEGATRON)
    before = targets(module).count(REDUCE)
    assert reduce_in_place(module) == before == 6
    assert (targets(module).count(REDUCE), targets(module).count(IN_PLACE)) == (0, 6)
    assert reduce_in_place(module) == 0


class Kept(nn.Module):
    """Partial sums: one that goes on as it is, beside its sum, and one that only its sum reads."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.same = nn.Linear(8, 16), nn.Linear(16, 8, bias=False), nn.Linear(8, 8, bias=False)

    def forward(self, x):
        partial = self.down(torch.relu(self.up(x)))
        return partial.sin(), self.same(partial)


def test_what_others_read_stays():
    module = module_of(Kept(), (torch.ones(2, 8),), {"up": "colwise", "down": "rowwise"})
    operands = [node.args[0] for node in module.graph.nodes if node.target is REDUCE]
    reduce_in_place(module)
    assert operands
    for operand in operands:
        (target,) = {user.target for user in operand.users} & {REDUCE, IN_PLACE}
        assert (target is REDUCE) == (len(operand.users) > 1)


class Given(nn.Module):
    """Sums of what the caller gave, and of a view of a product."""

    def forward(self, x, y):
        return x.sin(), (y @ y).transpose(0, 1).sin()


def test_inputs_are_not_written_to():
    args = (torch.ones(4, 8), torch.ones(4, 4))
    module = module_of(Given(), args, {}, inputs={"x": sw.Partial()})
    assert targets(module).count(REDUCE) == 1
    assert reduce_in_place(module) == 0


def called_twice(rank, package, ids):
    model = sw.load(package)
    assert IN_PLACE in targets(model.module)
    return model(ids), model(ids)


@pytest.mark.ranks
def test_real_ranks_give_the_same_numbers_call_after_call(tmp_path):
    model = redraw(Decoder(layers=3))
    sw.shard(torch.export.export(model, (IDS,)), mesh=2, plan=MEGATRON).save(tmp_path / "out")
    wanted = model(IDS)
    for first, second in on_ranks(2, called_twice, str(tmp_path / "out"), IDS):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, wanted, rtol=1e-4, atol=1e-5)


def test_a_cast_may_copy_nothing_once_a_module_was_moved():
    graph = fx.Graph()
    x = graph.placeholder("x")
    product = graph.call_function(torch.ops.aten.mm.default, (x, x))
    cast = graph.call_function(torch.ops.aten.to.dtype, (product, torch.bfloat16))
    reduced = graph.call_function(REDUCE, (cast, "sum", "tp"))
    graph.output((product, reduced))
    for node in (x, product, cast, reduced):
        node.meta["val"] = torch.ones(4, 4, dtype=torch.bfloat16 if node in (cast, reduced) else torch.float32)
    assert reduce_in_place(fx.GraphModule(nn.Module(), graph)) == 0
