"""Resolve a plan against a program's tensors and modules: pinned layouts, module boundaries, or all errors at once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from shardwright.errors import MOST_FINDINGS, Finding, LayoutError, PlanError, near_misses, raise_findings
from shardwright.layout.layout import REPLICATE, Layout, Shard, resolve
from shardwright.plan.made_of import TensorInfo, made_of_others
from shardwright.plan.packed_names import as_packed, packed_numbers
from shardwright.plan.patterns import generalize, matches
from shardwright.plan.styles import StyleSpec, style_spec

Plan = Mapping[str, Any]
"""Key pattern → style, in the order given."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A tensor's pinned layout. ``exact``: as it stands; else its dim is pinned and the graph says how it is cut."""

    layout: Layout
    key: str
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Boundary:
    """A pinned layout of what enters (``side="input"``) or leaves (``"output"``) a module.

    ``position``: which of the module's tensors, in the order they are first used; None: all of them.
    """

    module: str
    side: str
    position: int | None
    layout: Layout
    key: str


@dataclass(frozen=True, slots=True)
class ResolvedPlan:
    """Pins by tensor FQN, and module boundaries."""

    pins: Mapping[str, Pin] = field(default_factory=dict)
    boundaries: tuple[Boundary, ...] = ()


def resolve_plan(
    plan: Plan,
    tensors: Mapping[str, TensorInfo],
    modules: Mapping[str, str],
    num_ranks: int,
    *,
    may_be_short: Collection[str] = (),
    summary: str = "the plan does not fit the program",
) -> ResolvedPlan:
    """What a plan pins. ``modules``: path → class name, '' where unknown. ``may_be_short``: tensors that may have
    fewer indices than there are ranks in the dim that is pinned.

    Raises one `PlanError`, which begins with ``summary``, with every finding: keys that match nothing (with near
    misses), unknown styles, styles that do not fit a module, entries that disagree on a tensor, dims that cannot be
    cut.
    """
    state = _Resolution(tensors, modules, num_ranks, may_be_short)
    for key, style in plan.items():
        state.entry(key, style)
    raise_findings(PlanError, state.findings, summary=summary)
    return ResolvedPlan(state.pins, tuple(state.boundaries))


def resolve_names(plan: Plan, tensors: Mapping[str, TensorInfo], modules: Mapping[str, str]) -> ResolvedPlan:
    """What a plan pins, layouts as the plan writes them, where sizes are not known yet.

    Raises as `resolve_plan` does, sizes and entries that disagree aside.
    """
    state = _Resolution(tensors, modules, num_ranks=None)
    for key, style in plan.items():
        state.entry(key, style)
    raise_findings(PlanError, state.findings, summary="the plan does not fit the program")
    return ResolvedPlan(state.pins, tuple(state.boundaries))


