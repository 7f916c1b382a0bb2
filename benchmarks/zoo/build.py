"""Build a model of a type: the first level of the recipe whose config, weights and forward pass hold together."""

import math

import torch

from benchmarks.zoo.inputs import InputsUnknownError, candidates
from benchmarks.zoo.recipe import LEVELS, as_decoder, shrink
from benchmarks.zoo.results import one_line

MOST_PARAMETERS = 90_000_000


class NotBuildableError(Exception):
    """No level of the recipe gives a model that runs; says what each level met."""


def build(kind):
    """A model in eval mode, its keyword inputs, and in words how it was built."""
    met = []
    for level in LEVELS:
        try:
            model, attention = _model(kind, level)
        except Exception as error:  # noqa: BLE001 - whatever a config or model class raises is the finding
            met.append(f"{level}: {one_line(error, 300)}")
            continue
        for label, inputs in _inputs(model, met, level):
            try:
                with torch.no_grad():
                    outputs = model(**inputs)
            except Exception as error:  # noqa: BLE001 - as above
                met.append(f"{level}, {label}: {one_line(error, 300)}")
                continue
            if problem := _hollow(outputs):
                met.append(f"{level}, {label}: {problem}")
                continue
            return model, inputs, {"level": level, "attention": attention, "inputs": label}
    if problem := _default_problem(kind):
        raise NotBuildableError(f"nor does the default config: {problem}")
    raise NotBuildableError(" | ".join(dict.fromkeys(met)))


def _default_problem(kind):
    """What the class's own default config meets, on the meta device."""
    from transformers import CONFIG_MAPPING

    auto = auto_class(kind)
    try:
        with torch.device("meta"):
            config = CONFIG_MAPPING[kind.name]()
            auto.from_config(as_decoder(config) if kind.group == "causal" else config)
    except Exception as error:  # noqa: BLE001 - whatever a config or model class raises is the finding
        return one_line(error, 300)
    return ""


def _inputs(model, met, level):
    try:
        return list(candidates(model))
    except InputsUnknownError as error:
        met.append(f"{level}: {error}")
        return []


def auto_class(kind):
    """The class of transformers that builds this group."""
    from transformers import AutoModel, AutoModelForCausalLM

    return AutoModelForCausalLM if kind.group == "causal" else AutoModel


def _model(kind, level):
    from transformers import CONFIG_MAPPING

    auto = auto_class(kind)
    config = shrink(CONFIG_MAPPING[kind.name], level)
    if kind.group == "causal":
        config = as_decoder(config)
    with torch.device("meta"):
        size = sum(p.numel() for p in auto.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters after shrinking, more than {MOST_PARAMETERS:,}")
    for attention in ("sdpa", "eager"):
        try:
            model = auto.from_config(config, attn_implementation=attention, dtype=torch.float32)
        except ValueError as error:
            if attention == "eager" or "attention" not in str(error):
                raise
            continue
        return redraw(model).eval(), attention
    raise AssertionError("eager attention either builds or raises")


def redraw(model):
    """Weights drawn anew at 1/sqrt(fan in), so that no layer is zero, constant, or saturates the next."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or tensor.numel() == 0:
                continue
            last = name.rpartition(".")[2]
            noise = torch.randn(tensor.shape, generator=generator)
            if isinstance(tensor, torch.nn.Parameter) and tensor.dim() > 1:
                tensor.copy_(noise / math.sqrt(_fan_in(tensor.shape)))
            elif last == "running_var":
                tensor.copy_(1 + 0.1 * noise.abs())
            elif last in ("bias", "running_mean"):
                tensor.copy_(0.1 * noise)
            elif isinstance(tensor, torch.nn.Parameter):
                start = torch.where(tensor.isfinite(), tensor, torch.ones_like(tensor))
                tensor.copy_((1.0 if last == "weight" else start) + 0.1 * noise)
    return model


def _fan_in(shape):
    return math.prod(shape[1:]) if len(shape) == 4 else shape[-1]


def _hollow(outputs):
    """Why these outputs would not tell right from wrong, if so."""
    leaves = [v for v in torch.utils._pytree.tree_leaves(outputs) if isinstance(v, torch.Tensor)]
    floats = [v for v in leaves if v.is_floating_point()]
    if not floats:
        return "gives no floating-point output"
    if any(bool(v.isnan().any()) for v in floats):
        return "gives outputs that are not numbers"
    if all(bool((v == v.flatten()[0]).all()) for v in floats if v.numel()):
        return "gives constant outputs"
    return ""
