"""Memory and time of sharding a checkpoint on read: a Llama-shaped model of several gigabytes with random weights.

The checkpoint is written on the spot in files of half a gigabyte, then sharded by the command line in a process of its
own, whose peak resident memory is measured (as the kernel counts it, mapped pages of the files included). An
interpreter that only imports what the command imports is measured beside it. Run: ``make bench-checkpoint``.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig

from shardwright.page.words import format_bytes
from shardwright.report.tables import Table

# ru_maxrss would count this process, from which the measured one was forked; VmHWM starts with the new program.
RUNNER = """
import atexit, runpy, sys
from pathlib import Path
report = Path(sys.argv.pop(1))
atexit.register(lambda: report.write_text(Path("/proc/self/status").read_text()))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def write_checkpoint(folder, layers):
    """A bfloat16 checkpoint of ``layers`` layers as Hugging Face lays it out; its bytes and its largest tensor's."""
    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    width, hidden, kv, vocab = 2048, 8192, 512, 128256
    shapes = {
        "model.embed_tokens.weight": (vocab, width),
        "lm_head.weight": (vocab, width),
        "model.norm.weight": (width,),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (width, width) for name in "qo"}
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (kv, width) for name in "kv"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (hidden, width) for name in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (width, hidden)}
        shapes |= {f"{at}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    files, held, size = [], {}, 0
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        held[name] = torch.randn(shape, generator=generator).to(torch.bfloat16)
        size += held[name].nbytes
        if size > 2**29 or name == list(shapes)[-1]:
            files.append((f"model-{len(files) + 1:05d}.safetensors", list(held)))
            save_file(held, folder / files[-1][0], metadata={"format": "pt"})
            held, size = {}, 0
    index = {"metadata": {}, "weight_map": {name: file for file, names in files for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    sizes = [2 * torch.Size(shape).numel() for shape in shapes.values()]
    return sum(sizes), max(sizes)


def peak_of(folder, *words):
    """Run a module in a Python process; its peak resident bytes and seconds."""
    report, start = folder / "status", time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", RUNNER, report, *words]
    subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, check=True)
    peak_kib = re.search(r"VmHWM:\s+(\d+) kB", report.read_text())[1]
    return int(peak_kib) * 1024, time.perf_counter() - start


def compare(checkpoint, package):
    """Whether every rank's row-cut and column-cut pieces are the checkpoint's bytes (two tensors a kind)."""
    weight_map = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    ranks = sorted(package.glob("weights-*"))
    for name, dim in (("model.layers.0.mlp.up_proj.weight", 0), ("model.layers.1.mlp.down_proj.weight", 1)):
        with safe_open(checkpoint / weight_map[name], framework="pt") as file:
            whole = file.get_tensor(name)
        pieces = []
        for rank in ranks:
            with safe_open(rank, framework="pt") as file:
                pieces.append(file.get_tensor(name))
        if not torch.equal(torch.cat(pieces, dim), whole):
            raise SystemExit(f"{name} is not what the checkpoint holds")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shard_checkpoint.json"))
    options = parser.parse_args()
    console = Console(stderr=True, highlight=False, width=120)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="shard-checkpoint-") as name:
        checkpoint, package = Path(name) / "model", Path(name) / "package"
        checkpoint.mkdir()
        with console.status("writing the checkpoint"):
            model_bytes, largest_bytes = write_checkpoint(checkpoint, options.layers)
        imports_bytes, imports_s = peak_of(Path(name), "shardwright.sources.hugging_face.recipes")
        for ranks in options.ranks:
            with console.status(f"sharding {format_bytes(model_bytes)} for {ranks} ranks"):
                words = ("shardwright", "shard", checkpoint, "--tp", ranks, "-o", package)
                peak_bytes, seconds = peak_of(Path(name), *words)
            compare(checkpoint, package)
            rank_bytes = max(file.stat().st_size for file in package.glob("weights-*"))
            shutil.rmtree(package)
            rows.append(
                {
                    "ranks": ranks,
                    "model_bytes": model_bytes,
                    "largest_tensor_bytes": largest_bytes,
                    "largest_rank_bytes": rank_bytes,
                    "imports_alone_bytes": imports_bytes,
                    "peak_bytes": peak_bytes,
                    "peak_over_model": round(peak_bytes / model_bytes, 3),
                    "peak_beyond_imports_over_largest_tensor": round((peak_bytes - imports_bytes) / largest_bytes, 2),
                    "seconds": round(seconds, 1),
                }
            )
    Table("Sharding a checkpoint on read", tuple(rows[0]), [tuple(row.values()) for row in rows]).show(console)
    facts = {"torch": str(torch.__version__), "python": sys.version.split()[0], "imports_s": round(imports_s, 1)}
    options.output.write_text(json.dumps({**facts, "layers": options.layers, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
