"""A rank's piece of a model in training: gradients on real ranks, clipped together, saved together."""

import base64
import copy
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import fx
from torch.export import ExportedProgram

from shardwright.errors import CheckpointWarning, PackageError, ShardwrightError
from shardwright.layout.box import Region, Spans, region_of
from shardwright.layout.values import check_number, check_path
from shardwright.lean.overwrite import reduce_in_place
from shardwright.package.folder import work_folder
from shardwright.package.kept_training import WRITE_IT
from shardwright.package.manifest import FileEntry, Manifest, check_package_file, write_manifest
from shardwright.package.save import rank_file_name
from shardwright.package.stored import rank_cuts
from shardwright.package.stream import TensorSlot, write_tensors
from shardwright.program.program import Program
from shardwright.program.signature import signature_of
from shardwright.program.simulate import draws_random_numbers
from shardwright.program.training import TrainingStep, for_training
from shardwright.run.devices import home_of
from shardwright.run.in_step import undisturbed
from shardwright.run.optimizer_state import (
    Kept,
    describe_optimizer,
    differing,
    parameter_names,
    restore_optimizer,
    whole_shapes,
)

_DRAWS = (
    "the package draws random numbers (dropout), and compiled code draws others on every rank than the one stream that "
    "all ranks share\n  try: backend='eager', or export the model without dropout"
)


class TrainingModule(TrainingStep):
    """One rank's piece of a sharded model in training: ``loss = step(batch)`` fills ``.grad`` of its parameters.

    Parameters and buffers are this rank's pieces under the original's names, so that ``torch.optim`` and ``state_dict``
    work as with the original. A second call adds to ``.grad``, as ``backward()`` does. Inputs that were cut by
    ``inputs=`` are given as this rank's pieces. Random numbers (dropout) come from one stream that all ranks share,
    which begins at the first rank's ``torch.initial_seed()``: every rank draws the same masks and uses its part.
    """

    _program: Program

    def __init__(
        self,
        exported: ExportedProgram,
        manifest: Manifest,
        rank: int,
        folder: Path,
        *,
        backend: str = "eager",
        timeout_s: float | None = None,
    ) -> None:
        signature = manifest.signature() or signature_of(exported)
        run: Any = torch.compile(exported.graph_module) if backend == "compile" else _in_place(exported.graph_module)
        super().__init__(for_training(exported, signature), signature, run)
        self.manifest, self.rank, self.folder = manifest, rank, folder
        self._timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
        self._held_by: dict[str, Any] = {}
        self._stream: torch.Tensor | None = None
        # All ranks say whether they draw: where shares are uneven, one alone may, and all must come to what follows.
        if any(_from_all(draws_random_numbers(self._program), manifest.num_ranks)):
            if backend == "compile" and manifest.num_ranks > 1:
                raise PackageError(_DRAWS)
            home = home_of(exported)
            seed = _from_first(torch.initial_seed(), manifest.num_ranks)
            self._stream = torch.Generator(home).manual_seed(seed).get_state()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As `TrainingStep.forward`, with all ranks.

        Raises `InputError` where the inputs do not fit, and `RunError` while another thread is in a call, or where an
        earlier call failed on this rank and not alike on the others.
        """
        # A call that is refused is one that failed: the other ranks may be in its collectives.
        with self.alone():
            return self._step(self.bind_inputs(args, kwargs))

    def run_flat(self, inputs: Sequence[Any]) -> Any:
        """As a call, with this rank's inputs in the order of the program's; raises `RunError` as a call does."""
        with self.alone():
            return self._step(inputs)

    def _step(self, inputs: Sequence[Any]) -> Any:
        with self._random():
            return super().run_flat(inputs)

    def save(self, path: str | os.PathLike[str], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Write the package ``path``, which must not exist, with the weights as they are now. Every rank calls it.

        `gather` gives the whole state dict of it, `load` goes on training, `reshard` goes to other ranks. The ranks
        share a file system. ``optimizer``: of this step's parameters, whose state is kept too, for `resume`, with the
        place in the stream of random numbers. It works element by element: what it keeps of a parameter is tensors of
        the parameter's shape, and numbers that are the same on all ranks. Raises `PackageError` on every rank where one
        of them cannot write, or the optimiser is another kind.
        """
        with self.alone():
            problem = _save(self, check_path(path, "the package", error=PackageError), optimizer)
        if problem:
            raise PackageError(problem)

    def resume(self, optimizer: torch.optim.Optimizer) -> None:
        """Give ``optimizer`` the state that `save` kept, as its ``load_state_dict`` would, and draw on from there.

        Its groups have the same parameters as those of the optimiser that was saved; their options (the learning rate)
        become what they were. A stream of random numbers goes on on the kind of device that it was drawn on: elsewhere
        it begins anew, with a `CheckpointWarning`. Raises `PackageError` where the package keeps no state or that of
        another optimiser.
        """
        with self.alone():
            kept = self.manifest.training
            if kept is None:
                raise PackageError(f"the package {self.folder} keeps no optimiser's state{WRITE_IT}")
            path = self.folder / kept.files[self.manifest.as_mesh().place(self.rank)]
            restore_optimizer(
                optimizer, kept, parameter_names(self, self.manifest), whole_shapes(self.manifest), self._checked(path)
            )
            if self._stream is not None and kept.streams:
                self._stream = self._kept_stream(kept.streams)

    def _kept_stream(self, streams: Mapping[str, str]) -> torch.Tensor | None:
        """The place in the stream that a package keeps; where it is of another kind of device, the one there is."""
        home = home_of(self.exported).type
        if home not in streams:
            warnings.warn(
                f"random numbers were drawn on {', '.join(streams)}, and are drawn on {home} now, where that stream "
                "does not go on: dropout begins anew, at the first rank's torch.initial_seed()",
                CheckpointWarning,
                stacklevel=3,
            )
            return self._stream
        return torch.tensor(list(base64.b64decode(streams[home])), dtype=torch.uint8)

    def _checked(self, path: Path) -> Path:
        entry = next(one for one in self.manifest.files if one.name == path.name)
        return check_package_file(self.folder, entry)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Calls that belong together; raises `RunError` while another thread is in a call that they would disturb."""
        with undisturbed(self, self.manifest.num_ranks, self._timeout):
            yield

    @contextmanager
    def _random(self) -> Iterator[None]:
        """Draw from the stream that all ranks share, and leave the process's own as it was."""
        if self._stream is None:
            yield
            return
        home = home_of(self.exported)
        on_gpu = home.type == "cuda"
        with torch.random.fork_rng(devices=[home] if on_gpu else []):
            # The program draws from the default generator of its device.
            torch.cuda.set_rng_state(self._stream, home) if on_gpu else torch.set_rng_state(self._stream)
            yield
            self._stream = torch.cuda.get_rng_state(home) if on_gpu else torch.get_rng_state()


