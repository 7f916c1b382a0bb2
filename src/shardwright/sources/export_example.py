"""A method of a model, exported with example inputs."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

import torch
from torch.export import ExportedProgram

from shardwright.errors import CheckpointError, Finding, first_line, near_misses, raise_findings
from shardwright.program.quiet import quiet_export
from shardwright.program.torch_repeats import quick_tracing
from shardwright.sources.example import ExampleTensor, map_example

_RETURN_DICT = "return_dict"


def export_example(
    model: Any, mode: Any, example: Mapping[str, Any], method: str = "forward", *, named: bool = False
) -> ExportedProgram:
    """A method's program. ``example``: as `read_example` gives it; ``mode``: of the model's parameters.

    It returns plain structures, as those of the model's library would be needed wherever the program runs: a tuple
    where the method has the choice (``return_dict``), or, ``named``, a mapping of the tensors it returns by name.

    Raises `CheckpointError` where there is no such method, where the example does not fit it, or where the exporter
    cannot follow it.
    """
    called = find_method(type(model), method)
    parameters = parameters_of(called)
    check_example(example, parameters, f"{type(model).__name__}.{method}")
    given = {_RETURN_DICT: False, **example} if _RETURN_DICT in parameters and not named else example
    spread = [name for name in given if name not in parameters]
    if named or spread or method != "forward":
        model.__class__ = _calling(type(model), method, _wrapped(called, spread, named=named))
    with mode:
        inputs = map_example(given, lambda leaf: leaf.empty() if isinstance(leaf, ExampleTensor) else leaf)
    shapes = map_example(given, lambda leaf: leaf.dynamic() if isinstance(leaf, ExampleTensor) else None)
    return export_model(model, inputs, shapes)


def _wrapped(called: Callable[..., Any], spread: list[str], *, named: bool) -> Callable[..., Any]:
    """A method that calls another, and takes each of ``spread`` by name where the other takes any (``**kwargs``).

    ``named``: it returns a mapping of the tensors that the other returns by name, lists of tensors among them.
    """

    @functools.wraps(called)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = called(self, *args, **kwargs)
        if not named or not isinstance(found, Mapping):
            return found
        return {name: value for name, value in found.items() if _is_tensors(value)}

    signature = inspect.signature(called)
    own = [one for one in signature.parameters.values() if one.kind != inspect.Parameter.VAR_KEYWORD]
    also = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in spread]
    vars(call)["__signature__"] = signature.replace(parameters=[*own, *also])
    return call


def _is_tensors(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_tensors, value))
    return isinstance(value, torch.Tensor)


def export_model(model: Any, inputs: dict[str, Any], shapes: dict[str, Any]) -> ExportedProgram:
    """The program of a model on inputs by name; raises `CheckpointError` where it cannot be exported."""
    try:
        with torch.no_grad(), quiet_export(), quick_tracing():
            return torch.export.export(
                model, (), inputs, dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True
            )
    except Exception as error:
        # The exporter raises many kinds; all mean that the model's code cannot be exported as it is.
        raise CheckpointError(
            f"{type(model).__name__} cannot be exported: {_said(error)}\n"
            "  try: export it yourself, with the inputs you need, and shard the .pt2 file"
        ) from error


def _said(error: Exception) -> str:
    """The first line of an exporter's message, and the sizes that it then lists."""
    listed = [line.strip() for line in str(error).splitlines()[1:] if line.lstrip().startswith("- ")]
    return "\n  ".join([first_line(error), *listed[:4]])


def find_method(kind: type, name: str) -> Callable[..., Any]:
    """A method that a model's class has; raises `CheckpointError` with near misses."""
    found = getattr(kind, name, None)
    if callable(found) and not name.startswith("_"):
        return found
    own = {one for base in kind.__mro__ if issubclass(base, torch.nn.Module) for one in vars(base)}
    known = [one for one in own - set(dir(torch.nn.Module)) | {"forward"} if not one.startswith("_")]
    known = sorted(one for one in known if callable(getattr(kind, one, None)))
    close = near_misses(name, known)
    raise CheckpointError(
        f"{kind.__name__} has no method {name!r}" + (f"\n  try: {', '.join(map(repr, close))}" if close else "")
    )


def parameters_of(called: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a method, but for the model itself."""
    return dict(list(inspect.signature(called).parameters.items())[1:])


def check_example(example: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], what: str) -> None:
    """Raise `CheckpointError` with every input that a method does not take, and every one that it lacks."""
    spread = [one for one in parameters.values() if one.kind == inspect.Parameter.VAR_KEYWORD]
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = [name for name, one in parameters.items() if one.kind not in several]
    also = [name for one in spread for name in _names_in(one.annotation)]
    findings = [
        Finding(f"{what} takes no {name!r}", remedies=tuple(map(repr, near_misses(name, [*own, *also]) or own[:8])))
        for name in example
        if name not in own and name not in also and (also or not spread)
    ]
    findings += [
        Finding(f"{what} needs {name!r}")
        for name in own
        if parameters[name].default is inspect.Parameter.empty and name not in example
    ]
    raise_findings(CheckpointError, findings, summary="the example does not fit the model")


def _names_in(annotation: Any) -> Iterable[str]:
    """What ``**kwargs`` may hold, where its annotation says it (``Unpack[…]`` of a `TypedDict`)."""
    return [name for one in get_args(annotation) for name in getattr(one, "__annotations__", ())]


def _calling(kind: type, method: str, called: Callable[..., Any]) -> type:
    """A class whose forward is another method, by a name of its own beside the class."""
    name = f"{kind.__name__}_{method}"
    return type(name, (kind,), {"forward": called, "__module__": kind.__module__, "__qualname__": name})
