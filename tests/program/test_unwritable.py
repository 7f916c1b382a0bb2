"""What torch can export but not keep or run is refused in words; everything else opens and gives the same."""

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import shardwright as sw

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


class Named(nn.Module):
    """A linear layer and a buffer under given names, and a function of what they give."""

    def __init__(self, function=lambda y: y, layer="inner", buffer="scale"):
        super().__init__()
        self.add_module(layer, nn.Linear(8, 8))
        self.register_buffer(buffer, torch.ones(8))
        self.function, self.layer, self.buffer = function, layer, buffer

    def forward(self, x):
        return self.function(getattr(self, self.layer)(x) * getattr(self, self.buffer))


REFUSED = {
    "a text": (Named(lambda y: (y, "words")), "output 1 is the text 'words'"),
    "a text alone": (Named(lambda y: "it's"), 'output 0 is the text "it\'s"'),
    "an empty text in a dict": (Named(lambda y: {"y": y, "kind": ""}), "output 1 is the text ''"),
    "nothing": (Named(lambda y: ()), "returns nothing"),
    "nested nothing": (Named(lambda y: ([], {"a": ()})), "returns nothing"),
    "a keyword": (Named(layer="class"), "'class.weight' has the name 'class'"),
    "a constant": (Named(buffer="None"), "'None' has the name 'None'"),
    "a double quote": (Named(layer='a"b'), "rename 'a\"b'"),
    "a backslash": (Named(layer="a\\b"), "has the name"),
    "a line end": (Named(buffer="a\nb"), "has the name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_by_shard(name):
    model, words = REFUSED[name]
    exported = torch.export.export(model, (X,))
    with pytest.raises(sw.ProgramError) as caught:
        sw.shard(exported, mesh=2, plan={})
    assert words in str(caught.value)
    assert "try: " in str(caught.value)


def test_all_findings_are_said_at_once():
    exported = torch.export.export(Named(lambda y: ("a", y, "b"), layer="for", buffer="def"), (X,))
    with pytest.raises(sw.ProgramError, match=r"5 problems"):
        sw.shard(exported, mesh=2)


KEPT = {
    "None": Named(lambda y: None),
    "None beside": Named(lambda y: (None, y)),
    "a number alone": Named(lambda y: 3),
    "numbers and flags": Named(lambda y: [y, 3, 2.5, True, float("inf")]),
    "nested empties": Named(lambda y: (y, [(), {}], {"a": []})),
    "odd keys": Named(lambda y: {1: y, "a b": y, "class": y, "": y}),
    "odd characters": Named(layer="a-b [0]*/'é☃", buffer="x y"),
    "numbers for names": Named(layer="0", buffer="1"),
    "names of Python's own": Named(layer="self", buffer="torch"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_saved_opens(name, tmp_path):
    exported = torch.export.export(KEPT[name], (X,))
    sharded = sw.shard(exported, mesh=1, plan={})
    sharded.save(tmp_path / "p")
    with torch.no_grad():
        got, form = pytree.tree_flatten(sw.load(tmp_path / "p")(X))
        wanted, wanted_form = pytree.tree_flatten(exported.module()(X))
    assert form == wanted_form
    assert [str(value) for value in got] == [str(value) for value in wanted]
