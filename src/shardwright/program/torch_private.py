"""Names of torch that it does not promise to keep, each with the reason that no public one will do.

Every other file asks here, `torch_vmap`, or `torch_repeats` and `torch_files` for speed alone; a test holds them to it.
Operators such as ``torch.ops.aten._to_copy`` and those of ``torch.ops._c10d_functional`` are not meant: the underscore
is part of a name that exported and saved graphs contain, and torch keeps such graphs readable.
"""

import copy
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

# The operators `_c10d_functional` are registered when this is imported, and by nothing public on every version.
import torch.distributed._functional_collectives

# The arguments and results of an exported program are kept as this module's trees (`ExportedProgram.call_spec`).
import torch.utils._pytree as pytree
from torch import nn

# Compiled code finds a process group by a name that was fixed when it was compiled; the public functions choose names
# themselves. Registering a group under a second name is what `torch.distributed` does inside `new_group`.
from torch._C._distributed_c10d import (
    _register_process_group,
    _resolve_process_group,
    _unregister_process_group,
)

# Kernels that are composed of others read sizes as numbers; torch traces symbolic sizes with this.
from torch._dispatch.python import enable_python_dispatcher

# Export writes parts of mixed precision and parts without gradients one after the other; see `keeping_grad_modes`.
from torch._export.passes import replace_set_grad_with_hop_pass as _grad_modes

# Models choose their kernels by `torch.compiler.is_exporting`: what is asked of one beside its export asks as in it.
from torch._export.utils import _compiling_state_context as as_exported

# What `torch.ops` holds has no public types.
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

# Shapes without storage, on the device that they are for: the metadata of every exported graph is of this type.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram

# Tensors made of tensors: what `torch.export` unwraps is decided with this.
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    is_traceable_wrapper_subclass,
)

__all__ = [
    "EXPORT_LOGS",
    "FakeTensor",
    "FakeTensorMode",
    "HigherOrderOperator",
    "OpOverload",
    "OpOverloadPacket",
    "TorchDispatchMode",
    "after_copying",
    "as_exported",
    "ask_first",
    "carrier_of",
    "compile_to_archive",
    "cpu_backend_of",
    "drop_example_inputs",
    "enable_python_dispatcher",
    "has_backward_hooks",
    "has_gradient_hooks",
    "has_schema",
    "is_wrapper_subclass",
    "keeping_grad_modes",
    "load_pt2",
    "may_decompose",
    "name_class",
    "name_group",
    "packet_name",
    "pytree",
    "registered_schema",
    "run_as_called",
    "schema_of",
    "shallow_copy",
    "stand_in_groups",
    "tables_of",
    "timeout_of",
    "unseen_by_compilers",
    "watching_functions",
    "without_hooks",
    "without_mkldnn",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

EXPORT_LOGS = ("torch.export", "torch._export.serde.serialize", "torch._subclasses.fake_tensor")
"""The logs that torch writes an error to which it also raises."""


def after_copying(module: torch.fx.GraphModule, callback: Callable[[torch.fx.GraphModule], None]) -> None:
    """Call ``callback`` with every deep copy of a module, which loses its hooks otherwise."""
    module._register_deepcopy_hook(callback)


def schema_of(op: Any) -> Any:
    """The schema of an operator: its name, arguments and results. None for Python functions and higher-order operators.

    No public function gives a schema back that has been registered.
    """
    return getattr(op, "_schema", None)


def has_schema(op: Any) -> bool:
    """Whether ``op`` is an operator with a schema, ATen's or another library's."""
    return hasattr(op, "_schema")


def is_wrapper_subclass(value: Any) -> bool:
    """Whether a tensor is of a class of its own and made of other tensors, which it can be taken apart into."""
    return bool(is_traceable_wrapper_subclass(value))


def registered_schema(name: str, overload: str) -> Any:
    """The schema that the dispatcher has under ``"library::op"`` and an overload; None where it has none.

    ``torch.ops`` would also find attributes of its own, and functions that only TorchScript has.
    """
    try:
        torch._C._dispatch_find_schema_or_throw(name, overload)
        return torch._C._get_schema(name, overload)
    except RuntimeError:
        return None


def may_decompose(op: OpOverload) -> bool:
    """Whether an operator is composed of others: it may return its operand then, whatever its schema says."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")


def packet_name(packet: OpOverloadPacket) -> str:
    """``library::op`` of an operator's overloads together, without a look at any of them."""
    return packet._qualified_op_name


class ModuleTables(NamedTuple):
    """What a module holds, by name. `torch.nn.Module` registers nothing under the name of one of its own attributes, as
    a part of somebody else's model may have.
    """

    parameters: dict[str, torch.nn.Parameter | None]
    buffers: dict[str, torch.Tensor | None]
    modules: dict[str, torch.nn.Module | None]
    non_persistent: set[str]


def tables_of(module: torch.nn.Module) -> ModuleTables:
    """The tables of a module, to be read and changed."""
    return ModuleTables(module._parameters, module._buffers, module._modules, module._non_persistent_buffers_set)


def writes_seen(tensor: torch.Tensor) -> int:
    """How often torch has seen a tensor written to in place; raises for an inference tensor, of which it keeps none."""
    return tensor._version


def shallow_copy(exported: ExportedProgram) -> ExportedProgram:
    """The same program with tables of weights of its own, which may be changed; the public attributes are read-only."""
    bare = copy.copy(exported)
    bare._state_dict = dict(exported.state_dict)
    bare._constants = dict(exported.constants)
    return bare


def has_backward_hooks(module: nn.Module) -> bool:
    """Whether something is called with the gradients of a module's inputs or outputs. No public function asks."""
    return bool(module._backward_hooks or module._backward_pre_hooks)


def has_gradient_hooks(tensor: torch.Tensor) -> bool:
    """Whether something is called with a tensor's gradient. No public function asks."""
    return bool(tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None))


