"""``shardwright verify``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.console import out, print_text
from shardwright.cli.models import is_checkpoint, load_model
from shardwright.cli.options import AsJson, Dump, Hardware, Lean, Model, NumRanks, PlanOption
from shardwright.cli.progress import spinner
from shardwright.errors import ShardwrightError


def verify(
    model: Model,
    tp: NumRanks = 2,
    plan: PlanOption = "auto",
    inputs: Annotated[Path | None, typer.Option("--inputs", "-i", help="A safetensors file of inputs by name.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Allowed error over the largest value.")] = None,
    hardware: Hardware = None,
    dump: Dump = None,
    lean: Lean = True,
    as_json: AsJson = False,
) -> None:
    """Run all ranks in this process and compare with the original; of a program for training, gradients too."""
    import shardwright
    from shardwright.run.tensor_files import example_inputs

    if is_checkpoint(model):
        raise ShardwrightError(
            f"verify runs the program, whose weights a checkpoint folder ({model}) leaves on disk\n"
            "  try: export the loaded model with torch.export and verify the .pt2 file"
        )
    with spinner("verifying"):
        exported = load_model(model)
        sharded = shardwright.shard(exported, mesh=tp, plan=plan, cost=hardware, dump=dump, lean=lean)
        args, kwargs = example_inputs(exported, inputs)
        report = shardwright.verify(sharded, exported, args, kwargs, tolerance=tolerance)
    if as_json:
        print_text(json.dumps({"ok": report.ok, "max_error": report.max_error, "report": str(report)}))
    else:
        out.print(str(report), style="green" if report.ok else "red")
    if not report.ok:
        raise typer.Exit(1)
