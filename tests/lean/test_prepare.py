"""What follows from weights alone is computed once, follows its weights, and is in no state dict."""

import copy
import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn

import shardwright as sw
from shardwright.lean.prepare import prepare_constants
from tests.support.models import redraw
from tests.support.ranks import on_ranks

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


class Cast(nn.Module):
    """Weights in float32, used in bfloat16; a mask made of positions; a counter that is written to."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.register_buffer("calls", torch.zeros(8))

    def forward(self, x):
        hidden = nn.functional.linear(x.bfloat16(), self.up.weight.bfloat16(), self.up.bias.bfloat16())
        mask = (torch.arange(8) % 2).float() * 2
        counted = self.calls * 2
        self.calls.add_(1)
        return self.down(hidden.relu().float()) * mask + counted


@functools.cache
def exported(kind):
    return torch.export.export(redraw(kind()), (X,))


@functools.cache
def sharded(kind):
    """One rank that holds all of a module."""
    return sw.shard(exported(kind), mesh=1, plan={})


def module_of(kind=Cast):
    """A module with weights of its own."""
    return copy.deepcopy(sharded(kind).exported(0)).module()


def num_calls(module):
    return sum(node.op == "call_function" for node in module.graph.nodes)


def test_casts_and_masks_leave_the_graph_and_numbers_stay():
    plain, module = module_of(), module_of()
    before = num_calls(module)
    prepared = prepare_constants(module)
    assert prepared.num_bytes == 16 * 8 * 2 + 16 * 2 + 8 * 4
    assert before - num_calls(module) == 6
    for _ in range(3):
        assert not prepared.refresh()
        assert torch.equal(module(X), plain(X))
    assert torch.equal(module.calls, torch.full((8,), 3.0))
    assert module.state_dict().keys() == plain.state_dict().keys()


def change(module, how, other):
    if how == "load_state_dict":
        module.load_state_dict(other)
    elif how == "assigned":
        module.load_state_dict(other, assign=True)
    elif how == "copy_":
        with torch.no_grad():
            module.up.weight.copy_(other["up.weight"])
    elif how == "data":
        module.up.weight.data = other["up.weight"].clone()
    else:
        module.to(torch.float64)


@pytest.mark.parametrize("how", ["load_state_dict", "assigned", "copy_", "data", "to"])
def test_other_weights_are_followed(how):
    plain, module = module_of(), module_of()
    prepared = prepare_constants(module)
    other = {name: value * 2 for name, value in plain.state_dict().items()}
    for one in (plain, module):
        change(one, how, {name: value.clone() for name, value in other.items()})
    assert prepared.refresh()
    assert torch.equal(module.up.weight, plain.up.weight)
    assert torch.equal(module._shardwright_prepared_0, plain.up.weight.bfloat16())
    if how != "to":
        assert torch.equal(module(X), plain(X))


def test_the_bound_on_memory_is_kept():
    module = module_of()
    assert prepare_constants(module, most_bytes=16 * 8 * 2 - 1).num_bytes == 16 * 2 + 8 * 4
    assert prepare_constants(module_of(), most_bytes=0) is None


class Packed(nn.Module):
    """Numbers of 8 bits that a scale a row multiplies, after the matmul, in another dtype than its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("numbers", torch.arange(32, dtype=torch.int8).view(4, 8))
        self.register_buffer("scale", torch.ones(4, dtype=torch.bfloat16))

    def forward(self, x):
        return nn.functional.linear(x, self.numbers.float()) * self.scale.float()


def test_a_compiler_is_left_quantised_weights_as_they_are():
    for unpack, num_bytes in ((True, 4 * 8 * 4 + 4 * 4), (False, 4 * 4)):
        module = module_of(Packed)
        assert prepare_constants(module, unpack=unpack).num_bytes == num_bytes
        assert torch.equal(module(X), Packed()(X))


class GivenOut(nn.Module):
    """What the caller gets, what is drawn, and a view: nothing that may be kept."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return x @ self.weight.t(), self.weight * 2, (self.weight + 1).t(), x + torch.rand(8)


def test_what_is_given_out_drawn_or_sent_stays():
    assert prepare_constants(module_of(GivenOut)) is None
    cut = sw.shard(exported(GivenOut), mesh=2, plan={"weight": sw.Shard(0)})
    assert prepare_constants(cut.exported(0).module()) is None


class Counting(nn.Module):
    """A buffer that is written to, and one that is not."""

    def __init__(self):
        super().__init__()
        self.register_buffer("one", torch.ones(8))
        self.register_buffer("other", torch.ones(8))

    def forward(self, x):
        doubled = self.other * 2
        self.one.add_(1)
        return x + doubled


def test_a_buffer_that_is_written_to_under_another_name_is_not_constant():
    apart, module = module_of(Counting), module_of(Counting)
    assert prepare_constants(apart) is not None
    module.other = module.one
    assert prepare_constants(module) is None


@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_a_loaded_package_follows_its_weights(tmp_path, backend):
    original = redraw(Cast())
    sharded(Cast).save(tmp_path / "out")
    model = sw.load(tmp_path / "out", backend=backend)
    assert model.prepared is not None
    for factor in (1, 1, 2):
        for one in (model, original):
            with torch.no_grad():
                next(p for name, p in one.named_parameters() if name.endswith("up.weight")).mul_(factor)
        torch.testing.assert_close(model(X), original(X), rtol=2e-2, atol=2e-2)
    assert not any("prepared" in name for name in model.state_dict())
    assert sw.load(tmp_path / "out", prepare_bytes=0).prepared is None
    with pytest.raises(sw.PackageError, match="prepare_bytes must be a whole number of at least 0, got -1"):
        sw.load(tmp_path / "out", prepare_bytes=-1)


def test_a_package_is_loaded_and_called_in_inference_mode(tmp_path):
    sharded(Cast).save(tmp_path / "out")
    with torch.inference_mode():
        model = sw.load(tmp_path / "out")
        first = model(X)
    assert model.prepared is not None
    assert torch.equal(first, sw.load(tmp_path / "out", prepare_bytes=0)(X))


def called(rank, package):
    model = sw.load(package)
    assert model.prepared is not None
    return model(X), sw.load(package, prepare_bytes=0)(X)


@pytest.mark.ranks
def test_real_ranks_give_the_same_numbers(tmp_path):
    plan = {"up": "colwise", "down": "rowwise"}
    sw.shard(exported(Cast), mesh=2, plan=plan).save(tmp_path / "out")
    for prepared, plain in on_ranks(2, called, str(tmp_path / "out")):
        assert torch.equal(prepared, plain)


class Projecting(nn.Module):
    """What comes out is a product of a cast weight."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        return nn.functional.linear(x.bfloat16(), self.up.weight.bfloat16())


