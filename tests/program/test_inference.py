"""A rank's program never gives a gradient that is wrong: it gives none, and says so."""

import io

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.program import signature
from shardwright.program.inference import InferenceProgram

SAYS = "this program is for inference"


@pytest.fixture
def exported():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
    return torch.export.export(model, (torch.randn(4, 8),))


def one_rank(exported):
    return sw.shard(exported, mesh=1).exported(0)


@pytest.mark.parametrize(
    "make", [one_rank, lambda e: sw.tensor_parallel_transformation(e, 0, 1, "cpu", {})], ids=["shard", "drop-in"]
)
def test_nothing_requires_a_gradient_and_asking_is_an_error(exported, make):
    x = torch.randn(4, 8)
    rank = make(exported)
    module = rank.module()
    assert isinstance(rank, InferenceProgram)
    assert not any(parameter.requires_grad for parameter in (*rank.parameters(), *module.parameters()))
    assert not module(x).requires_grad
    torch.testing.assert_close(module(x), exported.module()(x))
    torch.testing.assert_close(module(input=x), exported.module()(x))
    with pytest.raises(sw.InputError, match="no input 'inputs' by name"):
        module(inputs=x)
    with pytest.raises(sw.InputError, match=SAYS):
        module(input=x.clone().requires_grad_())
    with pytest.raises(sw.InputError, match=f"an input requires a gradient, and {SAYS}"):
        module(x.clone().requires_grad_())
    with torch.no_grad():
        assert torch.equal(module(x.clone().requires_grad_()), module(x))
    module.requires_grad_(True)
    with pytest.raises(sw.InputError, match=f"a parameter requires a gradient, and {SAYS}"):
        module(x)
    assert all(parameter.requires_grad for parameter in exported.parameters()), "the user's program stays as it is"


def test_no_gradient_leaves_a_program_that_was_made_into_another(exported):
    x = torch.randn(4, 8, requires_grad=True)
    rank = one_rank(exported)
    buffer = io.BytesIO()
    torch.export.save(rank, buffer)
    buffer.seek(0)
    others = {
        "saved": torch.export.load(buffer),
        "decomposed": rank.run_decompositions(),
        "again": torch.export.export(rank.module(), (x.detach(),)),
        "strict": torch.export.export(rank.module(), (x.detach(),), strict=True),
    }
    wanted = exported.module()(x)
    torch.testing.assert_close(torch.compile(rank.module(), backend="eager", fullgraph=True)(x.detach()), wanted)
    for name, other in others.items():
        module = other.module()
        if isinstance(other, InferenceProgram):
            with pytest.raises(sw.InputError, match=SAYS):
                module(x)
        else:
            module.requires_grad_(True)
            got = module(x)
            assert not got.requires_grad, name
            torch.testing.assert_close(got, wanted)
    assert not torch.export.unflatten(rank)(x).requires_grad


def test_a_call_does_not_work_out_again_what_the_program_takes(exported, tmp_path, monkeypatch):
    x, sharded = torch.randn(4, 8), sw.shard(exported, mesh=1)
    sharded.save(tmp_path / "p")
    modules = [sharded.exported(0).module(), sw.load(tmp_path / "p")]
    for name in ("arguments", "constant_inputs", "signature_of"):
        monkeypatch.setattr(signature, name, None)
    for module in modules:
        torch.testing.assert_close(module(input=x), exported.module()(x))


class Modes(nn.Module):
    """The write into a slice of complex numbers has no gradient of torch's, once it is made functional."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex64))

    def forward(self, x):
        modes = torch.fft.rfft(x)
        kept = torch.zeros_like(modes)
        kept[..., :3] = modes[..., :3] * self.weight
        return torch.fft.irfft(kept, n=x.shape[-1])


def test_complex_writes_run_with_gradients_on():
    x = torch.randn(2, 8)
    program = torch.export.export(Modes(), (x,))
    got = sw.shard(program, mesh={"tp": 1}, plan={}).exported(0).module()(x)
    torch.testing.assert_close(got, program.module()(x))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x, which):
        self.total.add_(x.sum(0))
        return {"total": self.total + 0, "x": x, "which": which + 1, "twice": (x, x)}


def test_outputs_of_every_kind_and_mutated_buffers():
    x, which = torch.randn(2, 4), torch.arange(3)
    exported = torch.export.export(Counter(), (x, which))
    module = sw.shard(exported, mesh=1).exported(0).module()
    for count in (1, 2):
        got = module(x, which)
        torch.testing.assert_close(got["total"], count * x.sum(0))
        assert torch.equal(got["which"], which + 1)
        assert torch.equal(got["twice"][1], x)


@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_a_loaded_package(exported, tmp_path, backend):
    x = torch.randn(4, 8)
    sw.shard(exported, mesh=1).save(tmp_path / "p")
    module = sw.load(tmp_path / "p", backend=backend)
    with pytest.raises(sw.InputError, match=SAYS):
        module(x.clone().requires_grad_())
    got = module(x)
    assert not got.requires_grad
    torch.testing.assert_close(got, exported.module()(x))
    with torch.no_grad():
        assert torch.equal(module(x.clone().requires_grad_()), got)
    module.requires_grad_(True)
    with pytest.raises(sw.InputError, match=SAYS):
        module(x)
    with pytest.raises(sw.InputError, match=SAYS):
        module.exported.module()(x.clone().requires_grad_())
