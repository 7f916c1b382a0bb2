"""``shardwright plan``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.console import err, print_text
from shardwright.cli.models import shard_model
from shardwright.cli.options import AsJson, Dump, Effort, Hardware, Model, NumRanks
from shardwright.cli.progress import spinner
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
    effort: Effort = 1.0,
    hardware: Hardware = None,
    dump: Dump = None,
    as_json: AsJson = False,
) -> None:
    """Find the automatic plan and write it as YAML."""
    import yaml

    from shardwright.plan.plan_files import style_to_yaml, write_plan

    if output is not None:
        check_free(output, "the output")
    with spinner("finding a plan"):
        sharded = shard_model(model, tp, "auto", cost=hardware, slack=slack, effort=effort, dump=dump)
    found = {w.name: w.layouts["tp"] for w in sharded.weights if w.kind in ("parameter", "buffer")}
    if as_json:
        print_text(json.dumps({name: style_to_yaml(layout) for name, layout in found.items()}, indent=2))
    elif output is None:
        print_text(
            yaml.safe_dump(
                {n: style_to_yaml(layout) for n, layout in found.items()}, sort_keys=False, default_flow_style=None
            )
        )
    else:
        write_plan(output, found, comment=f"The automatic plan for {tp} ranks.\n{sharded.prediction}")
        err.print(f"wrote {output}")
        err.print(str(sharded.prediction), markup=False)
