"""Memory and time of sharding a checkpoint on read: a Llama-shaped model of several gigabytes with random weights.

The checkpoint is written on the spot in files of half a gigabyte, then sharded by the command line in a process of its
own, whose peak resident memory is measured (as the kernel counts it, mapped pages of the files included). An
interpreter that only imports what the command imports is measured beside it. The same is done with projections packed
as 8-bit floats with a scale for each block of 128 × 128, and with a GGUF file in blocks, kept packed. Run: ``make
bench-checkpoint``.
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

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES
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


FORMS = ("bfloat16", "fp8 in blocks", "GGUF")

BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def write_checkpoint(folder, layers, form):
    """A checkpoint of ``layers`` layers as Hugging Face lays it out, bfloat16 or with packed projections; its bytes and
    its largest tensor's.
    """
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
        **({} if form == "bfloat16" else {"quantization_config": BLOCKS}),
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
    files, held, size, sizes = [], {}, 0, []
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator)
        if form == "bfloat16" or "_proj" not in name:
            held[name] = weight.to(torch.bfloat16)
        else:
            held[name] = weight.to(torch.float8_e4m3fn)
            held[f"{name}_scale_inv"] = torch.ones(shape[0] // 128, shape[1] // 128)
        sizes.append(held[name].nbytes)
        size += sizes[-1]
        if size > 2**29 or name == list(shapes)[-1]:
            files.append((f"model-{len(files) + 1:05d}.safetensors", list(held)))
            save_file(held, folder / files[-1][0], metadata={"format": "pt"})
            held, size = {}, 0
    index = {"metadata": {}, "weight_map": {name: file for file, names in files for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sum(sizes), max(sizes)


def write_gguf(file, layers, kind=gguf.GGMLQuantizationType.Q4_K):
    """The same model as a GGUF file of blocks; its bytes and its largest tensor's."""
    width, hidden, kv, vocab = 2048, 8192, 512, 128256
    shapes = {"token_embd": (vocab, width), "output": (vocab, width)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.attn_{name}": (width, width) for name in ("q", "output")}
        shapes |= {f"blk.{layer}.attn_{name}": (kv, width) for name in "kv"}
        shapes |= {f"blk.{layer}.ffn_{name}": (hidden, width) for name in ("gate", "up")}
        shapes |= {f"blk.{layer}.ffn_down": (width, hidden)}
    norms = [f"blk.{layer}.{name}_norm" for layer in range(layers) for name in ("attn", "ffn")]
    writer = gguf.GGUFWriter(file, "llama", use_temp_file=True)
    writer.add_name("random")
    for add, number in (
        (writer.add_context_length, 8192),
        (writer.add_embedding_length, width),
        (writer.add_block_count, layers),
        (writer.add_feed_forward_length, hidden),
        (writer.add_head_count, 32),
        (writer.add_head_count_kv, 8),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_rope_dimension_count, 64),
        (writer.add_vocab_size, vocab),
    ):
        add(number)
    writer.add_tokenizer_model("gpt2")
    # A merge is of two tokens that there are, into one that there is.
    writer.add_token_list(["t", "1", *(f"t{number}" for number in range(vocab - 2))])
    writer.add_token_merges(["t 1"])
    block, num_bytes = GGML_QUANT_SIZES[kind]
    draw, sizes = np.random.default_rng(0), []
    for name, (rows, columns) in shapes.items():
        data = draw.integers(0, 256, (rows, columns // block * num_bytes), dtype=np.uint8)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
        sizes.append(data.nbytes)
    for name in ["output_norm", *norms]:
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sum(sizes), max(sizes)


def peak_of(folder, *words):
    """Run a module in a Python process; its peak resident bytes and seconds."""
    report, start = folder / "status", time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", RUNNER, report, *words]
    subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, check=True)
    peak_kib = re.search(r"VmHWM:\s+(\d+) kB", report.read_text())[1]
    return int(peak_kib) * 1024, time.perf_counter() - start


def stored_bytes(checkpoint, layer, part):
    """The name that a projection has in a package, and its bytes in the checkpoint (rows, bytes)."""
    name = f"model.layers.{layer}.mlp.{part}_proj.weight"
    if checkpoint.is_file():
        (own,) = (one for one in gguf.GGUFReader(checkpoint).tensors if one.name == f"blk.{layer}.ffn_{part}.weight")
        return f"{name}_gguf", torch.from_numpy(own.data.copy())
    weight_map = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    with safe_open(checkpoint / weight_map[name], framework="pt") as file:
        return name, file.get_tensor(name).view(torch.uint8)


def compare(checkpoint, package):
    """Whether every rank's row-cut and column-cut pieces are the checkpoint's bytes (two tensors a kind)."""
    ranks = sorted(package.glob("weights-*"))
    for layer, part, dim in ((0, "up", 0), (1, "down", 1)):
        name, whole = stored_bytes(checkpoint, layer, part)
        pieces = []
        for rank in ranks:
            with safe_open(rank, framework="pt") as file:
                pieces.append(file.get_tensor(name).view(torch.uint8).flatten(1))
        if not torch.equal(torch.cat(pieces, dim), whole):
            raise SystemExit(f"{name} is not what the checkpoint holds")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=FORMS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shard_checkpoint.json"))
    options = parser.parse_args()
    console = Console(stderr=True, highlight=False, width=120)
    facts = {"torch": str(torch.__version__), "python": sys.version.split()[0], "layers": options.layers}
    rows = []
    for form in options.forms:
        rows += measure(console, form, options)
        # What took minutes is kept, whatever becomes of the next.
        options.output.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    Table("Sharding a checkpoint on read", tuple(rows[0]), [tuple(row.values()) for row in rows]).show(console)


def measure(console, form, options):
    """A row for each number of ranks."""
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="shard-checkpoint-") as name:
        checkpoint, package = Path(name) / "model", Path(name) / "package"
        with console.status("writing the checkpoint"):
            if form == "GGUF":
                checkpoint = checkpoint.with_suffix(".gguf")
                model_bytes, largest_bytes = write_gguf(checkpoint, options.layers)
            else:
                checkpoint.mkdir()
                model_bytes, largest_bytes = write_checkpoint(checkpoint, options.layers, form)
        imports_bytes, _ = peak_of(Path(name), "shardwright.sources.hugging_face.recipes")
        for ranks in options.ranks:
            with console.status(f"sharding {format_bytes(model_bytes)} for {ranks} ranks"):
                words = ("shardwright", "shard", checkpoint, "--tp", ranks, "-o", package)
                words += ("--packed",) if form == "GGUF" else ()
                peak_bytes, seconds = peak_of(Path(name), *words)
            compare(checkpoint, package)
            rank_bytes = max(file.stat().st_size for file in package.glob("weights-*"))
            shutil.rmtree(package)
            rows.append(
                {
                    "form": form,
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
    return rows


if __name__ == "__main__":
    main()
