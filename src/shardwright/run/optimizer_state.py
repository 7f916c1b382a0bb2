"""An optimiser's state on one rank: described for a package, and put back.

There is no table of optimisers. What one keeps is known by its form: a tensor of the parameter's shape is cut as the
parameter, a number is the same everywhere, anything else (factored rows, matrices of Shampoo) cannot be cut. And what
it does is tried: it steps a small parameter whole and in pieces, which comes to the same where it works element by
element.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from shardwright.errors import Finding, PackageError, raise_findings
from shardwright.layout.dtypes import DTYPES
from shardwright.package.kept_training import read_options
from shardwright.package.manifest import Manifest
from shardwright.package.training_state import GroupEntry, MomentEntry, TrainingEntry, from_json, to_json
from shardwright.program.training import TrainingStep

_NOT_OPTIONS = {"params", "param_names"}


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of an optimiser; ``moments``: this rank's pieces, by their names in files."""

    entry: TrainingEntry
    moments: dict[str, torch.Tensor]


def parameter_names(step: TrainingStep, manifest: Manifest) -> dict[int, str]:
    """The name that each parameter of a step is stored under, by its id."""
    tensors = step.tensors()
    stored = [entry.name for entry in manifest.tensors if entry.kind == "parameter" and not entry.alias_of]
    return {id(tensors[name]): name for name in stored}


def whole_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in one process."""
    return {entry.name: tuple(entry.shape) for entry in manifest.tensors}


def describe_optimizer(
    optimizer: Any,
    names: Mapping[int, str],
    whole: Mapping[str, tuple[int, ...]],
    streams: Mapping[str, str],
) -> Kept:
    """What this rank keeps of an optimiser.

    ``names``: of the step's parameters; ``whole``: their shapes in one process. Raises `PackageError` naming all that
    cannot be kept.
    """
    groups = _check_optimizer(optimizer, names, whole)
    findings: list[Finding] = []
    moments: dict[str, tuple[MomentEntry, torch.Tensor]] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for parameter in (one for group in groups for one in group["params"]):
        name = names[id(parameter)]
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.dtype in DTYPES:
                entry = MomentEntry(name, str(key), str(value.dtype).removeprefix("torch."))
                moments[entry.name] = entry, value.detach()
                continue
            try:
                numbers.setdefault(name, {})[str(key)] = to_json(value)
            except ValueError:
                findings.append(Finding(f"{name!r}: {key!r} is {_words(value)}, beside {tuple(parameter.shape)}"))
    raise_findings(PackageError, findings, summary=_CANNOT.format(kind=type(optimizer).__name__))
    entry = TrainingEntry(
        [], [one for one, _ in moments.values()], numbers, _groups(groups, names), dict(streams), _kind(optimizer)
    )
    return Kept(entry, {name: value for name, (_, value) in moments.items()})


_CANNOT = (
    "the state of {kind} does not follow its parameters: it can be cut where it is tensors of a parameter's shape, and "
    "numbers"
)


def _check_optimizer(optimizer: Any, names: Mapping[int, str], whole: Mapping[str, tuple[int, ...]]) -> list[Any]:
    """The groups of an optimiser that may be kept; raises `PackageError`."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise PackageError(f"an optimiser is a torch.optim.Optimizer, got {type(optimizer).__name__}")
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    others = sum(id(parameter) not in names for parameter in held)
    if others:
        raise PackageError(
            f"{others} of the optimiser's {len(held)} tensors are no parameters of this step"
            "\n  try: make it of step.parameters(), after `load`"
        )
    for group in optimizer.param_groups:
        cut = [name for one in group["params"] if tuple(one.shape) != whole[name := names[id(one)]]]
        if cut and not works_on_pieces(optimizer, group):
            raise PackageError(
                f"{type(optimizer).__name__} looks at more than one element at a time: on a piece of a matrix it does "
                f"something else than on the whole, and ranks hold pieces of {cut[0]!r} and {len(cut) - 1} more"
                "\n  try: an optimiser that works element by element (AdamW, SGD …), or whole weights (data parallel)"
            )
    return optimizer.param_groups


