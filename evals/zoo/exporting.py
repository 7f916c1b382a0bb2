"""Export a model: as it is, else the way transformers itself exports, else with what describes sizes held constant."""

import contextlib
import inspect
import re
from typing import NamedTuple

import torch

SIZES = r"\w*(grid_thw|sizes|shapes|lengths|lens|attention_mask|pixel_mask)"
"""Inputs whose values a forward pass may read in order to tell what to compute."""
MASKS = ("attention_mask", "decoder_attention_mask", "pixel_mask")
MOST_HELD = 4096
"""Elements of a tensor that is held constant."""


class Exported(NamedTuple):
    """A program, the inputs it takes, those of the model, and how it came about, if not by `torch.export` alone."""

    program: torch.export.ExportedProgram
    inputs: dict
    given: dict
    way: str = ""


def export(model, inputs):
    """The first way that gives a program. Raises what the first one raised where none does."""
    try:
        return Exported(plain(model, inputs), inputs, inputs)
    except Exception as error:  # noqa: BLE001 - whatever export raises is the finding
        first = error
    for way, attempt in WAYS.items():
        try:
            program, taken = attempt(model, dict(inputs))
            _check(program, taken, model, inputs)
        except Exception:  # noqa: BLE001 - the error of the model as it is tells most
            continue
        return Exported(program, taken, inputs, way)
    raise first


def plain(model, inputs):
    """The model as `torch.export` gives it, called with keywords."""
    with torch.no_grad():
        return torch.export.export(model, (), kwargs=dict(inputs), strict=False)


def by_transformers(model, inputs):
    """The model as the exporter of transformers gives it, and the inputs of that.

    That exporter computes beforehand what a forward pass reads off the values of its inputs (positions, segments,
    windows of images), and replaces loops over segments by one attention over a batch of them.
    """
    from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter

    program, _ = DynamoExporter().export_program(model, inputs, DynamoConfig(dynamic=False))
    return program, inputs


def with_constants(model, inputs):
    """The model with the inputs that describe sizes, and its own small counts, held constant; and the inputs left."""
    with torch.no_grad(), holding_constants(model, inputs) as left:
        program = torch.export.export(model, (), kwargs=left, strict=False)
        # What is left of computing the constants goes while their values are followed: no later reader knows them.
        return program.run_decompositions({}), left


@contextlib.contextmanager
def holding_constants(model, inputs):
    """A model that holds the inputs that describe sizes, and its own small counts, constant; gives the inputs left."""
    held = {name: value for name, value in inputs.items() if _describes_sizes(name, value)}
    left = {name: value for name, value in inputs.items() if name not in held}
    held |= _masks(model, inputs)
    with _forward_holding(model, held, left), _counts_held(model), _constants_followed():
        yield left


WAYS = {"by the exporter of transformers": by_transformers, "sizes and masks held constant": with_constants}
"""What is tried, in this order, where `torch.export` does not take a model as it is."""


def _check(program, taken, model, inputs):
    """Raise where a program does not compute what the model does."""
    with torch.no_grad():
        ours, theirs = (_floats(outputs) for outputs in (program.module()(**taken), model(**inputs)))
    if len(ours) != len(theirs):
        raise ValueError("the program has other outputs than the model")
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4, equal_nan=True)


def _floats(outputs):
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def _describes_sizes(name, value):
    integer = isinstance(value, torch.Tensor) and not value.is_floating_point() and value.numel() <= MOST_HELD
    return integer and re.fullmatch(SIZES, name)


def _masks(model, inputs):
    """Masks of ones for text and images, where a forward pass takes such: they say that nothing is padding."""
    parameters = inspect.signature(model.forward).parameters
    found = {}
    for name in MASKS:
        of = inputs.get(
            {"decoder_attention_mask": "decoder_input_ids", "pixel_mask": "pixel_values"}.get(name, "input_ids")
        )
        if name in parameters and name not in inputs and of is not None:
            shape = (of.shape[0], *of.shape[-2:]) if name == "pixel_mask" else of.shape[:2]
            found[name] = torch.ones(shape, dtype=torch.long)
    return found


@contextlib.contextmanager
def _forward_holding(model, held, left):
    """A forward pass that takes the inputs left, and writes those held as constants into the program."""
    forward = model.forward
    constants = {name: (value.tolist(), value.dtype) for name, value in held.items()}

    def holding(**kwargs):
        return forward(**kwargs, **{n: torch.tensor(v, dtype=dtype) for n, (v, dtype) in constants.items()})

    keyword = inspect.Parameter.KEYWORD_ONLY
    holding.__signature__ = inspect.Signature([inspect.Parameter(name, keyword) for name in left])
    model.forward = holding
    try:
        yield
    finally:
        del model.forward


@contextlib.contextmanager
def _counts_held(model):
    """Modules whose small integer buffers that no checkpoint has (strides, paddings) are constants."""
    changed = []
    for module in model.modules():
        names = [n for n in module._non_persistent_buffers_set if _is_count(module._buffers.get(n))]
        if names:
            made = {n: property(_constant(module._buffers[n])) for n in names}
            changed.append((module, type(module), {n: module._buffers.pop(n) for n in names}))
            module.__class__ = type(type(module).__name__, (type(module),), made)
    try:
        yield
    finally:
        for module, kind, buffers in changed:
            module.__class__ = kind
            module._buffers.update(buffers)


def _is_count(buffer):
    return buffer is not None and not buffer.is_floating_point() and buffer.numel() == 1


def _constant(buffer):
    value, dtype = buffer.tolist(), buffer.dtype
    return lambda _: torch.tensor(value, dtype=dtype)


@contextlib.contextmanager
def _constants_followed():
    """Tracing that keeps the values of what is computed from constants alone, not only of single numbers."""
    from torch._subclasses import fake_tensor

    limit, fake_tensor.CONSTANT_NUMEL_LIMIT = fake_tensor.CONSTANT_NUMEL_LIMIT, MOST_HELD
    try:
        yield
    finally:
        fake_tensor.CONSTANT_NUMEL_LIMIT = limit
