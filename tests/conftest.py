"""For all tests: every program is checked, ranks start fast, and workers end at the same time."""

import functools
import gc
import os
import sys

import pytest
import torch
from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from torch.export import ExportedProgram

from shardwright.program.legal import CHECK_SWITCH
from shardwright.program.torch_repeats import operators_listed_once, quick_tracing
from shardwright.run import launch
from tests.support.ranks import launch_warm

# Every pass's program is checked, in the processes that tests start too.
os.environ.setdefault(CHECK_SWITCH, "1")

# Exported programs are graphs of many small objects: the collector would take a tenth of the time to look at all again.
gc.set_threshold(200_000, 20, 20)

# A worker takes one file after another. The longest ones come first, so that all workers are busy to the end.
LONGEST = (
    "run/aot/test_compile",
    "sources/quantized/test_compressed_tensors",
    "mechanisms/test_quantized",
    "generate/test_decoding",
    "test_docs",
    "sources/test_checkpoint",
    "compiler/test_same_everywhere",
    "mechanisms/test_transformers",
    "run/test_launch",
    "mechanisms/test_inside",
    "sources/quantized/test_formats",
    "cli/test_app",
    "sources/quantized/test_stacks",
    "sources/quantized/test_gptq",
    "run/test_training_module",
    "run/test_shared_memory",
    "rules/test_check",
    "mechanisms/test_training",
    "mechanisms/test_meshes",
    "mechanisms/test_decoders",
    "evals/test_operators",
    "mechanisms/test_cross_attention",
    "mechanisms/test_depth",
    "package/test_gather",
    "evals/test_fuzz",
    "rules/operators/test_scan_expansions",
    "test_api",
    "sources/quantized/test_block_fp8",
    "program/test_signature",
    "sources/quantized/test_awq",
    "assign/test_expand",
    "mechanisms/test_experts",
    "run/test_torchrun",
    "mechanisms/test_vision",
    "mechanisms/test_second_judge",
)


@pytest.fixture(scope="session", autouse=True)
def _warm_launches():
    """Ranks are forked from a process that has imported torch. Those that scripts and commands launch start anew."""

    def name_of_caller(depth=2):
        return sys._getframe(depth).f_code.co_name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "elastic_launch", launch_warm)
        # The launcher asks for its own functions' names dozens of times, by reading the source of every frame below:
        # of pytest's stack, a third of a second for each launch.
        patch.setattr(dynamic_rendezvous, "get_method_name", name_of_caller)
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_tracing():
    """Tests export and decompose programs as `shardwright` does: without what torch does again and again."""

    def quick_export(*args, **kwargs):
        with quick_tracing():
            return export(*args, **kwargs)

    def run_decompositions(self, *args, **kwargs):
        with operators_listed_once(), quick_tracing():
            return decompose(self, *args, **kwargs)

    export, decompose = torch.export.export, ExportedProgram.run_decompositions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "export", functools.wraps(export)(quick_export))
        patch.setattr(ExportedProgram, "run_decompositions", run_decompositions)
        yield


@pytest.fixture(scope="session", autouse=True)
def _samples_without_a_test_case():
    """For every sample of an operator, torch's database reads the source of all frames below for a `TestCase`."""
    users = ("torch.testing._internal.common_utils", "torch.testing._internal.opinfo.core")
    with pytest.MonkeyPatch.context() as patch:
        for user in users:
            if user in sys.modules:
                patch.setattr(sys.modules[user], "extract_test_fn", lambda: None)
        yield


def pytest_collection_finish():
    """What is here before the first test stays to the end: modules, nine thousand tests and their samples."""
    gc.freeze()


def pytest_collection_modifyitems(items):
    places = {f"tests/{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
