"""One step of a Llama on ranks of this machine: ours, written by hand, by transformers and by DTensor, and one process.

Every rank holds all contenders and calls them in turn, so that what else the machine does falls on all alike. A figure
is the median over the rounds on the slower rank, in milliseconds, with the quartiles beside it. All contenders give the
numbers of the whole model. What bounds them from below is measured in the same turn: the compute of one rank without
its collectives, and the collectives alone.

Run: ``python -m benchmarks.step``; ``--work FOLDER`` keeps the packages for the next run, ``--plot FILE`` draws what
``--output`` holds.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from rich.console import Console
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers.distributed import DistributedConfig

import shardwright as sw
from benchmarks.hand_written import COLUMNS, HandWritten
from shardwright.layout.mesh import Mesh
from shardwright.program.torch_private import name_group
from shardwright.report.tables import Table
from shardwright.run.groups import compiled_group_name, make_group_objects
from shardwright.run.launch import launch

CONFIG = {
    "hidden_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 2816,
    "vocab_size": 8192,
    "use_cache": False,
}
REFERENCE = "hand-written, eager, gloo"
TRANSPORTS = {"gloo": "gloo", "shared_memory": "shared memory"}


class Body(nn.Module):
    """A transformers model as a function of ids alone: its last hidden states."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids, use_cache=False).last_hidden_state


def whole_model(folder, **how):
    return transformers.LlamaModel.from_pretrained(folder, dtype=torch.float32, **how).eval()


def prepare(folder, lengths, num_ranks):
    """Leave the model and a compiled package for every length in a folder, unless they are there."""
    if not (folder / "model").exists():
        torch.manual_seed(0)
        transformers.LlamaModel(transformers.LlamaConfig(**CONFIG)).save_pretrained(folder / "model")
    for length in lengths:
        path = folder / f"{length}-{num_ranks}"
        if not path.exists():
            exported = torch.export.export(
                Body(whole_model(folder / "model")), (torch.zeros(1, length, dtype=torch.long),)
            )
            sw.shard(exported, mesh=num_ranks, plan="hf").save(path)
        if not (path / "compiled").exists():
            sw.compile_package(path)


def by_dtensor(model, num_ranks):
    """torch's own tensor parallelism of a `LlamaModel`, on the same layers; changed in place."""
    layer = dict(model.layers[0].named_modules())
    # In one order on all ranks, which communicate while their weights are cut.
    names = [name for name, one in layer.items() if isinstance(one, nn.Linear)]
    plan = {
        f"layers.*.{name}": ColwiseParallel() if name.rpartition(".")[2] in COLUMNS else RowwiseParallel()
        for name in names
    }
    return parallelize_module(model, init_device_mesh("cpu", (num_ranks,)), plan)


def contenders(folder, length, num_ranks):
    """Name → (a function of ids, who calls it: all ranks or the first alone)."""
    rank, model = dist.get_rank(), folder / "model"
    groups = {name: make_group_objects(Mesh.of(num_ranks), transport=name)["tp"] for name in TRANSPORTS}
    whole = Body(whole_model(model))
    found = {}
    for name, group in groups.items():
        by_hand = HandWritten(whole.model, rank, num_ranks, group)
        found[f"hand-written, eager, {TRANSPORTS[name]}"] = by_hand
        found[f"hand-written, compiled, {TRANSPORTS[name]}"] = torch.compile(by_hand)
    for name, shown in TRANSPORTS.items():
        for backend, kind in (("eager", "eager"), ("compile", "compiled"), ("aoti", "AOTInductor")):
            opened = sw.load(folder / f"{length}-{num_ranks}", backend=backend, transport=name)
            found[f"ours, {kind}, {shown}"] = opened
    if importlib.util.find_spec("accelerate"):
        # Without that package transformers opens no model by a plan.
        plan = DistributedConfig(tp_plan="auto", tp_size=num_ranks)
        found["transformers tp_plan, eager, gloo"] = Body(whole_model(model, distributed_config=plan))
    found["DTensor, eager, gloo"] = Body(by_dtensor(whole_model(model), num_ranks))
    alone = {"one process, eager": whole, "one process, compiled": torch.compile(whole)}
    floors = {"floor: compute of one rank, eager": HandWritten(whole.model, rank, num_ranks, None)}
    for name, group in groups.items():
        floors[f"floor: all-reduces, {TRANSPORTS[name]}"] = all_reduces(length, group)
    return groups, found, alone, floors


def all_reduces(length, group):
    x = torch.zeros(1, length, CONFIG["hidden_size"])

    def run(ids):
        for _ in range(2 * CONFIG["num_hidden_layers"]):
            dist.all_reduce(x, group=group)
        return x

    return run


