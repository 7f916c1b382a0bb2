"""What a style says: which tensors of a module are cut how, and what enters and leaves it.

A style's default layouts pin only parameters. The layouts between modules follow from those at the least cost, which
may be less than the defaults would allow (a parallel attention and MLP block needs one all-reduce, not two); only
layout arguments that differ from the defaults pin what enters or leaves a module.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.distributed.tensor import Placement
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor import Shard as TorchShard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleInputOutput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
)

from shardwright.errors import LayoutError, near_misses
from shardwright.layout.layout import REPLICATE, Layout, Partial, Replicate, Shard


@dataclass(frozen=True, slots=True)
class StyleSpec:
    """What one entry says of the module or tensor it matches.

    ``weights``: tensor name within the module → layout. ``exact``: the cut is as given; else the dim is pinned and its
    parts and units come from the graph. ``sides``: (side, position, layout) for what enters or leaves the module.
    ``whole``: every other tensor of the module is replicated. ``along``: for a tensor that is named itself and is not a
    layer's weight or bias (experts stacked in one tensor, attention sinks), the dim that is cut: ``"out"`` the last but
    one or only dim, ``"in"`` the last, ``"first"`` the first. ``blocks``: in which proportions the weight's cut dim is
    made of parts; where they lie follows from the graph, so they are only checked against its size.
    """

    weights: Mapping[str, Layout] = field(default_factory=dict)
    exact: bool = False
    sides: tuple[tuple[str, int | None, Layout], ...] = ()
    whole: bool = False
    along: str = ""
    blocks: tuple[int, ...] = ()

    def for_tensor(self, last: str, num_dims: int, owner: str) -> Layout | None:
        """The layout of a tensor that a key names itself; None for a style that is not about tensors.

        ``last``: the last token of its name. ``owner``: the class of its module.
        """
        if self.whole:
            return REPLICATE
        if self.along and (last not in self.weights or not _is_layer(owner)):
            if self.along == "in" and last == "bias":
                return REPLICATE
            return Shard({"out": max(num_dims - 2, 0), "in": num_dims - 1, "first": 0}[self.along])
        return self.weights.get(last, self.weights.get("weight"))


def _colwise(class_name: str) -> Mapping[str, Layout]:
    if is_embedding(class_name):
        return {"weight": Shard(1)}
    return {"weight": Shard(1 if is_transposed(class_name) else 0), "bias": Shard(0)}


def _rowwise(class_name: str) -> Mapping[str, Layout]:
    return {"weight": Shard(0 if is_embedding(class_name) or is_transposed(class_name) else 1)}


def is_embedding(class_name: str) -> bool:
    """Whether a module class is an embedding: its weight is (vocabulary, features)."""
    return "Embedding" in class_name.rsplit(".", 1)[-1]


def is_transposed(class_name: str) -> bool:
    """Whether a module's weight is (in, out …), as GPT-2's ``Conv1D`` and transposed convolutions have it."""
    name = class_name.rsplit(".", 1)[-1].removeprefix("Parametrized")
    return name == "Conv1D" or "ConvTranspose" in name


_OUT_WHOLE = (("output", None, REPLICATE),)
_SEQUENCE = (("input", 0, Shard(1)), ("output", None, Shard(1)))


def _is_layer(class_name: str) -> bool:
    return is_embedding(class_name) or is_transposed(class_name) or "Linear" in class_name or "Conv" in class_name


def _columns(name: str) -> StyleSpec:
    return StyleSpec(_colwise(name), along="out")


def _rows(name: str) -> StyleSpec:
    return StyleSpec(_rowwise(name), along="in")


def _no_layouts(name: str) -> StyleSpec:
    """A style that only says how gradients, or the partial results of other programs, are combined: no layouts."""
    return StyleSpec()


def _replicated(name: str) -> StyleSpec:
    return StyleSpec(whole=True)


_STRINGS: dict[str, Callable[[str], StyleSpec]] = {
    "all_reduce": _no_layouts,
    "colwise": _columns,
    "colwise_gather_output": lambda name: StyleSpec(_colwise(name), sides=_OUT_WHOLE),
    "colwise_rep": lambda name: StyleSpec(_colwise(name), sides=_OUT_WHOLE),
    "embedding_colwise": lambda name: StyleSpec({"weight": Shard(1)}),
    "embedding_rowwise": lambda name: StyleSpec({"weight": Shard(0)}),
    "ep_dispatch_experts": _no_layouts,
    "ep_router": _no_layouts,
    "gather": lambda name: StyleSpec(sides=_OUT_WHOLE),
    "grouped_gemm": lambda name: StyleSpec({"weight": Shard(0)}, along="first"),
    "local": _no_layouts,
    "local_colwise": _columns,
    "local_packed_rowwise": _rows,
    "local_params": _no_layouts,
    "local_rowwise": _rows,
    "mla_kv_a_proj": _replicated,
    "moe_identity_expert": _no_layouts,
    "moe_tp_experts": _no_layouts,
    "packed_colwise": _columns,
    "packed_rowwise": _rows,
    "replicate": _replicated,
    "replicated_with_grad_allreduce": _replicated,
    "rowwise": _rows,
    "rowwise_rep": lambda name: StyleSpec(_rowwise(name), sides=(("input", 0, REPLICATE),)),
    "rowwise_split_input": lambda name: StyleSpec(_rowwise(name), sides=(("input", 0, REPLICATE),)),
    "sequence_parallel": lambda name: StyleSpec(whole=True, sides=_SEQUENCE),
}

STYLE_NAMES = tuple(sorted(_STRINGS))
"""The style strings a plan may use."""


def style_spec(style: Any, class_name: str) -> StyleSpec:
    """What a style says of a module of this class; raises ValueError that names the style when it is unknown."""
    if isinstance(style, str):
        if style not in _STRINGS:
            close = near_misses(style, _STRINGS)
            hint = (
                f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; known are {', '.join(STYLE_NAMES)}"
            )
            raise ValueError(f"unknown style {style!r}{hint}")
        return _STRINGS[style](class_name)
    if packed := packed_style(style):
        return replace(_STRINGS[packed](class_name), blocks=_blocks(style))
    if isinstance(style, type) and issubclass(style, ParallelStyle):
        try:
            style = style()
        except TypeError as error:
            raise ValueError(f"{style.__name__} needs its layout arguments: pass an instance ({error})") from error
    if isinstance(style, ColwiseParallel):
        return StyleSpec(_colwise(class_name), sides=_differing(style, Replicate(), Shard(-1)))
    if isinstance(style, RowwiseParallel):
        default_in = REPLICATE if is_embedding(class_name) else Shard(-1)
        return StyleSpec(_rowwise(class_name), sides=_differing(style, default_in, Replicate()))
    if isinstance(style, SequenceParallel):
        layout = as_layout(style.sequence_sharding[0])
        return StyleSpec(whole=True, sides=(("input", 0, layout), ("output", None, layout)))
    if isinstance(style, PrepareModuleInputOutput):
        sides = (*_inputs(style.prepare_module_input), *_outputs(style.prepare_module_output))
        return StyleSpec(sides=sides)
    if isinstance(style, PrepareModuleInput):
        return StyleSpec(sides=_inputs(style))
    if isinstance(style, PrepareModuleOutput):
        return StyleSpec(sides=_outputs(style))
    if isinstance(style, (Placement, Replicate, Shard, Partial)):
        layout = as_layout(style)
        return StyleSpec({"weight": layout}, exact=isinstance(layout, Shard))
    raise ValueError(
        f"{style!r} is not a style: use a string ({', '.join(STYLE_NAMES[:4])} …), a ParallelStyle or a placement"
    )


def packed_style(style: Any) -> str:
    """What diffusers' packed styles are called here, known by their class's name; '' for anything else.

    They say in which proportions a fused projection is made of parts (``blocks``), or leave it to the module.
    """
    name = style.__name__ if isinstance(style, type) else type(style).__name__
    return {"PackedColwiseParallel": "packed_colwise", "PackedRowwiseParallel": "packed_rowwise"}.get(name, "")


def _blocks(style: Any) -> tuple[int, ...]:
    given = getattr(style, "blocks", None) or ()
    if not all(isinstance(block, int) and block > 0 for block in given):
        raise ValueError(f"blocks of {type(style).__name__} are positive numbers, not {given!r}")
    return tuple(given)


def as_layout(placement: Any) -> Layout:
    """A torch placement (or a layout of ours) as a layout; raises `LayoutError` for anything else."""
    if isinstance(placement, (Replicate, Shard, Partial)):
        return placement
    if isinstance(placement, TorchShard):
        return Shard(placement.dim)
    if isinstance(placement, TorchReplicate):
        return REPLICATE
    if isinstance(placement, Placement) and placement.is_partial():
        return Partial(placement.reduce_op)  # type: ignore[missing-attribute]
    raise LayoutError(f"{placement!r} is not a layout\n  try: Replicate(), Shard(dim) or Partial()")


def _differing(style: Any, default_in: Layout, default_out: Layout) -> tuple[tuple[str, int | None, Layout], ...]:
    entering, leaving = as_layout(style.input_layouts[0]), as_layout(style.output_layouts[0])
    sides: list[tuple[str, int | None, Layout]] = []
    if entering not in (default_in, Shard(-1) if isinstance(style, RowwiseParallel) else default_in):
        sides.append(("input", 0, entering))
    if leaving != default_out:
        sides.append(("output", None, leaving))
    return tuple(sides)


def _inputs(style: PrepareModuleInput) -> tuple[tuple[str, int | None, Layout], ...]:
    desired = style.desired_input_layouts or ()
    keywords = list(style.desired_input_kwarg_layouts.values())
    wanted = [*desired, *keywords]
    return tuple(("input", i, as_layout(layout)) for i, layout in enumerate(wanted) if layout is not None)


def _outputs(style: PrepareModuleOutput) -> tuple[tuple[str, int | None, Layout], ...]:
    desired = style.desired_output_layouts
    return tuple(("output", i, as_layout(layout)) for i, layout in enumerate(desired) if layout is not None)
