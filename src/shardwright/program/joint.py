"""Joint programs: a model and a loss, exported as one graph that gives the loss and the gradient of every parameter.

The forward program is run node by node on fake tensors, autograd along with it, and both are traced into one graph
(`make_fx`). Every node of the backward pass gets the module and the source line of the call whose gradient it computes.
Torch's own joint export loses these, and turns down tied weights and parameters that nothing reads.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.traceback import get_current_meta, preserve_node_meta

from shardwright.errors import ProgramError, ShardwrightError, first_line
from shardwright.program.custom_backward import no_custom_backward, refuse_hooks
from shardwright.program.nodes import BACKWARD_STACK, is_write
from shardwright.program.program import held_by
from shardwright.program.recurrent_dropout import run_layers_one_by_one
from shardwright.program.serial import one_at_a_time
from shardwright.program.torch_private import (
    HigherOrderOperator,
    enable_python_dispatcher,
    keeping_grad_modes,
    pytree,
    run_as_called,
    without_hooks,
    without_mkldnn,
)
from shardwright.program.write import parts_of_exported
from shardwright.program.written_out import CALLED_AS, TRACED_AS

aten = torch.ops.aten
_PLACES = ("nn_module_stack", "stack_trace", "source_fn_stack")
"""What a node knows of where it comes from."""
_BACKWARD = "shardwright_backward"
"""Marks nodes of the backward pass while a graph is traced."""


@one_at_a_time
def export_training(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    dynamic_shapes: Any = None,
    strict: bool = False,
) -> ExportedProgram:
    """Export a model with its loss and the gradients of its parameters, to be given to `shard`.

    ``args``, ``kwargs``: example inputs of the model, as `torch.export.export` takes them. ``loss``: a function of what
    the model returns and of a target, which is then the last of ``args`` (behind those of the model), called
    ``target``; absent: the model returns its loss, or something whose ``loss`` it is (as models of transformers do when
    they are given ``labels``). The loss is one floating-point number. The model is exported in the mode it is in: call
    ``model.train()`` first where dropout or batch statistics matter.

    Outputs of the program: the loss, then the gradient of every parameter that requires one and that the loss depends
    on. The names of one tied weight have one gradient, the sum over all of its uses. Buffers that the model writes are
    written as in its forward pass. Hooks on the model are called as in a call of it. Raises `ProgramError` where there
    is no such loss or nothing to train, and where the model has code of its own for gradients: an `autograd.Function`,
    hooks on gradients.

    >>> model, x, target = nn.Linear(16, 4), torch.randn(3, 16), torch.tensor([0, 3, 1])
    >>> exported = export_training(model, (x, target), loss=nn.functional.cross_entropy)
    """
    if not isinstance(model, nn.Module):
        raise ProgramError(f"export_training takes a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(args, (tuple, list)):
        raise ProgramError(f"args are a tuple of positional inputs, got {type(args).__name__}")
    if not isinstance(kwargs or {}, Mapping):
        raise ProgramError(f"kwargs are a mapping of inputs by name, got {type(kwargs).__name__}")
    if loss is not None and not callable(loss):
        raise ProgramError(f"loss is a function of what the model returns and of a target, got {loss!r}")
    if loss is not None and not args:
        raise ProgramError("with a loss function, the last of args is the target; args are empty")
    _refuse_gradients_of_inputs(args, kwargs)
    refuse_hooks(model)
    twin = _with_loss(model, tuple(args), dict(kwargs or {}), loss)
    options = {"dynamic_shapes": dynamic_shapes, "strict": strict}
    forward = _forward(twin, tuple(args), dict(kwargs or {}), has_target=loss is not None, **options)
    run_layers_one_by_one(forward.graph_module)
    return joint_program(forward)


def _forward(
    twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, has_target: bool, **options: Any
) -> ExportedProgram:
    try:
        with torch.enable_grad(), no_custom_backward(), keeping_grad_modes():
            return torch.export.export(twin, args, kwargs, **options)
    except ShardwrightError:
        raise
    except Exception as error:
        # What the model's code and the loss raise comes through here, as well as all that torch cannot trace.
        is_call = has_target and isinstance(error, TypeError) and "argument" in first_line(error)
        last = "; the last of args is the target, which the loss alone is given" if is_call else ""
        raise ProgramError(
            f"the model with its loss cannot be exported ({type(error).__name__}: {first_line(error)}){last}\n"
            "  try: call the model and the loss on these inputs; then torch.export.export, which says where it fails"
        ) from error


def _refuse_gradients_of_inputs(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> None:
    leaves = pytree.tree_leaves((tuple(args), dict(kwargs or {})))
    if any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
        raise ProgramError(
            "an example input requires a gradient, and a program for training gives gradients of parameters alone\n"
            "  try: give x.detach(); or make what is to be trained an nn.Parameter of the model"
        )


def _with_loss(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> nn.Module:
    """A module with the model's own submodules and parameters, whose ``forward`` returns the loss alone."""
    kind = type(model)
    own = _with_self(inspect.signature(model.forward))
    whole = run_as_called(_same(kind, vars(model)))

    def forward(self: nn.Module, *given: Any, **named: Any) -> torch.Tensor:
        run = whole or functools.partial(kind.forward, self)
        if loss is None:
            return _loss_in(run(*given, **named))
        return loss(run(*given[:-1], **named), given[-1])

    forward.__signature__ = own if loss is None else _with_target(own, args, kwargs)  # type: ignore[attr-defined]
    # Under the model's own name: plans are read off the names of classes.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return _same(type(kind.__name__, (kind,), {"forward": forward, **names}), without_hooks(vars(model)))


