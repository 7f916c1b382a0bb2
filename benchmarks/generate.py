"""Time a token of a sharded decoder against transformers' own generation, on real processes of this machine.

A decoder of SmolLM2-135M's shape with drawn weights writes greedy text after a short prompt and after a long one: by
transformers on the first rank, by ranks that are eager, under `torch.compile` and compiled ahead of time. All take
turns in the same processes, a thread each, so that what else the machine does falls on all alike; figures are medians
over the rounds, without prefill. All must write the same tokens. Run: ``python -m benchmarks.generate``; ``--work
FOLDER`` keeps the model and the packages for the next run.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from rich.console import Console

import shardwright as sw
from shardwright.report.tables import Table
from shardwright.run.launch import launch
from shardwright.sources.checkpoint import open_checkpoint

os.environ.setdefault("SHARDWRIGHT_TRANSPORT", "auto")

CONFIG = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
}
NUM_TOKENS = 40
PROMPT_LENGTHS = (40, 1000)


class Clock(transformers.generation.streamers.BaseStreamer):
    """Notes when transformers gives each token; the prompt comes first."""

    def __init__(self):
        self.times = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def by_transformers(model, prompt):
    """The tokens that transformers writes, and when each came."""
    clock, ids = Clock(), torch.tensor([prompt])
    how = {"do_sample": False, "max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS, "pad_token_id": 0}
    with torch.no_grad():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), streamer=clock, **how)
    return found[0, len(prompt) :].tolist(), clock.times[1:]


def by_ranks(model, prompt):
    """The tokens that the ranks write, and when each came."""
    ids, times = [], []
    for number in sw.generate(model, prompt, max_new_tokens=NUM_TOKENS):
        times.append(time.perf_counter())
        ids.append(number)
    return ids, times


def measure(original, package, backends, rounds, must_agree):
    """Milliseconds a token of every round, by contender and length of the prompt; on every rank."""
    torch.set_num_threads(1)
    contenders = {}
    if not dist.is_initialized() or dist.get_rank() == 0:
        whole = transformers.AutoModelForCausalLM.from_pretrained(original, attn_implementation="sdpa").eval()
        contenders["transformers"] = lambda prompt: by_transformers(whole, prompt)
    for backend in backends:
        opened = sw.load(package, backend=backend)
        contenders[backend] = lambda prompt, opened=opened: by_ranks(opened, prompt)
    found = {}
    for round_ in range(rounds + 1):
        for length in PROMPT_LENGTHS:
            generator = torch.Generator().manual_seed(length)
            prompt = torch.randint(3, CONFIG["vocab_size"], (length,), generator=generator).tolist()
            texts = {}
            for name in ("transformers", *backends):
                if name in contenders:
                    texts[name], times = contenders[name](prompt)
                    if round_:
                        found.setdefault((name, length), []).append(1e3 * (times[-1] - times[0]) / (NUM_TOKENS - 1))
                # The other ranks wait here for what only the first one does.
                if dist.is_initialized():
                    dist.barrier()
            if must_agree and len({tuple(text) for text in texts.values()}) != 1:
                raise SystemExit(f"the contenders write different texts after {length} tokens: {texts}")
    return found


def rows_of(num_ranks, found):
    """A line for every contender and length of the prompt."""
    for (name, length), times in found.items():
        median = statistics.median(times)
        yield {
            "ranks": num_ranks,
            "contender": name,
            "prompt": length,
            "ms_a_token": round(median, 1),
            "least_ms": round(min(times), 1),
            "most_ms": round(max(times), 1),
            "to_transformers": round(median / statistics.median(found["transformers", length]), 2),
        }


def make_model(folder, dtype):
    """A checkpoint with drawn weights, unless the folder holds it."""
    if not folder.exists():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**CONFIG)
        transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)


def make_packages(folder, ranks, ahead):
    """Packages of the checkpoint for these numbers of ranks, unless the folder holds them; ``ahead``: compiled."""
    missing = [num_ranks for num_ranks in ranks if not (folder / str(num_ranks)).exists()]
    if missing:
        opened = open_checkpoint(folder / "model")
        for num_ranks in missing:
            opened.save(sw.shard(opened.exported, mesh=num_ranks), folder / str(num_ranks))
    for num_ranks in ranks:
        if ahead and not (folder / str(num_ranks) / "compiled").exists():
            sw.compile_package(folder / str(num_ranks))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--backends", nargs="*", default=["eager", "compile", "aoti"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--work", type=Path, help="where to keep the model and the packages, of one dtype")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/generate.json"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_model(folder / "model", options.dtype)
        make_packages(folder, options.ranks, "aoti" in options.backends)
        for num_ranks in options.ranks:
            given = (folder / "model", folder / str(num_ranks), options.backends, options.rounds)
            found = launch(num_ranks, measure, *given, options.dtype == "float32", timeout_s=3600)[0]
            rows += rows_of(num_ranks, found)
            Table("Writing text", tuple(rows[0]), [tuple(row.values()) for row in rows]).show(Console(width=120))
    facts = {
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "transport": os.environ["SHARDWRIGHT_TRANSPORT"],
        "dtype": options.dtype,
        "rounds": options.rounds,
        "tokens": NUM_TOKENS,
        "decoder": CONFIG,
        "rows": rows,
    }
    options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
