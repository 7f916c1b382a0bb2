"""Programs that torch exports, but can neither write to a file and read back, nor run as a module."""

import keyword
from collections.abc import Iterator

from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, OutputKind

from shardwright.errors import Finding, ProgramError, raise_findings
from shardwright.program.nodes import describe_node


def refuse_unwritable(exported: ExportedProgram) -> None:
    """Raise `ProgramError`, with all findings, for a program that no package can hold or no module can run."""
    findings = [*_odd_outputs(exported), *_odd_names(exported)]
    raise_findings(ProgramError, findings, summary="torch cannot write or run this program")


def _odd_outputs(exported: ExportedProgram) -> Iterator[Finding]:
    """Texts, which torch writes and does not read, and no outputs at all, which it does not write."""
    specs = exported.graph_signature.output_specs
    if not specs:
        yield Finding(
            "the program returns nothing and changes no buffer, so there is nothing to compute",
            remedies=("return what it computes",),
        )
    given = [spec.arg for spec in specs if spec.kind == OutputKind.USER_OUTPUT]
    for position, argument in enumerate(given):
        if isinstance(argument, ConstantArgument) and isinstance(argument.value, str):
            yield Finding(
                f"output {position} is the text {argument.value!r:.80}, which torch.export.load does not read",
                remedies=("return tensors and numbers, and add the text outside the exported part",),
            )


def _odd_names(exported: ExportedProgram) -> Iterator[Finding]:
    """Names of state that end up in Python code, unquoted or between double quotes, where they mean something else."""
    readers = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    for spec in exported.graph_signature.input_specs:
        bad = next((token for token in str(spec.target or "").split(".") if _breaks_code(token)), None)
        if bad is not None:
            node = readers.get(getattr(spec.arg, "name", ""))
            yield Finding(
                f"{spec.target!r} has the name {bad!r} in it, which torch writes into Python code as it stands",
                where=describe_node(next(iter(node.users))) if node is not None and node.users else "",
                remedies=(f"rename {bad!r} in the model before it is exported",),
            )


def _breaks_code(token: str) -> bool:
    if token.isidentifier():
        return keyword.iskeyword(token)
    return not token.isprintable() or '"' in token or "\\" in token