def _same(kind: type, held: Mapping[str, Any]) -> nn.Module:
    """A module of class ``kind`` that holds this: what a forward pass sets on it is not set on the model."""
    made = nn.Module.__new__(kind)
    vars(made).update(held)
    return made


def _with_self(own: inspect.Signature) -> inspect.Signature:
    return inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY), *own.parameters.values()])


def _with_target(own: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.Signature:
    """The model's signature as far as it is called by position here, then ``target``, then what is given by name."""
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first, *rest = own.parameters.values()
    names = [one.name for one in rest if one.kind in (inspect.Parameter.POSITIONAL_ONLY, either)][: len(args) - 1]
    names += [f"input_{number}" for number in range(len(names), len(args) - 1)]
    target = "target" if "target" not in (*names, *kwargs) else "loss_target"
    positional = [inspect.Parameter(name, either) for name in (*names, target)]
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs]
    return inspect.Signature([first, *positional, *named])


def _loss_in(outputs: Any) -> Any:
    """The loss that a model returns: its output, the ``loss`` of it, or the only tensor in it."""
    if isinstance(outputs, torch.Tensor):
        return outputs
    found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if isinstance(found, torch.Tensor):
        return found
    if isinstance(outputs, (tuple, list)) and len(outputs) == 1 and isinstance(outputs[0], torch.Tensor):
        return outputs[0]
    raise ProgramError(
        f"the model returns {type(outputs).__name__}, which has no loss\n"
        "  try: loss=lambda outputs, target: …, with the target as the last of args; or give the model its labels"
    )


@one_at_a_time
def joint_program(forward: ExportedProgram) -> ExportedProgram:
    """The joint program of an exported program that returns its loss and nothing else. Raises `ProgramError`."""
    specs = forward.graph_signature.input_specs
    values = [node.meta.get("val") for node in forward.graph.find_nodes(op="placeholder")]
    trained = _trained(forward)
    _check_loss(forward)
    if not trained:
        raise ProgramError(_NOTHING)
    given = [_leaf(value) if position in trained else value for position, value in enumerate(values)]
    found: list[str] = []

    def step(*flat: Any) -> tuple[Any, ...]:
        *_, loss = _Recorder(forward.graph_module).run(*flat)
        if not loss.requires_grad:
            raise ProgramError(_NOTHING)
        wanted = [flat[position] for position in trained]
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        by_name = _by_tensor(trained, gradients)
        found[:] = by_name
        return (loss.detach(), *by_name.values())

    traced = _functional(_trace(step, given), forward)
    if not found:
        raise ProgramError(_NOTHING)
    return _exported(forward, traced, [str(spec.target) for spec in specs], found)


