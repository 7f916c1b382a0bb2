"""``shardwright generate``."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from shardwright.cli.console import err, print_text
from shardwright.cli.options import AsJson, Backend, Package, Threads, Timeout, Transport


def generate(
    package: Package,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to go on from, or to answer.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to write.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that together reach this.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal tokens.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Go on from the prompt itself, no chat template.")] = False,
    timeout: Timeout = 600.0,
    backend: Backend = "eager",
    transport: Transport = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Launch local ranks and stream the text that a sharded decoder writes."""
    from shardwright.generate.sampling import Sampling
    from shardwright.generate.text import TextRequest, check_generates, write_text
    from shardwright.package.manifest import read_manifest
    from shardwright.run.launch import launch

    manifest = read_manifest(package)
    check_generates(manifest, package)
    sampling = Sampling(temperature, top_p, seed)
    request = TextRequest(prompt, max_tokens, sampling, chat=not raw, stream=not as_json)
    words = str(package.resolve()), [request], {"backend": backend}
    how = {"timeout_s": timeout, "threads": threads, "transport": transport}
    found = launch(manifest.num_ranks, write_text, *words, **how)[0][0]
    if as_json:
        print_text(json.dumps(asdict(found), indent=2))
        return
    rate = f"{(len(found.ids) - 1) / found.decode_s:.1f} tokens/s" if len(found.ids) > 1 else ""
    prefill = f"{len(found.prompt_ids)} prompt tokens in {found.prefill_s:.2f} s"
    err.print(f"{prefill}, {len(found.ids)} written {rate}", style="dim")