class _Resolution:
    """``num_ranks``: None where sizes are not known; then a pin is taken as the plan writes it."""

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        modules: Mapping[str, str],
        num_ranks: int | None,
        may_be_short: Collection[str] = (),
    ) -> None:
        self.tensors, self.modules, self.num_ranks = tensors, modules, num_ranks
        self.may_be_short = may_be_short
        self.packed = packed_numbers(tensors)
        self.made = {**self.packed, **made_of_others(tensors)}
        self.pins: dict[str, Pin] = {}
        self.boundaries: list[Boundary] = []
        self.findings: list[Finding] = []

    def entry(self, key: str, style: Any) -> None:
        if not isinstance(key, str):
            self.findings.append(
                Finding(f"plan key {key!r} is not a string", remedies=("use a module or parameter name",))
            )
            return
        try:
            # A weight in parts looks like a module that holds them.
            modules = [path for path in matches(key, self.modules) if path not in self.made]
            tensors = matches(key, self.tensors) or matches(key, self.made)
            if not tensors and not modules:
                self._unmatched(key)
            for name in tensors:
                self._tensor(key, style, name)
            for path in modules:
                self._module(key, style_spec(style, self.modules[path]), path, style)
        except ValueError as error:
            self.findings.append(Finding(f"plan entry {key!r}: {error}"))

    def _unmatched(self, key: str) -> None:
        # Looking for names like it takes long, and no more than a screen of findings is shown.
        close: list[str] = []
        if len(self.findings) < MOST_FINDINGS:
            known = dict.fromkeys([*map(generalize, self.modules), *map(generalize, self.tensors), *self.modules])
            close = near_misses(key, known) or near_misses(generalize(key), known)
        remedies = tuple(f"{name!r}" for name in close) or ("list the names with `shardwright inspect`",)
        self.findings.append(Finding(f"plan key {key!r} matches no module, parameter or buffer", remedies=remedies))

    def _tensor(self, key: str, style: Any, name: str) -> None:
        path = name.rpartition(".")[0]
        owner = self.modules.get(path, "")
        spec = style_spec(style, owner)
        if spec.whole and spec.sides and name.endswith(".weight"):
            # Older plans of transformers put "norm.weight": "sequence_parallel" and mean the norm.
            self._module(key, spec, path, style)
            return
        last = name.rpartition(".")[2]
        stored = self._stored(name)
        layout = spec.for_tensor(last, len(self.tensors[stored[0]].shape), owner)
        if layout is None or spec.sides:
            self.findings.append(
                Finding(
                    f"plan entry {key!r}: the style {style!r} is for modules, but {name!r} is a tensor",
                    remedies=("name the module instead", "use Shard(dim) or Replicate()"),
                )
            )
            return
        for one in self._carrying(stored, layout):
            self._pin(one, self._as_stored(name, one, layout), key, exact=spec.exact)

    def _module(self, key: str, spec: StyleSpec, path: str, style: Any) -> None:
        prefix = f"{path}." if path else ""
        if spec.whole:
            for name in (n for n in self.tensors if n.startswith(prefix)):
                self._pin(name, REPLICATE, key, exact=True)
        if spec.weights:
            if not self._stored(prefix + "weight"):
                own = [n for n in self.tensors if n.rpartition(".")[0] == path]
                self.findings.append(self._unfit(key, style, path, own))
                return
            for last, layout in spec.weights.items():
                for name in self._carrying(self._stored(prefix + last), layout):
                    pinned = self._as_stored(prefix + last, name, layout)
                    self._check_blocks(spec, name, pinned, key)
                    self._pin(name, pinned, key, exact=spec.exact)
        self.boundaries += [Boundary(path, side, position, layout, key) for side, position, layout in spec.sides]

    def _stored(self, name: str) -> list[str]:
        """The tensor of this name, or those that it is made of at every call; none where there is no such tensor."""
        return [name] if name in self.tensors else self.made.get(name, [])

    def _as_stored(self, name: str, stored: str, layout: Layout) -> Layout:
        """The layout of a tensor ``name`` as that of what is stored for it."""
        is_packed = stored in self.packed.get(name, ())
        return as_packed(stored, len(self.tensors[stored].shape), layout) if is_packed else layout

    def _carrying(self, names: list[str], layout: Layout) -> list[str]:
        """Those of a parametrization's tensors that have all of the dim that is cut; the others follow from them."""
        if not isinstance(layout, Shard) or len(names) < 2:
            return names
        sizes = {name: self.tensors[name].shape[layout.dim] for name in names}
        return [name for name, size in sizes.items() if not isinstance(size, int) or size == max(sizes.values())]

    def _check_blocks(self, spec: StyleSpec, name: str, layout: Layout, key: str) -> None:
        shape = self.tensors[name].shape
        if not spec.blocks or not isinstance(layout, Shard) or len(shape) < 2:
            return
        size = shape[layout.dim]
        if isinstance(size, int) and size % sum(spec.blocks):
            self.findings.append(
                Finding(
                    f"plan entry {key!r}: dim {layout.dim} of {name!r} has {size} indices, which blocks in proportions "
                    f"{list(spec.blocks)} do not divide",
                    remedies=("no blocks: the parts are found from the graph",),
                )
            )

    def _unfit(self, key: str, style: Any, path: str, own: list[str]) -> Finding:
        kind = self.modules.get(path) or "a container"
        name = style if isinstance(style, str) else getattr(style, "__name__", type(style).__name__)
        inside = [m for m in self.modules if m.startswith(f"{path}.") and m.count(".") == path.count(".") + 1]
        remedies = [f"{generalize(m)!r}" for m in inside[:3]] + [f"{n!r}: Shard(dim)" for n in own[:2]]
        return Finding(
            f"plan entry {key!r}: the style {name!r} does not fit module {path!r} ({kind}), which has no weight",
            remedies=tuple(remedies),
        )

    def _pin(self, name: str, layout: Layout, key: str, *, exact: bool) -> None:
        is_quantised = self.tensors[name].values_of or any(name in stored for stored in self.packed.values())
        if is_quantised and isinstance(layout, Shard) and layout.cut is None:
            # Equal parts of quantised values are meant as far as their groups allow.
            exact = False
        if self.num_ranks is None:
            self.pins.setdefault(name, Pin(layout, key, exact))
            return
        shape = self.tensors[name].shape
        where = f"{name!r} of shape {tuple(shape)}"
        try:
            resolved = resolve(layout, shape, self.num_ranks)
        except LayoutError as error:
            self.findings.append(Finding(f"plan entry {key!r}: {where}: {error}"))
            return
        if isinstance(resolved, Shard):
            size = shape[resolved.dim]
            if isinstance(size, int) and size < self.num_ranks and name not in self.may_be_short:
                self.findings.append(
                    Finding(
                        f"plan entry {key!r}: dim {resolved.dim} of {where} cannot be cut in {self.num_ranks}: "
                        f"it has only {size} indices",
                        remedies=(f"at most {size} ranks on this axis", f"{key!r}: 'replicate'"),
                    )
                )
                return
        known = self.pins.get(name)
        if known is not None and known.layout != resolved and known.key != key:
            self.findings.append(
                Finding(
                    f"plan entries {known.key!r} and {key!r} disagree on {name!r}: {known.layout} against {resolved}",
                    remedies=("narrow one of the two keys so that only one matches",),
                )
            )
            return
        if known is None or exact:
            self.pins[name] = Pin(resolved, key, exact or not isinstance(resolved, Shard))
