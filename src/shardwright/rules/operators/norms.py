"""Normalisations: what is normalised over may not be cut; features of batch and group norms may."""

from typing import Any

from shardwright.errors import RuleError
from shardwright.layout.layout import Shard, cut_of
from shardwright.layout.sizes import Size, product
from shardwright.program.torch_private import schema_of
from shardwright.rules.local import dense, run_dense
from shardwright.rules.operators.dims import named_dims
from shardwright.rules.registry import Entry, notation_rule, tensor_slots
from shardwright.rules.rule import Call, Local, Rule, Term


def layer_norm_rule(call: Call) -> Rule:
    """``layer_norm``, ``rms_norm`` and their native forms: the trailing ``normalized_shape`` dims are whole."""
    shape = call.operands[0].shape
    count = len(call["normalized_shape"])
    lead = len(shape) - count
    dims = tuple(Term((f"d{dim}",)) for dim in range(len(shape)))
    sizes: dict[str, Size] = {f"d{dim}": size for dim, size in enumerate(shape)}
    results: list[tuple[Term, ...] | None] = []
    for index, result in enumerate(call.results):
        results.append(
            None if result is None else dims if index == 0 else dims[:lead] + (Term(),) * (result.ndim - lead)
        )
    operands = (dims,) + (dims[lead:],) * (len(call.operands) - 1)
    return Rule(operands, tuple(results), sizes, frozenset(f"d{dim}" for dim in range(lead, len(shape))))


def group_norm_rule(call: Call) -> Rule:
    """``group_norm``: channels are (groups, within), cut at whole groups."""
    tensor = call.operands[0]
    groups = int(call.arguments.get("num_groups", call.arguments.get("group", 1)))
    spatial = " ".join(f"s{i}!" for i in range(tensor.ndim - 2))
    slots = list(tensor_slots(call))
    operands = [f"n (g c!) {spatial}"] + ["(g c!)"] * (len(slots) - 1)
    outs = [f"n (g c!) {spatial}"] + ["n g"] * (len(call.results) - 1)
    return (
        notation_rule(
            f"{', '.join(o for o, s in zip(operands, slots, strict=True) if s is not None)} -> {', '.join(outs)}",
            [slot.shape for slot in slots if slot is not None],
            [r.shape for r in call.results if r is not None],
            localize=local_group_norm,
        )
        if len(call.results) > 1 or _even(tensor.shape[1], groups) is None
        else _group_rule(call, groups)
    )


def _even(size: Size, groups: int) -> int | None:
    return size // groups if isinstance(size, int) else None


def _group_rule(call: Call, groups: int) -> Rule:
    tensor = call.operands[0]
    within = _even(tensor.shape[1], groups)
    assert within is not None, "channels are a number"
    sizes: dict[str, Size] = {"n": tensor.shape[0], "g": groups, "c": within}
    sizes.update((f"s{i}", size) for i, size in enumerate(tensor.shape[2:]))
    channel = Term(("g", "c"))
    dims = (Term(("n",)), channel, *(Term((f"s{i}",)) for i in range(tensor.ndim - 2)))
    fixed = frozenset(name for name in sizes if name not in ("n", "g"))
    operands = (dims, *((channel,) for _ in call.operands[1:]))
    return Rule(operands, (dims,), sizes, fixed, localize=local_group_norm)


def local_group_norm(local: Local) -> Any:
    """The norm over this rank's groups; the native form also gives sizes."""
    layout = local.strategy.operands[0]
    if not isinstance(layout, Shard):
        return local.run_call()
    changed: dict[str, Any] = {}
    for name in ("input", "grad_out", "mean", "rstd"):
        if name in local.arguments:
            changed[name] = dense(local, local.arguments[name])
    cut = cut_of(layout)
    if layout.dim == 1:
        name = "num_groups" if "num_groups" in local.arguments else "group"
        whole = int(local.arguments[name])
        channels = local.call.operands[0].shape[1]
        assert isinstance(channels, int), "channels are a number"
        changed[name] = int(cut.local_size(local.rank)) * whole // channels
        if "C" in local.arguments:
            changed["C"] = cut.local_size(local.rank)
    elif "N" in local.arguments:
        changed["N"] = cut.local_size(local.rank)
    return local.run_call(**changed)


def batch_norm_rule(call: Call) -> Rule:
    """Batch norm in every form: features may be cut; the batch only where its statistics are given, not taken."""
    tensor = call.operands[0]
    takes = bool(
        call.arguments.get("training", call.arguments.get("train", call.arguments.get("use_input_stats", False)))
    )
    if "legit_no_training" in call.schema_name:
        takes = False
    if schema_of(call.op).overload_name == "no_stats":
        takes = True
    per_sample = "instance_norm" in call.schema_name
    sizes: dict[str, Size] = {f"s{i}": size for i, size in enumerate(tensor.shape) if i != 1}
    sizes["c"] = tensor.shape[1] if tensor.ndim > 1 else 1
    dims = tuple(Term(("c",)) if i == 1 else Term((f"s{i}",)) for i in range(tensor.ndim))
    # Running statistics of an instance norm average over the batch too.
    batch_is_fixed = (takes and not per_sample) or (per_sample and len(call.operands) > 3)
    fixed = {f"s{i}" for i in range(2, tensor.ndim)} if takes else set()
    fixed |= {"s0"} if batch_is_fixed or (takes and not per_sample) else set()
    results: list[tuple[Term, ...] | None] = []
    for index, result in enumerate(call.results):
        if result is None:
            results.append(None)
        elif index == 0:
            results.append(dims)
        else:
            results.append((Term(("c",)),) if product(result.shape) != 0 else (Term(),))
    operands = (dims, *((Term(("c",)),) for _ in call.operands[1:]))
    # Without statistics taken, those that are a result too are empty.
    empty = {index for index, r in enumerate(call.results) if r is not None and product(r.shape) == 0}
    if not takes and any(r is not None and r.ndim == 1 and i not in empty for i, r in enumerate(call.results)):
        fixed |= {"s0"}
    return Rule(operands, tuple(results), sizes, frozenset(fixed), independent=frozenset(empty - {0}))


