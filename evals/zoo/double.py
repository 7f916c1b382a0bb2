"""A model in double precision, where rounding is gone: what is wrong there is wrong."""

import torch
from torch.utils import _pytree as pytree

import shardwright as sw
from shardwright.compiler.verify import relative_error

EXACT = 1e-9
CHAOTIC = 1e-4
"""A model whose outputs change by more than this where the last digit of its inputs does tells nothing."""
LAST_DIGIT = 1e-16


def in_double(model, inputs, plan, num_ranks, export):
    """Two numbers: the error, and what the original makes of another last digit of its inputs; or None and None.

    Rounding that float32 amplifies, or an expert it picks otherwise, is gone there. What is left of it in a model that
    amplifies it a millionfold is as much as the last digit of an input does. None where the model does not run in
    double precision.
    """
    wide = _floats(inputs, torch.Tensor.double)
    try:
        program, taken, *_ = export(model.double(), wide)
        error = sw.verify(sw.shard(program, mesh=num_ranks, plan=plan), program, (), taken).max_error
        return error, 0.0 if error < EXACT else shaken(program.module(), taken)
    except Exception:  # noqa: BLE001 - such a model's float32 verdict stands
        return None, None
    finally:
        model.float()


def is_rounding(error, change):
    """Whether an error is no more than rounding, given what the last digit of the inputs changes."""
    return error is not None and (error < EXACT or error <= min(10 * change, CHAOTIC))


def shaken(run, inputs):
    """The largest relative change of an output where the last digit of every input does."""
    generator = torch.Generator().manual_seed(2)

    def shake(one):
        return one * (1 + LAST_DIGIT * (2 + torch.rand(one.shape, generator=generator, dtype=torch.float64)))

    with torch.no_grad():
        pairs = zip(*(pytree.tree_leaves(run(**given)) for given in (_floats(inputs, shake), inputs)), strict=True)
    return max((relative_error(one, other) for one, other in pairs if isinstance(one, torch.Tensor)), default=0.0)


def _floats(inputs, change):
    """The inputs with their floating-point tensors changed, wherever they are nested."""
    return pytree.tree_map(
        lambda one: change(one) if isinstance(one, torch.Tensor) and one.is_floating_point() else one, dict(inputs)
    )
