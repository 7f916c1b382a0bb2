"""Tokens a second of a sharded decoder, eager and compiled, on real processes of this machine.

The package is one that `make demo-generate` leaves (SmolLM2-135M for 3 ranks). Each backend answers a first prompt,
which compiles, then the measured ones; both must write the same tokens. Run: ``python -m benchmarks.generate PACKAGE``.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from rich.console import Console

from shardwright.generate.text import TextRequest, write_text
from shardwright.package.manifest import read_manifest
from shardwright.report.tables import Table
from shardwright.run.launch import launch

WARM_UP = "Name a colour."
PROMPTS = ["Explain in one sentence why the sky is blue.", "Write a haiku about the sea."]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/generate.json"))
    options = parser.parse_args()
    num_ranks = read_manifest(options.package).num_ranks
    requests = [TextRequest(prompt, options.tokens, stream=False) for prompt in (WARM_UP, *PROMPTS)]
    rows, texts = [], {}
    for backend in ("eager", "compile"):
        warm, *found = launch(num_ranks, write_text, str(options.package.resolve()), requests, {"backend": backend})[0]
        texts[backend] = [text.ids for text in (warm, *found)]
        rows.append(
            {
                "backend": backend,
                "ranks": num_ranks,
                "first_answer_s": round(warm.prefill_s + warm.decode_s, 2),
                "prefill_s": round(sum(text.prefill_s for text in found) / len(found), 3),
                "tokens_per_s": round(sum(len(t.ids) - 1 for t in found) / sum(t.decode_s for t in found), 2),
            }
        )
    if texts["eager"] != texts["compile"]:
        raise SystemExit("the compiled ranks write another text than the eager ones")
    Table("Generating text", tuple(rows[0]), [tuple(row.values()) for row in rows]).show(Console(width=120))
    facts = {"torch": str(torch.__version__), "python": sys.version.split()[0], "cpus": os.cpu_count(), "rows": rows}
    options.output.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
