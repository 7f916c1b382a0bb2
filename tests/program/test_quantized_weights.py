"""Which tensor holds a weight's quantised values: by its name, or where the graph reads it."""

import pytest
import torch
from torch import nn

from shardwright.program.quantized_weights import quantized_weights
from shardwright.program.read import read
from shardwright.program.write import write
from tests.support.quantized import DYNAMIC, FORMS, INT4, WEIGHT_ONLY, pt2e, quantized


def found(exported):
    program = read(exported)
    return quantized_weights(program.graph, {i.name: i.target for i in program.inputs if i.is_state})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*WEIGHT_ONLY, *DYNAMIC, *INT4])
def test_of_torchao(name, form):
    dtype = torch.bfloat16 if name in INT4 else torch.float32
    exported, _ = quantized({**WEIGHT_ONLY, **DYNAMIC, **INT4}[name], dtype=dtype)
    part = "weight.qdata" if form == "exported" else "parametrizations.weight.original0"
    assert found(FORMS[form](exported)) == {f"{layer}.{part}": f"{layer}.weight" for layer in ("up", "down")}


@pytest.mark.parametrize("form", ["exported", "decomposed"])
def test_of_pt2e(form):
    wanted = {"_frozen_param0": "up.weight", "_frozen_param1": "down.weight"}
    # On torch 2.11 the quantiser finds no layers, and the program stays as it was.
    assert found(FORMS[form](pt2e("static")[0])) == ({} if torch.__version__.startswith("2.11") else wanted)
    assert found(pt2e("static", fold=False)[0]) == {}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["int8 by row", "int8 by group", "float8", "int8 activations"])
def test_parts_that_nothing_reads_are_left_out(name, form):
    """Zero points of symmetric weights, which are all 0."""
    exported, inputs = quantized({**WEIGHT_ONLY, **DYNAMIC}[name])
    program = read(FORMS[form](exported))
    users = {node.name: node.users for node in program.placeholders()}
    assert not [item.target for item in program.inputs if item.is_state and not users[item.name]]
    assert len(program.weights) == (6 if name == "int8 by group" else 4)
    torch.testing.assert_close(write(program).module()(*inputs), exported.module()(*inputs))


class Indexed(nn.Module):
    """Integers that are no weight: the place of each feature, read beside a float weight."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("places", torch.arange(4, dtype=torch.int32).expand(2, 4).contiguous())
        self.unread = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x.gather(1, self.places.long()))


def test_integers_beside_float_weights_are_none_and_nothing_is_left_out():
    exported = torch.export.export(Indexed(), (torch.ones(2, 4),))
    assert found(exported) == {}
    assert "unread.weight" in read(exported).weights