def layer_norm_backward_rule(call: Call) -> Rule:
    """Gradients of a layer norm, or an RMS norm: the input's is cut with the batch, the weights' add up over it."""
    shape = call.operands[0].shape
    lead = len(shape) - len(call["normalized_shape"])
    dims, sizes = named_dims(shape)
    statistics = (*dims[:lead], *(Term(),) * (len(shape) - lead))
    # A layer norm keeps a mean and a deviation, an RMS norm one of them.
    kept = (statistics,) * (2 if "mean" in call.arguments else 1)
    operands = (dims, dims, *kept, *((dims[lead:],) * (len(call.operands) - 2 - len(kept))))
    results = tuple(None if r is None else dims if r.ndim == len(shape) else dims[lead:] for r in call.results)
    fixed = frozenset(f"d{dim}" for dim in range(lead, len(shape)))
    reduces = {f"d{dim}": "sum" for dim in range(lead)}
    return Rule(operands, results, sizes, fixed, reduces=reduces, linear=(frozenset({0}),), localize=run_dense)


def group_norm_backward_rule(call: Call) -> Rule:
    """Gradients of a group norm: cut with the batch, over which the weights' add up, or with the groups."""
    shape = call.operands[0].shape
    groups = call["group"]
    within = _even(shape[1], groups)
    if within is None:
        raise RuleError("its number of channels is not known")
    sizes: dict[str, Size] = {"n": shape[0], "g": groups, "c": within}
    sizes.update((f"s{i}", size) for i, size in enumerate(shape[2:]))
    batch, channel = Term(("n",)), Term(("g", "c"))
    dims = (batch, channel, *(Term((f"s{i}",)) for i in range(len(shape) - 2)))
    statistics = (batch, Term(("g",)))
    operands = (dims, dims, statistics, statistics, *((channel,) for _ in call.operands[4:]))
    results = tuple(None if r is None else dims if r.ndim == len(shape) else (channel,) for r in call.results)
    fixed = frozenset(name for name in sizes if name not in ("n", "g"))
    return Rule(operands, results, sizes, fixed, reduces={"n": "sum"}, localize=local_group_norm)


def weight_norm_rule(call: Call) -> Rule:
    """``_weight_norm``: every slice of a weight along a dim gets a length; that dim alone may be cut.

    The lengths are linear: a slice is its direction times its length. Dim -1 stands for one length for all.
    """
    dims, sizes = named_dims(call.operands[0].shape)
    along = f"d{int(call['dim'])}"
    lengths = []
    for tensor in (call.operands[1], *call.results[1:]):
        assert tensor is not None, "all results are tensors"
        own = zip(tensor.shape, dims[len(dims) - tensor.ndim :], strict=True)
        lengths.append(tuple(term if term.factors == (along,) and s == sizes[along] else Term() for s, term in own))
    given, *norms = lengths
    # The norms that are a result too do not depend on the lengths.
    linear = () if norms else (frozenset({1}),)
    fixed = frozenset(sizes) - {along}
    return Rule((dims, given), (dims, *norms), sizes, fixed, linear=linear, localize=run_dense)


def norm_except_dim_rule(call: Call) -> Rule:
    """``norm_except_dim``: a length for every slice along a dim, which alone may be cut; dim -1: one length for all."""
    dims, sizes = named_dims(call.operands[0].shape)
    along = call["dim"] if call["dim"] == -1 else call["dim"] % len(dims)
    result = tuple(term if dim == along else Term() for dim, term in enumerate(dims)) if call.result.ndim else ()
    return Rule((dims,), (result,), sizes, frozenset(sizes) - {f"d{along}"}, localize=run_dense)


_LAYER, _BATCH, _WEIGHT = Entry(layer_norm_rule), Entry(batch_norm_rule), Entry(weight_norm_rule)

RULES: dict[str, Entry] = {
    "aten::_batch_norm_no_update": _BATCH,
    "aten::_batch_norm_with_update_functional": _BATCH,
    "aten::_fused_rms_norm": _LAYER,
    "aten::_native_batch_norm_legit": _BATCH,
    "aten::_native_batch_norm_legit_functional": _BATCH,
    "aten::_native_batch_norm_legit_no_training": _BATCH,
    "aten::_weight_norm": _WEIGHT,
    "aten::_weight_norm_interface": _WEIGHT,
    "aten::batch_norm": _BATCH,
    "aten::group_norm": Entry(group_norm_rule),
    "aten::instance_norm": _BATCH,
    "aten::layer_norm": _LAYER,
    "aten::native_batch_norm": _BATCH,
    "aten::native_group_norm": Entry(group_norm_rule),
    "aten::native_group_norm_backward": Entry(group_norm_backward_rule),
    "aten::native_layer_norm": _LAYER,
    "aten::native_layer_norm_backward": Entry(layer_norm_backward_rule),
    "aten::norm_except_dim": Entry(norm_except_dim_rule),
    "aten::rms_norm": _LAYER,
}
