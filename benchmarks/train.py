"""Loss and gradients of a Llama on ranks of this machine: ours, written by hand, by DTensor, and one process.

Measured as `benchmarks.step` measures a forward pass: every rank holds all contenders and calls them in turn. A call is
the forward pass, the loss (of next tokens) and the backward pass, from no gradients; the optimiser that follows is the
same code on the same pieces for all. All give the loss and the norm of the gradients of the whole model. The head is
whole on every rank, of all contenders.

Then what compiling takes: the joint program of a Llama of 80 layers on the meta device (hidden 8192, 128 tokens), read,
sharded by Megatron's plan for 8 ranks and its first rank's program written, against exporting it (`export_training`),
in turn, in seconds of processor time.

Run: ``python -m benchmarks.train``; ``--work FOLDER`` keeps the packages for the next run, ``--only compiling`` or
``--only steps`` measures one of both and leaves the other's figures in the file as they are.
"""

import argparse
import copy
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from torch import nn
from torch.distributed.tensor import DTensor

import shardwright as sw
from benchmarks.hand_written import COLUMNS, ROWS, HandWritten
from benchmarks.shard_llama import PLAN as MEGATRON_8
from benchmarks.shard_llama import llama, medians, timed
from benchmarks.step import TRANSPORTS, by_dtensor, facts, show, summary, write
from shardwright.layout.mesh import Mesh
from shardwright.run.groups import make_group_objects
from shardwright.run.launch import launch

CONFIG = {
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 2816,
    "vocab_size": 2048,
    "use_cache": False,
}
PLAN = {
    **{f"model.layers.*.**.{name}": "colwise" for name in COLUMNS},
    **{f"model.layers.*.**.{name}": "rowwise" for name in ROWS},
}
GRADIENTS = "norms of gradients"


class Logits(nn.Module):
    """A transformers model as a function of ids alone."""

    def __init__(self, model):
        super().__init__()
        self.model, self.lm_head = model.model, model.lm_head

    def forward(self, ids):
        return self.lm_head(self.model(input_ids=ids, use_cache=False).last_hidden_state)


class ByHand(nn.Module):
    """The same with hand-written layers."""

    def __init__(self, model, rank, num_ranks, group):
        super().__init__()
        self.body, self.lm_head = HandWritten(model.model, rank, num_ranks, group, trained=True), model.lm_head

    def forward(self, ids):
        return self.lm_head(self.body(ids))


def next_token(logits, target):
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def whole_model():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).train()


def inputs(length):
    ids = torch.arange(length + 1)[None] * 7 % CONFIG["vocab_size"]
    return ids[:, :-1], ids[:, 1:]


def prepare(folder, length, num_ranks):
    """Leave a package in a folder, unless it is there."""
    path = folder / f"train-{length}-{num_ranks}"
    if not path.exists():
        joint = sw.export_training(Logits(whole_model()), inputs(length), loss=next_token)
        sw.shard(joint, mesh=num_ranks, plan=PLAN).save(path)
    return path


class Call:
    """A step by autograd: the loss, with gradients left in parameters."""

    def __init__(self, model, *, compiled=False):
        self.model, self.run = model, torch.compile(model) if compiled else model

    def __call__(self, ids, target):
        loss = next_token(self.run(ids), target)
        loss.backward()
        return loss.detach()


class Ours:
    """A package's step."""

    def __init__(self, path, **how):
        self.model = self.run = sw.load(path, **how)

    def __call__(self, ids, target):
        return self.run(ids, target)


def contenders(path, num_ranks):
    """Name → what is called: by all ranks, by the first alone, and what bounds all."""
    rank, whole = dist.get_rank(), whole_model()
    groups = {name: make_group_objects(Mesh.of(num_ranks), transport=name)["tp"] for name in TRANSPORTS}
    found = {}
    for name, shown in TRANSPORTS.items():
        for compiled, kind in ((False, "eager"), (True, "compiled")):
            by_hand = ByHand(copy.deepcopy(whole), rank, num_ranks, groups[name])
            found[f"hand-written, {kind}, {shown}"] = Call(by_hand, compiled=compiled)
        for backend, kind in (("eager", "eager"), ("compile", "compiled")):
            found[f"ours, {kind}, {shown}"] = Ours(path, backend=backend, transport=name)
    split = Logits(whole_model())
    by_dtensor(split.model, num_ranks)
    found["DTensor, eager, gloo"] = Call(split)
    alone = {"one process, eager": Call(Logits(whole))}
    alone["one process, compiled"] = Call(Logits(copy.deepcopy(whole)), compiled=True)
    floors = {"floor: compute of one rank, eager": Call(ByHand(copy.deepcopy(whole), rank, num_ranks, None))}
    return groups, found, alone, floors


