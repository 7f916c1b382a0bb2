"""What torch is spared is not missed: modules have their code when somebody asks, frames their source lines."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import fx, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._traceback import CapturedTraceback

from shardwright.program import torch_repeats
from shardwright.program.torch_repeats import quick_tracing


class Adds(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x, *, other):
        return {"sum": x + self.weight * other}


class Chooses(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))


X, OTHER = torch.tensor([1.0]), torch.tensor([10.0])


def traced(module=None):
    """A module whose code nobody has written."""
    with quick_tracing():
        made = fx.symbolic_trace(module or Adds())
    assert "_code" not in vars(made)
    return made


EAGER = fx.symbolic_trace(Adds())


def test_code_is_written_for_who_runs_it():
    assert traced()(X, other=OTHER) == {"sum": 21}
    assert traced().forward(X, other=OTHER) == {"sum": 21}
    made = traced()
    assert type(made).forward(made, X, other=OTHER) == {"sum": 21}
    assert "_code" in vars(made)


@pytest.mark.parametrize(
    "read",
    [
        lambda module: module.code,
        str,
        lambda module: module._lineno_map,
        lambda module: module._prologue_start,
        lambda module: copy.deepcopy(module).code,
        lambda module: copy.copy(module).code,
        lambda module: pickle.dumps(module).count(EAGER.code.encode()),
        lambda module: module.__reduce__()[1][0]["_code"],
        lambda module: module.print_readable(print_output=False),
        lambda module: hasattr(module, "_code"),
        lambda module: module.recompile().src,
        lambda module: module.forward.__code__.co_varnames,
    ],
)
def test_code_is_written_for_who_reads_it(read):
    """Asked first of all, within the context and after it."""
    assert read(traced()) == read(EAGER)
    with quick_tracing():
        assert read(fx.symbolic_trace(Adds())) == read(EAGER)


def test_code_is_that_of_the_last_change():
    made = traced()
    before = made.code
    (add,) = made.graph.find_nodes(op="call_function", target=torch.add) or [
        node for node in made.graph.nodes if node.name == "add"
    ]
    with quick_tracing():
        add.target = torch.sub
        made.recompile()
        assert made.code != before
        assert made(X, other=OTHER) == {"sum": -19}
    add.target = torch.add
    made.recompile()
    assert made(X, other=OTHER) == {"sum": 21}


def test_a_copy_runs_on_its_own_weights():
    made = traced()
    copied = copy.deepcopy(made)
    with torch.no_grad():
        copied.weight.fill_(3)
    assert made(X, other=OTHER) == {"sum": 21}
    assert copied(X, other=OTHER) == {"sum": 31}


def test_programs_are_exported_with_subgraphs_and_run():
    with quick_tracing():
        exported = torch.export.export(Chooses(), (X,))
    torch.testing.assert_close([exported.module()(X), exported.module()(-X)], [X.sin(), X.cos()])
    torch.testing.assert_close(exported.graph_module.true_graph_0(X), (X.sin(),))
    assert "sin" in exported.graph_module.true_graph_0.code
    saved = io.BytesIO()
    torch.export.save(exported, saved)
    saved.seek(0)
    torch.testing.assert_close(torch.export.load(saved).module()(-X), X.cos())


def test_frames_have_their_lines_and_names():
    """The stack of an operator ends where the user called it."""
    with quick_tracing():
        node = torch.export.export(Adds(), (X,), {"other": OTHER}).graph.find_nodes(
            op="call_function", target=torch.ops.aten.mul.Tensor
        )[0]
    assert f'File "{__file__}"' in node.stack_trace
    assert node.stack_trace.endswith('return {"sum": x + self.weight * other}')


def test_stacks_are_those_that_torch_finds():
    def below(depth):
        if depth:
            return below(depth - 1)
        return [found.extract().summary() for found in (CapturedTraceback, fx.proxy.CapturedTraceback)]

    for depth in (3, 3, 5):
        with quick_tracing():
            assert fx.proxy.CapturedTraceback is not CapturedTraceback
            wanted, found = below(depth)
        assert [(one.filename, one.lineno, one.name) for one in found] == [
            (one.filename, one.lineno, one.name) for one in wanted
        ]
        assert found.format() == wanted.format()


class Sizes(nn.Module):
    """Sums, products, quotients and comparisons of sizes, some of which are known from what came before."""

    def forward(self, x, y):
        z = torch.cat([x, y.flatten()[: x.shape[0]]])
        pairs = z.reshape(-1, 2).permute(1, 0).contiguous()
        wide = pairs[:, None].expand(2, 3, pairs.shape[1]).reshape(6, -1)
        return wide, z.new_zeros(max(y.shape[0], 2) * y.shape[1] % 7 + x.shape[0] // 2), x.nonzero()


def sizes_exported():
    n, rows = torch.export.Dim("n", min=4, max=64), torch.export.Dim("rows", min=3, max=40)
    exported = torch.export.export(
        Sizes(), (torch.ones(8), torch.ones(9, 5)), dynamic_shapes={"x": {0: 2 * n}, "y": {0: rows}}
    )
    values = [(node.name, str(node.meta.get("val"))) for node in exported.graph.nodes]
    return (
        exported.graph_module.code,
        values,
        {str(size): str(bounds) for size, bounds in exported.range_constraints.items()},
    )


def test_sizes_are_those_that_torch_finds(monkeypatch):
    """The graph, every node's sizes and what holds of them; without what is remembered of sizes, and with it."""
    with monkeypatch.context() as patch:
        patch.setattr(torch_repeats, "_quick_sizes", lambda: ())
        with quick_tracing():
            wanted = sizes_exported()
    computed, remembered = [], torch_repeats._remembered

    def counted(name, slow, known):
        return remembered(name, lambda *sizes: computed.append(name) or slow(*sizes), known)

    monkeypatch.setattr(torch_repeats, "_remembered", counted)
    with quick_tracing():
        found, first = sizes_exported(), len(computed)
        assert sizes_exported() == found == wanted
    if list(torch_repeats._quick_sizes()):
        assert first > 20
        assert len(computed) - first < first
    else:
        assert torch.__version__.startswith("2.11")