_NOTHING = "the loss depends on no parameter that requires a gradient, so there is nothing to train"


def _trained(forward: ExportedProgram) -> dict[int, tuple[str, Any]]:
    """The placeholders of parameters that require a gradient: position → (name, tensor)."""
    held = held_by(forward)
    return {
        position: (str(spec.target), held[str(spec.target)])
        for position, spec in enumerate(forward.graph_signature.input_specs)
        if spec.kind == InputKind.PARAMETER and held[str(spec.target)].requires_grad
    }


def _check_loss(forward: ExportedProgram) -> None:
    outputs: Any = forward.graph.output_node().args[0]
    val = outputs[-1].meta.get("val") if isinstance(outputs[-1], fx.Node) else outputs[-1]
    given = [spec for spec in forward.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    is_number = isinstance(val, torch.Tensor) and val.is_floating_point() and val.numel() == 1
    if len(given) != 1 or not is_number:
        what = f"of shape {tuple(val.shape)}, {val.dtype}" if isinstance(val, torch.Tensor) else type(val).__name__
        raise ProgramError(
            f"a loss is one floating-point number; the model returns {len(given)} outputs, the last {what}\n"
            "  try: loss=lambda outputs, target: …, which returns the mean over what it compares"
        )


def _leaf(value: torch.Tensor) -> torch.Tensor:
    return value.detach().requires_grad_()


def _by_tensor(trained: Mapping[int, tuple[str, Any]], gradients: Sequence[Any]) -> dict[str, Any]:
    """The gradient of every tensor that has one, under the first of its names; those of tied names added up."""
    first: dict[int, str] = {}
    found: dict[str, Any] = {}
    for (name, tensor), gradient in zip(trained.values(), gradients, strict=True):
        leader = first.setdefault(id(tensor), name)
        if gradient is not None:
            found[leader] = gradient if leader not in found else found[leader] + gradient
    return found


def _autocast(device: str, dtype: Any, enabled: bool, cached: bool, inner: Any, *given: Any) -> tuple[Any, Any, Any]:
    return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cached), inner, given


def _grad_mode(enabled: bool, inner: Any, *given: Any) -> tuple[Any, Any, Any]:
    return torch.set_grad_enabled(enabled), inner, given


_REGIONS = {"wrap_with_autocast": _autocast, "wrap_with_set_grad_enabled": _grad_mode}
"""How export writes such a part of a forward pass → under what it runs, its graph, and what that is given."""


class _Recorder(fx.Interpreter):
    """Runs a forward graph, and has autograd say of each node of the backward pass where the call was that it is of."""

    def __init__(self, module: fx.GraphModule, seen: set[Any] | None = None) -> None:
        super().__init__(module)
        self.seen: set[Any] = set() if seen is None else seen

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """As `fx.Interpreter.call_function`; what a model computes in a ``with`` of torch's is run node by node too."""
        if isinstance(target, HigherOrderOperator) and target.name() in _REGIONS:
            how, inner, given = _REGIONS[target.name()](*args)
            with how:
                return _Recorder(inner, self.seen).run(*given)
        found = CALLED_AS[target](*args, **kwargs) if target in CALLED_AS else NotImplemented
        return super().call_function(target, args, kwargs) if found is NotImplemented else found

    def run_node(self, n: fx.Node) -> Any:
        """As `fx.Interpreter.run_node`."""
        result = super().run_node(n)
        places = {key: n.meta[key] for key in _PLACES if key in n.meta} | {"custom": {_BACKWARD: True}}
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
        while waiting:
            one: Any = waiting.pop()
            if one not in self.seen:
                self.seen.add(one)
                one.register_prehook(_stand_at(places))
                waiting += [before for before, _ in one.next_functions if before is not None]
        return result


def _stand_at(places: Mapping[str, Any]) -> Callable[[Any], None]:
    def before(_: Any) -> None:
        meta = get_current_meta()
        meta.clear()
        meta.update(places)

    return before


