"""``shardwright chat``."""

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from shardwright.cli.models import is_checkpoint, is_package
from shardwright.cli.options import Backend, NumRanks, Seed, Stop, Temperature, Threads, Timeout, TopP, Transport
from shardwright.cli.progress import bytes_bar
from shardwright.errors import InputError


def chat(
    package: Annotated[Path, typer.Argument(help="A package folder, or a checkpoint, which is sharded for this talk.")],
    system: Annotated[str | None, typer.Option(help="What the model is told before all messages.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of a reply.")] = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    stop: Stop = None,
    tp: NumRanks = 1,
    timeout: Timeout = 600.0,
    backend: Backend = "eager",
    transport: Transport = None,
    threads: Threads = None,
) -> None:
    """Talk to a sharded decoder at the terminal, line by line, through its tokenizer's chat template.

    Ctrl-C ends a reply, /reset forgets the conversation, the end of input (Ctrl-D) leaves it. --tp: of a checkpoint.
    """
    from shardwright.generate.chatting import SharedInput
    from shardwright.generate.chatting import chat as talk
    from shardwright.generate.conversation import Manner
    from shardwright.generate.sampling import Sampling
    from shardwright.generate.text import check_generates
    from shardwright.package.manifest import read_manifest
    from shardwright.run.launch import launch
    from shardwright.sources.checkpoint import shard_checkpoint

    if sys.stdin is None:
        raise InputError("there is no standard input to read messages from")
    manner = Manner(max_tokens, Sampling(temperature, top_p, seed), stop or (), system)
    with ExitStack() as stack:
        folder = package
        if is_checkpoint(package) and not is_package(package):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shardwright-"))) / "package"
            with bytes_bar("reading") as step:
                shard_checkpoint(package, folder, mesh=tp, progress=step)
        manifest = read_manifest(folder)
        check_generates(manifest, folder)
        words = str(folder.resolve()), manner, {"backend": backend}
        if "TORCHELASTIC_RUN_ID" in os.environ:
            # Under torchrun, this process is a rank.
            talk(*words)
            return
        how = {"timeout_s": timeout, "threads": threads, "transport": transport}
        launch(manifest.num_ranks, talk, *words, SharedInput(sys.stdin.fileno()), ranks_take_interrupts=True, **how)
