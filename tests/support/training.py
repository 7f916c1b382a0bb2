"""Losses and gradients: of a model by autograd, of a joint program run whole, of simulated ranks."""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

import shardwright as sw
from shardwright.program.program import RETURNED

IDS = (torch.arange(16).view(2, 8) * 7 % 96, torch.arange(16).view(2, 8) * 5 % 96)
"""Token ids and targets for `tests.support.models.Decoder`."""
PLACES = torch.arange(32).view(4, 8)
BATCH = (PLACES * 7 % 96, (PLACES * 5 % 96).index_fill(0, torch.tensor(0), -100))
"""Four sequences; the targets of the first are ignored, so that ranks count others."""


def next_token(logits, target):
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


class _Double(TorchFunctionMode):
    """Whatever asks for single precision gets double."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = [torch.float64 if one is torch.float32 else one for one in args]
        named = {name: torch.float64 if one is torch.float32 else one for name, one in (kwargs or {}).items()}
        if function is torch._grouped_mm and given[0].dtype == torch.float64:
            # Which torch has for single precision at most; transformers exports this.
            return torch.ops.transformers.grouped_mm_fallback(*given, offs=named["offs"])
        return given[0].double() if function is torch.Tensor.float else function(*given, **named)


class InDouble(nn.Module):
    """A model of ids that computes in double precision also where its code asks for single (norms, softmaxes)."""

    def __init__(self, model):
        super().__init__()
        self.model = model.double()

    def forward(self, ids):
        with _Double():
            return self.model(ids)


def run_alone(model, args, loss):
    """The loss and every gradient by autograd, and the buffers afterwards."""
    torch.manual_seed(1)
    model.zero_grad()
    value = loss(model(*args[:-1]), args[-1])
    value.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"": value.detach(), **gradients}, dict(model.named_buffers())


def run_whole(joint, args):
    """The same of a joint program: what it returns, and the buffers it writes."""
    torch.manual_seed(1)
    held = {**joint.state_dict, **joint.constants}
    given = iter(args)
    values = [held[s.target].detach() if s.target in held else next(given) for s in joint.graph_signature.input_specs]
    with torch.no_grad():
        outputs = joint.graph_module(*values)
    found, buffers = {}, {}
    for spec, value in zip(joint.graph_signature.output_specs, outputs, strict=True):
        if spec.kind.name == "BUFFER_MUTATION":
            buffers[spec.target] = value
        else:
            found["" if spec.kind in RETURNED else spec.target] = value
    return found, buffers


def batches(num):
    """Token ids and targets of that many steps."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(0, 96, (num, 4, 9), generator=generator)
    return [(ids[:, :-1], ids[:, 1:]) for ids in drawn]


class Dropped(nn.Module):
    """Dropout where the layout is cut (behind ``up``), and where it is whole."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.drop = nn.Linear(12, 30), nn.Linear(30, 12), nn.Dropout(0.25)

    def forward(self, x):
        x = self.drop(x)
        return x + self.drop(self.down(self.drop(F.gelu(self.up(x)))))


def outcome(function, *args):
    """What a call gives, or its error in words: a rank that fails alone need not end the others."""
    try:
        return function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def check(model, args, mesh, plan="auto", *, loss=next_token, dynamic=None, **options):
    """The sharded joint program of a model in double precision, equal to the whole on every rank."""
    model = model.double()
    args = tuple(a.double() if a.is_floating_point() else a for a in args)
    joint = sw.export_training(model, args, loss=loss, dynamic_shapes=dynamic)
    sharded = sw.shard(joint, mesh=mesh, plan=plan, **options)
    report = sw.verify(sharded, joint, args, tolerance=1e-9)
    assert report.ok, str(report)
    assert report.gradients
    return sharded


def counted(sharded):
    return dict(Counter((c.axis, c.kind.value) for c in sharded.collectives))


def cut_batch():
    """Inputs of a part of `BATCH` each."""
    return {"ids": sw.Shard(0), "target": sw.Shard(0)}
