"""How a program is called: the parameters of the ``forward`` that was exported, and which of them may be left out.

An `ExportedProgram` keeps the names of the arguments it was exported with and which of them came by position. It keeps
neither the order of those that came by name nor the defaults of those that were left out. The model's class knows both:
it is looked up by the name that the graph carries, among the classes that exist (nothing is imported). Without it, what
came by name must come by name again, and every constant must be given.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from typing import Any, Literal

import torch
from torch import fx
from torch.export import ExportedProgram

from shardwright.errors import Finding, near_misses
from shardwright.program.nodes import module_stack
from shardwright.program.program import RETURNED, Program
from shardwright.program.read import constant_inputs, user_input_names
from shardwright.program.torch_private import pytree

How = Literal["either", "position", "name"]

BY_EITHER: How = "either"

BY_POSITION: How = "position"

BY_NAME: How = "name"


_OF_TORCH = (torch.device, torch.dtype, torch.layout, torch.memory_format)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of ``forward``. ``how``: whether it is given by name, by position, or by either.

    ``optional``: leaving it out means what the program computes. ``default``: as `format_constant` writes it; '' where
    there is none, or none that is a constant.
    """

    name: str
    how: How = BY_EITHER
    optional: bool = False
    default: str = ""


@dataclass(frozen=True, slots=True)
class CallArgument:
    """What a program was exported with for one parameter: its structure, and the placeholders of its leaves."""

    name: str
    spec: Any
    leaves: tuple[str, ...]
    by_position: bool


Signature = tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a program is called, worked out once for all of its calls.

    ``parameters``: of ``forward``, by name; ``slots``: those of them that may come by position, in order. ``taken``:
    what the program was exported with for them. ``constants``: placeholder → its value at export, and ``texts``: that
    value as `format_constant` writes it.
    """

    parameters: Mapping[str, Parameter]
    slots: tuple[str, ...]
    taken: Mapping[str, CallArgument]
    constants: Mapping[str, Any]
    texts: Mapping[str, str]

    def path(self, leaf: str) -> str:
        """How a placeholder's value is reached from what is given: ``x``, ``options['scale'][0]``."""
        return next(path for one in self.taken.values() for name, path in _leaf_paths(one) if name == leaf)


def call_form(exported: ExportedProgram, signature: Signature | None = None) -> CallForm:
    """How ``exported`` is called. ``signature``: absent, as far as the program itself knows."""
    parameters = {one.name: one for one in signature or signature_of(exported)}
    slots = tuple(name for name, one in parameters.items() if one.how != BY_NAME)
    constants = constant_inputs(exported)
    texts = {name: format_constant(value) for name, value in constants.items()}
    return CallForm(parameters, slots, {one.name: one for one in arguments(exported)}, constants, texts)


def arguments(exported: ExportedProgram) -> list[CallArgument]:
    """The arguments a program was exported with, in order of its user inputs."""
    leaves = iter(user_input_names(exported))
    spec = exported.call_spec.in_spec
    if spec is None:
        return [CallArgument(name, pytree.tree_structure(0), (name,), True) for name in leaves]
    positional, named = _children(spec)
    specs = [*_children(positional), *_children(named)]
    entry = exported.module_call_graph[0].signature if exported.module_call_graph else None
    names = list(getattr(entry, "forward_arg_names", None) or ())
    keywords = list(named.context)
    count = len(specs) - len(keywords)
    if len(names) != len(specs):
        names = [f"argument {number}" for number in range(count)]
    names = [*names[:count], *keywords]
    found = []
    for position, (name, one) in enumerate(zip(names, specs, strict=True)):
        found.append(CallArgument(name, one, tuple(next(leaves) for _ in range(one.num_leaves)), position < count))
    return found


def signature_of(exported: ExportedProgram) -> Signature:
    """The parameters of the ``forward`` that was exported, as far as they are known here."""
    given, constants = arguments(exported), constant_inputs(exported)
    known = {_of_forward(one, given, constants) for one in _forwards(exported)} - {None}
    if len(known) == 1:
        return known.pop() or ()
    return tuple(Parameter(one.name, BY_EITHER if one.by_position else BY_NAME) for one in given)


def fits(signature: Signature, exported: ExportedProgram) -> bool:
    """Whether a signature that was read from a file is one that the program can have."""
    named, constants = {one.name: one for one in signature}, constant_inputs(exported)
    return len(named) == len(signature) and all(
        one.name in named and (not named[one.name].optional or all(leaf in constants for leaf in one.leaves))
        for one in arguments(exported)
    )


def bind_parameters(
    form: CallForm, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Finding]]:
    """The value of every user input by its placeholder's name, and all that is wrong with the call's form."""
    values, findings = _by_parameter(form, args, kwargs)
    flat: dict[str, Any] = {}
    for name, one in form.taken.items():
        if name not in values:
            if form.parameters[name].optional:
                flat.update((leaf, form.constants[leaf]) for leaf in one.leaves)
            else:
                findings.append(_missing(one, form.texts))
        elif one.spec.is_leaf():
            flat[one.leaves[0]] = values[name]
        else:
            try:
                flat.update(zip(one.leaves, one.spec.flatten_up_to(values[name]), strict=True))
            except ValueError:
                findings.append(_other_structure(one, values[name]))
    for name, value in values.items():
        wanted = "" if name in form.taken else form.parameters[name].default
        if name not in form.taken and (not wanted or format_constant(value) != wanted):
            findings.append(_was_left_out(form.parameters[name], value))
    return flat, findings


