"""What a model does to its gradients by code of its own is refused, never left out."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import library, nn
from torch.utils.checkpoint import checkpoint

import shardwright as sw
from shardwright.program.custom_backward import no_custom_backward
from tests.support.training import run_alone, run_whole

ARGS = (torch.arange(24.0).view(6, 4) / 7 - 2, torch.arange(6.0).view(6, 1))


class Reverse(torch.autograd.Function):
    """A gradient reversal layer."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Split(torch.autograd.Function):
    """With its context set up apart, as `torch.func` asks for."""

    @staticmethod
    def forward(x):
        return torch.round(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Between(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.function = nn.Linear(4, 4), nn.Linear(4, 1), function

    def forward(self, x):
        return self.second(self.function(self.first(x)))


def same(model, args=ARGS):
    """Whether the joint program gives the model's gradients."""
    found, _ = run_whole(sw.export_training(model, args, loss=F.mse_loss), args)
    wanted, _ = run_alone(model, args, F.mse_loss)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("strict", [False, True])
def test_a_backward_of_its_own_is_refused(strict):
    name = r"a torch\.autograd\.Function" if strict else r"the autograd\.Function .*Reverse"
    says = f"(?s){name}.*detach.*register_autograd"
    if strict and torch.__version__.startswith("2.11"):
        # Its strict export takes no such function at all.
        says = r"cannot be exported \(.*AutogradFunctionVariable"
    with pytest.raises(sw.ProgramError, match=says):
        sw.export_training(Between(Reverse.apply), ARGS, loss=F.mse_loss, strict=strict)


def test_the_line_that_calls_it_is_named():
    with pytest.raises(sw.ProgramError, match=r"at .*test_custom_backward\.py:\d+"):
        sw.export_training(Between(lambda v: Split.apply(v) * 2), ARGS, loss=F.mse_loss)


def under_no_grad(v):
    with torch.no_grad():
        rounded = Split.apply(v)
    return v + (rounded - v).detach()


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(under_no_grad, id="no gradient is asked for"),
        pytest.param(lambda v: v * Reverse.apply(torch.ones(4)), id="of what has no gradient"),
        pytest.param(lambda v: checkpoint(torch.relu, v, use_reentrant=False), id="checkpoint"),
        pytest.param(lambda v: 2 * v.detach() - v, id="reversal by detach"),
    ],
)
def test_what_loses_nothing_is_taken(function):
    same(Between(function))


def test_no_gradient_flows_to_what_a_function_reads_besides_its_arguments():
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.no_grad():
                return x * model.first.weight.sum()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    model = Between(lambda v: v * Scale.apply(torch.ones(4)))
    same(model)


@pytest.fixture
def operators():
    with library._scoped_library("sw_test_custom_backward", "FRAGMENT") as made:
        yield made


def test_the_gradient_of_an_operator_is_kept(operators):
    operators.define("reverse(Tensor x) -> Tensor")
    operators.impl("reverse", lambda x: x.clone(), "CompositeExplicitAutograd")
    library.register_autograd("sw_test_custom_backward::reverse", lambda ctx, gradient: -gradient, lib=operators)
    same(Between(torch.ops.sw_test_custom_backward.reverse))


class Again(nn.Module):
    """A model whose first layer, of inputs without gradients, is computed again."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.second(checkpoint(self.first, x, use_reentrant=True))


@pytest.mark.parametrize("model", [Between(lambda v: checkpoint(torch.relu, v, use_reentrant=True)), Again()])
def test_a_reentrant_checkpoint_is_refused_for_what_it_is(model):
    with pytest.raises(sw.ProgramError, match=r"(?s)use_reentrant=True.*use_reentrant=False"):
        sw.export_training(model, ARGS, loss=F.mse_loss)


def hooked(v):
    v.register_hook(lambda gradient: gradient * 3)
    return v


def test_hooks_that_are_registered_in_a_call_are_refused():
    with pytest.raises(sw.ProgramError, match=r"(?s)Tensor\.register_hook.*test_custom_backward\.py:\d+.*\.grad"):
        sw.export_training(Between(hooked), ARGS, loss=F.mse_loss)


def test_hooks_on_modules_and_parameters_are_refused_together():
    model = Between(torch.relu)
    model.first.weight.register_hook(lambda gradient: gradient * 2)
    model.second.bias.register_post_accumulate_grad_hook(lambda parameter: None)
    model.first.register_full_backward_hook(lambda module, before, after: None)
    model.register_full_backward_pre_hook(lambda module, after: None)
    with pytest.raises(sw.ProgramError) as raised:
        sw.export_training(model, ARGS, loss=F.mse_loss)
    assert [one.where for one in raised.value.findings] == ["the model itself", "first", "first.weight", "second.bias"]


def test_hooks_that_were_removed_are_none():
    model = Between(torch.relu)
    model.first.weight.register_hook(lambda gradient: gradient * 2).remove()
    model.register_full_backward_hook(lambda module, before, after: None).remove()
    same(model)


def test_a_hook_for_all_modules_is_refused():
    handle = nn.modules.module.register_module_full_backward_hook(lambda module, before, after: None)
    try:
        with pytest.raises(sw.ProgramError, match="a backward hook for all modules"):
            sw.export_training(Between(torch.relu), ARGS, loss=F.mse_loss)
    finally:
        handle.remove()


def test_torch_is_as_before_also_in_other_threads():
    x = torch.ones(3, requires_grad=True)
    found = []

    def elsewhere():
        hooked(x)
        Reverse.apply(x).sum().backward()
        found.append(x.grad)

    with no_custom_backward():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    Reverse.apply(hooked(x)).sum().backward()
    assert found[0] is x.grad
    # First through one hook, then through both.
    assert x.grad.tolist() == [-3.0 - 9.0] * 3
