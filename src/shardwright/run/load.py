"""Open a package: this rank's graph and weights, bound to real process groups.

Nothing in a package is executed: torch reads graphs that we wrote from what was parsed (see `package.graphs`), weights
are safetensors.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.export import ExportedProgram

from shardwright.errors import PackageError, first_line
from shardwright.layout.dtypes import DTYPES, stored_shape
from shardwright.layout.values import check_count, check_flag, check_number, check_path
from shardwright.lean.columns import lay_in_columns
from shardwright.lean.direct import call_directly
from shardwright.lean.overwrite import reduce_in_place
from shardwright.lean.prepare import PREPARED_BYTES, Prepared, prepare_constants
from shardwright.package.checked_graph import checked_graph
from shardwright.package.manifest import Manifest, check_package_file, read_manifest
from shardwright.package.packing import check_packing
from shardwright.package.stored import make_zeros
from shardwright.program.in_place import write_in_place
from shardwright.program.inference import for_inference, refuse_gradients
from shardwright.program.inputs import ExpectedInputs, bind_expected, expected_inputs
from shardwright.program.program import Program, held_by, is_joint
from shardwright.program.read import read
from shardwright.program.signature import fits, in_structure, signature_of
from shardwright.program.write import attach_weights
from shardwright.run.aligned import aligned_weight, inputs_to_align, with_aligned
from shardwright.run.alone import settle
from shardwright.run.aot.compiled_manifest import find_compiled
from shardwright.run.aot.module import CompiledModule
from shardwright.run.devices import chosen_device, home_device, home_of, move
from shardwright.run.groups import TIMEOUT_S, groups_in, make_groups, name_groups, rebind, start_process_group
from shardwright.run.in_step import undisturbed
from shardwright.run.training_module import TrainingModule
from shardwright.run.transport import chosen_transport

EXECUTION_BACKENDS = ("eager", "compile", "aoti")


class RankModule(nn.Module):
    """One rank's piece of a sharded model, called as the original is: whole inputs in, whole outputs out."""

    def __init__(
        self,
        exported: ExportedProgram,
        manifest: Manifest,
        rank: int,
        module: nn.Module,
        *,
        prepared: Prepared | None = None,
        groups: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        super().__init__()
        self.manifest, self.rank = manifest, rank
        self.signature = manifest.signature() or signature_of(exported)
        self.exported: ExportedProgram = for_inference(exported, self.signature)
        self.program: Program = read(self.exported)
        self._expected: ExpectedInputs = expected_inputs(self.program, self.signature)
        self._writes = bool(self.program.mutations())
        self._to_align = inputs_to_align(self.exported, self.program)
        self.module, self.prepared = module, prepared
        self.groups = dict(groups or {})
        """The names of the process groups that its ranks meet in, by mesh axis."""
        self._timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
        self.num_calls = 0
        """How often it was called: what it keeps from call to call has been written by as many."""
        self.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The original's outputs, without gradients.

        Raises `InputError` when the inputs do not fit, and `RunError` while another thread is in a call, or where an
        earlier call failed on this rank and not alike on the others.
        """
        # A call that is refused is one that failed: the other ranks may be in its collectives.
        with self.alone():
            refuse_gradients(self, args, kwargs)
            return self._run(args, kwargs)

    def weights_changed(self) -> None:
        """Let the next call make anew what follows from weights alone (see ``prepare_bytes`` of `load`).

        To be called after weights were written to in a way that torch does not count: through ``.data``, numpy or
        DLPack, or by a collective of ``torch.distributed``. Nothing else needs it.
        """
        if self.prepared is not None:
            self.prepared.forget()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Calls that belong together; raises `RunError` while another thread is in a call that they would disturb.

        All programs that communicate disturb each other; one of a single rank itself, where it writes to its buffers.
        """
        with undisturbed(self, self.manifest.num_ranks, self._timeout, writes=self._writes):
            yield

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.num_calls += 1
        flat = with_aligned(bind_expected(self._expected, args, kwargs), self._to_align)
        with torch.no_grad():
            if isinstance(self.module, CompiledModule):
                return self.module(flat)
            expected = self._expected
            args, kwargs = in_structure(expected.form.taken.values(), dict(zip(expected.names, flat, strict=True)))
            return self.module(*args, **kwargs)


@torch.inference_mode(mode=False)  # Tensors of that mode do not count what is written to them.
@torch.no_grad()  # What leaves inference mode would record gradients.
def load(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    check: bool = True,
    timeout_s: float | None = None,
    backend: str = "eager",
    transport: str | None = None,
    prepare_bytes: int = PREPARED_BYTES,
) -> RankModule | TrainingModule:
    """This rank's piece of a package, under ``torchrun`` or an initialised process group.

    Of a package for training (of a program that `export_training` made) a `TrainingModule`: a call gives the loss and
    fills ``.grad``.

    ``device``: where to put it; absent: this rank's GPU where the package was exported for CUDA, else the CPU.
    ``check``: compare the checksums of this rank's files. Only this rank's files are read. ``timeout_s``: how long a
    collective waits for a rank that does not come; absent: as long as in the process group that is up, or 600 s where
    it is started here. ``backend``: ``"eager"``;
    ``"compile"``: by ``torch.compile``, on the first call; ``"aoti"``: the native code that `compile_package` left in
    the package. ``transport``: what collectives of CPU tensors go through: ``"shared_memory"``; ``"gloo"``; ``"auto"``:
    shared memory where the ranks of a mesh axis are on one host, else gloo, with a line that says why; absent: what the
    environment variable ``SHARDWRIGHT_TRANSPORT`` says, or ``"auto"``. ``prepare_bytes``: the most memory for what
    follows from weights alone, such as casts of them: it is computed here and kept, and made anew when weights change.
    After writes that torch does not count (through ``.data``, numpy or DLPack, or by a collective into a weight), call
    `RankModule.weights_changed`. 0 leaves weights as they are stored. Else, on a CPU, large float32 weights of
    projections lie column by column, which one token is multiplied faster by: strides that `safetensors` does not save
    before ``contiguous()``. The backend ``"aoti"`` computes all at every call; weights lie as it was compiled for.

    Raises `PackageError` for a damaged package, a wrong number of ranks, or code that is not compiled or compiled for
    something else; `RunError` for a transport that is not to be had.
    """
    if not isinstance(backend, str) or backend not in EXECUTION_BACKENDS:
        raise PackageError(f"there is no backend {backend!r}\n  try: {', '.join(map(repr, EXECUTION_BACKENDS))}")
    check_flag(check, "check", error=PackageError)
    if timeout_s is not None:
        check_number(timeout_s, "the timeout in seconds", above=0, error=PackageError)
    check_count(prepare_bytes, "prepare_bytes", error=PackageError)
    folder = check_path(path, "the package", error=PackageError)
    transport = chosen_transport(transport)
    manifest = read_manifest(folder)
    check_packing(manifest, folder)
    mesh = manifest.as_mesh()
    rank = _start(manifest, timeout_s)
    if manifest.num_ranks > 1:
        settle()
    compiled = find_compiled(folder, manifest, mesh.place(rank), contents=check) if backend == "aoti" else None
    place = chosen_device(device)
    exported = load_rank(folder, rank, device=place, check=check)
    is_for_training = is_joint(exported.graph_signature.output_specs)
    if is_for_training and backend == "aoti":
        raise PackageError("the package is for training, and native code is for inference\n  try: backend='compile'")
    signature = manifest.signature()
    if signature is not None and not fits(signature, exported):
        raise PackageError(f"the package {folder} contradicts itself: its graph is not called as its manifest says")
    how = {"transport": transport if home_of(exported).type == "cpu" else None, "timeout_s": timeout_s}
    groups: dict[str, str] = {}
    if compiled is not None:
        if manifest.num_ranks > 1:
            groups = name_groups(mesh, compiled.groups, **how)
    elif manifest.num_ranks > 1:
        # Where shares are uneven, not all ranks need meet along all axes.
        used = groups_in(exported)
        groups = make_groups(mesh, **how)
        rebind(exported, {axis: name for axis, name in groups.items() if axis in used})
    try:
        if is_for_training:
            return TrainingModule(exported, manifest, rank, folder, backend=backend, timeout_s=timeout_s)
        prepared: Prepared | None = None
        if compiled is not None:
            module: nn.Module = CompiledModule(exported, compiled)
        else:
            module, prepared = _callable(exported, backend, prepare_bytes)
        return RankModule(exported, manifest, rank, module, prepared=prepared, groups=groups, timeout_s=timeout_s)
    except PackageError:
        raise
    except Exception as error:
        # A graph that torch reads may still contradict itself, and torch raises many kinds for that.
        raise PackageError(
            f"the graph of rank {rank} of {folder} cannot be used: {first_line(error)}\n  try: save the package again"
        ) from error


def load_rank(
    folder: str | os.PathLike[str], rank: int, *, device: torch.device | None = None, check: bool = True
) -> ExportedProgram:
    """The `ExportedProgram` of one rank of a package, its collectives on groups named after the mesh axes.

    ``device``: absent, this rank's GPU where the package was exported for CUDA, else the CPU.
    """
    folder = check_path(folder, "the package", error=PackageError)
    manifest = read_manifest(folder)
    if not 0 <= rank < manifest.num_ranks:
        raise PackageError(f"the package {folder} has ranks 0 to {manifest.num_ranks - 1}, not {rank}")
    entries = {entry.name: entry for entry in manifest.files}
    place = manifest.as_mesh().place(rank)
    exported = checked_graph(folder, manifest, manifest.graphs[place], contents=check)
    weights = check_package_file(folder, entries[manifest.weights[place]], contents=check)
    home = device or home_device(exported)
    exported = move(exported, home)
    tensors = _read_weights(weights, exported, manifest, home)
    return attach_weights(exported, tensors)


def _callable(exported: ExportedProgram, backend: str, prepare_bytes: int) -> tuple[nn.Module, Prepared | None]:
    """The module that runs a program, and what it keeps of its weights."""
    module: Any = write_in_place(exported.module())
    if prepare_bytes:
        lay_in_columns(module)
    prepared = prepare_constants(module, most_bytes=prepare_bytes, unpack=backend == "eager")
    # Every call has been checked against what the program takes, with a message of our own.
    module.validate_inputs = False
    if backend == "eager":
        reduce_in_place(module)
        call_directly(module)
        return module, prepared
    compiled: Any = torch.compile(module)
    return compiled, prepared


def _start(manifest: Manifest, timeout_s: float | None) -> int:
    """This process's rank, joining the process group that torchrun describes if none is up yet."""
    if manifest.num_ranks == 1:
        return 0
    if not dist.is_initialized():
        if "RANK" not in os.environ:
            raise PackageError(
                f"the package is for {manifest.num_ranks} ranks, but no process group is up\n"
                f"  try: torchrun --nproc-per-node {manifest.num_ranks} your_script.py, or `shardwright run`"
            )
        start_process_group(timeout_s or TIMEOUT_S)
    if dist.get_world_size() != manifest.num_ranks:
        raise PackageError(
            f"the package is for {manifest.num_ranks} ranks ({manifest.mesh}), not {dist.get_world_size()}\n"
            f"  try: torchrun --nproc-per-node {manifest.num_ranks} …"
        )
    return dist.get_rank()


def _read_weights(
    path: Path, exported: ExportedProgram, manifest: Manifest, device: torch.device
) -> dict[str, torch.Tensor]:
    aliases = {entry.name: entry.alias_of for entry in manifest.tensors if entry.alias_of}
    zeros = {entry.name for entry in manifest.tensors if entry.zeros}
    held = {name: value for name, value in held_by(exported).items() if isinstance(value, torch.Tensor)}
    tensors = make_zeros({name: like for name, like in held.items() if name in zeros}, device)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = set(file.keys())
            used = {aliases.get(name, name) for name in held_by(exported) if name not in zeros}
            if names > used:
                raise PackageError(f"{path} holds {sorted(names - used)[:5]}, which the graph does not use")
            for name, wanted in held.items():
                if name in zeros:
                    continue
                stored = aliases.get(name, name)
                if stored not in names:
                    raise PackageError(f"{path} lacks the tensor {stored!r}")
                shape, dtype = tuple(file.get_slice(stored).get_shape()), file.get_slice(stored).get_dtype()
                needed = stored_shape(wanted.shape, wanted.dtype)
                if shape != needed:
                    raise PackageError(f"{path}: {stored!r} has shape {shape}, the graph needs {needed}")
                if dtype != DTYPES.get(wanted.dtype):
                    raise PackageError(f"{path}: {stored!r} has dtype {dtype}, the graph needs {wanted.dtype}")
                tensors[name] = tensors[stored] if stored in tensors else aligned_weight(file.get_tensor(stored))
    except SafetensorError as error:
        raise PackageError(f"{path} is not a safetensors file: {error}") from error
    return tensors
