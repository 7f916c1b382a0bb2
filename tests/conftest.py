"""For all tests: every program is checked, ranks start fast, and workers end at the same time."""

import gc
import os

import pytest
from torch.export import ExportedProgram

from shardwright.program.legal import CHECK_SWITCH
from shardwright.program.torch_private import operators_listed_once
from shardwright.run import launch
from tests.support.ranks import launch_warm

# Every pass's program is checked, in the processes that tests start too.
os.environ.setdefault(CHECK_SWITCH, "1")

# Exported programs are graphs of many small objects: the collector would take a tenth of the time to look at all again.
gc.freeze()
gc.set_threshold(50_000, 20, 20)

# A worker takes one file after another. The longest ones come first, so that both workers are busy to the end.
LONGEST = (
    "run/aot/test_compile",
    "generate/test_decoding",
    "package/test_gather",
    "sources/test_checkpoint",
    "run/test_launch",
    "mechanisms/test_transformers",
    "mechanisms/test_decoders",
    "cli/test_app",
    "run/test_phases",
    "mechanisms/test_inside",
    "compiler/test_same_everywhere",
    "mechanisms/test_caches",
    "package/test_save",
    "rules/operators/test_norm_expansions",
    "compiler/test_split",
    "evals/test_fuzz",
    "cli/test_bad_input",
    "mechanisms/test_torch_transformation",
    "evals/test_zoo_types",
    "evals/test_operators",
    "mechanisms/test_slack",
    "mechanisms/test_meshes",
    "rules/operators/test_distance_expansions",
    "assign/test_expand",
)


@pytest.fixture(scope="session", autouse=True)
def _warm_launches():
    """Ranks are forked from a process that has imported torch. Those that scripts and commands launch start anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "elastic_launch", launch_warm)
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick_decompositions():
    """Tests decompose programs as the compiler does, without looking up all operators some fifty times."""

    def run_decompositions(self, *args, **kwargs):
        with operators_listed_once():
            return decompose(self, *args, **kwargs)

    decompose = ExportedProgram.run_decompositions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExportedProgram, "run_decompositions", run_decompositions)
        yield


def pytest_collection_modifyitems(items):
    places = {f"tests/{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
