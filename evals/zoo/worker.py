"""A process for each model: what it reports, and what is reported when it dies or takes too long."""

import contextlib
import logging
import multiprocessing as mp
import resource

NO_PROGRAM = {"start": "not buildable", "build": "not buildable", "export": "not exportable"}
"""The verdict on a model whose process ends in this stage."""


def server(*modules):
    """Forks processes that have the slow imports, these among them, behind them."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([*modules, "highspy"])
    return context


def records(context, kind, runs, task, seconds, gib):
    """The records of one model. ``seconds``: for each stage of it; ``gib``: of memory.

    ``task(kind, runs, emit)`` is called in the process; ``kind`` has a name and a group.

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
    process = context.Process(target=_work, args=(kind, runs, task, gib, sender))
    process.start()
    sender.close()
    try:
        yield from _heard(kind, process, receiver, seconds)
    finally:  # it may start processes itself, so it is no daemon, which would end with this one
        process.kill()
        process.join()


def _heard(kind, process, receiver, seconds):
    doing = {"stage": "start"}
    while True:
        if not receiver.poll(seconds):
            yield _ended(kind, doing, f"more than {seconds:.0f} s in {doing['stage']}")
            return
        try:
            message = receiver.recv()
        except EOFError:
            process.join()
            if process.exitcode:
                yield _ended(kind, doing, f"the process ended with {process.exitcode} in {doing['stage']}")
            return
        if "verdict" in message:
            yield _record(kind, message.pop("run", None), message)
        else:
            doing = message


def _record(kind, run, facts):
    plan, num_ranks = run or ("", 0)
    return {"type": kind.name, "group": kind.group, "plan": plan, "num_ranks": num_ranks, **facts}


def _ended(kind, doing, reason):
    facts = {key: value for key, value in doing.items() if key not in ("stage", "run")}
    verdict = NO_PROGRAM.get(doing["stage"], "gave up")
    return _record(kind, doing.get("run"), {"verdict": verdict, "reason": reason, **facts})


def _work(kind, runs, task, gib, sender):
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)  # what goes wrong is in the record; export prints whole graphs besides
    limit = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with contextlib.suppress(BrokenPipeError):  # the run was stopped: nobody listens any more
        task(kind, runs, sender.send)
        sender.close()