def other_constants(form: CallForm, flat: Mapping[str, Any]) -> Iterator[Finding]:
    """A finding for every input that is not the constant it was at export: its type counts too.

    ``flat``: what is given, by placeholder.
    """
    for name, text in form.texts.items():
        # The same object needs no second look: no constant can be changed.
        if name not in flat or flat[name] is form.constants[name] or format_constant(flat[name]) == text:
            continue
        path = form.path(name)
        yield Finding(
            f"input {path!r} was the constant {text} at export, and the program computes with that; "
            f"got {show_value(flat[name])}",
            remedies=(f"give {text}", f"export the model with the other {path!r}"),
        )


def in_structure(taken: Iterable[CallArgument], flat: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs, as a program was exported with, from values by placeholder."""
    args, kwargs = [], {}
    for one in taken:
        # Most arguments are one value each, and trees are slow.
        is_leaf = one.spec.is_leaf()
        value = flat[one.leaves[0]] if is_leaf else pytree.tree_unflatten([flat[leaf] for leaf in one.leaves], one.spec)
        if one.by_position:
            args.append(value)
        else:
            kwargs[one.name] = value
    return tuple(args), kwargs


def format_constant(value: Any) -> str:
    """A constant as text: equal for what a program cannot tell apart, so 1, 1.0 and True differ; '' for anything else.

    Members of an enumeration of strings or numbers are written as these, those of others by their name.
    """
    if value is None:
        return "None"
    if type(value) in (list, tuple):
        parts = [format_constant(one) for one in value]
        return f"{type(value).__name__}({', '.join(parts)})" if all(parts) else ""
    if type(value) is dict:
        parts = [f"{key!r}: {format_constant(one)}" for key, one in value.items()]
        return "{" + ", ".join(parts) + "}" if all(map(format_constant, value.values())) else ""
    kind = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    if kind is not None:
        return kind.__repr__(value)
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    return repr(value) if isinstance(value, _OF_TORCH) else ""


def show_value(value: Any) -> str:
    """What was given, for an error message."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    text = format_constant(value)
    return text if 0 < len(text) <= 80 else f"a value of type {type(value).__name__}"


def _leaf_paths(one: CallArgument) -> Iterator[tuple[str, str]]:
    return zip(one.leaves, (one.name + path for path in _paths(one.spec)), strict=True)


def _by_parameter(
    form: CallForm, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Finding]]:
    values: dict[str, Any] = dict(zip(form.slots, args, strict=False))
    findings = []
    if len(args) > len(form.slots):
        rest = [name for name, one in form.parameters.items() if one.how == BY_NAME and name not in kwargs]
        remedies = (f"give by name: {', '.join(rest)}",) if rest else ()
        takes = f"{len(form.slots)} inputs by position{_listed(form.slots)}"
        findings.append(Finding(f"the program takes {takes}, got {len(args)}", remedies=remedies))
    for name, value in kwargs.items():
        if name not in form.parameters or form.parameters[name].how == BY_POSITION:
            names = [known for known, one in form.parameters.items() if one.how != BY_POSITION]
            close = near_misses(str(name), names) or names[:6]
            findings.append(Finding(f"the program takes no input {name!r} by name", remedies=tuple(map(repr, close))))
        elif name in values:
            findings.append(Finding(f"input {name!r} is given twice, by position and by name"))
        else:
            values[name] = value
    return values, findings


def _listed(slots: Sequence[str]) -> str:
    return f" ({', '.join(slots)})" if slots else ""


def _missing(one: CallArgument, texts: Mapping[str, str]) -> Finding:
    fixed = len(one.leaves) == 1 and one.leaves[0] in texts
    if not fixed:
        return Finding(f"input {one.name!r} is missing")
    value = texts[one.leaves[0]]
    remedy = f"{one.name}={value}" if one.name.isidentifier() else value
    return Finding(f"input {one.name!r} is missing; it was the constant {value} at export", remedies=(remedy,))


def _was_left_out(parameter: Parameter, value: Any) -> Finding:
    usual = f", {parameter.default}" if parameter.default else ""
    return Finding(
        f"input {parameter.name!r} was left out at export, so the program computes with its default{usual}; "
        f"got {show_value(value)}",
        remedies=(f"leave {parameter.name!r} out", f"export the model with {parameter.name!r}"),
    )


def _other_structure(one: CallArgument, value: Any) -> Finding:
    def text_of(spec: Any) -> str:
        return " ".join(str(spec).split())[:200]

    return Finding(
        f"input {one.name!r} has another structure than at export\n"
        f"  expected: {text_of(one.spec)}\n  got:      {text_of(pytree.tree_structure(value))}"
    )


