"""What one model gives: built, exported, sharded, simulated, run on two processes, compared with the original."""

import importlib
import tempfile
import time
import warnings
import zlib
from unittest import mock

import torch
from torch.distributed.launcher.api import elastic_launch
from torch.utils import _pytree as pytree

import shardwright as sw
from evals.wild.entry import Entry
from evals.wild.exporting import OPEN, export, larger
from evals.wild.models import entries
from evals.wild.torchvision_parts import declare
from evals.zoo.build import failure, redraw
from evals.zoo.measure import one_run, try_export
from evals.zoo.results import one_line
from shardwright.compiler.verify import relative_error
from shardwright.run import launch as launching

MOST_PARAMETERS = 40_000_000
EVERY = 3
"""One model of so many also runs on two processes."""
PROCESSES = 2
SEED = 3
"""Some models draw random numbers to hash with, or noise."""
ALLOWED = 1e-4


def measure(kind, runs, emit):
    """Emit one record for each run, or one that says why there is none; ``emit`` also hears of each stage begun."""
    warnings.filterwarnings("ignore")
    known = entries()
    entry = known[kind.name]
    facts = {"package": entry.package, "torch": str(torch.__version__)}
    emit({"stage": "build", **facts})
    start = time.perf_counter()
    try:
        declare()
        model, inputs = built(entry)
    except Exception as error:  # noqa: BLE001 - whatever a package raises is the finding
        emit({"verdict": "not buildable", "reason": one_line(error), **facts})
        return
    facts |= {"parameters": sum(p.numel() for p in model.parameters()), "build_s": _since(start)}
    exported, facts = try_export(export, model, inputs, facts, emit)
    if exported is None:
        return
    facts |= {"way": exported.way}
    wanted = on_two(kind.name)
    for run in runs:
        emit({"stage": "shard", "run": (run.plan, run.num_ranks), **facts})
        further = [lambda sharded: other_batch(sharded, exported)] if exported.way == OPEN else []
        if wanted and run.num_ranks == PROCESSES:
            begun = {"stage": "run on processes", "run": (run.plan, run.num_ranks), **facts}
            further.append(lambda sharded, begun=begun: emit(begun) or on_processes(sharded, exported))
        found = one_run(model, exported, run.plan, run.num_ranks, export, further)
        emit({**found, "run": (run.plan, run.num_ranks), **facts})


def on_two(name):
    """Whether a model is one that runs on processes: by its name alone, so that others may join the list."""
    return zlib.crc32(name.encode()) % EVERY == 0


def built(entry: Entry):
    """A model in eval mode with weights drawn anew, and inputs it runs with."""
    model, inputs = entry.build()
    size = sum(p.numel() for p in model.parameters())
    if not 0 < size <= MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters")
    model = redraw(model.float()).eval()
    if problem := failure(model, inputs):
        raise problem if isinstance(problem, Exception) else ValueError(problem)
    return model, inputs


def other_batch(sharded, exported):
    """The same comparison with one more row, where the program takes that."""
    inputs = larger(exported.program, exported.inputs)
    try:
        with torch.no_grad():
            exported.program.module()(**inputs)
    except Exception:  # noqa: BLE001 - it may need multiples, say
        return {"other_batch": "not taken"}
    report = sw.verify(sharded, exported.program, (), inputs)
    if not report.ok:
        return {"verdict": "wrong", "other_batch": "wrong", "reason": one_line(report)}
    return {"other_batch": "right"}


def on_processes(sharded, exported):
    """What two processes give that load the package from disk, against the original; all of them seeded alike."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        wanted = pytree.tree_leaves(exported.program.module()(**exported.inputs))
    with tempfile.TemporaryDirectory() as folder:
        sharded.save(f"{folder}/package")
        modules = modules_of(exported.program)
        with mock.patch.object(launching, "elastic_launch", forked):
            got = launching.launch(PROCESSES, outputs_of, f"{folder}/package", exported.inputs, modules, threads=1)
    pairs = [
        (w, torch.from_numpy(g)) for one in got.values() for w, g in zip(wanted, one, strict=True) if g is not None
    ]
    error = max(relative_error(g, w.detach()) for w, g in pairs)
    if error > ALLOWED:
        return {"verdict": "wrong", "reason": f"two processes differ by {error:.1e}", "processes_error": error}
    return {"processes_error": error}


def forked(config, entrypoint):
    """`elastic_launch`, whose ranks are forked from this process, as importing torch takes them longer than running."""
    config.start_method = "fork"
    return elastic_launch(config, entrypoint)


def modules_of(program):
    """The modules of the classes that a program takes and gives, which tell PyTorch of them when imported."""
    specs, found = [program.call_spec.in_spec, program.call_spec.out_spec], set()
    while specs:
        spec = specs.pop()
        specs += spec.children()
        found.add(getattr(spec.type, "__module__", "builtins"))
    return sorted(found)


def outputs_of(folder, inputs, modules):
    """On a rank: the flat outputs as arrays; None for what is no tensor. ``modules``: imported beforehand."""
    declare()
    for name in modules:
        importlib.import_module(name)
    model = sw.load(folder)
    torch.manual_seed(SEED)
    with torch.no_grad():
        outputs = pytree.tree_leaves(model(**inputs))
    return [one.numpy() if isinstance(one, torch.Tensor) else None for one in outputs]


def _since(start):
    return round(time.perf_counter() - start, 2)
