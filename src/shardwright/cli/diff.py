"""``shardwright diff``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from shardwright.cli.console import out
from shardwright.cli.models import is_package, package_facts_of, shard_model
from shardwright.cli.options import PLANS, AsJson, Example, Hardware, Method, NumRanks
from shardwright.cli.progress import spinner
from shardwright.cli.show import show_tables
from shardwright.errors import ShardwrightError


def diff(
    first: Annotated[str, typer.Argument(help=f"A package folder, or a plan: {PLANS}.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    model: Annotated[
        Path | None, typer.Option(help="The exported program (.pt2) or checkpoint that plans are for.")
    ] = None,
    tp: NumRanks = 2,
    example: Example = None,
    method: Method = "forward",
    hardware: Hardware = None,
    as_json: AsJson = False,
) -> None:
    """Compare two plans of a model, or two packages: weights, collectives, and what they cost."""
    from shardwright.page.difference import compare
    from shardwright.report.differences import difference_tables
    from shardwright.report.tables import print_json

    with spinner("reading"):
        how = {"example": example, "method": method, "cost": hardware}
        both = [_facts(one, model, tp, how) for one in (first, second)]
    difference = compare(*both)
    tables = difference_tables(difference, first, second)
    if as_json:
        totals = [{"what": one.what, "unit": one.unit, "values": one.values} for one in difference.totals]
        print_json(tables[1:], equal=difference.is_empty, totals=totals)
        return
    show_tables(tables)
    if difference.is_empty:
        out.print("weights and collectives are the same")


def _facts(one: str, model: Path | None, num_ranks: int, how: dict[str, Any]) -> Any:
    """What a package says of itself, or what a plan makes of the model."""
    if is_package(Path(one)):
        return package_facts_of(Path(one), how["cost"])
    if model is None:
        raise ShardwrightError(
            f"{one} is not a package folder, and a plan needs the model it is for\n  try: --model MODEL.pt2"
        )
    return shard_model(model, num_ranks, one, **how).facts()
