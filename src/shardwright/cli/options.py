"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from shardwright.errors import ShardwrightError

Model = Annotated[
    Path,
    typer.Argument(
        help="An exported program (.pt2), a checkpoint folder of transformers or diffusers (a pipeline's part), or a "
        ".gguf file."
    ),
]

Example = Annotated[
    Path | None,
    typer.Option(
        help="A YAML file of the inputs that a checkpoint's model is exported with, such as "
        "'sample: float32[batch=2, 4, 64, 64]'; those of diffusers need one."
    ),
]

Method = Annotated[
    str, typer.Option(help="What is exported with --example: forward, or another method (an autoencoder's decode).")
]

Package = Annotated[Path, typer.Argument(help="A package folder.")]

OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="The package folder to write; it must not exist.")]

NumRanks = Annotated[int, typer.Option("--tp", min=1, help="The number of ranks.")]

Effort = Annotated[
    float, typer.Option(help="How long the solver may search, as a multiple of what is usual; counted, not timed.")
]

Hardware = Annotated[
    str | None,
    typer.Option(
        help="What the plan is priced for: h100, h200, b200, a100, mi300x, l40s, l4, cpu, cpu-gloo, or a file that "
        "`calibrate` wrote; default: h100."
    ),
]

Dump = Annotated[
    Path | None,
    typer.Option(help="A folder for every stage of the compilation as numbered text; other files: refused."),
]

Lean = Annotated[
    bool, typer.Option("--lean/--no-lean", help="Make ranks' programs lean, or leave them as they were partitioned.")
]

PLANS = "'auto', 'hf', 'diffusers', or a YAML file"

PlanOption = Annotated[str, typer.Option("--plan", help=f"{PLANS} of names to styles.")]

Timeout = Annotated[float, typer.Option(help="How long a collective waits for a rank that hangs, in seconds.")]

Backend = Annotated[
    str, typer.Option(help="eager; compile: by torch.compile, on first use; aoti: what `compile` made.")
]

Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of each rank, on any core; default: each rank's share of the cores.")
]

Transport = Annotated[
    str | None,
    typer.Option(help="What CPU ranks communicate through: auto, shared_memory, gloo; default: SHARDWRIGHT_TRANSPORT."),
]

Temperature = Annotated[float, typer.Option(help="0: always the likeliest token.")]

TopP = Annotated[float, typer.Option(help="Draw from the likeliest tokens that together reach this.")]

Seed = Annotated[int, typer.Option(help="Equal seeds draw equal tokens.")]

Stop = Annotated[list[str] | None, typer.Option(help="End a text before this string, taken as it is; may be repeated.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def parse_dtype(name: str | None, option: str) -> Any:
    """The dtype of a name; None for none. Raises `ShardwrightError` for an unknown one."""
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is not None and name not in known:
        raise ShardwrightError(f"{option} {name!r} is not one of {', '.join(known)}")
    return known.get(name) if name else None