def _of_forward(
    forward: inspect.Signature, given: Sequence[CallArgument], constants: Mapping[str, Any]
) -> Signature | None:
    """The parameters of a ``forward``; None where it cannot be the one that was exported."""
    by_name = {one.name: one for one in given}
    positional = [one.name for one in given if one.by_position]
    found: list[Parameter] = []
    for name, one in list(forward.parameters.items())[1:]:
        if one.kind == inspect.Parameter.VAR_POSITIONAL:
            rest = positional[len(found) :]
            if rest != [f"{name}_{number}" for number in range(len(rest))]:
                return None
            found += [Parameter(spread, BY_POSITION) for spread in rest]
        elif one.kind == inspect.Parameter.VAR_KEYWORD:
            known = {parameter.name for parameter in found}
            found += [Parameter(other, BY_NAME) for other in by_name if other not in known]
        else:
            found.append(_parameter(one, by_name.get(name), constants))
    slots = [parameter.name for parameter in found if parameter.how != BY_NAME]
    fits = slots[: len(positional)] == positional and by_name.keys() <= {parameter.name for parameter in found}
    left_out = [p for p in found if p.name not in by_name and not p.optional]
    return tuple(found) if fits and not left_out else None


def _parameter(one: inspect.Parameter, given: CallArgument | None, constants: Mapping[str, Any]) -> Parameter:
    only: dict[Any, How] = {inspect.Parameter.POSITIONAL_ONLY: BY_POSITION, inspect.Parameter.KEYWORD_ONLY: BY_NAME}
    how = only.get(one.kind, BY_EITHER)
    if one.default is inspect.Parameter.empty:
        return Parameter(one.name, how)
    if given is None:
        return Parameter(one.name, how, optional=True, default=format_constant(one.default))
    try:
        leaves = given.spec.flatten_up_to(one.default)
    except ValueError:
        return Parameter(one.name, how)
    same = all(
        name in constants and format_constant(constants[name]) == format_constant(leaf)
        for name, leaf in zip(given.leaves, leaves, strict=True)
    )
    return Parameter(one.name, how, optional=same, default=format_constant(one.default))


def _forwards(exported: ExportedProgram) -> Iterator[inspect.Signature]:
    """The signatures of the classes that bear the name of the exported module's."""
    stacks = (next(module_stack(node), ("?", "")) for node in exported.graph.nodes if node.op == "call_function")
    name = next((kind for path, kind in stacks if path == ""), "")
    for kind in _model_classes() if name else ():
        if name.endswith(kind.__qualname__) and f"{kind.__module__}.{kind.__qualname__}" == name:
            yield inspect.signature(kind.forward)


def _model_classes() -> set[type[torch.nn.Module]]:
    """The classes of modules, without those of graph modules: each has one of its own, and all have one name."""
    found: set[Any] = {fx.GraphModule}
    waiting: list[Any] = [torch.nn.Module]
    while waiting:
        for one in waiting.pop().__subclasses__():
            if one not in found:
                found.add(one)
                waiting.append(one)
    return found - {fx.GraphModule}


def _children(spec: Any) -> list[Any]:
    # A method since torch 2.12, where the older attribute warns.
    return list(spec.children() if callable(getattr(spec, "children", None)) else spec.children_specs)


def _paths(spec: Any) -> list[str]:
    if spec.is_leaf():
        return [""]
    children = _children(spec)
    steps = _steps(spec.type, spec.context) or []
    if len(steps) != len(children):
        steps = [f"[{number}]" for number in range(len(children))]
    return [step + path for step, child in zip(steps, children, strict=True) for path in _paths(child)]


def _steps(kind: Any, context: Any) -> list[str] | None:
    """How the parts of a container are reached; None where that is by number."""
    if is_dataclass(kind):
        # Fields that were None are not leaves, and are listed apart.
        return [f".{field}" for field in context[0]]
    fields = getattr(context, "_fields", None)
    if fields is not None:
        return [f".{field}" for field in fields]
    return [f"[{key!r}]" for key in context] if isinstance(context, list) else None


def unflatten_outputs(program: Program, flat: Sequence[Any]) -> Any:
    """User outputs in the structure the model returned."""
    spec = program.source.call_spec.out_spec
    return pytree.tree_unflatten(list(flat), spec) if spec is not None else list(flat)


def output_names(program: Program) -> dict[str, int]:
    """The name of every user output (its path in the returned structure, or its position) → position in the graph."""
    spec = program.source.call_spec.out_spec
    positions = [i for i, output in enumerate(program.outputs) if output.kind in RETURNED]
    if spec is None:
        return {str(i): position for i, position in enumerate(positions)}
    return {name or "0": position for name, position in zip(_output_names(spec), positions, strict=True)}


def _output_names(spec: Any) -> list[str]:
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    try:
        paths = [path for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:  # a class that was registered without a function that gives keys
        return [".".join(re.findall(r"\w+", path)) for path in _paths(spec)]
    return [".".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path) for path in paths]
