"""``shardwright generate``."""

from typing import TYPE_CHECKING, Annotated

import typer

from shardwright.cli.console import err
from shardwright.cli.options import Backend, Package, Seed, Stop, Temperature, Threads, Timeout, TopP, Transport
from shardwright.errors import InputError

if TYPE_CHECKING:
    from shardwright.generate.text import Written


def generate(
    package: Package,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="What to go on from, or to answer; may be repeated.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="A file with a prompt on each line (.jsonl: JSON lines), or - for standard input."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to write for each.")] = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    stop: Stop = None,
    raw: Annotated[bool, typer.Option("--raw", help="Go on from the prompts themselves, no chat template.")] = False,
    timeout: Timeout = 600.0,
    backend: Backend = "eager",
    transport: Transport = None,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line for each prompt.")] = False,
) -> None:
    """Launch local ranks and print the texts that a sharded decoder writes; one alone is streamed."""
    from shardwright.generate.prompts import check_words, read_prompts
    from shardwright.generate.sampling import Sampling
    from shardwright.generate.text import check_generates, write_text
    from shardwright.generate.writing import TextRequest
    from shardwright.package.manifest import read_manifest
    from shardwright.run.launch import launch

    if bool(prompt) == (prompts is not None):
        raise InputError(
            "a text goes on from a prompt: give it with --prompt, or a file of prompts with --prompts, not both"
        )
    manifest = read_manifest(package)
    decoder = check_generates(manifest, package)
    sampling = Sampling(temperature, top_p, seed)
    given = read_prompts(prompts) if prompts is not None else [check_words(one) for one in prompt or ()]
    request = TextRequest(given, max_tokens, sampling, chat=not raw, stop=stop or ())
    words = str(package.resolve()), request, {"backend": backend}, "json" if as_json else "text"
    how = {"timeout_s": timeout, "threads": threads, "transport": transport}
    _tell_rate(launch(manifest.num_ranks, write_text, *words, **how)[0], decoder.batch)


def _tell_rate(found: "Written", batch: int) -> None:
    written = sum(len(text.ids) for text in found.texts)
    if len(found.texts) > 1:
        rate = f"{written / found.seconds:.1f} tokens/s"
        of = f"{len(found.texts)} texts of {written} tokens, up to {batch} texts at a time"
        err.print(f"{of}, in {found.seconds:.2f} s: {rate}", style="dim")
        return
    text = found.texts[0]
    prefill = f"{len(text.prompt_ids)} prompt tokens in {text.prefill_s:.2f} s"
    rate = f", {text.tokens_per_s:.1f} tokens/s" if text.tokens_per_s is not None else ""
    err.print(f"{prefill}, {written} written{rate}", style="dim")
