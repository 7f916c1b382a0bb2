"""Programs that are for inference: asking for a gradient is an error, never a wrong number.

Through torch's functional collectives a gradient is not what it would be in one process: sums are taken once more, or
left out. So parameters of a rank's program need no gradient, and every output is detached in its graph: that stays when
the program is saved, compiled or exported again. The module that `InferenceProgram` makes also refuses inputs that
require a gradient, in words; what torch reads back from a file only does not give one.
"""

from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from shardwright.errors import InputError, raise_findings
from shardwright.program.in_place import write_in_place
from shardwright.program.program import Program
from shardwright.program.serial import one_at_a_time
from shardwright.program.signature import Signature, bind_parameters, call_form, in_structure, other_constants
from shardwright.program.torch_private import ask_first, pytree
from shardwright.program.write import parts_of, parts_of_exported

_DETACH = torch.ops.aten.detach.default


class InferenceProgram(ExportedProgram):
    """An `ExportedProgram` whose outputs carry no gradient, and whose module refuses inputs that require one.

    ``parameters_of_forward``: how the original is called; the module is called so too.
    """

    parameters_of_forward: Signature = ()

    def module(self, *args: Any, **kwargs: Any) -> nn.Module:  # type: ignore[override]
        """As `ExportedProgram.module`; the module raises `InputError` where a gradient would be asked for."""
        made = write_in_place(super().module(*args, **kwargs))
        form = call_form(self, self.parameters_of_forward)
        keywords = [one.name for one in form.taken.values() if not one.by_position]
        count = len(form.taken) - len(keywords)

        def as_exported(args: Any, kwargs: Any) -> Any:
            """A call in the form of the export, once its constants are found to be those of the export."""
            flat, findings = bind_parameters(form, args, kwargs)
            findings += other_constants(form, flat)
            raise_findings(InputError, findings, summary="the inputs do not fit the program")
            # What is as good as a constant (a member of an enumeration of strings) is none to torch.
            return in_structure(form.taken.values(), {**flat, **form.constants})

        def before(module: nn.Module, given: Any, named: Any) -> Any:
            refuse_gradients(module, given, named)
            # Compilers follow a call to here; one in the form of the export stays as it is for them.
            is_as_exported = len(given) == count and list(named) == keywords
            return None if is_as_exported and torch.compiler.is_compiling() else as_exported(given, named)

        # torch's own checks, which are hooks as well, look at what this one gives.
        ask_first(made, before)
        return made

    def run_decompositions(self, *args: Any, **kwargs: Any) -> ExportedProgram:
        """As `ExportedProgram.run_decompositions`, which makes plain copies of detached tensors."""
        return for_inference(super().run_decompositions(*args, **kwargs), self.parameters_of_forward)


@one_at_a_time
def write_for_inference(program: Program, signature: Signature) -> InferenceProgram:
    """The program as one for inference, its weights made now; ``program`` gives up its graph."""
    return _without_gradients(parts_of(program), signature)


def for_inference(exported: ExportedProgram, signature: Signature) -> InferenceProgram:
    """The same program without gradients; ``exported`` itself must not be used any longer."""
    return _without_gradients(parts_of_exported(exported), signature)


def _without_gradients(parts: dict[str, Any], signature: Signature) -> InferenceProgram:
    """The program of these parts, which are changed."""
    names = _detach_outputs(parts["graph"])
    for spec in parts["graph_signature"].output_specs:
        name = getattr(spec.arg, "name", None)
        if name in names:
            spec.arg.name = names[name]
    for tensor in (*parts["state_dict"].values(), *parts["constants"].values()):
        if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
            tensor.requires_grad_(False)
    made = InferenceProgram(**parts)
    made.parameters_of_forward = signature
    return made


def refuse_gradients(module: nn.Module, args: Any, kwargs: Any) -> None:
    """Raise `InputError` where a call of ``module`` would be recorded for a backward pass."""
    if not torch.is_grad_enabled():
        return
    leaves = pytree.tree_leaves((args, kwargs))
    if any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
        what = "an input"
    elif any(parameter.requires_grad for parameter in module.parameters()):
        what = "a parameter"
    else:
        return
    raise InputError(
        f"{what} requires a gradient, and this program is for inference: through the collectives of a sharded program "
        "gradients would be wrong\n"
        "  try: call it under torch.no_grad(), or give x.detach(); to train, shard what export_training gives"
    )


def _detach_outputs(graph: fx.Graph) -> dict[str, str]:
    """Detach what the graph returns; the new name of every value that is."""
    end = graph.output_node()
    made: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(end):
        for node in end.all_input_nodes:
            value = node.meta.get("val")
            floating = isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())
            if floating and node.target != _DETACH:
                made[node] = graph.call_function(_DETACH, (node,))
                made[node].meta = {**node.meta, "val": value.detach()}
    end.args = fx.map_arg(end.args, lambda node: made.get(node, node))
    return {node.name: new.name for node, new in made.items()}
