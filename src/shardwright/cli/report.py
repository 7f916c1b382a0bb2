"""``shardwright report``."""

from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.console import err
from shardwright.cli.models import is_package, package_facts_of, shard_model
from shardwright.cli.options import PLANS, Example, Hardware, Method, NumRanks
from shardwright.cli.progress import spinner
from shardwright.errors import ShardwrightError
from shardwright.layout.values import check_free


def report(
    model: Annotated[Path, typer.Argument(help="A package folder, an exported program (.pt2) or a checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page to write; it must not exist.")],
    tp: NumRanks = 2,
    plan: Annotated[
        str | None,
        typer.Option("--plan", help=f"Of a model: {PLANS}; default: 'auto'."),
    ] = None,
    example: Example = None,
    method: Method = "forward",
    hardware: Hardware = None,
    explorer: Annotated[
        Path | None,
        typer.Option(help="A new folder for the program as model-explorer's JSON, with layouts to colour it by."),
    ] = None,
) -> None:
    """Write one self-contained page: weights by module, collectives along the program, predicted time by layer."""
    from shardwright.page.page import write_page

    check_free(output, "the page")
    if is_package(model) and plan is not None:
        raise ShardwrightError(f"{model} is a package, which has a plan already\n  try: no --plan")
    if explorer is not None:
        check_free(explorer, "the folder")
        if explorer.resolve() == output.resolve():
            raise ShardwrightError("--output and --explorer name one path\n  try: another name for one of them")
        if is_package(model):
            raise ShardwrightError(
                f"{model} is a package: its graphs are the ranks' own\n  try: the model it is made from"
            )
    with spinner("reading"):
        sharded = (
            None
            if is_package(model)
            else shard_model(model, tp, plan or "auto", example=example, method=method, cost=hardware)
        )
        facts = package_facts_of(model, hardware) if sharded is None else sharded.facts()
    write_page(facts, output, title=model.name or str(model))
    err.print(f"wrote {output}")
    if sharded is not None and explorer is not None:
        sharded.explore(explorer)
        err.print(f"wrote {explorer}")
