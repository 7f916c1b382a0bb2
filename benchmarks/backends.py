"""Eager, torch.compile and AOTInductor: one decoding step and a prefill of a small decoder, on real processes.

Every rank opens the same package three times and calls the three in turn, so that what else the machine does falls on
all alike; figures are medians over the rounds. All must give eager's logits. Run: ``python -m benchmarks.backends``.
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

BACKENDS = ("eager", "compile", "aoti")
CONFIG = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1408,
    "vocab_size": 8192,
}
PROMPT_LENGTH, CACHE_LENGTH = 64, 256


def measure(path, rounds):
    """Seconds of every call, by backend and what is called; on every rank."""
    torch.set_num_threads(1)
    calls = {"prefill": (PROMPT_LENGTH, PROMPT_LENGTH), "step": (1, PROMPT_LENGTH + 1)}
    ids = {name: torch.full((1, tokens), 7) for name, (tokens, _) in calls.items()}
    masks = {name: torch.ones(1, seen, dtype=torch.long) for name, (_, seen) in calls.items()}
    opened = {name: sw.load(path, backend=name) for name in BACKENDS}
    seconds = {name: {call: [] for call in calls} for name in BACKENDS}
    with torch.no_grad():
        for round_ in range(rounds + 1):
            for call in calls:
                logits = {}
                for name, model in opened.items():
                    if dist.is_initialized():
                        dist.barrier()
                    start = time.perf_counter()
                    logits[name] = model(input_ids=ids[call], attention_mask=masks[call])
                    if round_:
                        seconds[name][call].append(time.perf_counter() - start)
                for name in BACKENDS:
                    torch.testing.assert_close(logits[name], logits["eager"], rtol=1e-3, atol=1e-3)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/backends.json"))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = transformers.LlamaConfig(**CONFIG)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(f"{folder}/model")
        for num_ranks in (1, 2):
            path = f"{folder}/{num_ranks}"
            sw.shard_checkpoint(f"{folder}/model", path, mesh=num_ranks, cache_length=CACHE_LENGTH)
            start = time.perf_counter()
            sw.compile_package(path)
            compile_s = time.perf_counter() - start
            found = launch(num_ranks, measure, path, options.rounds)[0]
            for call in ("step", "prefill"):
                medians = {name: statistics.median(found[name][call]) * 1e3 for name in BACKENDS}
                rows.append(
                    {
                        "ranks": num_ranks,
                        "call": call,
                        **{f"{name}_ms": round(medians[name], 2) for name in BACKENDS},
                        "compile_to_eager": round(medians["compile"] / medians["eager"], 3),
                        "aoti_to_eager": round(medians["aoti"] / medians["eager"], 3),
                        "compile_package_s": round(compile_s, 1),
                    }
                )
    Table("One call of a decoder", tuple(rows[0]), [tuple(row.values()) for row in rows]).show(Console(width=140))
    facts = {
        "torch": str(torch.__version__),
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "rounds": options.rounds,
        "decoder": CONFIG,
        "prompt_length": PROMPT_LENGTH,
        "rows": rows,
    }
    options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