def test_sizes_of_no_known_value_and_numbers_are_told_apart():
    """`1`, `1.0` and `True` are one key of a dict; what is computed of them is not one thing."""
    env = ShapeEnv()

    def computed():
        size = env.create_unbacked_symint()
        found = [size + 1, size * 2, torch.sym_max(size, 3), size == 1, (size > 1) & (size < 5)]
        if not torch.__version__.startswith("2.11"):
            found.append(size - True)
        return [(str(one).replace(str(size), "u"), type(one)) for one in (*found, size * 1.0, size + 1.0)]

    wanted = computed()
    with quick_tracing():
        assert [computed(), computed()] == [wanted, wanted]


def test_torch_is_as_it_was_once_the_last_of_several_threads_is_done():
    before, inside, leave = fx.GraphModule.recompile, threading.Event(), threading.Event()

    def trace():
        with quick_tracing():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=trace)
    with quick_tracing():
        thread.start()
        assert inside.wait(30)
    assert fx.GraphModule.recompile is not before
    leave.set()
    thread.join()
    assert fx.GraphModule.recompile is before
    assert "_code" in vars(fx.symbolic_trace(Adds()))
    with pytest.raises(ValueError, match="on purpose"), quick_tracing():
        raise ValueError("on purpose")
    assert fx.GraphModule.recompile is before


def test_another_thread_that_runs_a_module_waits_for_its_code(monkeypatch):
    made, found, write = traced(), [], torch_repeats._RECOMPILE
    thread = threading.Thread(target=lambda: found.append(made(X, other=OTHER)))

    def write_slowly(module):
        if not found and not thread.is_alive():
            thread.start()
            thread.join(0.2)
        return write(module)

    monkeypatch.setattr(torch_repeats, "_RECOMPILE", write_slowly)
    assert made(X, other=OTHER) == {"sum": 21}
    thread.join()
    assert found == [{"sum": 21}]
