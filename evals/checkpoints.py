"""Packed weights against the packages that pack them: what their own functions unpack is what we unpack.

``python -m evals.checkpoints`` downloads the pinned releases with pip, installs none of them, and runs the functions
that take words apart out of their sources. Prints a line a comparison; fails where one differs.
"""

import ast
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from tests.support.packed_weights import pack_awq, pack_gptq, pack_ints

from shardwright.sources.quantized.awq import UnpackAwq
from shardwright.sources.quantized.compressed_tensors import UnpackCompressed
from shardwright.sources.quantized.gptq import UnpackGptq

PINNED = {"compressed-tensors": "0.20.1", "gptqmodel": "7.7.0", "autoawq": "0.2.9"}
WEIGHT = torch.randn(48, 96, generator=torch.Generator().manual_seed(3))


def sources(package: str, folder: Path, module: str = "") -> Path:
    """The folder of a package's modules in the archive of its pinned release."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{package}=={PINNED[package]}"]
    own = folder / package
    subprocess.run([*command, *(["--no-binary", ":all:"] if package == "gptqmodel" else []), "-d", own], check=True)
    (archive,) = own.iterdir()
    if archive.suffix == ".whl":
        shutil.unpack_archive(archive, own, "zip")
    else:
        shutil.unpack_archive(archive, own, filter="data")
    return next(own.rglob(f"{module or package.replace('-', '_')}/__init__.py")).parent


def functions(file: Path, names: set[str], **given: object) -> dict[str, object]:
    """The functions of these names in a file, annotations left out, with what they need of its imports ``given``."""
    space: dict[str, object] = {"torch": torch, "t": torch, **given}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            node.returns, node.decorator_list = None, []
            for argument in node.args.args:
                argument.annotation = None
            exec(compile(ast.Module([node], []), str(file), "exec"), space)
    missing = names - space.keys()
    assert not missing, f"{file} has no {missing}"
    return space


def compressed(root: Path) -> None:
    """compressed-tensors: numbers along columns, zero points along rows."""
    own = functions(
        root / "compressors/pack_quantized/helpers.py", {"pack_to_int32", "unpack_from_int32"}, math=math, sys=sys
    )
    for bits in (2, 3, 4, 5, 6, 7, 8):
        parts, _ = pack_ints(WEIGHT, bits, (1, 32), symmetric=False)
        numbers = own["unpack_from_int32"](parts["weight_packed"], bits, WEIGHT.shape)
        zeros = own["unpack_from_int32"](parts["weight_zero_point"], bits, (48, 3), packed_dim=0)
        zero_of, scale = (one.float().repeat_interleave(32, 1) for one in (zeros, parts["weight_scale"]))
        wanted = (numbers.float() - zero_of) * scale
        say(f"pack-quantized, {bits} bits", wanted, UnpackCompressed((48, 96), bits, (1, 32))(parts, torch.float32))
        say("  and its words", own["pack_to_int32"](numbers, bits), parts["weight_packed"])


def gptq(root: Path) -> None:
    """GPTQModel: its conversion to the newer format, then its dequantisation."""
    shifts = {"_torch_right_shift": torch.bitwise_right_shift, "_torch_left_shift": torch.bitwise_left_shift}
    own = functions(root / "nn_modules/qlinear/__init__.py", {"dequantize_weight", "_dequantize_from_codes"}, **shifts)
    quiet = SimpleNamespace(info=SimpleNamespace(once=lambda text: None))
    newer = functions(
        root / "utils/model.py", {"convert_gptq_v1_to_v2_format_module"}, BaseQuantLinear=SimpleNamespace, log=quiet
    )
    for bits in (4, 8):
        for form in ("gptq", "gptq_v2"):
            for is_ordered in (True, False):
                parts, _ = pack_gptq(WEIGHT, bits, form=form, is_ordered=is_ordered)
                places = torch.arange(0, 32, bits, dtype=torch.int32)
                module = SimpleNamespace(
                    **{**parts, "qzeros": parts["qzeros"].clone()},
                    planar=False,
                    bits=bits,
                    pack_factor=32 // bits,
                    maxq=2**bits - 1,
                    in_features=96,
                    dequant_dtype=torch.int32,
                    _init_wf_unsqueeze_buffers=lambda: None,
                    qzero_format=lambda **_: None,
                    wf_unsqueeze_zero=places[None, None],
                    wf_unsqueeze_neg_one=places[None, :, None],
                )
                module._dequantize_from_codes = lambda *args, m=module, **kw: own["_dequantize_from_codes"](
                    m, *args, **kw
                )
                if form == "gptq":
                    newer["convert_gptq_v1_to_v2_format_module"](module, bits, torch.int32)
                if is_ordered:
                    del parts["g_idx"]
                found = UnpackGptq((48, 96), bits, 16, form == "gptq")(parts, torch.float32)
                say(f"{form}, {bits} bits, act-order {not is_ordered}", own["dequantize_weight"](module).t(), found)


def awq(root: Path) -> None:
    """AutoAWQ: its dequantisation for the GEMM layout."""
    file = root / "utils/packing_utils.py"
    assert "AWQ_REVERSE_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]" in file.read_text()
    own = functions(
        file, {"dequantize_gemm", "unpack_awq", "reverse_awq_order"}, AWQ_REVERSE_ORDER=[0, 4, 1, 5, 2, 6, 3, 7]
    )
    parts, _ = pack_awq(WEIGHT)
    wanted = own["dequantize_gemm"](parts["qweight"], parts["qzeros"], parts["scales"], 4, 16).t()
    say("awq, gemm", wanted, UnpackAwq((48, 96), 16)(parts, torch.float32))


def say(what: str, wanted: torch.Tensor, found: torch.Tensor) -> None:
    """Print whether two tensors are the same, and fail where not."""
    is_same = torch.equal(wanted, found)
    print(f"{what}: {'the same' if is_same else 'DIFFERENT'}", flush=True)
    assert is_same, what


def main() -> None:
    """Compare every format."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compressed(sources("compressed-tensors", folder))
        gptq(sources("gptqmodel", folder))
        awq(sources("autoawq", folder, module="awq"))


if __name__ == "__main__":
    main()
