"""Every dtype that safetensors holds is saved, gathered, resharded and loaded to the byte; others are named."""

import io

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import shardwright as sw
from shardwright.layout.dtypes import DTYPES, stored_shape
from shardwright.package.slices import copy_slice
from shardwright.run.load import load_rank
from shardwright.run.tensor_files import write_outputs


def as_bytes(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def filled(dtype, *shape):
    """A tensor of every kind of byte."""
    if dtype == torch.bool:
        return torch.arange(torch.Size(shape).numel()).reshape(shape) % 3 == 0
    size = torch.Size(shape).numel() * dtype.itemsize
    return (torch.arange(size) % 251).to(torch.uint8).view(dtype).reshape(shape)


class Held(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("rows", filled(dtype, 5, 4))
        self.register_buffer("columns", filled(dtype, 3, 6))
        self.register_buffer("number", filled(dtype, 1) if dtype == torch.float4_e2m1fn_x2 else filled(dtype))
        self.register_buffer("start", torch.zeros(2, 2, dtype=dtype), persistent=False)

    def forward(self, x):
        return x + 1


X = torch.ones(2)
PLAN = {"rows": sw.Shard(0), "columns": sw.Shard(1)}


def exports(program):
    """Whether torch itself can write a program."""
    try:
        torch.export.save(program, io.BytesIO())
    except KeyError:
        return False
    return True


def test_numbers_of_half_a_byte_are_sliced(tmp_path):
    whole = filled(torch.float4_e2m1fn_x2, 6, 5)
    save_file({"a": whole}, tmp_path / "w.safetensors")
    out = torch.empty(2, 3, dtype=torch.float4_e2m1fn_x2)
    copy_slice(tmp_path / "w.safetensors", "a", (slice(1, 3), slice(2, 5)), out)
    assert torch.equal(as_bytes(out), as_bytes(whole[1:3, 2:5]))


UNWRITTEN = {"2.11": (torch.float8_e8m0fnu, torch.uint64, torch.uint32)}
"""Of the older torches, which dtypes `torch.export.save` does not know."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_to_the_byte(dtype, tmp_path):
    model = Held(dtype)
    program = torch.export.export(model, (X,))
    if not exports(program):
        # A later torch may know it.
        assert dtype in (torch.float4_e2m1fn_x2, *UNWRITTEN.get(torch.__version__[:4], ()))
        says = rf"torch.export.save of torch .* cannot write {dtype}, which 'rows', 'columns'"
        with pytest.raises(sw.PackageError, match=says):
            sw.shard(program, mesh=2, plan=PLAN).save(tmp_path / "p")
        assert not list(tmp_path.iterdir())
        return
    sw.shard(program, mesh=2, plan=PLAN).save(tmp_path / "two")
    sw.reshard(tmp_path / "two", tmp_path / "three", mesh=3)
    sw.shard(program, mesh=3, plan=PLAN).save(tmp_path / "wanted")
    for rank in range(3):
        name = f"weights-{rank:05d}-of-00003.safetensors"
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes()
    loaded = [load_rank(tmp_path / "three", rank).state_dict for rank in range(3)]
    for name, dim in (("rows", 0), ("columns", 1)):
        assert {piece[name].dtype for piece in loaded} == {dtype}
        whole = torch.cat([piece[name] for piece in loaded], dim)
        assert torch.equal(as_bytes(whole), as_bytes(getattr(model, name)))
    sw.gather(tmp_path / "three", tmp_path / "state.safetensors")
    with safe_open(tmp_path / "state.safetensors", "pt") as file:
        for name, tensor in model.state_dict().items():
            assert torch.equal(as_bytes(file.get_tensor(name)), as_bytes(tensor)), name
            assert file.get_slice(name).get_dtype() == DTYPES[dtype]
            assert tuple(file.get_slice(name).get_shape()) == stored_shape(tensor.shape, dtype)


def test_scales_of_a_power_of_two(tmp_path):
    """MXFP8 and MXFP4 keep their scales so."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", (2.0 ** torch.randint(-3, 4, (8, 4))).to(torch.float8_e8m0fnu))
            self.weight = nn.Parameter(torch.randn(8, 128))

        def forward(self, x):
            return x @ (self.weight * self.scale.float().repeat_interleave(32, dim=1)).t()

    model, x = Scaled(), torch.randn(3, 128)
    program = torch.export.export(model, (x,))
    sharded = sw.shard(program, mesh=2, plan={"scale": sw.Shard(0), "weight": sw.Shard(0)})
    assert sw.verify(sharded, program, (x,)).ok
    if not exports(program):
        assert torch.float8_e8m0fnu in UNWRITTEN[torch.__version__[:4]]
        return
    sharded.save(tmp_path / "p")
    sw.reshard(tmp_path / "p", tmp_path / "one", mesh=1)
    torch.testing.assert_close(sw.load(tmp_path / "one")(x), model(x))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("wide", torch.zeros(2, dtype=torch.complex128))
        self.register_buffer("short", torch.zeros(2, dtype=torch.complex64).to(torch.complex32))
        self.register_buffer("nibble", torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)[0])
        self.register_buffer("fine", torch.zeros(2, dtype=torch.complex64))

    def forward(self, x):
        # What nothing reads would be left out.
        return x + self.wide.abs().sum() + self.short.to(torch.complex64).abs().sum() + self.nibble.view(torch.uint8)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_what_files_cannot_hold_is_named_before_anything_is_written(tmp_path):
    sharded = sw.shard(torch.export.export(Odd(), (X,)), mesh=2, plan={})
    with pytest.raises(sw.PackageError, match=r"\(3 problems\)") as raised:
        sharded.save(tmp_path / "p")
    says = str(raised.value)
    assert "'wide' has dtype torch.complex128, which safetensors files cannot hold\n  try: keep it as real" in says
    assert "'short' has dtype torch.complex32" in says
    assert "'nibble' is a torch.float4_e2m1fn_x2 without dims" in says
    assert not list(tmp_path.iterdir())


def test_outputs_that_files_cannot_hold_are_named(tmp_path):
    outputs = {"y": torch.zeros(2, dtype=torch.complex128), "z": torch.zeros(2)}
    with pytest.raises(sw.InputError, match=r"'y' has dtype torch\.complex128"):
        write_outputs(tmp_path / "out.safetensors", outputs)
    assert not list(tmp_path.iterdir())