def _in_place(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of a program's module whose all-reduces write to what nobody else reads."""
    run = fx.GraphModule(module, copy.deepcopy(module.graph))
    reduce_in_place(run)
    return run


def clip_grad_norm_(step: TrainingModule, max_norm: float) -> torch.Tensor:
    """Scale the gradients of ``step`` so that their norm over all ranks is at most ``max_norm``; that norm as it was.

    As ``torch.nn.utils.clip_grad_norm_`` in one process: what several ranks hold is counted once. Every rank calls it.
    Raises `ShardwrightError` for anything but what `load` gives of a package for training, and for a norm below 0.
    """
    if not isinstance(step, TrainingModule):
        raise ShardwrightError(
            f"clip_grad_norm_ takes what `load` gives of a package for training, got {type(step).__name__}"
        )
    with step.alone():
        check_number(max_norm, "max_norm", least=0)
        return _clip(step, max_norm)


def _clip(step: TrainingModule, max_norm: float) -> torch.Tensor:
    gradients = {name: p.grad for name, p in step.named_parameters() if p.grad is not None}
    squares = [(g.double().square() * _shares(step, name, g)).sum() for name, g in gradients.items()]
    total = torch.stack([torch.zeros((), dtype=torch.float64, device=home_of(step.exported)), *squares]).sum()
    if step.manifest.num_ranks > 1:
        dist.all_reduce(total)
    norm = total.sqrt()
    # As torch has it: a norm that is no number makes none of the gradients one.
    scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    for gradient in gradients.values():
        gradient.mul_(scale.to(gradient.dtype))
    return norm


def _shares(step: TrainingModule, name: str, piece: torch.Tensor) -> Any:
    """One over the number of ranks that hold each element of this rank's piece of a parameter; a number where equal."""
    known = step._held_by
    if name not in known:
        regions = _regions(step.manifest, name, step.folder)
        mine = regions[step.manifest.as_mesh().place(step.rank)]
        counts = torch.zeros(mine.shape)
        for other in regions:
            # Pieces are products of ranges, and so is what two of them share.
            shared = torch.ones(())
            for ours, theirs in zip(mine.spans, other.spans, strict=True):
                shared = shared.unsqueeze(-1) * _inside(ours, theirs)
            counts += shared
        least, most = (float(counts.min()), float(counts.max())) if counts.numel() else (1.0, 1.0)
        known[name] = 1 / least if least == most else (1 / counts).to(piece.device)
    return known[name]


def _regions(manifest: Manifest, name: str, folder: Path) -> list[Region]:
    """What the rank at each place of the mesh holds of a parameter."""
    entry = next(one for one in manifest.tensors if one.name == name)
    mesh = manifest.as_mesh()
    found = []
    for place in range(mesh.num_ranks):
        where = mesh.coordinate(place)
        cuts = rank_cuts(entry, where, mesh, folder)
        region = region_of(entry.shape, [(layout, where[axis]) for axis, layout in cuts])
        assert region is not None, "a parameter that is trained is no part of a sum"
        found.append(region)
    return found


def _inside(ours: Spans, theirs: Spans) -> torch.Tensor:
    """For each of our indices, 1 where it is among theirs, else 0."""
    indices = torch.cat([torch.arange(start, stop) for start, stop in ours] or [torch.arange(0)])
    found = torch.zeros(len(indices), dtype=torch.bool)
    for start, stop in theirs:
        found |= (indices >= start) & (indices < stop)
    return found.float()


def _save(step: TrainingModule, target: Path, optimizer: Any) -> str:
    """Write all ranks' weights into one folder; what went wrong anywhere, the same on every rank."""
    kept, problem = _described(step, optimizer)
    if problem:
        return problem
    made, path = ExitStack(), ""
    if step.rank == 0:
        try:
            path = str(made.enter_context(work_folder(target)).path)
        except PackageError as error:
            problem = str(error)
    path, problem = _from_first((path, problem), step.manifest.num_ranks)
    if problem:
        return problem
    mine: list[FileEntry] | str
    try:
        mine = _write_tensors(step, Path(path), kept)
    except (OSError, PackageError) as error:
        mine = f"rank {step.rank} cannot write its weights: {error}"
    found = _from_all(mine, step.manifest.num_ranks)
    problem = next((one for one in found if isinstance(one, str)), "")
    if step.rank == 0:
        try:
            with made:
                if problem:
                    raise PackageError(problem)
                _write_the_rest(step, Path(path), [entry for files in found for entry in files], kept)
        except PackageError as error:
            problem = str(error)
    return _from_first(problem, step.manifest.num_ranks)


def _described(step: TrainingModule, optimizer: Any) -> tuple[Kept | None, str]:
    """What is kept of an optimiser, and why it cannot be, the same on every rank."""
    mine, problem = None, ""
    try:
        if optimizer is not None:
            names, whole = parameter_names(step, step.manifest), whole_shapes(step.manifest)
            mine = describe_optimizer(optimizer, names, whole, _streams(step))
    except PackageError as error:
        problem = str(error)
    found = _from_all((mine and mine.entry, problem), step.manifest.num_ranks)
    problem = next((one for _, one in found if one), "") or differing([entry for entry, _ in found])
    if problem or mine is None:
        return None, problem
    # A rank that draws nothing has no stream.
    streams = next((entry.streams for entry, _ in found if entry.streams), {})
    return replace(mine, entry=msgspec.structs.replace(mine.entry, streams=streams)), ""


def _streams(step: TrainingModule) -> dict[str, str]:
    if step._stream is None:
        return {}
    return {home_of(step.exported).type: base64.b64encode(bytes(step._stream.tolist())).decode()}


def _write_tensors(step: TrainingModule, folder: Path, kept: Kept | None) -> list[FileEntry]:
    """This rank's files: the tensors that it had in the package, and those of an optimiser."""
    manifest, tensors = step.manifest, step.tensors()
    stored = [entry.name for entry in manifest.tensors if not entry.alias_of and not entry.zeros]
    place = manifest.as_mesh().place(step.rank)
    files = {manifest.weights[place]: {name: tensors[name] for name in stored}}
    if kept is not None:
        files[rank_file_name("optimizer", place, manifest.num_ranks)] = kept.moments
    return [_write_file(folder / name, held) for name, held in files.items()]


def _write_file(path: Path, tensors: Mapping[str, torch.Tensor]) -> FileEntry:
    slots = [TensorSlot(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    return write_tensors(path, slots, tensors.__getitem__)


def _write_the_rest(step: TrainingModule, folder: Path, written: Sequence[FileEntry], kept: Kept | None) -> None:
    """Graphs, further files and the manifest, as they were but for what was ``written``."""
    source, manifest = step.folder, step.manifest
    before = {*manifest.weights, *(manifest.training.files if manifest.training else ())}
    others = [entry for entry in manifest.files if entry.name not in before]
    for entry in others:
        shutil.copyfile(source / entry.name, folder / entry.name)
    training = None
    if kept is not None:
        num_ranks = manifest.num_ranks
        names = [rank_file_name("optimizer", place, num_ranks) for place in range(num_ranks)]
        training = msgspec.structs.replace(kept.entry, files=names)
    write_manifest(folder, msgspec.structs.replace(manifest, files=[*others, *written], training=training))


def _from_first(value: Any, num_ranks: int) -> Any:
    """The first rank's value, on every rank."""
    if num_ranks == 1:
        return value
    found = [value]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def _from_all(value: Any, num_ranks: int) -> list[Any]:
    """Every rank's value, on every rank."""
    if num_ranks == 1:
        return [value]
    found: list[Any] = [None] * num_ranks
    dist.all_gather_object(found, value)
    return found
