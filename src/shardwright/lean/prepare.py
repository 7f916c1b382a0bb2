"""`prepare_constants`: what follows from weights alone is computed once, not at every call, within a bound on memory.

Meant are casts of weights to another dtype, products and norms of weights (weight norm), masks and positions made of
``arange``. A program that is exported computes them at every call, as its weights may be exchanged; so this is done to
the module that runs it, which keeps them aside: they are in no state dict. They are made anew when a weight that they
follow from was written to or exchanged (`Prepared.refresh`), before the module's next call. Buffers that the program
writes to are not constant; what ranks communicate is left as it is; so are views, which cost nothing.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from shardwright.lean.sharing import escapes, is_fresh
from shardwright.program.nodes import draws_numbers, held_at, higher_order_name, is_write
from shardwright.program.quantized_weights import is_packed
from shardwright.program.torch_private import OpOverload, after_copying, unseen_by_compilers, writes_seen

PREPARED_BYTES = 64 << 20
"""The most memory that is spent unless the caller says otherwise."""

_STEM = "_shardwright_prepared_"


@dataclass(slots=True)
class Prepared:
    """The values that ``module`` keeps. ``maker`` computes them; ``sources``: the paths of the weights it is given."""

    module: fx.GraphModule
    maker: fx.GraphModule
    names: tuple[str, ...]
    sources: tuple[str, ...]
    num_bytes: int
    seen: list["_Seen"] | None = None

    @unseen_by_compilers  # What is followed here is memory, of which a compiler knows nothing.
    def refresh(self) -> bool:
        """Make the values anew if a weight that they follow from has changed; whether one may have.

        A change shows in a tensor's version or in its memory. What is written through ``.data``, numpy or DLPack, or by
        a collective, does neither: see `forget`. A tensor of inference mode has no version, and may always have
        changed.
        """
        tensors = [held_at(self.module, path) for path in self.sources]
        if self.seen is not None and all(map(_Seen.is_still, self.seen, tensors)):
            return False
        with torch.inference_mode(mode=False), torch.no_grad():
            held = {_memory(tensor) for tensor in tensors}
            for name, value in zip(self.names, self.maker(*tensors), strict=True):
                # A cast gives its operand itself once that has the dtype, which is then written to as a value would be.
                _keep(self.module, name, value.clone() if _memory(value) in held else value)
        self.seen = [_Seen.of(tensor) for tensor in tensors]
        return True

    def forget(self) -> None:
        """Make the values anew at the next call, whatever has changed."""
        self.seen = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """A weight as it was. ``storage``: known by itself, as another may come to lie where it was."""

    storage: weakref.ref[torch.UntypedStorage]
    address: int
    version: int | None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "_Seen":
        version = None if tensor.is_inference() else writes_seen(tensor)
        return cls(weakref.ref(tensor.untyped_storage()), tensor.data_ptr(), version)

    def is_still(self, tensor: torch.Tensor) -> bool:
        """Whether nothing has been written to the weight since, as far as torch counts."""
        if self.version is None or tensor.is_inference() or self.version != writes_seen(tensor):
            return False
        return self.address == tensor.data_ptr() and self.storage() is tensor.untyped_storage()


def prepare_constants(
    module: fx.GraphModule, *, most_bytes: int = PREPARED_BYTES, unpack: bool = True
) -> Prepared | None:
    """Take what follows from weights alone out of a module's graph, and keep it; None where there is nothing of that.

    Every call of the module, or of a copy of it, begins with a `Prepared.refresh`.
    What comes first in the graph is kept first, as long as ``most_bytes`` last. ``unpack``: quantised weights are
    among it; a compiler reads them faster as they are packed.
    """
    constant = _constants(module, unpack=unpack)
    chosen, num_bytes = [], 0
    for node in _wanted(module.graph, constant):
        size = node.meta["val"].nbytes
        if num_bytes + size <= most_bytes:
            chosen.append(node)
            num_bytes += size
    if not chosen:
        return None
    maker, sources = _maker(module.graph, chosen)
    names = tuple(f"{_STEM}{number}" for number in range(len(chosen)))
    prepared = Prepared(module, maker, names, sources, num_bytes)
    prepared.refresh()
    for name, node in zip(names, chosen, strict=True):
        _read_instead(node, name)
    for node in reversed(list(module.graph.nodes)):
        if node in constant and not node.users:
            module.graph.erase_node(node)
    module.recompile()
    module.meta[_STEM] = prepared
    module.register_forward_pre_hook(_refresh)
    after_copying(module, _complete)
    return prepared


def _refresh(module: Any, _: Any) -> None:
    module.meta[_STEM].refresh()


def _complete(copied: fx.GraphModule) -> None:
    """Give a copy what copying a module leaves out: its hook, and that no state dict holds its values."""
    for name in copied.meta[_STEM].names:
        copied.register_buffer(name, copied.get_buffer(name), persistent=False)
    copied.register_forward_pre_hook(_refresh)


def _constants(module: fx.GraphModule, *, unpack: bool) -> set[fx.Node]:
    """The nodes whose values follow from weights and numbers alone, and are the same at every call.

    Without ``unpack``, those that follow from quantised weights are left out.
    """
    graph: fx.Graph = module.graph
    held = {node: held_at(module, str(node.target)) for node in graph.nodes if node.op == "get_attr"}
    written = {source for node in graph.nodes if is_write(node) for source in node.all_input_nodes}
    changing = {_memory(held[node]) for node in written if node in held}
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node in held:
            if _memory(held[node]) not in (None, *changing) and (unpack or not is_packed(held[node])):
                found.add(node)
        elif node.op == "call_function" and _is_pure(node) and found.issuperset(node.all_input_nodes):
            found.add(node)
    return found


def _memory(value: Any) -> int | None:
    """Where a tensor's memory is, which tied ones share; None of anything else."""
    is_dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
    return value.untyped_storage().data_ptr() if is_dense else None


