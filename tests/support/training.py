"""Losses and gradients: of a model by autograd, of a joint program run whole, of simulated ranks."""

import torch
import torch.nn.functional as F

from shardwright.program.program import RETURNED

IDS = (torch.arange(16).view(2, 8) * 7 % 96, torch.arange(16).view(2, 8) * 5 % 96)
"""Token ids and targets for `tests.support.models.Decoder`."""


def next_token(logits, target):
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


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
