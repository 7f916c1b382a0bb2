"""The house rules that a script can check: short files and functions, tests found by path, rooms without circles."""

import ast
import itertools
import re
import tomllib
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "shardwright"
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if not path.name.startswith("__"))
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]

MAX_FILE, MAX_FUNCTION = 400, 60

JUDGED_ELSEWHERE = {
    "assign/agreed.py": "mechanisms/test_meshes.py",
    "assign/assign.py": "mechanisms/test_decoders.py",
    "assign/assignment.py": "assign/test_gathered.py",
    "assign/batches.py": "mechanisms/test_training.py",
    "assign/candidates.py": "mechanisms/test_packed.py",
    "assign/cost.py": "compiler/test_room.py",
    "assign/effort.py": "compiler/test_same_everywhere.py",
    "assign/held.py": "mechanisms/test_slack.py",
    "assign/inside.py": "mechanisms/test_inside.py",
    "assign/owned.py": "mechanisms/test_experts.py",
    "assign/packed.py": "mechanisms/test_packed.py",
    "assign/rebase.py": "plan/test_axes.py",
    "assign/subgraph_choices.py": "mechanisms/test_inside.py",
    "assign/scarce.py": "compiler/test_split.py",
    "assign/sequences.py": "mechanisms/test_recurrent.py",
    "assign/site_rules.py": "mechanisms/test_decoders.py",
    "assign/steps.py": "program/test_read.py",
    "assign/task.py": "assign/test_choices.py",
    "cli/*.py": "cli/test_app.py",
    "compiler/*.py": "test_api.py",
    "errors.py": "plan/test_resolve.py",
    "generate/*.py": "generate/test_decoding.py",
    "layout/alignment.py": "package/test_stream.py",
    "lean/*.py": "lean/test_schedule.py",
    "layout/cut.py": "layout/test_layout.py",
    "layout/pieces.py": "layout/test_layout.py",
    "layout/sizes.py": "layout/test_layout.py",
    "layout/yaml_files.py": "sources/test_example.py",
    "package/describe.py": "package/test_save.py",
    "package/folder.py": "package/test_folders.py",
    "package/graphs/*.py": "package/graphs/test_graphs.py",
    "package/s*.py": "package/test_gather.py",
    "partition/carry.py": "mechanisms/test_dtypes.py",
    "partition/merge.py": "compiler/test_split.py",
    "partition/subgraphs.py": "mechanisms/test_inside.py",
    "partition/*.py": "partition/test_walk.py",
    "plan/accept.py": "plan/test_axes.py",
    "plan/autodeploy.py": "plan/test_borrowed.py",
    "plan/huggingface.py": "plan/test_borrowed.py",
    "plan/made_of.py": "plan/test_parametrized.py",
    "plan/*.py": "plan/test_resolve.py",
    "program/duplicate.py": "partition/test_lower.py",
    "program/format.py": "compiler/test_dump.py",
    "program/simulate.py": "compiler/test_verify.py",
    "program/stateless.py": "run/aot/test_compile.py",
    "program/*.py": "program/test_read.py",
    "report/*.py": "cli/test_app.py",
    "rules/discover.py": "rules/test_custom.py",
    "rules/operators/dims.py": "rules/test_check.py",
    "rules/operators/expansions.py": "assign/test_expand.py",
    "rules/operators/flex.py": "mechanisms/test_flex_attention.py",
    "rules/operators/lookup.py": "mechanisms/test_vocabulary.py",
    "rules/operators/own_collectives.py": "plan/test_axes.py",
    "rules/operators/refine.py": "rules/operators/test_views.py",
    "rules/operators/unrolled.py": "mechanisms/test_recurrent.py",
    "rules/*.py": "rules/test_check.py",
    "run/aot/*.py": "run/aot/test_compile.py",
    "run/aligned.py": "sources/quantized/test_weight.py",
    "run/*.py": "run/test_launch.py",
    "sources/diffusers/build_component.py": "sources/diffusers/test_find_component.py",
    "sources/export_example.py": "sources/test_example.py",
    "sources/hugging_face/*.py": "sources/test_checkpoint.py",
    "sources/quantized/*.py": "sources/quantized/test_compressed_tensors.py",
    "sources/package.py": "package/test_gather.py",
    "sources/unloaded.py": "sources/test_checkpoint.py",
}
"""Modules that a test file of another name judges, below ``tests``: the first pattern that fits. Families of rules need
no line here: a generic test runs the samples of each."""


def spread(node):
    """The lines of a definition, its docstring not counted."""
    doc = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
    return node.end_lineno - node.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short(module):
    tree = ast.parse((SOURCE / module).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {node.name: spread(node) for node in functions if spread(node) > MAX_FUNCTION} == {}


WRITTEN = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("src", "tests", "benchmarks", "evals", "demo")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".cpp", ".h") and "results" not in path.parts
)


