"""A sharded program: every rank's `ExportedProgram`, made when asked for, and what it took."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from shardwright.assign.assignment import Assignment, Fallback
from shardwright.assign.cost import CostModel
from shardwright.assign.gathered import GatheredWeight
from shardwright.compiler.axes import Compiled
from shardwright.compiler.lowered import LoweredPrograms
from shardwright.compiler.prediction import Prediction, predict
from shardwright.compiler.weights import WeightLayout, first_layouts, other_layouts, rank_bytes, weight_layouts
from shardwright.errors import ShardwrightError
from shardwright.layout.layout import REPLICATE, Layout
from shardwright.layout.mesh import Coordinates
from shardwright.layout.pieces import take_shard
from shardwright.layout.values import check_names
from shardwright.lean.arrange import arranged_collectives
from shardwright.lean.options import DEFAULTS, Lean
from shardwright.lean.schedule import Schedule, make_schedule
from shardwright.package.manifest import DecoderEntry
from shardwright.package.save import Progress, WeightSource
from shardwright.package.save import save as write_package
from shardwright.page.explorer import write_explorer
from shardwright.page.facts import Facts, WeightFacts
from shardwright.page.page import write_page
from shardwright.program.collectives import Collective
from shardwright.program.inference import write_for_inference
from shardwright.program.inputs import bind_inputs
from shardwright.program.program import Program
from shardwright.program.serial import one_at_a_time
from shardwright.program.signature import Signature, signature_of, unflatten_outputs
from shardwright.program.simulate import Simulation
from shardwright.program.training import write_for_training
from shardwright.rules.discover import Discovery


class ShardedProgram:
    """The result of `shardwright.shard`. A rank's program is made, and its weights are cut, when it is asked for."""

    def __init__(
        self,
        compiled: Compiled,
        *,
        plan: Any = None,
        cost: CostModel | None = None,
        discovered: Sequence[Discovery] = (),
        hit_time_limit: bool = False,
        lean: Lean = DEFAULTS,
    ) -> None:
        self.compiled, self.plan = compiled, plan
        self.cost: CostModel = cost or CostModel()
        """What the plan was priced by."""
        self.program, self.mesh = compiled.program, compiled.mesh
        self.discovered = list(discovered)
        """Rules that were found by running operators; each prints as the call that registers it."""
        self.hit_time_limit = hit_time_limit
        """Whether `shard`'s time limit ended the solver, so that another run may give another program."""
        self.signature: Signature = signature_of(self.program.source)
        """How the original's ``forward`` is called."""
        self.lean = lean
        """What is done to make ranks' programs lean."""
        kinds = [compiled.finished(where) for where in compiled.kinds()]
        self.schedule: Schedule = make_schedule(kinds) if lean.schedule else Schedule()
        """In which order all ranks communicate, and what they send together."""
        self._lowered = LoweredPrograms(compiled, self.schedule, lean)
        first = compiled.finished((0,) * len(compiled.axes))
        self._collectives = [*arranged_collectives(first, self.schedule), *compiled.other_collectives()]

    @one_at_a_time
    def exported(self, rank: int, *, group_names: Mapping[str, str] | None = None) -> ExportedProgram:
        """The `ExportedProgram` of one rank, with its own weights; ranks are numbered as a ``DeviceMesh`` numbers them.

        It is for inference: parameters need no gradient, and its module refuses inputs that require one. Of a joint
        program (see `export_training`) it is for training: its module gives the loss and fills ``.grad``
        (`shardwright.program.training`). That module is called by name or by position, as the original is.
        ``group_names``: process-group name by mesh axis; for what is absent, the running default group's where that
        spans the mesh, else the axis name (bind it later with `shardwright.rebind`).
        """
        names = self.group_names() | dict(_checked(group_names))
        local = self.rank_program(self.mesh.place(rank), group_names=names)
        return (write_for_training if local.is_joint else write_for_inference)(local, self.signature)

    def group_names(self) -> dict[str, str]:
        """The process-group name of every axis: the real one where a process group is up and fits."""
        from shardwright.run.groups import current_group_names

        return current_group_names(self.mesh)

    @one_at_a_time
    def rank_program(self, rank: int, *, group_names: Mapping[str, str] | None = None) -> Program:
        """The lowered `Program` of the rank at a place of the mesh; group names are the axis names unless given."""
        names = self._axis_names()
        given = _checked(group_names)
        unknown = [axis for axis in given if axis not in names]
        if unknown:
            raise ShardwrightError(f"group_names: the mesh has no axis {unknown[0]!r}\n  try: {', '.join(names)}")
        return self._lowered.at(self._coordinate(rank), {**names, **given})

    @one_at_a_time
    def rank_programs(self) -> list[Program]:
        """The lowered program of every rank, to be read: those that run the same code share a graph."""
        places = [self._coordinate(rank) for rank in range(self.mesh.num_ranks)]
        return self._lowered.all(places, self._axis_names())

    @property
    def assignment(self) -> Assignment:
        """The assignment on the first axis."""
        return self.assignments[self.mesh.names[0]]

    @property
    def assignments(self) -> dict[str, Assignment]:
        """The assignment on every axis, as the first rank sees it."""
        return {one.axis: one.assignment for one in self.compiled.axes}

    @property
    def gap(self) -> float:
        """How far from the optimum the assignment may be, as a share of its cost: 0 unless the search ended early."""
        return self.compiled.gap()

    @property
    def prediction(self) -> Prediction:
        """The time of a call by the cost model, beside that of one rank alone. It ranks plans; it is no promise."""
        return predict(self.compiled, self._collectives, self.cost)

    @property
    def collectives(self) -> list[Collective]:
        """Every collective of the program, with its cause: the first rank's, in the order in which all communicate.

        Each stands for one value; those with one ``message`` above 0 are sent together. What only ranks with pieces of
        other sizes need comes last.
        """
        return list(self._collectives)

    @property
    def fallbacks(self) -> list[Fallback]:
        """Operators that run whole on every rank for want of a rule."""
        seen: dict[str, Fallback] = {}
        for one in self.compiled.axes:
            for assignment in one.assignments.values():
                for fallback in assignment.fallbacks:
                    seen.setdefault(fallback.node, fallback)
        return list(seen.values())

    @property
    def gathered_weights(self) -> list[GatheredWeight]:
        """Weights that are cut, and brought together at every call, by name with their bytes and what reads them."""
        return self.compiled.gathered_weights()

    @property
    def weights(self) -> list[WeightLayout]:
        """Where every parameter, buffer and constant lives."""
        return weight_layouts(self.compiled)

    @property
    def rank_bytes(self) -> list[int]:
        """The bytes of weights that every rank holds."""
        return rank_bytes(self.compiled)

    def simulation(self) -> Simulation:
        """All ranks with their weights, in this process; buffers keep their values from call to call."""
        return Simulation(
            self.rank_programs(), {axis: self.mesh.groups(axis) for axis in self.mesh.group_names}, self.signature
        )

    def simulate(self, *args: Any, **kwargs: Any) -> list[Any]:
        """The outputs of every rank for whole inputs, all ranks run in this process from the initial state."""
        flat = bind_inputs(self.program, args, kwargs, self.signature)
        found = self.simulation().run_flat(self.rank_inputs(flat))
        return [unflatten_outputs(self.program, flat) for flat in found]

    def input_layouts(self, name: str) -> tuple[dict[str, Layout], dict[str, dict[Coordinates, Layout]]]:
        """How an input lies on every axis, and on which ranks it lies otherwise; see `WeightLayout`."""
        return first_layouts(self.compiled, name), other_layouts(self.compiled, name)

    def rank_inputs(self, flat: Sequence[Any]) -> list[list[Any]]:
        """Every rank's inputs for flat whole inputs: the pieces where ``inputs=`` cut them."""
        found = []
        for rank in range(self.mesh.num_ranks):
            pieces = list(flat)
            place = self._coordinate(rank)
            for position, item in enumerate(self.program.user_inputs()):
                for layout, coordinate in zip(self.compiled.layouts(item.name, place), place, strict=True):
                    if isinstance(pieces[position], torch.Tensor) and layout != REPLICATE:
                        # Dense, as a rank's program is written for; a part of a whole has gaps.
                        pieces[position] = take_shard(pieces[position], layout, coordinate).clone()
            found.append(pieces)
        return found

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        source: WeightSource | None = None,
        extras: Mapping[str, bytes] | None = None,
        decoder: DecoderEntry | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write the package folder ``path``, which must not exist: graphs, and each rank's weights in safetensors.

        ``source``: supplies weights that are on the meta device. ``extras``: further files by name (a tokenizer's).
        ``decoder``: what `shardwright generate` must know. ``progress``: called with what is being done, the bytes of
        weights written, and the bytes to write. Raises `PackageError`; nothing is left behind then.
        """
        write_package(self, path, source=source, extras=extras, decoder=decoder, progress=progress)

    def facts(self) -> Facts:
        """What a page or a comparison says of it."""
        weights = [
            WeightFacts(
                name=one.name,
                kind=one.kind,
                shape=one.shape,
                dtype=str(one.dtype).removeprefix("torch."),
                layouts=one.layouts,
                num_bytes=one.num_bytes,
                rank_bytes=one.rank_bytes,
                plan_key=one.plan_key,
            )
            for one in self.weights
        ]
        proven = "The search was complete: on its axis, no other layouts that the plan allows cost less."
        early = f"The search ended before its answer was proven: it is within {self.gap:.1%} of the best."
        notes = [str(self.prediction), early if self.gap else proven]
        return Facts(
            mesh=self.mesh,
            weights=weights,
            collectives=self.collectives,
            cost=self.cost,
            classes=self.program.modules(),
            work_us=self.compiled.axes[-1].assignment.module_work_us(),
            fallbacks=self.fallbacks,
            gathered=self.gathered_weights,
            notes=notes,
        )

    def report(self, path: str | os.PathLike[str], *, title: str = "A sharded program") -> None:
        """Write one self-contained HTML page: weights by module, collectives along the program, time by layer.

        ``path`` must not exist; raises `ShardwrightError` where it does.
        """
        write_page(self.facts(), path, title=title)

    def explore(self, folder: str | os.PathLike[str]) -> None:
        """Write the program for model-explorer: ``graph.json``, and layouts to colour it by, one file an axis.

        ``folder`` must not exist; raises `ShardwrightError` where it does. In model-explorer, open ``graph.json`` and
        load a file of layouts as node data.
        """
        write_explorer(self.assignments, folder)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}={size}" for name, size in self.mesh)
        gathered = f"; {len(self.gathered_weights)} weights gathered at every call" if self.gathered_weights else ""
        return f"ShardedProgram({axes}; {len(self.weights)} tensors, {len(self.collectives)} collectives{gathered})"

    def _axis_names(self) -> dict[str, str]:
        """Groups that are named after their axes."""
        return {axis: axis for axis in self.mesh.group_names}

    def _coordinate(self, rank: int) -> tuple[int, ...]:
        return tuple(self.mesh.coordinate(rank).values())


def _checked(group_names: Any) -> Mapping[str, str]:
    return {} if group_names is None else check_names(group_names, "group_names", "{'tp': '0'}")
