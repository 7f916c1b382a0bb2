"""Programs that use every kind of thing a graph file may hold, small ones."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import torch
from torch import library, nn
from torch._higher_order_ops.map import map as map_rounds
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from tests.support.models import Cache


@dataclass
class Both:
    """An output that is a dataclass."""

    total: torch.Tensor
    rows: torch.Tensor


torch.export.register_dataclass(Both, serialized_type_name="tests.package.Both")
Pair = namedtuple("Pair", ["low", "high"])
torch.utils._pytree._register_namedtuple(Pair, serialized_type_name="tests.package.Pair")


@library.custom_op("shardwright_tests::add_in_place", mutates_args=("x",))
def add_in_place(x: torch.Tensor, y: torch.Tensor) -> None:
    """An operator of a user's own that writes its argument."""
    x.add_(y)


class Of(nn.Module):
    """A function as a module, with a weight."""

    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.linspace(-1, 1, 3))

    def forward(self, *args, **kwargs):
        return self.function(self.weight, *args, **kwargs)


def symbolic(weight, x, y):
    n = x.shape[0]
    half = x.reshape(n // 2, 2, 3).sum(1) * weight
    return half, torch.cat([x, y]).view(-1)[: n * 2 + 1], n * 2 + 1, max(n, 3) - 1


def rooted(weight, x):
    return x * weight / x.shape[0] ** 0.5, torch.arange(x.shape[0]), x.new_zeros(x.shape[0] * x.shape[0])


def found(weight, x):
    positions = torch.nonzero(x[:, 0] > 0)
    count = x[0, 0].to(torch.long).item()
    torch._check(count >= 0)
    torch._check(count < 5, lambda: 'a "short"\nmessage')
    return positions * 2, x[:count] * weight


def branches(weight, x):
    return torch.cond(x.sum() > 0, lambda x: (x * weight).sin(), lambda x: x.cos() + weight, (x,))


def rounds(weight, x):
    mapped = map_rounds(lambda row, scale: torch.relu(row) * scale, x, weight)
    last, every = scan(lambda carry, row: (carry * 0.5 + row, (carry + row).tanh()), torch.zeros(3), x)
    repeated = while_loop(lambda i, h: i < 4, lambda i, h: (i + 1, (h * 1.5).tanh()), (torch.tensor(0), x))[1]
    return mapped + repeated, last, every


def nested(weight, x, pairs, *, scale, flag=None):
    low, high = pairs["low"], pairs["high"][0]
    shape = OrderedDict(rows=x * weight, more=[low + high, None, 3, 2.5, True])
    return {"all": shape, "both": Both(x.sum(), x * scale), "pair": Pair(low, high), "none": None}


def several(weight, x):
    values, indices = x.topk(2, dim=0)
    parts = torch.split(x, [2, 6])
    normal = torch.nn.functional.layer_norm(x, (3,), weight, None)
    z = torch.view_as_real(torch.complex(x, x) * (2 + 1j))
    picked = x[torch.tensor([0, 2])][:, None]
    return values, indices, parts[1], normal, z, picked, x.to(torch.bfloat16), x.clamp(min=-float("inf"))


def writing(weight, x, state):
    state.add_(x * weight)
    add_in_place(state, x)
    return state.sum()


X = torch.linspace(-1, 1, 24).view(8, 3)
N = torch.export.Dim("n", min=2, max=64)
CASES = {
    "symbolic sizes": (symbolic, (X, X), {}, ({0: 2 * N}, {0: 2 * N})),
    "roots of sizes": (rooted, (X,), {}, ({0: N},)),
    "sizes found by running": (found, (X.abs() * 2 + 2,), {}, None),
    "branches": (branches, (X,), {}, None),
    "loops": (rounds, (X,), {}, None),
    "nested inputs and outputs": (nested, (X, {"low": X, "high": [X + 1]}), {"scale": 2.0, "flag": None}, None),
    "several results": (several, (X,), {}, None),
    "an input that is written": (writing, (X, X.clone()), {}, None),
}


def program(name):
    """The module, inputs and exported program of a case."""
    if name == "a cache":
        module, args = Cache(), (torch.randn(2, 1, 16), torch.tensor([0]))
        return module, args, {}, torch.export.export(module, args)
    function, args, kwargs, shapes = CASES[name]
    module = Of(function).requires_grad_(False)
    dynamic = {"args": shapes} if shapes is not None else None
    return module, args, kwargs, torch.export.export(module, args, kwargs, dynamic_shapes=dynamic)
