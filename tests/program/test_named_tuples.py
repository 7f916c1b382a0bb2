import sys
import types
from typing import NamedTuple

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.program.torch_private import pytree


class Taken(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Inner(NamedTuple):
    total: torch.Tensor


class Given(NamedTuple):
    inner: Inner
    parts: list[torch.Tensor]


class Model(nn.Module):
    """Takes a named tuple, and gives one inside another."""

    class Both(NamedTuple):
        given: Given
        other: torch.Tensor

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, taken):
        x = self.down(self.up(taken.first)) * taken.second
        return self.Both(Given(Inner(x.sum()), [x, x + 1]), taken.second)


def forget(monkeypatch):
    """As a process that has registered none of them."""
    for kind in (Taken, Inner, Given, Model.Both):
        known = pytree.SUPPORTED_SERIALIZED_TYPES.get(kind)
        if known:
            monkeypatch.delitem(pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE, known.serialized_type_name)
            monkeypatch.delitem(pytree.SUPPORTED_SERIALIZED_TYPES, kind)
            monkeypatch.delitem(pytree.SUPPORTED_NODES, kind)
    pytree.treespec_loads.cache_clear()


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model, taken = Model(), Taken(torch.randn(3, 8), torch.randn(3, 8))
    exported = torch.export.export(model, (taken,))
    sw.shard(exported, mesh=1).save(tmp_path / "package")
    return tmp_path / "package", model, taken


def test_named_tuples_come_back_as_what_they_are(saved, monkeypatch):
    folder, model, taken = saved
    forget(monkeypatch)
    found, wanted = sw.load(folder)(taken), model(taken)
    assert type(found) is Model.Both
    assert type(found.given) is Given
    assert type(found.given.inner) is Inner
    for one, other in zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("what", ["nothing", "another class", "the same name of another place"])
def test_one_whose_module_is_not_imported_is_named(saved, monkeypatch, what):
    """Nothing is imported for a name in a file, and only what is defined under that name will do."""
    folder, _, _ = saved
    stand_in = types.ModuleType(__name__)
    if what == "another class":
        stand_in.Inner = dict
    elif what != "nothing":
        stand_in.Inner = NamedTuple("Inner", [("total", torch.Tensor)])
        stand_in.Inner.__module__ = "elsewhere"
    forget(monkeypatch)
    monkeypatch.setitem(sys.modules, __name__, stand_in)
    with pytest.raises(sw.PackageError, match=rf"a {__name__}\.\w+, .*\n  try: import {__name__} before"):
        sw.load(folder)


def test_a_name_that_is_registered_is_kept(tmp_path):
    class Named(NamedTuple):
        x: torch.Tensor

    class Gives(nn.Module):
        def forward(self, x):
            return Named(x + 1)

    pytree._register_namedtuple(Named, serialized_type_name="theirs.Named")
    sw.shard(torch.export.export(Gives(), (torch.ones(2),)), mesh=1).save(tmp_path / "package")
    assert type(sw.load(tmp_path / "package")(torch.ones(2))) is Named
    assert pytree.SUPPORTED_SERIALIZED_TYPES[Named].serialized_type_name == "theirs.Named"
