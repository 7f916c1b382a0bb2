"""What models at their real width send on 8 ranks, beside what an expert would: on weights that are shapes.

What a block sends under the plan that is written by hand is what one block more of its kind adds: that is held against
the expert's sums. The automatic plan is held against the one by hand on the same model, first and last layers included.
"""

import importlib
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import diffusers
import torch
import transformers
import x_transformers
import yaml
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import shardwright as sw
from shardwright.program.collectives import CollectiveKind
from shardwright.program.flatten import functional
from shardwright.program.torch_private import FakeTensorMode
from shardwright.program.write import replace_weights
from shardwright.sources.diffusers.build_component import build_component
from shardwright.sources.example import read_example
from shardwright.sources.export_example import export_example
from shardwright.sources.hugging_face.build import build_model, set_dtypes, shapes_only

MODELS = yaml.safe_load((Path(__file__).parent / "models.yaml").read_text(encoding="utf-8"))
NUM_RANKS = 8
PASSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1 / NUM_RANKS}
"""How often a collective sends a whole value, in parts of (N-1)/N of it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Messages of a call by kind, values sent together counted once, the bytes they pass on, and what that took."""

    kinds: Counter
    num_bytes: float
    export_s: float
    compile_s: float
    prediction: sw.Prediction


@dataclass(frozen=True, slots=True)
class Block:
    """What one block more of a kind adds: the bytes it passes on, and the microseconds of it by the cost model."""

    num_bytes: float
    communication_us: float


def expert_bytes(name, key):
    """The bytes of an expert's sums in a block, in 16 bits."""
    return sum(PASSES["all_reduce"] * 2 * tokens * width for tokens, width in MODELS[name]["blocks"][key])


def once_us(name, key):
    """The microseconds that the automatic plan's collectives of a block once took by the cost model, in 16 bits."""
    sent_once, cost = MODELS[name]["before"][key], sw.CostModel()
    return sum(
        times * cost.collective_us(CollectiveKind(kind), 2 * tokens * width, NUM_RANKS)
        for kind, times, (tokens, width) in sent_once
    )


def blocks_by_hand(name, before):
    """By the key that counts a kind of block: what one more than ``before`` has adds, under the plan by hand.

    ``before``: what the model sends with `few_blocks`.
    """
    depths, plan = few_blocks(name), MODELS[name]["plan"]
    after = {key: sent(name, {**depths, key: _counts(name, key)[1]}, plan) for key in depths}
    return {key: _difference(before, one) for key, one in after.items()}


def _difference(before, after):
    spent = after.prediction.communication_us - before.prediction.communication_us
    return Block(after.num_bytes - before.num_bytes, spent)


def few_blocks(name):
    """One block of each kind."""
    return {key: _counts(name, key)[0] for key in MODELS[name]["blocks"]}


def _counts(name, key):
    """What the configuration says for one block of a kind, and for one more."""
    return MODELS[name].get("counts", {}).get(key, (1, 2))


def sent(name, depths, plan):
    """What a model sends under a plan. ``depths``: its blocks of each kind, where not as many as it has."""
    start = time.perf_counter()
    program = exported(name, depths)
    between = time.perf_counter()
    sharded = sw.shard(program, mesh=NUM_RANKS, plan=plan)
    done = time.perf_counter()
    alone = [one for one in sharded.collectives if not one.message]
    together = {one.message: one for one in sharded.collectives if one.message}
    return Sent(
        Counter(str(one.kind) for one in (*alone, *together.values())),
        sum(one.num_bytes * PASSES[one.kind] for one in sharded.collectives),
        between - start,
        done - between,
        sharded.prediction,
    )


def exported(name, depths):
    """The program of a model; of its weights nothing is held."""
    return without_weights(built(name, depths)())


def built(name, depths):
    """A model is made; what is returned exports it."""
    entry = MODELS[name]
    library, _, kind = entry["make"].partition(".")
    model, mode = MAKERS[library](kind, {**entry["config"], **depths}, Path(name))
    example = read_example(entry["example"])
    return partial(export_example, model, mode, example, named=library == "transformers")


def without_weights(program):
    """The program made functional, its weights shapes."""
    return replace_weights(functional(program), lambda _, tensor: torch.empty_like(tensor, device="meta"))


def _of_diffusers(kind, config, folder):
    return build_component(getattr(diffusers, kind), config, folder, torch.bfloat16)


def _of_transformers(kind, config, folder):
    made = transformers.AutoConfig.for_model(**config)
    made.architectures = [kind]
    return build_model(made, folder, torch.bfloat16)


def _of_x_transformers(kind, config, folder):
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with shapes_only(mode):
        around = {key: config[key] for key in ("num_tokens", "max_seq_len")}
        layers = {key: value for key, value in config.items() if key not in around}
        model = x_transformers.TransformerWrapper(**around, attn_layers=getattr(x_transformers, kind)(**layers))
    set_dtypes(model, mode, torch.bfloat16, lambda name: False)
    return model.eval(), mode


def _of_torchtune(kind, config, folder):
    # Not beside the other libraries: it wants an older torchao. `make wild` has an environment with it.
    recipe = importlib.import_module(f"torchtune.models.{kind.rpartition('.')[0]}")
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with shapes_only(mode):
        model = getattr(recipe, kind.rpartition(".")[2])(**config)
    set_dtypes(model, mode, torch.bfloat16, lambda name: False)
    return model.eval(), mode


MAKERS = {
    "diffusers": _of_diffusers,
    "torchtune": _of_torchtune,
    "transformers": _of_transformers,
    "x_transformers": _of_x_transformers,
}
"""By library: what makes its model, and the fake mode that its parameters live in."""
