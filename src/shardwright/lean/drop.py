"""`drop_no_ops`: what gives its operand unchanged is left out, and what nobody reads then.

Left out are casts to the same dtype, dropout in inference, copies of what lies that way already, views of the same
sizes, and products with 1. (Checks of metadata that cannot fail are left out by partition.) A copy stays where its
memory may reach an output, so that what the user gets is nobody else's; so does whatever an output reads itself, whose
name says what it is. A copy that lays out memory stays where how its operand lies is known only when the program runs.
"""

import torch
from torch import fx

from shardwright.lean.no_ops import VIEWS, lays_out, operand_of
from shardwright.lean.sharing import escapes, uncertain_layouts
from shardwright.program.legal import Stage, check
from shardwright.program.program import Program
from shardwright.program.torch_private import OpOverload, schema_of


def drop_no_ops(program: Program) -> Program:
    """The lowered program without calls that do nothing; changed in place. Subgraphs stay as they are."""
    uncertain = uncertain_layouts(program.graph)
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        source = operand_of(node)
        if source is not None and _may_go(node, source, uncertain):
            node.replace_all_uses_with(source)
            _erase(program, node, source)
    for node in reversed(list(program.graph.nodes)):
        if not node.users and _is_idle(node):
            _erase(program, node)
    return check(program, Stage.LEAN)


def _may_go(node: fx.Node, source: fx.Node, uncertain: set[fx.Node]) -> bool:
    if any(user.op == "output" for user in node.users):
        return False
    if node.target in VIEWS:
        return True
    return not escapes(node) and not (lays_out(node) and source in uncertain)


def _is_idle(node: fx.Node) -> bool:
    """Whether a call that nobody reads does nothing: it draws no numbers, checks nothing and makes no sizes known."""
    if node.op == "get_attr":
        return True
    schema = schema_of(node.target)
    if node.op != "call_function" or not isinstance(node.target, OpOverload) or schema is None:
        return False
    has_effect = schema.is_mutable or not schema.returns or not schema.name.startswith("aten::")
    return not has_effect and not _TELLING & {*node.target.tags}


_TELLING = {torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def _erase(program: Program, node: fx.Node, source: fx.Node | None = None) -> None:
    program.graph.erase_node(node)
    origin = program.origins.pop(node.name, None)
    if origin is not None and source is not None:
        program.origins.setdefault(source.name, origin)
