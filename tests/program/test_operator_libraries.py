"""A process that knows nothing of quantised programs opens their files: what defines the operators is imported."""

import subprocess
import sys

import pytest
import torch

from shardwright.program.operator_libraries import import_library, import_named_in, library_of
from tests.support.quantized import WEIGHT_ONLY, pt2e, quantized

READ = """
import sys, torch
import shardwright as sw
from shardwright.program.exported import load_exported
assert "torch._dynamo" not in sys.modules, "what reads no program imports no compiler"
assert not hasattr(torch.ops.quantized_decomposed, "dequantize_per_channel")
assert "torchao" not in sys.modules
for path in sys.argv[1:]:
    sharded = sw.shard(load_exported(path), mesh=2, plan={"up": "colwise", "down": "rowwise"})
    print(*(c.kind for c in sharded.collectives))
"""


@pytest.mark.ranks
def test_files_of_quantised_programs_are_read(tmp_path):
    torchao = quantized(WEIGHT_ONLY["intx by group"])[0]
    programs = {"torchao": torchao, "composites": torchao.run_decompositions({}), "pt2e": pt2e("static")[0]}
    for name, program in programs.items():
        torch.export.save(program, tmp_path / f"{name}.pt2")
    for name in programs:
        command = [sys.executable, "-W", "ignore", "-c", READ, str(tmp_path / f"{name}.pt2")]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        assert found.stdout.strip() == "all_reduce"
        # torchao tells of compiled parts that do not load, and torch of torchao's classes.
        assert found.stderr == ""


def test_only_these_libraries_are_imported():
    assert library_of("torchao") == "torchao"
    assert library_of("os") == ""
    assert not import_library("antigravity")
    assert not import_named_in("torch.ops.antigravity.fly.default")
    assert import_named_in("the operator torch.ops.quantized_decomposed.quantize_per_tensor.default")
