"""Mutation is taken out of a program once, and again only where the program has changed."""

import gc
import threading
import weakref

import torch
from torch import _ops, nn
from torch._export import utils as export_utils

import shardwright as sw
from shardwright.program import torch_repeats
from shardwright.program.flatten import functional


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls.add_(1)
        return self.down(self.up(x).relu()) * self.calls


def exported():
    return torch.export.export(Counts().eval(), (torch.randn(2, 8),))


def test_the_same_program_gives_the_same():
    program = exported()
    made = functional(program)
    assert made is functional(program)
    assert made is not functional(exported())
    assert functional(made) is made


def test_other_weights_and_other_code_give_another():
    program = exported()
    first = functional(program)
    program.state_dict["up.weight"] = nn.Parameter(torch.zeros(12, 8))
    second = functional(program)
    assert second is not first
    assert not second.state_dict["up.weight"].any()
    next(node for node in program.graph.nodes if "relu" in node.name).target = torch.ops.aten.tanh.default
    program.graph_module.recompile()
    third = functional(program)
    assert third is not second
    assert "aten.tanh" in str(third.graph)


def test_shard_and_verify_read_what_was_changed():
    program = exported()
    assert sw.verify(sw.shard(program, mesh=2), program, (torch.randn(2, 8),)).ok
    program.state_dict["down.bias"] = nn.Parameter(torch.full((8,), 3.0))
    changed = sw.shard(program, mesh=2)
    assert sw.verify(changed, program, (torch.randn(2, 8),)).ok
    assert changed.exported(0).state_dict["down.bias"].eq(3).all()


def test_a_program_that_is_dropped_leaves_nothing():
    program = exported()
    made = weakref.ref(functional(program))
    del program
    gc.collect()
    assert made() is None


def test_operators_are_looked_up_once_while_torch_decomposes(monkeypatch):
    looks = []
    look = export_utils._materialize_cpp_cia_ops
    monkeypatch.setattr(export_utils, "_materialize_cpp_cia_ops", lambda: looks.append(None) or look())
    kept = [vars(module)[name] for module, name, _ in torch_repeats._REPEATED]
    functional(exported())
    assert len(looks) == 1
    assert all(vars(module)[name] is was for (module, name, _), was in zip(torch_repeats._REPEATED, kept, strict=True))


def test_what_torch_repeats_is_put_back_by_threads_that_overlap():
    kept = [vars(module)[name] for module, name, _ in torch_repeats._REPEATED]
    one_is_in, other_is_in, one_is_out = threading.Event(), threading.Event(), threading.Event()

    def one():
        with torch_repeats.operators_listed_once():
            one_is_in.set()
            other_is_in.wait(1)  # in vain, where one waits for the other
        one_is_out.set()

    def other():
        one_is_in.wait(60)
        with torch_repeats.operators_listed_once():
            other_is_in.set()
            one_is_out.wait(60)

    threads = [threading.Thread(target=one), threading.Thread(target=other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(vars(module)[name] is was for (module, name, _), was in zip(torch_repeats._REPEATED, kept, strict=True))


def test_torch_still_tells_kernels_from_keys_meanwhile():
    """Operators on script objects ask whether what they found is callable."""
    with torch_repeats.operators_listed_once():
        assert isinstance(len, _ops.Callable)
        assert not isinstance(torch._C.DispatchKey.CPU, _ops.Callable)