def measure(folder, length, num_ranks, rounds):
    """Seconds of every call by contender, on this rank."""
    torch.set_num_threads(1)
    groups, found, alone, floors = contenders(folder, length, num_ranks)
    ids = torch.arange(length)[None] % CONFIG["vocab_size"]
    compiled = compiled_group_name(Mesh.of(num_ranks), "tp")
    seconds = {name: [] for name in (*found, *alone, *floors)}
    with torch.no_grad():
        wanted = alone["one process, eager"](ids)
        for turn in range(rounds + 3):
            for name, call in {**found, **floors, **alone}.items():
                # Compiled code finds its group by one name, whichever transport it was loaded for.
                name_group(compiled, groups["shared_memory" if name.endswith("shared memory") else "gloo"])
                dist.barrier(group=groups["shared_memory"])
                if name in alone and dist.get_rank() > 0:
                    continue
                start = time.perf_counter()
                got = call(ids)
                took = time.perf_counter() - start
                if turn >= 3:
                    seconds[name].append(took)
                elif name not in floors:
                    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
    return seconds


def summary(ranks, reference=REFERENCE):
    """Milliseconds: the slower rank's median and quartiles, by contender, and how they compare with ``reference``."""
    found = {}
    for name in ranks[0]:
        three = [statistics.quantiles(seconds[name], n=4) for seconds in ranks if seconds[name]]
        low, median, high = max(three, key=lambda one: one[1])
        found[name] = {"median_ms": median * 1e3, "low_ms": low * 1e3, "high_ms": high * 1e3}
    for one in found.values():
        one["of_reference"] = one["median_ms"] / found[reference]["median_ms"]
    return found


def facts(options, module, config):
    return {
        "command": f"python -m benchmarks.{module} " + " ".join(sys.argv[1:]),
        "date": datetime.now().date().isoformat(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "ranks": options.ranks,
        "rounds": options.rounds,
        "threads_of_a_rank": 1,
        "config": config,
    }


def show(title, rows, reference=REFERENCE):
    shown = [
        (
            name,
            f"{row['median_ms']:.1f}",
            f"{row['low_ms']:.1f} to {row['high_ms']:.1f}",
            f"{row['of_reference']:.2f}",
        )
        for name, row in rows.items()
    ]
    Table(title, ("contender", "ms", "quartiles", f"of {reference}"), shown).show(Console(width=120))


def write(found, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def plot(source, path):
    """Bars of every contender beside each other, one picture for each length, quartiles as whiskers."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same file for the same figures, with letters as text.
    mpl.rcParams.update({"svg.hashsalt": "step", "svg.fonttype": "none"})
    from matplotlib import pyplot

    read = json.loads(source.read_text(encoding="utf-8"))
    number = len(read["steps"])
    figure, axes = pyplot.subplots(1, number, figsize=(6 * number, 6), sharey=True, squeeze=False, layout="constrained")
    for axis, (length, rows) in zip(axes[0], read["steps"].items(), strict=True):
        names = list(rows)[::-1]
        middle = [rows[name]["median_ms"] for name in names]
        spread = [
            [rows[n]["median_ms"] - rows[n]["low_ms"] for n in names],
            [rows[n]["high_ms"] - rows[n]["median_ms"] for n in names],
        ]
        colors = [
            "tab:blue" if n.startswith("ours") else "tab:gray" if n.startswith("floor") else "tab:orange" for n in names
        ]
        axis.barh(names, middle, xerr=spread, color=colors)
        axis.axvline(rows[REFERENCE]["median_ms"], color="black", linewidth=0.8, linestyle="--")
        axis.set_title(f"{length} token{'s' if length != '1' else ''}, {read['ranks']} ranks, {read['cores']} cores")
        axis.set_xlabel("ms (median of the slower rank, quartiles)")
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--work", type=Path, help="where to keep the model and the packages")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/step.json"))
    parser.add_argument("--plot", type=Path, help="draw the figures of --output into this file, and measure nothing")
    options = parser.parse_args()
    if options.plot:
        plot(options.output, options.plot)
        return
    found = {**facts(options, "step", CONFIG), "steps": {}}
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        prepare(work, options.lengths, options.ranks)
        for length in options.lengths:
            # Gloo's own threads need a core too, so ranks are not bound to any.
            how = {"threads": 1, "transport": "gloo"}
            ranks = list(launch(options.ranks, measure, work, length, options.ranks, options.rounds, **how).values())
            found["steps"][str(length)] = rows = summary(ranks)
            show(f"{length} token{'s' if length > 1 else ''} on {options.ranks} ranks", rows)
    write(found, options.output)


if __name__ == "__main__":
    main()
