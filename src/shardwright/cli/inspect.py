"""``shardwright inspect``."""

from dataclasses import asdict
from typing import Annotated

import typer

from shardwright.cli.console import out
from shardwright.cli.models import load_model
from shardwright.cli.options import PLANS, AsJson, Example, Hardware, Method, Model, NumRanks
from shardwright.cli.progress import spinner
from shardwright.cli.show import show_tables
from shardwright.errors import ShardwrightError


def inspect(
    model: Model,
    tp: NumRanks = 2,
    plan: Annotated[
        str | None,
        typer.Option("--plan", help=f"Show also what this plan costs: {PLANS}."),
    ] = None,
    example: Example = None,
    method: Method = "forward",
    hardware: Hardware = None,
    as_json: AsJson = False,
) -> None:
    """Show the module tree with sizes, and what can be cut; with a plan, its collectives and gathered weights."""
    import shardwright
    from shardwright.page.words import format_bytes
    from shardwright.program.read import read
    from shardwright.report.tables import collectives_table, gathered_table, memory_table, print_json
    from shardwright.report.tree import LEGEND, module_tree, tensors_table

    if hardware is not None and plan is None:
        raise ShardwrightError("--hardware prices a plan\n  try: --plan auto")
    with spinner("reading"):
        exported = load_model(model, example, method)
        program = read(exported)
        sharded = shardwright.shard(exported, mesh=tp, plan=plan, cost=hardware) if plan is not None else None
    tables = [] if sharded is None else [collectives_table(sharded), memory_table(sharded), gathered_table(sharded)]
    table = tensors_table(program, tp)
    total = sum(int(row[4]) for row in table.rows)
    if as_json:
        inputs = [item.name for item in program.user_inputs()]
        facts = {} if sharded is None else {"prediction": asdict(sharded.prediction)}
        print_json([table, *tables], inputs=inputs, num_nodes=len(program.graph.nodes), num_bytes=total, **facts)
        return
    out.print(module_tree(program, tp))
    out.print(LEGEND, style="dim", markup=False)
    out.print(f"{len(table.rows)} tensors, {format_bytes(total)}, {len(program.graph.nodes)} nodes")
    show_tables(tables)
    if sharded is not None:
        out.print(str(sharded.prediction), markup=False)
