"""`flex_attention`: batch and heads are cut as in any attention, though user code inside sees which head it is at."""

from torch import fx

from shardwright.layout.sizes import Size
from shardwright.program.nodes import higher_order_name, is_tensor
from shardwright.rules.call import leaves, operand_nodes, tensor_meta
from shardwright.rules.rule import Dims, Rule, TensorMeta, Term


def is_flex_attention(node: fx.Node) -> bool:
    """Whether a node is a forward `flex_attention` call."""
    return higher_order_name(node) == "flex_attention" and not node.kwargs


def flex_rule(node: fx.Node) -> Rule | None:
    """``b (g r) s! d!, b g t! d!, b g t! v!, … -> b (g r) s! v!, b (g r) s!``, block masks cut along where they vary.
    The queries of a group are cut where there is but one.

    Buffers of the score and mask functions stay whole: indices into them are global. None where heads do not group.
    """
    query, key, value, *rest = [tensor_meta(source.meta["val"]) for source in operand_nodes(node)]
    batch, heads, kv_heads = query.shape[0], query.shape[1], key.shape[1]
    if not (isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads == 0):
        return None
    sizes: dict[str, Size] = {"b": batch, "g": kv_heads}
    if heads != kv_heads:
        sizes["r"] = heads // kv_heads
    sizes.update(s=query.shape[2], t=key.shape[2], d=query.shape[3], v=value.shape[3])
    fixed = {"s", "t", "d", "v"}
    if kv_heads > 1:
        # A rank's queries of several groups do not follow each other, so one number would not say which heads they are.
        fixed.add("r")
    if not isinstance(batch, int) or key.shape[0] != batch:
        fixed.add("b")
    head = Term(("g", "r") if "r" in sizes else ("g",))
    of = {name: Term((name,)) for name in ("b", "g", "s", "t", "d", "v")}
    keyed = of["b"] if key.shape[0] == batch else Term()
    num_mask_tensors = sum(isinstance(leaf, fx.Node) and is_tensor(leaf) for leaf in leaves(node.args[4]))

    def other(index: int, meta: TensorMeta) -> Dims:
        dims = []
        for dim, size in enumerate(meta.shape):
            follows = index < num_mask_tensors and size != 1
            if follows and dim == 0 and size == batch:
                dims.append(of["b"])
            elif follows and dim == 1 and size == heads:
                dims.append(head)
            else:
                name = f"x{index}_{dim}"
                sizes[name] = size
                fixed.add(name)
                dims.append(Term((name,)))
        return tuple(dims)

    operands = (
        (of["b"], head, of["s"], of["d"]),
        (keyed, of["g"], of["t"], of["d"]),
        (keyed, of["g"], of["t"], of["v"]),
        *(other(index, meta) for index, meta in enumerate(rest)),
    )
    rows = (of["b"], head, of["s"])
    # The output, then one number a row: the logarithm of the sum and, in newer torch, the maximum.
    results = [(*rows, of["v"]) if number == 0 else rows for number in range(len(leaves(node.meta["val"])))]
    scores = tuple(name for name in ("b", "g", "r", "s", "t") if name in sizes)
    multiplies = ((*scores, "d"), (*scores, "v"))
    return Rule(operands, tuple(results), sizes, frozenset(fixed & set(sizes)), multiplies=multiplies)
