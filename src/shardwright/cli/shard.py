"""``shardwright shard``."""

from typing import Annotated, Any

import typer

from shardwright.cli.models import is_checkpoint, refuse_export, shard_model
from shardwright.cli.options import (
    AsJson,
    Dump,
    Effort,
    Example,
    Hardware,
    Lean,
    Method,
    Model,
    NumRanks,
    OutputFolder,
    PlanOption,
    parse_dtype,
)
from shardwright.cli.progress import bytes_bar
from shardwright.cli.show import show_package
from shardwright.layout.values import check_free


def shard(
    model: Model,
    output: OutputFolder,
    tp: NumRanks = 2,
    plan: PlanOption = "auto",
    slack: Annotated[
        float,
        typer.Option(help="Under 'auto': how far bytes per rank of weights that can be cut may exceed the least."),
    ] = 0.1,
    effort: Effort = 1.0,
    hardware: Hardware = None,
    dump: Dump = None,
    lean: Lean = True,
    dtype: Annotated[
        str | None, typer.Option(help="Of a checkpoint's weights: float32, bfloat16, float16; default: as they are.")
    ] = None,
    dequantize: Annotated[
        str | None,
        typer.Option(help="Unpack a checkpoint's quantised weights to this dtype; default: they stay packed."),
    ] = None,
    packed: Annotated[
        bool, typer.Option("--packed", help="Keep a GGUF file's weights packed; default: they are unpacked on reading.")
    ] = False,
    cache_length: Annotated[
        int | None,
        typer.Option(help="Tokens in a decoder's key-value cache; default: at most 2048; 0: no cache."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Texts that a decoder writes beside each other, each with such a cache; default: 1."),
    ] = None,
    example: Example = None,
    method: Method = "forward",
    variant: Annotated[
        str | None, typer.Option(help="Of a checkpoint's weight files: fp16 reads model.fp16.safetensors.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shard a program or a checkpoint and write a package: graphs, and every rank's weights.

    A checkpoint's weights are streamed slice by slice; an interrupted run that is started again goes on.
    """
    import shardwright
    from shardwright.sources.checkpoint import open_checkpoint

    check_free(output, "the output folder")
    options: dict[str, Any] = {"cost": hardware, "slack": slack, "effort": effort, "dump": dump, "lean": lean}
    with bytes_bar("reading") as step:
        if is_checkpoint(model):
            wanted = {"dtype": parse_dtype(dtype, "--dtype"), "dequantize": parse_dtype(dequantize, "--dequantize")}
            wanted["packed"] = packed
            how: dict[str, Any] = {"batch": batch or 1, "example": example, "method": method, "variant": variant}
            opened = open_checkpoint(model, **wanted, **how, cache_length=cache_length, progress=step)
            step("sharding", 0, 0)
            sharded = shardwright.shard(opened.exported, mesh=tp, plan=plan, **options)
            opened.save(sharded, output, progress=step)
        else:
            opened = None
            asked = {"--dtype": dtype, "--dequantize": dequantize, "--cache-length": cache_length, "--variant": variant}
            asked |= {"--batch": batch, "--packed": packed or None}
            refuse_export(model, asked)
            sharded = shard_model(model, tp, plan, example=example, method=method, **options)
            sharded.save(str(output), progress=step)
    show_package(sharded, output, unused=opened.unused if opened is not None else (), as_json=as_json)
