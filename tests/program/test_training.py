"""The module of a joint program: a call fills ``.grad`` as ``backward()`` would, and optimisers go on from there."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import shardwright as sw
from tests.support.models import Decoder, redraw
from tests.support.training import IDS, next_token


def one_rank(model, args, loss):
    """The module of the only rank."""
    return sw.shard(sw.export_training(model, args, loss=loss), mesh=1).exported(0).module()


def test_losses_follow_those_of_the_model():
    model = redraw(Decoder(layers=1, tied=True)).double().train()
    step = one_rank(model, IDS, next_token)
    assert {name for name, _ in step.named_parameters()} == {name for name, _ in model.named_parameters()}
    ours = torch.optim.AdamW(step.parameters(), lr=1e-2)
    theirs = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(5):
        wanted = next_token(model(IDS[0]), IDS[1])
        wanted.backward()
        found = step(*IDS)
        assert not found.requires_grad
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-9, atol=1e-9)
        for one in (ours, theirs):
            one.step()
            one.zero_grad()


def test_gradients_add_up_until_they_are_set_to_zero():
    model = nn.Linear(4, 3).double()
    args = (torch.randn(5, 4).double(), torch.randn(5, 3).double())
    step = one_rank(model, args, F.mse_loss)
    step(*args)
    first = step.weight.grad.clone()
    step(*args)
    torch.testing.assert_close(step.weight.grad, 2 * first)
    step.zero_grad()
    assert step.weight.grad is None


def test_gradients_share_no_memory():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return x + self.a + self.b

    args = (torch.randn(5, 3), torch.randn(5, 3))
    step = one_rank(Sum(), args, F.mse_loss)
    step(*args)
    step.a.grad.zero_()
    assert step.b.grad.abs().sum() > 0


def test_buffers_take_their_new_values():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).train()
    args = (torch.randn(5, 4), torch.randn(5, 6))
    step = one_rank(model, args, F.mse_loss)
    step(*args)
    model(args[0])
    state = step.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(state[name], value)


def test_a_frozen_parameter_requires_no_gradient():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    model[0].requires_grad_(False)
    args = (torch.randn(3, 4), torch.randn(3, 2))
    step = one_rank(model, args, F.mse_loss)
    assert [name for name, p in step.named_parameters() if p.requires_grad] == ["1.weight", "1.bias"]


def test_inputs_that_do_not_fit_are_refused():
    args = (torch.randn(3, 4), torch.randn(3, 2))
    step = one_rank(nn.Linear(4, 2), args, F.mse_loss)
    with pytest.raises(sw.InputError, match="target"):
        step(args[0])


def test_an_input_that_requires_a_gradient_is_refused():
    model = nn.Linear(4, 3)
    x, target = torch.randn(5, 4), torch.randn(5, 3)
    step = one_rank(model, (x, target), F.mse_loss)
    x.requires_grad_()
    with pytest.raises(sw.InputError, match=r"(?s)an input requires a gradient.*x\.detach\(\)"):
        step(x, target=target)
    assert step.weight.grad is None
    with torch.no_grad():
        step(x, target)
    assert step.weight.grad is not None


def test_the_mode_is_that_of_the_export():
    args = (torch.randn(3, 4), torch.randn(3, 2))
    step = one_rank(nn.Linear(4, 2), args, F.mse_loss)
    assert step.train() is step
    with pytest.raises(sw.ProgramError, match=r"dropout and batch statistics(.|\n)*try: give the model itself"):
        step.eval()