_FORWARD_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
_PRE_HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")


def without_hooks(held: Mapping[str, Any]) -> dict[str, Any]:
    """What a module holds, less its hooks and what else is called instead of its class's ``forward``."""
    own = {name: value for name, value in held.items() if name not in ("forward", "_compiled_call_impl")}
    return {**own, **{name: {} for name in (*_FORWARD_HOOKS, *_PRE_HOOKS)}}


def run_as_called(module: nn.Module) -> Callable[..., Any] | None:
    """What a call of a module does, hooks and all, where that is more than its class's ``forward``; else None.

    A call itself would be taken for that of a submodule by `torch.export`.
    """
    held = vars(module)
    return module._call_impl if any(held.get(name) for name in ("forward", *_FORWARD_HOOKS, *_PRE_HOOKS)) else None


def ask_first(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Call ``hook(module, args, kwargs)`` before a module's other hooks, and before each of its calls.

    Torch puts a hook before others by moving it, which leaves the dict in another order than a plain dict's: that one
    dynamo goes by until torch 2.11, and asks one hook for what another one holds.
    """
    module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
    # In place, as every hook's handle knows this dict.
    ordered = list(module._forward_pre_hooks.items())
    module._forward_pre_hooks.clear()
    module._forward_pre_hooks.update(ordered)


@contextmanager
def watching_functions(see: Callable[[type], None]) -> Iterator[None]:
    """Call ``see`` with the class of every `torch.autograd.Function` that is called within, before it is.

    Since torch 2.14 `Function.apply` is C++'s own. Where a model keeps it under a name of its own, nothing of Python is
    asked before ``forward`` but this attribute of the class.
    """
    functions: Any = type(torch.autograd.Function)
    defined: dict[Any, Any] = {}

    class Asked:
        def __get__(self, kind: Any, owner: Any) -> Any:
            see(kind)
            held = (defined.get(one, vars(one).get("_backward_cls")) for one in kind.__mro__)
            return next(value for value in held if value is not None)

        def __set__(self, kind: Any, value: Any) -> None:
            # Of a class that is defined meanwhile.
            defined[kind] = value

    functions._backward_cls = Asked()
    try:
        yield
    finally:
        del functions._backward_cls
        for kind, value in defined.items():
            kind._backward_cls = value


@contextmanager
def without_mkldnn() -> Iterator[None]:
    """Let torch do without its kernels for oneDNN. Nothing but this: ``torch.backends.mkldnn.flags`` would set TF32
    too, and warn of it; and ``torch.backends.mkldnn.enabled`` may be frozen, as torch's own test helpers leave it.
    """
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


@contextmanager
def keeping_grad_modes() -> Iterator[None]:
    """While exporting, ``no_grad`` inside of ``autocast`` is kept; torch 2.11 to 2.14 drop it without a word.

    A part of a graph that begins with a change of the gradient mode becomes a subgraph without gradients; within
    ``autocast`` it would begin with ``autocast``. So that is left before every such change, and entered again behind.
    """
    known = _grad_modes.replace_set_grad_with_hop_pass

    def run(module: torch.fx.GraphModule, *rest: Any) -> Any:
        for part in module.modules():
            if isinstance(part, torch.fx.GraphModule):
                _leave_autocast_for_grad_modes(part.graph)
        return known(module, *rest)

    patched: Any = _grad_modes
    patched.replace_set_grad_with_hop_pass = run
    try:
        yield
    finally:
        patched.replace_set_grad_with_hop_pass = known


def _leave_autocast_for_grad_modes(graph: torch.fx.Graph) -> None:
    enter, leave = torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast
    inside: list[torch.fx.Node] = []
    for node in list(graph.nodes):
        if node.target is enter:
            inside.append(node)
        elif node.target is leave:
            node.args = (inside.pop(),)
        elif node.target is torch._C._set_grad_enabled and inside:
            with graph.inserting_before(node):
                for one in reversed(inside):
                    graph.call_function(leave, (one,)).meta = dict(one.meta)
            with graph.inserting_before(node.next):
                for position, one in enumerate(inside):
                    inside[position] = graph.call_function(enter, one.args)
                    inside[position].meta = dict(one.meta)


def drop_example_inputs(exported: ExportedProgram) -> ExportedProgram:
    """Forget the tensors that a program was exported with: the public attribute is read-only. Changed in place."""
    exported._example_inputs = None
    return exported


def compile_to_archive(exported: ExportedProgram, options: Mapping[str, Any]) -> bytes:
    """The archive that AOTInductor makes of a program; ``torch.compile`` makes none that another process could load."""
    made = io.BytesIO()
    torch._inductor.aoti_compile_and_package(exported, package_path=made, inductor_configs=dict(options))
    return made.getvalue()


def load_pt2(file: io.BytesIO) -> Any:
    """What a ``.pt2`` file holds. `torch.export.load` tries an older format on what this one refuses."""
    # Torch's compiler comes with it, which takes a second: a process that reads no program does without.
    from torch.export.pt2_archive import _package

    return _package.load_pt2(file)


def unseen_by_compilers(function: _Function) -> _Function:
    """The same function, which `torch.compile` leaves as it is.

    `torch.compiler.disable` imports the compiler at once, and this one when the function is called.
    """
    left_alone: Any = torch._disable_dynamo(function)
    return left_alone


def name_class(kind: type, name: str) -> None:
    """Let files hold a named tuple under this name."""
    pytree._register_namedtuple(kind, serialized_type_name=name)


def name_group(name: Any, group: dist.ProcessGroup) -> None:
    """Let compiled code find ``group`` under ``name``; a group that had the name loses it."""
    if _is_known(name):
        _unregister_process_group(name)
    _register_process_group(name, group)


def cpu_backend_of(group: dist.ProcessGroup) -> Any:
    """What does a group's collectives of CPU tensors; None where nothing does."""
    try:
        return group._get_backend(torch.device("cpu"))
    except RuntimeError:
        return None


def carrier_of(group: dist.ProcessGroup) -> str:
    """The backend that does a group's collectives of CPU tensors; '' for none. Public functions name what was asked."""
    backend = cpu_backend_of(group)
    return "" if backend is None else backend.name()


def timeout_of(group: dist.ProcessGroup) -> timedelta | None:
    """How long the collectives of a group wait; None for a backend that does not say. No public function asks."""
    try:
        return group._get_backend(group._device_types[0]).options._timeout
    except (RuntimeError, AttributeError):
        return None


@contextmanager
def stand_in_groups(sizes: Iterable[tuple[Any, int]]) -> Iterator[None]:
    """While compiling, the groups of these names and sizes: the compiler asks for a group's size, nothing else."""
    # Who registers a group must hold it: the registry does not.
    group_of: Any = dist.ProcessGroup
    made = {name: group_of(0, size) for name, size in sizes if not _is_known(name)}
    for name, group in made.items():
        _register_process_group(name, group)
    try:
        yield
    finally:
        for name in made:
            _unregister_process_group(name)


def _is_known(name: Any) -> bool:
    try:
        return _resolve_process_group(name) is not None
    except RuntimeError:
        return False


def is_view(tensor: torch.Tensor) -> bool:
    """Whether autograd takes a tensor for a view of another one."""
    return tensor._is_view()


def outside_of_modes(function: Callable[..., Any], *args: Any) -> Any:
    """What a function gives where nobody traces: for what the garbage collector calls, whatever is going on then.

    No dispatch mode sees its operators, nor what torch has put in their place while it decomposes.
    """
    with torch._C._DisablePythonDispatcher(), _disable_current_modes():
        return function(*args)