def _trace(function: Callable[..., Any], values: Sequence[Any]) -> fx.GraphModule:
    given: list[Any] = [value for value in values if isinstance(value, torch.Tensor)]
    # On the meta device it takes operators that are made of others for what has no gradient.
    on_meta = all(value.fake_device.type == "meta" for value in given)
    dispatcher = nullcontext() if on_meta else enable_python_dispatcher()
    try:
        # The kernel that torch chooses for an LSTM on a CPU keeps nothing for a backward pass.
        with given[0].fake_mode, without_mkldnn(), torch.enable_grad(), preserve_node_meta(), dispatcher:
            traced = make_fx(function, decomposition_table=TRACED_AS)(*values)
    except ProgramError:
        raise
    except Exception as error:
        raise ProgramError(
            f"torch cannot trace the backward pass of this program ({type(error).__name__}: {first_line(error)})"
        ) from error
    for node in list(reversed(traced.graph.nodes)):
        # What autograd keeps for later it detaches: the same value by another name.
        if node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
        if node.op == "call_function" and not node.users and not is_write(node):
            traced.graph.erase_node(node)
    return traced


def _functional(traced: fx.GraphModule, forward: ExportedProgram) -> fx.GraphModule:
    """The graph without mutation; itself where that is so. Inputs that it writes are written by a last ``copy_``."""
    if not any(is_write(node) for node in traced.graph.nodes):
        return traced
    values = [node.meta.get("val") for node in forward.graph.find_nodes(op="placeholder")]
    return _trace(functionalize(fx.Interpreter(traced).run), values)


def _leave_names(graph: fx.Graph, inputs: Sequence[str]) -> None:
    """Give calls that have the name of an input (an input called ``t`` or ``mul``) another one."""
    taken = {*inputs, *(node.name for node in graph.nodes)}
    for node in graph.nodes:
        if node.op != "placeholder" and node.name in inputs:
            node.name = next(name for number in itertools.count(1) if (name := f"{node.name}_{number}") not in taken)
            taken.add(node.name)


def _exported(
    forward: ExportedProgram, traced: fx.GraphModule, targets: Sequence[str], trained: Sequence[str]
) -> ExportedProgram:
    """The joint program of a traced graph, whose inputs are named as those of the forward program."""
    graph, known = traced.graph, forward.graph_signature
    names: dict[fx.Node, int] = {}
    named = list(forward.graph.find_nodes(op="placeholder"))
    _leave_names(graph, [given.name for given in named])
    for position, (node, given) in enumerate(zip(graph.find_nodes(op="placeholder"), named, strict=True)):
        node.name = node.target = given.name
        node.meta = dict(given.meta)
        names[node] = position
    for node in graph.nodes:
        if node.op == "call_function":
            node.meta["torch_fn"] = (node.name, str(node.target))
        if (node.meta.get("custom") or {}).get(_BACKWARD):
            # It ran in no module: what the plan says of a module's inputs and outputs is not meant for their gradients.
            del node.meta["custom"]
            node.meta[BACKWARD_STACK] = node.meta.pop("nn_module_stack", {})
    outputs: Any = graph.output_node().args[0]
    mutations = []
    for node in list(graph.nodes):
        if node.target is aten.copy_.default and node.args[0] in names:
            position = names[node.args[0]]
            spec = known.input_specs[position]
            is_buffer = spec.kind == InputKind.BUFFER
            kind = OutputKind.BUFFER_MUTATION if is_buffer else OutputKind.USER_INPUT_MUTATION
            mutations.append((kind, targets[position] if is_buffer else node.args[0].name, node.args[1]))
            graph.erase_node(node)
    gradients = [
        (OutputKind.GRADIENT_TO_PARAMETER, name, value) for name, value in zip(trained, outputs[1:], strict=True)
    ]
    entries = [*mutations, (OutputKind.LOSS_OUTPUT, None, outputs[0]), *gradients]
    graph.output_node().args = (tuple(value for _, _, value in entries),)
    graph.lint()
    traced.recompile()
    signature = ExportGraphSignature(
        input_specs=list(known.input_specs),
        output_specs=[OutputSpec(kind, TensorArgument(value.name), target) for kind, target, value in entries],
    )
    return ExportedProgram(**parts_of_exported(forward, root=traced, graph=graph, graph_signature=signature))
