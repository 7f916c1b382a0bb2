"""Gradients that a model computes or changes by code of its own are refused: an exported program does not have them.

Export keeps what a forward pass calls, and the backward pass is derived from that. A ``backward`` of one's own, or a
hook on a gradient, would be left out without a word.
"""

import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from shardwright.errors import Finding, ProgramError, raise_findings
from shardwright.program.torch_private import has_backward_hooks, has_gradient_hooks, pytree, watching_functions

_OPERATOR = "make it an operator: custom_op of torch's library, its gradient given to register_autograd"
_BESIDES = "change .grad between the step and optimizer.step()"
_TAPS = ("register_hook", "register_post_accumulate_grad_hook")

_KNOWN = {
    "torch.utils.checkpoint.CheckpointFunction": (
        "torch.utils.checkpoint with use_reentrant=True computes its gradients in a backward pass of its own",
        ("checkpoint(…, use_reentrant=False)",),
    ),
    "torch.nn.modules._functions.BackwardHookFunction": ("a backward hook for all modules is registered", (_BESIDES,)),
}
"""Functions of torch that are called by another name."""

_HARMLESS = ("torch.utils.checkpoint._NoopSaveInputs",)
"""Functions of torch that no gradient goes through: `checkpoint` of torch 2.11 keeps its inputs by one."""


def refuse_hooks(model: nn.Module) -> None:
    """Raise `ProgramError` where hooks on modules or parameters look at gradients, all of them by their paths."""
    modules = [name or "the model itself" for name, module in model.named_modules() if has_backward_hooks(module)]
    parameters = [name for name, one in model.named_parameters() if one.requires_grad and has_gradient_hooks(one)]
    findings = [Finding("a module has a backward hook", where=name, remedies=(_BESIDES,)) for name in modules]
    findings += [
        Finding("a parameter has a hook on its gradient", where=name, remedies=(_BESIDES,)) for name in parameters
    ]
    raise_findings(ProgramError, findings, summary="an exported program has no hooks on gradients")


@contextmanager
def no_custom_backward() -> Iterator[None]:
    """While a model is traced in this thread, raise `ProgramError` where it gives a gradient of its own."""
    thread = threading.get_ident()
    # `Function.apply` ends here, also where a model keeps it under a name of its own; if it is not C++'s (torch 2.14).
    own: Any = torch.autograd.Function
    base: Any = own.__mro__[1] if isinstance(vars(own)["apply"], classmethod) else own
    before = vars(base).get("apply")

    def is_traced() -> bool:
        # The gradient of an operator is a function too; no tracer is at work within the operator.
        return threading.get_ident() == thread and get_proxy_mode() is not None and torch.is_grad_enabled()

    def apply(kind: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        name = _name_of(kind)
        if not is_traced() or name in _HARMLESS:
            return super(base, kind).apply(*args, **kwargs)
        if name in _KNOWN or any(tensor.requires_grad for tensor in tensors):
            _refuse_function(name)
        # Nothing has a gradient through it, also not what it reads besides its arguments. Written into the program: a
        # function runs without gradients by no call that is traced.
        with torch.no_grad():
            return super(base, kind).apply(*args, **kwargs)

    def see(kind: type) -> None:
        # What did not come through the function above.
        if is_traced() and _name_of(kind) not in _HARMLESS:
            _refuse_function(_name_of(kind))

    base.apply = classmethod(apply)
    taps: dict[str, Any] = {name: getattr(torch.Tensor, name) for name in _TAPS}
    for name, tap in taps.items():
        setattr(torch.Tensor, name, _refused_in(thread, name, tap))
    try:
        with watching_functions(see):
            yield
    finally:
        del base.apply
        if before is not None:
            base.apply = before
        for name, tap in taps.items():
            setattr(torch.Tensor, name, tap)


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _refused_in(thread: int, name: str, tap: Callable[..., Any]) -> Callable[..., Any]:
    """A method that registers a hook, which is refused while a model is traced in the thread."""

    def register(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return tap(tensor, *args, **kwargs)
        what = f"the model calls Tensor.{name}, and an exported program has no hooks on gradients"
        raise ProgramError(str(Finding(what, _caller(), (_BESIDES, _OPERATOR))))

    return register


def _refuse_function(name: str) -> NoReturn:
    # Strict export runs a function of its own in the place of the model's.
    known = "a torch.autograd.Function" if name.startswith("torch.") else f"the autograd.Function {name}"
    what, remedies = _KNOWN.get(
        name,
        (
            f"{known} has a backward pass of its own, which an exported program would not have",
            ("write its gradient with detach(), as in x + (torch.round(x) - x).detach()", _OPERATOR),
        ),
    )
    raise ProgramError(str(Finding(what, _caller(), remedies)))


_NOT_THE_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def _caller() -> str:
    """The line of the model that is being traced; '' where it cannot be told."""
    for frame, line in traceback.walk_stack(None):
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_THE_MODEL):
            return "" if file.startswith("<") else f"{file}:{line}"
    return ""
