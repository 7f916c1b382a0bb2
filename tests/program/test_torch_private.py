"""Private names of torch stand in three files: those needed to do a thing, and in two those needed to do it fast."""

import ast
from pathlib import Path

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import shardwright
from shardwright.program import torch_private

SOURCES = Path(shardwright.__file__).parent
HOMES = {SOURCES / "program" / f"torch_{name}.py" for name in ("private", "repeats", "files", "vmap")}
DOCUMENTED = {"torch._check"}
"""What torch's pages on exporting tell people to call, underscore or not."""

NOT_TORCH = {
    "_exit": "os",
    "_current_frames": "sys",
    "_tp_plan": "transformers",
    "_model_mapping": "transformers",
    "_from_config": "transformers",
    "_keep_in_fp32_modules": "transformers",
    "_keep_in_fp32_modules_strict": "transformers",
    "_keys_to_ignore_on_load_unexpected": "transformers",
    "_tied_weights_keys": "transformers",
    "_fields": "collections",
    "_fix_state_dict_keys_on_load": "diffusers",
}
"""Private names of others, and whose they are."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def dotted(node: ast.AST) -> list[str]:
    """``torch.ops.aten._to_copy`` as its parts; an empty list where the root is not a name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


def owned(tree: ast.Module) -> set[str]:
    """What a file defines itself: functions, classes, fields and attributes that it assigns."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and dotted(node)[:1] == ["self"]:
            found.add(node.attr)
    return found


def private_names(text: str) -> list[str]:
    """The private names of torch that a file uses: imported, or as attributes of something."""
    tree = ast.parse(text)
    mine, found = owned(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if any(map(is_private, alias.name.split(".")))]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if any(map(is_private, name.split(".")))]
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in {*mine, *NOT_TORCH}:
            path = dotted(node)
            is_operator = path[:2] == ["torch", "ops"] or path[:1] in (["aten"], ["c10d"])
            if not is_operator and ast.unparse(node) not in DOCUMENTED:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and dotted(node.func) in (["getattr"], ["hasattr"]):
            name = getattr(node.args[1], "value", "")
            if isinstance(name, str) and is_private(name) and name not in NOT_TORCH:
                found.append(ast.unparse(node))
    return found


def test_no_other_file_names_what_torch_does_not_promise_to_keep():
    found = {str(path): private_names(path.read_text()) for path in SOURCES.rglob("*.py") if path not in HOMES}
    assert len(found) > 100
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import torch.utils._pytree as pytree",
        "from torch._subclasses.fake_tensor import FakeTensor",
        "from torch.utils import _pytree",
        "torch._inductor.compile(graph)",
        "program._state_dict = {}",
        "node.target._schema.name",
        "hasattr(op, '_schema')",
    ],
)
def test_such_names_are_found(line):
    assert private_names(line)


@pytest.mark.parametrize(
    "line",
    ["torch.ops.aten._to_copy.default(x)", "aten._softmax.default(x, 0, False)", "torch.ops._c10d_functional.wait(x)"],
)
def test_operators_are_no_private_names(line):
    assert not private_names(line)


def test_what_the_collector_calls_is_seen_by_nobody_who_traces():
    library, called = torch.library.Library("shardwright_test_private", "DEF"), []
    library.define("done(int number) -> ()")
    library.impl("done", called.append, "CompositeImplicitAutograd")
    done = torch.ops.shardwright_test_private.done
    # As torch does with every such operator that it is told to keep while it decomposes.
    done.default.py_impl(torch._C.DispatchKey.CompositeImplicitAutograd)(lambda number: NotImplemented)

    def traced(x):
        torch_private.outside_of_modes(done, 1)
        return x + 1

    with torch_private.enable_python_dispatcher():
        with pytest.raises(RuntimeError, match="to return None"):
            done(0)
        graph = make_fx(traced, tracing_mode="fake")(torch.ones(2)).graph
    assert called == [1]
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.aten.add.Tensor]


def test_a_hook_that_is_asked_first_stands_first_however_hooks_are_counted():
    module, heard = torch.nn.ReLU(), []
    other = module.register_forward_pre_hook(lambda module, args: heard.append("other"))
    torch_private.ask_first(module, lambda module, args, kwargs: heard.append("ours"))
    module(torch.ones(2))
    assert heard == ["ours", "other"]
    hooks = module._forward_pre_hooks
    assert list(dict.keys(hooks)) == list(hooks), "dynamo of torch 2.11 counts them so"
    other.remove()
    module(torch.ones(2))
    assert heard == ["ours", "other", "ours"]
