"""A decode step of a Llama whose linear layers are int8, beside its bfloat16 self, on the ranks of this machine.

By both roads in: programs exported from torchao's model, and decoders streamed from the checkpoint that transformers
saves of it. Beside them the whole model under ``torch.compile``, without Shardwright, on every rank by itself: what
int8 gains there is what there is to gain. Every rank holds all contenders and calls them in turn, so that what else the
machine does falls on all alike. A figure is the median over the rounds on the slower rank, in milliseconds, with the
quartiles beside it.

Run: ``python -m benchmarks.quantised``; ``--work FOLDER`` keeps models and packages for the next run; ``--processor``
counts the processor time of the thread that calls instead of time passed, for a machine that does other things: with
``--transport gloo``, as ranks on shared memory compute while they wait.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from torchao.quantization import Int8WeightOnlyConfig, quantize_

import shardwright as sw
from benchmarks.step import CONFIG, Body, facts, show, summary, write
from shardwright.run.launch import launch

KINDS = {"bfloat16": None, "int8": lambda: Int8WeightOnlyConfig(set_inductor_config=False)}
BACKENDS = {"compile": "compiled", "aoti": "AOTInductor"}
ROADS, WHOLE = ("program", "decoder"), "whole model"
SEEN, CACHE_LENGTH = 64, 128


def opened_model(folder, config):
    """The whole model in bfloat16, its linear layers quantised by torchao where a configuration says how."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    if config is not None:
        quantize_(model.model, config())
    return model


def prepare(folder, num_ranks, backends, roads):
    """Leave the checkpoints and packages in a folder, unless they are there; compiled for the backends that need it."""
    plain = folder / "model"
    if not plain.exists():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**{**CONFIG, "use_cache": True}, dtype=torch.bfloat16)
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(plain)
    for kind, config in KINDS.items():
        saved = folder / f"{kind}-saved"
        if not saved.exists() and "decoder" in roads:
            how = {} if config is None else {"quantization_config": transformers.TorchAoConfig(config())}
            transformers.LlamaForCausalLM.from_pretrained(plain, dtype=torch.bfloat16, **how).save_pretrained(saved)
        program, decoder = folder / f"{kind}-program", folder / f"{kind}-decoder"
        if not program.exists() and "program" in roads:
            body = Body(opened_model(plain, config).model)
            with torch.no_grad():
                exported = torch.export.export(body, (torch.zeros(1, 1, dtype=torch.long),))
            sw.shard(exported, mesh=num_ranks, plan="hf").save(program)
        if not decoder.exists() and "decoder" in roads:
            sw.shard_checkpoint(saved, decoder, mesh=num_ranks, plan="hf", cache_length=CACHE_LENGTH)
        for path in (program, decoder):
            if "aoti" in backends and path.exists() and not (path / "compiled").exists():
                sw.compile_package(path)


def contenders(folder, backends, roads, transport):
    """Name → a function of nothing that takes one step."""
    id_, seen = torch.full((1, 1), 7), torch.ones(1, SEEN + 1, dtype=torch.long)
    found = {}
    for backend in backends:
        for road in roads:
            for kind in KINDS:
                called = sw.load(folder / f"{kind}-{road}", backend=backend, transport=transport)
                name = f"{kind} {road}, {BACKENDS[backend]}"
                if road == "program":
                    found[name] = lambda called=called: called(id_)
                else:
                    called(input_ids=id_.expand(1, SEEN).clone(), attention_mask=seen[:, :-1])
                    found[name] = lambda called=called: called(input_ids=id_, attention_mask=seen)
    for kind, config in KINDS.items() if "compile" in backends else ():
        whole = torch.compile(Body(opened_model(folder / "model", config).model))
        found[f"{kind} {WHOLE}, compiled"] = lambda whole=whole: whole(id_)
    return found


def measure(folder, backends, roads, rounds, transport, processor):
    """Seconds of every call by contender, on this rank."""
    torch.set_num_threads(1)
    clock = time.thread_time if processor else time.perf_counter
    with torch.no_grad():
        found = contenders(folder, backends, roads, transport)
        seconds = {name: [] for name in found}
        for turn in range(rounds + 3):
            for name, call in found.items():
                dist.barrier()
                start = clock()
                call()
                if turn >= 3:
                    seconds[name].append(clock() - start)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--backends", nargs="+", choices=list(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--roads", nargs="+", choices=ROADS, default=ROADS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--work", type=Path, help="where to keep the models and the packages")
    parser.add_argument("--transport", choices=["shared_memory", "gloo"], default="shared_memory")
    parser.add_argument("--processor", action="store_true", help="count processor time, not time passed")
    parser.add_argument("--prepare", action="store_true", help="make what --work keeps, and measure nothing")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/quantised.json"))
    options = parser.parse_args()
    found = {**facts(options, "quantised", CONFIG), "transport": options.transport, "steps": {}}
    found["counts"] = "processor time" if options.processor else "time passed"
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        prepare(work, options.ranks, options.backends, options.roads)
        if options.prepare:
            return
        how = (options.backends, options.roads, options.rounds, options.transport, options.processor)
        ranks = list(launch(options.ranks, measure, work, *how, threads=1).values())
    for road in (*options.roads, WHOLE):
        for backend in options.backends:
            names = [name for name in ranks[0] if f" {road}, {BACKENDS[backend]}" in name]
            if not names:
                continue
            rows = summary([{name: one[name] for name in names} for one in ranks], reference=names[0])
            found["steps"] |= rows
            show(f"One token of a {road} on {options.ranks} ranks", rows, reference=names[0])
    write(found, options.output)


if __name__ == "__main__":
    main()
