"""The demo of text: SmolLM2-135M-Instruct, sharded on read for 1, 2 and 3 ranks, writes on real processes.

Its 9 query heads and 3 key-value heads are cut unevenly on 2 ranks. What the ranks write is held against the unsharded
model, which transformers loads and runs by itself.
"""

import os
import shutil
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore", category=FutureWarning)

import torch
from rich.table import Table
from smollm2 import find_weights, load_original
from steps import console, timed

import shardwright as sw
from shardwright.generate.text import write_text
from shardwright.generate.writing import Text, TextRequest
from shardwright.run.launch import launch
from shardwright.sources.checkpoint import open_checkpoint

OUT = Path(__file__).parent / "out"
NUM_TOKENS = 40
PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in one sentence why the sky is blue.",
    "List the first five prime numbers.",
    "Translate 'good morning' into Spanish.",
]


def original_text(model: torch.nn.Module, prompt: list[int], end_ids: list[int]) -> tuple[list[int], float, int]:
    """The unsharded model's greedy answer by transformers' own generation; the seconds after its first token, and the
    steps that they are for.
    """
    ids = torch.tensor([prompt])
    settings = {"do_sample": False, "eos_token_id": end_ids, "pad_token_id": end_ids[0]}
    seconds = []
    for count in (1, NUM_TOKENS):
        start = time.perf_counter()
        with torch.no_grad():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **settings)
        seconds.append(time.perf_counter() - start)
    answer = found[0, len(prompt) :].tolist()
    text = answer[:-1] if answer and answer[-1] in end_ids else answer
    return text, seconds[1] - seconds[0], len(answer) - 1


def steps_of(text: Text) -> int:
    """The steps after the first token: an answer that ends early took one more, which gave its end."""
    return len(text.ids) - (len(text.ids) == NUM_TOKENS)


def show_times(texts: dict[int, list[Text]], wanted: list[tuple[list[int], float, int]]) -> None:
    """Print what a token takes after the prompt, on average over the answers."""
    times = {"transformers": sum(seconds for _, seconds, _ in wanted) / sum(steps for _, _, steps in wanted)}
    for num_ranks, found in texts.items():
        name = f"{num_ranks} rank{'s' if num_ranks > 1 else ''}"
        times[name] = sum(text.decode_s for text in found) / sum(map(steps_of, found))
    threads = os.environ.get("OMP_NUM_THREADS", "any number of")
    shown = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in times.items())
    console.print(f"a token takes ({threads} thread a process): {shown}")


def main() -> None:
    """The whole show."""
    file = find_weights()
    opened = timed(f"open {file.name}: build without weights, export", lambda: open_checkpoint(file, cache_length=512))
    OUT.mkdir(exist_ok=True)
    texts: dict[int, list[Text]] = {}
    for num_ranks in (1, 2, 3):
        package = OUT / f"smollm2-{num_ranks}"
        shutil.rmtree(package, ignore_errors=True)
        timed(
            f"shard for {num_ranks} and stream the weights",
            lambda n=num_ranks, to=package: opened.save(sw.shard(opened.exported, mesh=n), to),
        )
        request = TextRequest(PROMPTS, NUM_TOKENS)
        found = timed(
            f"write {len(PROMPTS)} answers on {num_ranks} real processes",
            lambda n=num_ranks, to=package, asked=request: launch(n, write_text, str(to), asked, {"transport": "auto"}),
        )
        texts[num_ranks] = found[0].texts
    model = timed("load the unsharded model with transformers", lambda: load_original(file))
    end_ids = opened.decoder.end_ids
    wanted = timed("write with it", lambda: [original_text(model, text.prompt_ids, end_ids) for text in texts[1]])
    table = Table(title="Greedy text, token for token", title_justify="left", show_edge=False)
    for column in ("prompt", "answer", "tokens", "1 rank", "2 ranks", "3 ranks"):
        table.add_column(column)
    equal = True
    for number, (ids, _, _) in enumerate(wanted):
        marks = [texts[num_ranks][number].ids == ids for num_ranks in texts]
        equal &= all(marks)
        cells = ("[green]equal[/green]" if mark else "[red]differs[/red]" for mark in marks)
        table.add_row(PROMPTS[number], texts[1][number].text, str(len(ids)), *cells)
    console.print()
    console.print(table)
    if not equal:
        raise SystemExit("the sharded model writes another text than the original")
    console.print("every rank count writes what the unsharded model writes")
    show_times(texts, wanted)
    console.print(f"[dim]try: {Path(sys.executable).parent / 'shardwright'} generate {package} --prompt '…'[/dim]")


if __name__ == "__main__":
    main()