def _is_pure(node: fx.Node) -> bool:
    if higher_order_name(node) or not isinstance(node.target, OpOverload):
        return False
    is_known = node.target.namespace in ("aten", "prims")
    return (
        is_known and not draws_numbers(node) and not is_write(node) and isinstance(node.meta.get("val"), torch.Tensor)
    )


def _wanted(graph: fx.Graph, constant: set[fx.Node]) -> list[fx.Node]:
    """The constant values with memory of their own that the rest of the graph reads, directly or through views."""
    found: set[fx.Node] = set()
    waiting = [node for node in constant if not constant.issuperset(node.users)]
    while waiting:
        node = waiting.pop()
        if node.op != "call_function" or node in found:
            continue
        if is_fresh(node) and not escapes(node) and all(type(size) is int for size in node.meta["val"].shape):
            found.add(node)
        else:
            waiting.extend(node.all_input_nodes)
    return [node for node in graph.nodes if node in found]


def _maker(graph: fx.Graph, chosen: Sequence[fx.Node]) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """A module that computes ``chosen`` from weights, and the paths of these weights."""
    made = fx.Graph()
    needed = _ancestors(chosen)
    sources = {str(node.target): node for node in graph.nodes if node in needed and node.op == "get_attr"}
    given = {path: made.placeholder(f"source_{number}") for number, path in enumerate(sources)}
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node in needed:
            is_held = node.op == "get_attr"
            copies[node] = given[str(node.target)] if is_held else made.node_copy(node, copies.__getitem__)
    made.output(tuple(copies[node] for node in chosen))
    return fx.GraphModule(nn.Module(), made), tuple(sources)


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    found, waiting = set[fx.Node](), list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def _keep(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Put a value in its buffer, in the memory of the one before: compiled code may know where that is."""
    before: Any = getattr(module, name, None)
    if before is not None and (before.shape, before.dtype, before.device) == (value.shape, value.dtype, value.device):
        before.copy_(value)
    else:
        module.register_buffer(name, value, persistent=False)


def _read_instead(node: fx.Node, name: str) -> None:
    """Let what reads a node read the module's attribute ``name``."""
    with node.graph.inserting_before(node):
        kept = node.graph.create_node("get_attr", name)
    kept.meta = dict(node.meta)
    node.replace_all_uses_with(kept)
