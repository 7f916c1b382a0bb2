"""Build a model of a type: the first level of the recipe whose config, weights and forward pass hold together."""

import math

import torch

from evals.zoo.checks import supply
from evals.zoo.inputs import InputsUnknownError, candidates
from evals.zoo.opened import open_value, rope_by_kind
from evals.zoo.rare import told
from evals.zoo.recipe import LEVELS, MENDED, as_decoder, shrink
from evals.zoo.results import one_line

MOST_PARAMETERS = 90_000_000
MOST_RESIZED = 3
"""Times that inputs are resized as errors say."""
CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
MOST_SUPPLIED = 12
"""Attributes given to a config that its model looks for in vain."""


class NotBuildableError(Exception):
    """No level of the recipe gives a model that runs; says what those met that came furthest."""


def build(kind):
    """A model in eval mode, its keyword inputs, and in words how it was built."""
    met = Met()
    for level in LEVELS:
        try:
            model, attention = _model(kind, level)
        except TooLargeError as error:
            met.add(Met.LARGE, level, error)
            continue
        except Exception as error:  # noqa: BLE001 - whatever a config or model class raises is the finding
            met.add(Met.CLASS, level, error)
            continue
        try:
            found = _running(model, level, met)
        except InputsUnknownError as error:
            met.add(Met.INPUTS, level, error)
            break  # a class asks for the same at every level
        if found:
            inputs, label = found
            return model, inputs, {"level": level, "attention": attention, "inputs": label}
    raise NotBuildableError(_reason(kind, met))


def _running(model, level, met):
    """The first inputs that the model runs with, and their label; None where there are none."""
    for label, inputs in candidates(model, rare=level in MENDED):
        problem = failure(model, inputs)
        if problem:
            met.add(Met.FORWARD, f"{level}, {label}", problem)
        if problem and level in MENDED:
            inputs, label, problem = _resized(model, inputs, label, problem)
        if not problem:
            return inputs, label
    return None


def _resized(model, inputs, label, problem, depth=MOST_RESIZED):
    """Inputs resized as the model's errors say until it runs: those, their label, and the problem that is left."""
    for name, others in told(inputs, str(problem)) if depth else ():
        other = failure(model, others)
        relabelled = label if f"{name} resized" in label else f"{label}, {name} resized"
        found = _resized(model, others, relabelled, other, depth - 1) if other else (others, relabelled, "")
        if not found[2]:
            return found
    return inputs, label, problem


class TooLargeError(Exception):
    """A model has more parameters than this recipe is about."""


class Met:
    """What stood in the way, and how far each level came until then."""

    LARGE, CLASS, INPUTS, FORWARD = range(4)

    def __init__(self):
        self.found = {}

    def add(self, stage, where, problem):
        """Note a problem, an error or words, at a stage."""
        text = str(problem) if isinstance(problem, (str, TooLargeError, InputsUnknownError)) else one_line(problem, 300)
        self.found.setdefault((stage, text), where)

    @property
    def furthest(self):
        """The stage that the level that came furthest reached."""
        return max(stage for stage, _ in self.found)

    def say(self, most=2):
        """The first problems of the furthest stage, each with where it was first met."""
        far = [f"{where}: {text}" for (stage, text), where in self.found.items() if stage == self.furthest]
        return " | ".join(far[:most])


def _reason(kind, met):
    if met.furthest <= Met.CLASS and (problem := _default_problem(kind)):
        return f"nor does the default config: {problem}"
    return met.say()


def failure(model, inputs):
    """What goes wrong when the model is called with these inputs, if anything."""
    try:
        with torch.no_grad():
            outputs = model(**inputs)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is the finding
        return error
    return _hollow(outputs)


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


def auto_class(kind):
    """The class of transformers that builds this group."""
    from transformers import AutoModel, AutoModelForCausalLM

    return AutoModelForCausalLM if kind.group == "causal" else AutoModel


def _model(kind, level):
    from transformers import CONFIG_MAPPING

    make = auto_class(kind).from_config
    config = shrink(CONFIG_MAPPING[kind.name], level)
    if level in MENDED:
        config, make = _own_part(config, auto_class(kind))
        config = _mended(config, make)
    if kind.group == "causal":
        config = as_decoder(config)
    size = _parameters(config, make)
    if size > MOST_PARAMETERS:
        raise TooLargeError(f"{size:,} parameters after shrinking, more than {MOST_PARAMETERS:,}")
    for attention in ("sdpa", "eager"):
        try:
            model = make(config, attn_implementation=attention, dtype=torch.float32)
        except ValueError as error:
            if attention == "eager" or "attention" not in str(error):
                raise
            continue
        return redraw(model).eval(), attention
    raise AssertionError("eager attention either builds or raises")


def _parameters(config, make):
    with torch.device("meta"):
        return sum(p.numel() for p in make(config).parameters())


def _own_part(config, auto):
    """The part of a composite that the class is made of, and what makes the class; one is named where several are."""
    classes = auto._model_mapping.get(type(config), None)
    if isinstance(classes, (list, tuple)):
        config.architectures = config.architectures or [classes[0].__name__]
        return config, auto.from_config
    wanted = getattr(classes, "config_class", None)
    parts = [part for part in vars(config).values() if wanted is not None and type(part) is wanted]
    if parts and not isinstance(config, wanted):
        return parts[0], classes._from_config
    return config, auto.from_config


def _mended(config, make):
    """A config with the attributes that its model looks for in vain."""
    for _ in range(MOST_SUPPLIED):
        try:
            _parameters(config, make)
        except AttributeError as error:
            if not supply(str(error), config, open_value):
                return config
        except KeyError as error:
            if not rope_by_kind(error.args[0], config):
                return config
        except Exception:  # noqa: BLE001 - shows again when the model is built
            return config
        else:
            return config
    return config


def redraw(model):
    """Weights drawn anew at 1/sqrt(fan in), so that no layer is zero, constant, or saturates the next."""
    generator = torch.Generator().manual_seed(0)
    kernels = {id(m.weight) for m in model.modules() if isinstance(m, CONVOLUTIONS)}
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
                continue
            last = name.rpartition(".")[2]
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype if tensor.is_complex() else None)
            if isinstance(tensor, torch.nn.Parameter) and tensor.dim() > 1:
                tensor.copy_(noise / math.sqrt(_fan_in(tensor.shape, id(tensor) in kernels)))
            elif last == "running_var":
                tensor.copy_(1 + 0.1 * noise.abs())
            elif last in ("bias", "running_mean"):
                tensor.copy_(0.1 * noise)
            elif isinstance(tensor, torch.nn.Parameter):
                start = torch.where(tensor.isfinite(), tensor, torch.ones_like(tensor))
                tensor.copy_((1.0 if last == "weight" else start) + 0.1 * noise)
    return model


def _fan_in(shape, is_kernel):
    return math.prod(shape[1:]) if is_kernel or len(shape) == 4 else shape[-1]


def _hollow(outputs):
    """Why these outputs would not tell right from wrong, if so."""
    leaves = [v for v in torch.utils._pytree.tree_leaves(outputs) if isinstance(v, torch.Tensor)]
    floats = [v for v in leaves if v.is_floating_point() or v.is_complex()]
    if not floats:
        return "gives no floating-point output"
    if any(bool(v.isnan().any()) for v in floats):
        return "gives outputs that are not numbers"
    if all(bool((v == v.flatten()[0]).all()) for v in floats if v.numel()):
        return "gives constant outputs"
    return ""