def norm_of(model, group):
    """The norm of all gradients, of pieces over the ranks; ``group``: None, they are whole."""
    total = torch.zeros(2, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            gradient = gradient.to_local()
        is_cut = any(f".{one}." in f".{name}." for one in (*COLUMNS, *ROWS))
        total[0 if is_cut else 1] += gradient.double().square().sum()
    if group is not None:
        cut = total[:1].clone()
        dist.all_reduce(cut, group=group)
        total[0] = cut[0]
    return total.sum().sqrt()


def measure(path, length, num_ranks, rounds):
    """Seconds of every call by contender, on this rank."""
    torch.set_num_threads(1)
    groups, found, alone, floors = contenders(path, num_ranks)
    given, beside = inputs(length), groups["shared_memory"]
    seconds = {name: [] for name in (*found, *alone, *floors)}
    wanted = [alone["one process, eager"](*given), norm_of(alone["one process, eager"].model, None)]
    for turn in range(rounds + 2):
        for name, call in {**found, **floors, **alone}.items():
            call.model.zero_grad(set_to_none=True)
            dist.barrier(group=beside)
            if name in alone and dist.get_rank() > 0:
                continue
            start = time.perf_counter()
            loss = call(*given)
            took = time.perf_counter() - start
            if turn >= 2:
                seconds[name].append(took)
            elif name not in floors:
                got = [loss, norm_of(call.model, None if name in alone else beside)]
                torch.testing.assert_close(
                    got, wanted, rtol=1e-3, atol=1e-3, msg=lambda why, name=name: f"{name}: {why}"
                )
    return seconds


def compiling(layers, rounds):
    """Medians of the seconds that a joint program takes to export and to compile, on the meta device."""
    model, ids = llama(layers)
    times = defaultdict(list)
    for _ in range(rounds):
        joint, seconds = timed(lambda: sw.export_training(model.train(), (ids, ids), loss=next_token))
        times["export"].append(seconds)
        _, seconds = timed(lambda joint=joint: sw.shard(joint, mesh=8, plan=MEGATRON_8).exported(0))
        times["compile"].append(seconds)
    found = medians(times)
    return {
        "layers": layers,
        "nodes": len(joint.graph.nodes),
        **{f"{name}_s": round(value, 3) for name, value in found.items()},
        "compile_over_export": round(found["compile"] / found["export"], 3),
    }


def stepping(options):
    """Milliseconds of a step, by contender."""
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        path = prepare(work, options.length, options.ranks)
        how = {"threads": 1, "transport": "gloo"}
        ranks = launch(options.ranks, measure, path, options.length, options.ranks, options.rounds, **how)
    return summary(list(ranks.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--layers", type=int, default=80, help="of what is compiled; default: %(default)s")
    parser.add_argument("--only", choices=("steps", "compiling"), help="default: both")
    parser.add_argument("--work", type=Path, help="where to keep the package")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/train.json"))
    options = parser.parse_args()
    found = json.loads(options.output.read_text()) if options.only and options.output.exists() else {}
    if options.only != "compiling":
        found |= {**facts(options, "train", CONFIG), "tokens": options.length, "steps": stepping(options)}
        show(f"Loss and gradients of {options.length} tokens on {options.ranks} ranks", found["steps"])
    if options.only != "steps":
        compiling(1, 1)  # imports and first-call caches are not what is measured
        found["compiling"] = compiling(options.layers, 3)
        print("a joint program:", ", ".join(f"{name} {value}" for name, value in found["compiling"].items()))
    write(found, options.output)


if __name__ == "__main__":
    main()