def test_every_file_is_short():
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in WRITTEN}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE} == {}


def imported(path):
    """The modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_what_tests_share_is_in_support():
    tests = [path for path in WRITTEN if path.startswith("tests/")]
    found = [(path, name) for path in tests for name in imported(path) if re.match(r"tests\.(?!support)", name)]
    assert found == []


def own_test(module):
    """The test file (or samples) at the mirrored path; None where there is none."""
    folder = ROOT / "tests" / Path(module).parent
    kinds = ("test_", "samples_") if module.startswith("rules/operators/") else ("test_",)
    found = [folder / f"{kind}{Path(module).name}" for kind in kinds]
    return next((path for path in found if path.exists()), None)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_test_file_at_its_path_or_a_named_one(module):
    judges = [test for pattern, test in JUDGED_ELSEWHERE.items() if fnmatch(module, pattern)]
    assert own_test(module) is not None or (judges and (ROOT / "tests" / judges[0]).exists())


def test_every_line_of_the_list_is_needed():
    taken = {}
    for module in MODULES:
        if own_test(module) is None:
            first = next((pattern for pattern in JUDGED_ELSEWHERE if fnmatch(module, pattern)), None)
            taken.setdefault(first, module)
    assert JUDGED_ELSEWHERE.keys() - taken.keys() == set()


def test_no_two_files_have_one_name():
    # A command's file is named after the command, which may be that of the function it calls.
    names = Counter(Path(module).name for module in MODULES if not module.startswith("cli/"))
    assert [name for name, count in names.items() if count > 1] == []


def defined(module):
    """The public names that a module's own top level defines."""
    for node in ast.parse((SOURCE / module).read_text()).body:
        for end in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]:
            name = getattr(end, "id", getattr(end, "name", "_"))
            if not name.startswith("_"):
                yield name


def test_no_two_files_define_one_name():
    # The tables of families are found by their name; what mirrors torch's own schema has torch's names.
    shared = {"RULES", "UNSUPPORTED", "aten"}
    modules = [one for one in MODULES if not one.startswith("cli/") and one != "package/graphs/schema.py"]
    names = Counter(name for module in modules for name in set(defined(module)) - shared)
    assert [name for name, count in names.items() if count > 1] == []


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("shardwright", exclude_type_checking_imports=True, cache_dir=None)


def room_of(module):
    return module.split(".")[1] if "." in module else "the package itself"


def test_rooms_import_only_earlier_rooms_and_without_exceptions(graph):
    contract = next(one for one in LAYERS["contracts"] if one["type"] == "layers")
    assert not any("ignore_imports" in one for one in LAYERS["contracts"])
    order = [layer.removeprefix("shardwright.") for layer in contract["layers"]]
    rooms = {Path(module).parts[0].removesuffix(".py") for module in MODULES}
    assert set(order) == rooms
    place = {room: number for number, room in enumerate(order)}
    arrows = {
        (room_of(one), room_of(other))
        for one, other in itertools.product(graph.modules, repeat=2)
        if graph.direct_import_exists(importer=one, imported=other)
    }
    wrong = [(a, b) for a, b in arrows if a in place and b in place and a != b and place[a] > place[b]]
    assert wrong == []


def test_modules_import_each_other_without_circles(graph):
    files = {m for m in graph.modules if not graph.find_children(m)}
    reached = {module: graph.find_upstream_modules(module) for module in files}
    assert [(a, b) for a, b in itertools.combinations(sorted(files), 2) if b in reached[a] and a in reached[b]] == []


def test_the_map_lists_the_rooms_in_their_order():
    contract = next(one for one in LAYERS["contracts"] if one["type"] == "layers")
    order = [layer.removeprefix("shardwright.") for layer in contract["layers"]]
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page[page.index("## The rooms") :]
    assert re.findall(r"^\| `(\w+)(?:/|\.py)` \|", table, flags=re.MULTILINE) == order[::-1]


PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = re.findall(r"`((?:\w+/)+\w+\.\w+)`", page.read_text())
    made = [path for path in named if path.startswith("evals/results/")]
    missing = [path for path in named if not (ROOT / path).exists() and not (SOURCE / path).exists()]
    assert [path for path in missing if path not in made] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_pages_are_as_short_as_those_of_code(page):
    # A row of a table has to be one line.
    lines = enumerate(page.read_text().splitlines(), 1)
    assert [number for number, line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_no_merge_is_left_half_done():
    kinds = {".md", ".py", ".cpp", ".h", ".sh", ".toml", ".yaml", ".cfg", ".txt"}
    folders = ("src", "tests", "docs", "demo", "benchmarks", "evals", "findings")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    files += [path for path in ROOT.iterdir() if path.suffix in kinds]
    left = [str(path.relative_to(ROOT)) for path in files if re.search("^[<>]{7} ", path.read_text(), re.MULTILINE)]
    assert len(files) > 400
    assert not left, left
