"""Time the step of one rank of a 70B Llama's layers on one device, beside the hand-written rank and the memory's speed.

The rank is the first of eight, by itself: collectives return at once what they are given, for ours and by hand alike,
so a step is the rank's own work. All contenders take turns on the same ids; figures are medians of what the device
takes, with the quartiles beside them. The floor is the time in which the device reads the rank's weights once, at the
speed at which it copies. What ours gives is compared with what the hand-written rank gives.

Run: ``python -m benchmarks.one_rank`` on a machine with a GPU; ``--small`` tries it anywhere, at a sixteenth of the
width.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import transformers

# The import registers the backend "fake", whose collectives do nothing.
from torch.testing._internal.distributed.fake_pg import FakeStore

import shardwright as sw
from benchmarks.hand_written import HandWritten
from benchmarks.step import Body, facts, show, summary, write

CONFIG = {
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    # The table of words belongs to no layer.
    "vocab_size": 1024,
    "use_cache": False,
}
SMALLER = 16
REFERENCE = "hand-written, eager"
FLOOR = "floor: reading the weights once"
BACKENDS = {"eager": "eager", "compile": "compiled", "aoti": "AOTInductor"}


def config_of(num_layers, small):
    """The Llama's configuration; heads keep their number, and are narrower where it is small."""
    config = {**CONFIG, "num_hidden_layers": num_layers}
    if small:
        config.update({name: CONFIG[name] // SMALLER for name in ("hidden_size", "intermediate_size")})
    return transformers.LlamaConfig(**config)


def contenders(body, ids, num_ranks, folder):
    """Name → function of ids, and the bytes of the rank's weights in the layers."""
    by_hand = HandWritten(body.model, 0, num_ranks, dist.group.WORLD).eval()
    num_bytes = sum(one.nbytes for one in by_hand.layers.parameters())
    path = folder / str(ids.shape[1])
    sw.shard(torch.export.export(body, (ids,)), mesh=num_ranks, plan="hf").save(path)
    sw.compile_package(path)
    found = {REFERENCE: by_hand, "hand-written, compiled": torch.compile(by_hand)}
    for backend, kind in BACKENDS.items():
        found[f"ours, {kind}"] = sw.load(path, backend=backend, device=ids.device)
    return found, num_bytes


def wait(device):
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_of(call, device):
    wait(device)
    start = time.perf_counter()
    found = call()
    wait(device)
    return found, time.perf_counter() - start


def measure(found, num_bytes, ids, rounds):
    """Seconds of every call by contender."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=ids.device)
    target = torch.empty_like(source)
    seconds = {name: [] for name in (*found, FLOOR)}
    for turn in range(rounds + 3):
        wanted = None
        for name, call in found.items():
            got, took = seconds_of(lambda call=call: call(ids), ids.device)
            wanted = got if wanted is None else wanted
            if turn >= 3:
                seconds[name].append(took)
            else:
                torch.testing.assert_close(got, wanted, rtol=0, atol=0.05 * wanted.abs().max().item())
        # A copy reads every byte and writes it.
        _, took = seconds_of(lambda: target.copy_(source), ids.device)
        if turn >= 3:
            seconds[FLOOR].append(took / 2)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="a sixteenth of the width")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/one_rank.json"))
    options = parser.parse_args()
    device, config = torch.device(options.device), config_of(options.layers, options.small)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    found = {**facts(options, "one_rank", config.to_diff_dict()), "device": name, "steps": {}}
    dist.init_process_group("fake", rank=0, world_size=options.ranks, store=FakeStore())
    torch.manual_seed(0)
    with torch.device(device):
        body = Body(transformers.LlamaModel._from_config(config, dtype=torch.bfloat16)).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for length in options.lengths:
            ids = torch.arange(length, device=device)[None] % CONFIG["vocab_size"]
            calls, num_bytes = contenders(body, ids, options.ranks, Path(folder))
            found["steps"][str(length)] = rows = summary([measure(calls, num_bytes, ids, options.rounds)], REFERENCE)
            show(f"{length} token{'s' if length > 1 else ''}, one rank of {options.ranks}, {name}", rows, REFERENCE)
            torch.compiler.reset()
    write(found, options.output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