def works_on_pieces(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether three steps of an optimiser of this kind on four pieces of a matrix are those on the whole.

    Tried with the options of one of its groups, or else its defaults. True where it cannot be tried.
    """
    kind, device = type(optimizer), group["params"][0].device
    for options in (group, optimizer.defaults):
        given = {name: value for name, value in options.items() if name not in _NOT_OPTIONS}
        if "lr" in given:
            # A scheduler may have made it too small to see.
            given["lr"] = optimizer.defaults.get("lr") or 0.01
        found = _tried(kind, given, device)
        if found is not None:
            return found
    return True


def _tried(kind: type[torch.optim.Optimizer], options: Mapping[str, Any], device: torch.device) -> bool | None:
    """Whether pieces are stepped as the whole is; None where steps fail."""
    given: dict[str, Any] = {name: options[name] for name in inspect.signature(kind).parameters if name in options}
    draw = torch.Generator().manual_seed(0)
    # Halves of different sizes of entries: what is divided by a norm shows.
    sizes = torch.arange(1, 9)[:, None] * torch.arange(1, 7)
    drawn = [torch.randn(8, 6, generator=draw) * sizes for _ in range(4)]
    start, *gradients = [one.to(device) for one in drawn]
    whole = nn.Parameter(start.clone())
    pieces = [nn.Parameter(one.clone()) for one in _quarters(start)]
    try:
        with torch.enable_grad():
            # Each piece has an optimiser of its own, as on ranks: a norm of all parameters shows, too.
            makers = [kind([{**options, "params": [one]}], **given) for one in (whole, *pieces)]
            for gradient in gradients:
                for one, part in zip((whole, *pieces), (gradient, *_quarters(gradient)), strict=True):
                    one.grad = part.clone()
                for maker in makers:
                    maker.step()
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, LookupError):
        # Optimisers of other libraries take what they like.
        return None
    change = (whole - start).abs().max()
    parts = zip(_quarters(whole), pieces, strict=True)
    return all(bool((one - piece).abs().max() <= 1e-3 * change) for one, piece in parts)


def _quarters(matrix: torch.Tensor) -> list[torch.Tensor]:
    """Pieces of a matrix that is cut along both of its dims."""
    return [piece for half in matrix.chunk(2) for piece in half.chunk(2, 1)]


def _groups(groups: Iterable[Mapping[str, Any]], names: Mapping[int, str]) -> list[GroupEntry]:
    found, findings = [], []
    for group in groups:
        options = {}
        for key, value in group.items():
            if key in _NOT_OPTIONS:
                continue
            try:
                options[str(key)] = to_json(value)
            except ValueError:
                findings.append(Finding(f"the option {key!r} is {_words(value)}"))
        found.append(GroupEntry([names[id(parameter)] for parameter in group["params"]], options))
    raise_findings(PackageError, findings, summary="options of the optimiser cannot be kept: they are numbers and text")
    return found


def _kind(optimizer: torch.optim.Optimizer) -> str:
    return type(optimizer).__name__


def _words(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    return f"of type {type(value).__name__}"


def differing(entries: Sequence[TrainingEntry | None]) -> str:
    """What ranks disagree about, in words; '' where they keep the same. None: a rank that keeps nothing."""
    first = entries[0]
    for rank, other in enumerate(entries):
        if first is None or other is None:
            if first is not other:
                given, not_given = (rank, 0) if first is None else (0, rank)
                return f"an optimiser is given on rank {given}, not on rank {not_given}"
            continue
        if first.kind != other.kind:
            return f"the optimiser is {other.kind} on rank {rank}, {first.kind} on rank 0"
        for group, (one, two) in enumerate(zip(first.groups, other.groups, strict=False)):
            if one != two:
                odd = [key for key in one.options if one.options[key] != two.options.get(key)] or ["parameters"]
                return f"the optimiser's group {group} has other {odd[0]} on rank {rank} than on rank 0"
        for name in {**first.numbers, **other.numbers}:
            one, two = first.numbers.get(name, {}), other.numbers.get(name, {})
            for key in {**one, **two}:
                if one.get(key) != two.get(key):
                    return (
                        f"the optimiser's {key!r} of {name!r} is {one.get(key)} on rank 0 and {two.get(key)} on rank "
                        f"{rank}: it follows from a rank's own piece, and no piece tells what it is of the whole"
                    )
        if (first.groups, first.moments) != (other.groups, other.moments):
            return f"the optimiser keeps other tensors on rank {rank} than on rank 0: all ranks take the same steps"
    return ""


def restore_optimizer(
    optimizer: Any, kept: TrainingEntry, names: Mapping[int, str], whole: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """Give an optimiser the state that is ``kept``, its tensors from this rank's file; raises `PackageError`."""
    groups = _check_optimizer(optimizer, names, whole)
    if kept.kind not in ("", _kind(optimizer)):
        raise PackageError(
            f"the state that was saved is that of {kept.kind}, the optimiser is {_kind(optimizer)}"
            f"\n  try: resume {kept.kind}, or begin anew without resume"
        )
    ours = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
    if [sorted(group) for group in ours] != [sorted(group.parameters) for group in kept.groups]:
        raise PackageError(
            f"the optimiser has {len(ours)} groups of {[len(one) for one in ours]} parameters, the one that was saved "
            f"had {len(kept.groups)} of {[len(one.parameters) for one in kept.groups]}, or others in them"
            "\n  try: make it with the groups that it was saved with"
        )
    numbers = {name: place for place, name in enumerate(name for group in ours for name in group)}
    state: dict[int, dict[str, Any]] = {}
    for name, values in kept.numbers.items():
        state[numbers[name]] = {key: from_json(value) for key, value in values.items()}
    tensors = load_file(path)
    for moment in kept.moments:
        state.setdefault(numbers[moment.parameter], {})[moment.key] = tensors[moment.name]
    written = [
        {**read_options(group.options), "params": [numbers[name] for name in mine]}
        for group, mine in zip(kept.groups, ours, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": written})
    for parameter in (one for group in optimizer.param_groups for one in group["params"]):
        _keep_dtypes(optimizer.state.get(parameter, {}), state.get(numbers[names[id(parameter)]], {}))


def _keep_dtypes(held: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Undo that torch gives all state its parameter's dtype: moments in float32 beside weights in bfloat16 stay so.

    Step counts are left to torch, which knows where they must be float32.
    """
    for key, value in held.items():
        wanted = saved.get(key)
        if key == "step" or not (isinstance(value, torch.Tensor) and isinstance(wanted, torch.Tensor)):
            continue
        if value.shape == wanted.shape and value.dtype != wanted.dtype:
            held[key] = wanted.to(value.device)