def test_what_only_products_read_that_are_given_out_is_kept():
    module = module_of(Projecting)
    assert prepare_constants(module).names == ("_shardwright_prepared_0",)


class Positions(nn.Module):
    def forward(self, x):
        return x + (torch.arange(8) % 2).float() * 2


def test_what_follows_from_no_weight_is_kept_too():
    prepared = prepare_constants(module_of(Positions))
    assert prepared.sources == ()
    assert not prepared.refresh()
    assert torch.equal(prepared.module(X), Positions()(X))


@pytest.fixture
def projecting(tmp_path):
    sharded(Projecting).save(tmp_path / "out")
    return tmp_path / "out"


def is_followed(model, called=None):
    weight = next(model.parameters())
    found = model(X) if called is None else called(X)
    return torch.equal(found, X.bfloat16() @ weight.bfloat16().t())


@pytest.mark.parametrize("writing", [True, False], ids=["written in inference mode", "written outside"])
@pytest.mark.parametrize("loading", [True, False], ids=["loaded in inference mode", "loaded outside"])
def test_writes_about_inference_mode_are_followed(projecting, loading, writing):
    with torch.inference_mode(loading):
        model = sw.load(projecting)
        assert is_followed(model)
    weight = model.get_parameter("module.up.weight")
    for write in (lambda: weight.mul_(2), lambda: weight[2:].fill_(3), lambda: weight.copy_(torch.ones(8, 8))):
        with torch.inference_mode(writing), torch.no_grad():
            write()
        assert is_followed(model)


def test_weights_that_inference_mode_made_are_never_trusted(projecting):
    model = sw.load(projecting)
    with torch.inference_mode():
        model.load_state_dict({"module.up.weight": torch.ones(8, 8)}, assign=True)
        for factor in (1, 2, 3):
            model.get_parameter("module.up.weight").mul_(factor)
            assert is_followed(model)


def by_numpy(weight):
    weight.detach().numpy()[:] *= 2


def by_data(weight):
    weight.data.mul_(2)


def by_dlpack(weight):
    torch.from_dlpack(weight.detach().numpy()).mul_(2)


@pytest.mark.parametrize("write", [by_numpy, by_data, by_dlpack])
def test_writes_that_torch_does_not_count_are_said(projecting, write):
    model = sw.load(projecting)
    assert is_followed(model)
    write(model.get_parameter("module.up.weight"))
    model.weights_changed()
    assert is_followed(model)
    sw.load(projecting, prepare_bytes=0).weights_changed()


def test_another_weight_at_the_same_place_is_another(projecting):
    model = sw.load(projecting)
    weight, memory = model.get_parameter("module.up.weight"), torch.ones(8, 8).numpy()
    for factor in (1, 2):
        memory *= factor
        weight.data = torch.from_numpy(memory)
        assert is_followed(model)


@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_the_module_inside_and_copies_follow_their_own_weights(projecting, backend):
    model = sw.load(projecting, backend=backend)
    copied = copy.deepcopy(model)
    for one in (model, copied, copy.deepcopy(copied)):
        assert not any("prepared" in name for name in one.state_dict())
        for called in (one.module, one):
            with torch.no_grad():
                next(one.parameters()).add_(1)
            assert is_followed(one, called)


def test_a_rank_is_compiled_by_its_user(projecting):
    model = sw.load(projecting)
    for called in (torch.compile(model, backend="aot_eager"), torch.compile(model.module, backend="aot_eager")):
        for _ in range(2):
            with torch.no_grad():
                model.get_parameter("module.up.weight").add_(1)
            assert is_followed(model, called)


def test_a_cast_that_does_nothing_keeps_no_weight():
    module = module_of(Projecting).to(torch.bfloat16)
    prepared, weight = prepare_constants(module), module.up.weight
    before = weight.clone()
    module.load_state_dict({"up.weight": torch.ones(8, 8, dtype=torch.bfloat16)}, assign=True)
    assert prepared.refresh()
    assert torch.equal(weight, before)
    assert torch.equal(module._shardwright_prepared_0, module.up.weight)


def broadcast(rank, package):
    model = sw.load(package)
    weight = model.get_parameter("module.up.weight")
    with torch.no_grad():
        weight.fill_(rank)
    model(X)
    dist.broadcast(weight.detach(), src=1)
    model.weights_changed()
    return model(X)


@pytest.mark.ranks
def test_a_weight_that_another_rank_sends(tmp_path):
    sw.shard(exported(Projecting), mesh=2, plan={}).save(tmp_path / "out")
    wanted = X.bfloat16() @ torch.ones(8, 8, dtype=torch.bfloat16)
    assert all(torch.equal(found, wanted) for found in on_ranks(2, broadcast, str(tmp_path / "out")))
