"""Documentation runs: examples of docstrings, the README's Python, tutorial and how-tos from top to bottom, and all
command lines.

Examples that belong on many ranks ("under torchrun") run as rank 0 of torch's fake process group, whose collectives
move nothing: that they are called rightly is shown here, that ranks agree in `tests.run` and `tests.generate`.
"""

import ast
import doctest
import importlib
import re
import shlex
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import typer
import yaml
from torch import library, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import shardwright as sw
from shardwright.cli.app import app
from shardwright.layout.mesh import Mesh
from shardwright.rules import REGISTRY
from shardwright.run.groups import compiled_group_name
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.pages import PAGES, ROOT, blocks, run_page
from tests.support.tiny import write_checkpoint

SOURCE = ROOT / "src" / "shardwright"

LIBRARY = library.Library("mylib", "DEF")
LIBRARY.define("scale(Tensor x, Tensor w) -> Tensor")
LIBRARY.impl("scale", lambda x, w: x * w, "CompositeExplicitAutograd")


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return self.down(self.up(x).relu())


class Layers(nn.Module):
    """What the examples call a model: `layers.*.mlp.up` and `down`."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"mlp": MLP()}) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer["mlp"](x)
        return x


class Packed(nn.Module):
    """A state-space layer's projections: `in_proj` makes two parts, `out_proj` reads their product."""

    def __init__(self):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(16, 64), nn.Linear(32, 16)

    def forward(self, x):
        left, gate = self.in_proj(x).chunk(2, -1)
        return self.out_proj(left * gate.sigmoid())


INPUTS = (torch.randn(3, 16),)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "SmolLM2-135M"
    return folder, write_checkpoint(folder, num_hidden_layers=1, num_key_value_heads=6, tokenizer=True)


