"""A process for each model type: what it reports, and what is reported when it dies or takes too long."""

import contextlib
import logging
import multiprocessing as mp
import resource

from evals.zoo.agreement import agree
from evals.zoo.measure import measure
from evals.zoo.types import ModelType

TASKS = {"zoo": measure, "agreement": agree}
NO_PROGRAM = {"start": "not buildable", "build": "not buildable", "export": "not exportable"}
"""The verdict on a type whose process ends in this stage."""


def server():
    """Forks processes that have the slow imports behind them."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["evals.zoo.worker", "transformers", "highspy"])
    return context


def records(context, kind, runs, task, seconds, gib):
    """The records of one model type. ``seconds``: for each stage of it; ``gib``: of memory.

    A process that is ended in one run is started anew for the runs that are left.
    """
    left = list(runs)
    while left:
        before = len(left)
        for record in _one_process(context, kind, left, task, seconds, gib):
            yield record
            if not record["plan"]:
                return
            left = [run for run in left if (run.plan, run.num_ranks) != (record["plan"], record["num_ranks"])]
        assert len(left) < before, f"the process of {kind.name} reported nothing"


def _one_process(context, kind, runs, task, seconds, gib):
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(kind.name, kind.group, runs, task, gib, sender), daemon=True)
    process.start()
    sender.close()
    doing = {"stage": "start"}
    while True:
        if not receiver.poll(seconds):
            process.kill()
            yield _ended(kind, doing, f"more than {seconds:.0f} s in {doing['stage']}")
            break
        try:
            message = receiver.recv()
        except EOFError:
            process.join()
            if process.exitcode:
                yield _ended(kind, doing, f"the process ended with {process.exitcode} in {doing['stage']}")
            break
        if "verdict" in message:
            yield _record(kind, message.pop("run", None), message)
        else:
            doing = message
    process.join()


def _record(kind, run, facts):
    plan, num_ranks = run or ("", 0)
    return {"type": kind.name, "group": kind.group, "plan": plan, "num_ranks": num_ranks, **facts}


def _ended(kind, doing, reason):
    facts = {key: value for key, value in doing.items() if key not in ("stage", "run")}
    verdict = NO_PROGRAM.get(doing["stage"], "gave up")
    return _record(kind, doing.get("run"), {"verdict": verdict, "reason": reason, **facts})


def _work(name, group, runs, task, gib, sender):
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)  # what goes wrong is in the record; export prints whole graphs besides
    limit = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(BrokenPipeError):  # the run was stopped: nobody listens any more
        TASKS[task](ModelType(name, group), runs, sender.send)
        sender.close()
