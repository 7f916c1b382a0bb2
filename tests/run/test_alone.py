"""While a call runs, another thread's is refused: on real ranks their collectives would mix."""

import asyncio
import threading

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.run.alone import alone
from tests.support.ranks import on_ranks

PLAN = {"0": "colwise", "2": "rowwise"}


def in_thread(function, *args):
    """What a function gives in another thread, or the error it raises."""
    found = []

    def run():
        try:
            found.append(function(*args))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return found[0]


def hold(shared):
    with alone(shared):
        return True


def test_another_thread_is_refused_and_the_same_one_may_go_on():
    with alone("this"):
        assert hold("this")
        assert isinstance(in_thread(hold, "this"), sw.RunError)
        assert in_thread(hold, "something else") is True
        with pytest.raises(ZeroDivisionError), alone("this"):
            _ = 1 / 0
        assert isinstance(in_thread(hold, "this"), sw.RunError), "a call within the call does not end it"
    assert in_thread(hold, "this") is True


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x):
        self.total.add_(x)
        return self.total + 0


@pytest.mark.parametrize(("model", "refused"), [(Counter(), True), (nn.Linear(4, 4), False)], ids=["writes", "reads"])
def test_one_rank_refuses_only_what_would_spoil_its_buffers(tmp_path, model, refused):
    x = torch.randn(4)
    sw.shard(torch.export.export(model, (x,)), mesh=1).save(tmp_path / "p")
    module, seen = sw.load(tmp_path / "p"), []

    def meanwhile():
        if not seen:
            seen.append(None)
            seen[:] = [in_thread(module, x)]

    module.module.register_forward_hook(lambda *_: meanwhile())
    module(x)
    assert isinstance(seen[0], sw.RunError) == refused


def meet_inside(module, others, x):
    """Call ``module``; the call stands still inside until another thread was refused by each of ``others``."""
    refusals = []

    def meanwhile(*_):
        if not refusals:
            refusals.append(None)
            refusals[:] = [str(in_thread(other, x)) for other in others]

    hook = module.module.register_forward_pre_hook(meanwhile)
    try:
        return module(x), refusals
    except sw.RunError as error:
        return str(error), refusals
    finally:
        hook.remove()


async def one_after_the_other(module, other, x):
    """Tasks of one event loop, then threads of its pool, each awaited before the next."""

    async def call(called, times):
        await asyncio.sleep(0)
        return called(times * x)

    tasks = await asyncio.gather(call(module, 1), call(other, 2), call(module, 3))
    return [*tasks, *[await asyncio.to_thread(called, times * x) for called, times in ((other, 4), (module, 5))]]


def two_threads(rank, folder, x):
    first, other = sw.load(folder), sw.load(folder)
    in_order = asyncio.run(one_after_the_other(first, other, x))
    at_home = meet_inside(first, (first, other), x)
    after = in_thread(first, 2 * x)
    # Rank 0 calls with other numbers than rank 1, as where two threads come in another order.
    mixed = x * (1 + rank)
    elsewhere = in_thread(meet_inside, first, (first,), mixed)
    return in_order, at_home, after, elsewhere, in_thread(first, x), first(x)


@pytest.mark.ranks
def test_two_threads_on_real_ranks(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)).eval().requires_grad_(False)
    x = torch.randn(4, 8)
    sw.shard(torch.export.export(model, (x,)), mesh=2, plan=PLAN).save(tmp_path / "p")
    for found in on_ranks(2, two_threads, str(tmp_path / "p"), x):
        in_order, (got, refusals), after, (doubt, refused), later, at_last = found
        torch.testing.assert_close(in_order, [model(times * x) for times in range(1, 6)])
        torch.testing.assert_close(got, model(x))
        assert [("another thread is in a call" in text) for text in refusals] == [True, True]
        torch.testing.assert_close(after, model(2 * x), msg="one call after the other, from any thread")
        assert "may have come first on other ranks" in doubt, "no numbers of two calls are given"
        assert "another thread is in a call" in refused[0]
        assert "only the thread that loaded the package may call" in str(later)
        torch.testing.assert_close(at_last, model(x))