@pytest.fixture
def workplace(tmp_path, monkeypatch, checkpoint):
    """A folder of its own in which the checkpoint lies where the examples look for it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SmolLM2-135M").symlink_to(checkpoint[0])
    return tmp_path


@pytest.fixture
def mylib():
    """The rule of `mylib::scale` is forgotten after the example."""
    yield
    if "mylib::scale" in REGISTRY.names():
        REGISTRY.remove("mylib::scale")


@contextmanager
def fake_ranks(num_ranks):
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def modules_with_examples():
    paths = [path for path in sorted(SOURCE.rglob("*.py")) if ">>>" in path.read_text()]
    return [".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in paths]


def namespace_of(module, checkpoint):
    if module.endswith("huggingface"):
        exported = open_checkpoint(checkpoint[0], cache_length=0).exported
        return {"exported": exported, "model": SimpleNamespace(config=checkpoint[1].config)}
    model = Packed() if module.endswith("autodeploy") else Layers()
    return {"exported": torch.export.export(model, INPUTS)}


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_of_docstrings(module, workplace, checkpoint, mylib):
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    examples = [one for one in found if one.examples]
    assert examples
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    said: list[str] = []
    for one in examples:
        one.globs |= {"torch": torch, "shard": sw.shard, **namespace_of(module, checkpoint)}
        runner.run(one, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


README = blocks(PAGES[0], "python")


def test_the_readme_shows_python_and_commands():
    assert len(README) >= 3
    assert len(command_lines()) >= 10


@pytest.mark.parametrize("number", range(len(README)))
def test_python_of_the_readme(number, workplace, mylib):
    text = README[number]
    names = {"torch": torch, "sw": sw, "model": Layers(), "example_inputs": INPUTS, "prompt_ids": [5, 6, 7]}
    # A package is loaded by as many ranks as it is for: the mesh that the block names last.
    asked = re.findall(r"mesh=(\d+)", text.partition("sw.load(")[0])
    with fake_ranks(int(asked[-1]) if asked else 1):
        exec(compile(text, f"README.md, Python block {number + 1}", "exec"), names)


FOLLOWED = ["concepts", "how-to/by-hand", "how-to/dp-tp", "how-to/operators", "how-to/packed", "reports"]
"""Pages whose reader does one step after the other, on one process; on several where ``ranks`` is said."""
ON_RANKS = [
    pytest.param(page, marks=pytest.mark.ranks)
    for page in ("how-to/checkpoints", "how-to/diffusers", "how-to/text", "how-to/train", "tutorial")
]


@pytest.fixture
def own_rules():
    """The rules that a page registers for its own operators are forgotten after it."""
    yield
    for name in REGISTRY.names():
        if name.startswith("recipes::"):
            REGISTRY.remove(name)


@pytest.mark.parametrize("page", [*FOLLOWED, *ON_RANKS])
def test_a_page_does_what_it_says(page, workplace, own_rules, monkeypatch):
    if page == "reports":
        exported = torch.export.export(Layers(), INPUTS)
        torch.export.save(exported, "model.pt2")
        Path("plan.yaml").write_text("layers.*.mlp.up: colwise\nlayers.*.mlp.down: rowwise\n")
        sw.shard(exported, mesh=2).save("out")
        sw.shard(exported, mesh=4).save("out8")
    monkeypatch.syspath_prepend(workplace)
    run_page(ROOT / "docs" / f"{page}.md", monkeypatch)


def test_cpp_names_what_torch_and_packages_have():
    """Compiling it takes half a minute; what it rests on is looked up."""
    (text,) = blocks(ROOT / "docs" / "how-to" / "cpp.md", "cpp")
    headers = Path(torch.__file__).parent / "include"
    loader = (headers / re.search("#include <(.*)>", text)[1]).read_text()
    registry = (headers / "torch/csrc/distributed/c10d/GroupRegistry.hpp").read_text()
    assert {"AOTIModelPackageLoader", "get_metadata", "run"} <= set(re.findall(r"\w+(?=[ (])", loader))
    assert "void register_process_group(" in registry
    assert f'register_process_group("{compiled_group_name(Mesh.of({"tp": 2}), "tp")}"' in text
    assert '"shardwright_weights"' in text  # `tests/run/aot/test_compile.py` reads it


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_every_page_is_python(page):
    for text in blocks(page, "python"):
        ast.parse(text)


def command_lines():
    """(page, words) of every line in a plain block that calls `shardwright`."""
    lines = [(page.name, line) for page in PAGES for block in blocks(page, "") for line in block.splitlines()]
    return [(page, shlex.split(line, comments=True)) for page, line in lines if line.startswith("shardwright ")]


def test_the_reference_has_every_public_name_once():
    reference = "\n".join(page.read_text() for page in PAGES if page.parent.name == "reference")
    assert sorted(re.findall(r"^::: shardwright\.(\w+)$", reference, re.MULTILINE)) == sw.__all__


@pytest.mark.parametrize(
    ("page", "words"), command_lines(), ids=lambda part: part if isinstance(part, str) else part[1]
)
def test_command_lines_are_taken(page, words, workplace):
    # Files that other commands would have written.
    for word in words:
        if re.search(r"\.\w+$", word):
            Path(word).touch()
        elif word == "out/":
            Path(word).mkdir()
    commands = typer.main.get_group(app)
    command = commands.commands.get(words[1])
    assert command is not None, f"{page} calls {words[1]!r}"
    command.make_context(words[1], words[2:])


NOT_OURS = {"Guard failed", "mode ==", "failed", "Signal"}
"""What torch and the system say."""


def said_in_the_sources():
    """All texts that our code holds, joined as Python joins them; ``{…}`` for what is filled in."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(one.value) if isinstance(one, ast.Constant) else "{…}" for one in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_errors_on_the_page_of_troubles_are_those_that_are_raised():
    page = next(page for page in PAGES if page.name == "troubleshooting.md")
    firsts = [row.split(" | ")[0] for row in page.read_text().splitlines() if row.startswith("| ")]
    messages = [quoted for first in firsts for quoted in re.findall(r"`([^`]+)`", first) if " " in quoted]
    # Names, numbers and what stands in parentheses are filled in; what is left between them are our words.
    filled_in = r"(?:torch )?'[^']*'|\S*\w\.\w\S*|\S*\d\S*|\([^)]*\)|…|[:;,]|$"
    parts = {part.strip() for message in messages for part in re.split(filled_in, message)} - {"", *NOT_OURS}
    said = "\n".join(said_in_the_sources())
    assert len(messages) > 15
    assert [part for part in sorted(parts) if part not in said] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_has_its_place_on_the_site():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    places = re.findall(r"'([^']+\.md)'", str(nav))
    own = {"index.md", "contributing.md", "changelog.md"}
    assert sorted(set(places) - own) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES[2:])
    assert own <= set(places) and len(places) == len(set(places))


def test_targets_that_pages_make_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = {name for page in PAGES for name in re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE)}
    assert asked - targets == set()
    assert asked
