"""``shardwright plan``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.console import err, print_text
from shardwright.cli.models import shard_model
from shardwright.cli.options import AsJson, Dump, Effort, Example, Hardware, Method, Model, NumRanks
from shardwright.cli.progress import spinner
from shardwright.cli.show import show_sharded
from shardwright.layout.values import check_free


def plan(
    model: Model,
    tp: NumRanks = 2,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write the YAML; default: standard output.")
    ] = None,
    slack: Annotated[
        float, typer.Option(help="How far bytes per rank of weights that can be cut may exceed the least.")
    ] = 0.1,
    example: Example = None,
    method: Method = "forward",
    effort: Effort = 1.0,
    hardware: Hardware = None,
    dump: Dump = None,
    as_json: AsJson = False,
) -> None:
    """Find the automatic plan and write it as YAML: layers that are alike once, with what each entry costs."""
    from shardwright.plan.plan_files import style_to_yaml
    from shardwright.report.written_plan import plan_of, plan_text, write_plan

    if output is not None:
        check_free(output, "the output")
    with spinner("finding a plan"):
        options = {"cost": hardware, "slack": slack, "effort": effort, "dump": dump}
        sharded = shard_model(model, tp, "auto", example=example, method=method, **options)
    if output is not None:
        write_plan(sharded, output)
    if as_json:
        print_text(json.dumps({key: style_to_yaml(value) for key, value in plan_of(sharded, "tp").items()}, indent=2))
        return
    if output is None:
        print_text(plan_text(sharded, "tp"))
    show_sharded(sharded, console=err)
    if output is not None:
        err.print(f"wrote {output}")
