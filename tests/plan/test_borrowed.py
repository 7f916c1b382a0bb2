"""Plans from elsewhere: every style string of transformers, prefixes, what a model lacks, AutoDeploy's mappings."""

import ast
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.errors import PlanError, PlanWarning
from shardwright.layout.layout import REPLICATE, Shard, resolve
from shardwright.plan.autodeploy import autodeploy_plan
from shardwright.plan.borrowed import BorrowedEntries, BorrowedPlan, move_inside
from shardwright.plan.huggingface import hf_plan, plan_of_classes
from shardwright.plan.made_of import TensorInfo
from shardwright.plan.resolve import resolve_plan
from shardwright.plan.styles import STYLE_NAMES

transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")

LINEAR, EMBEDDING = "torch.nn.modules.linear.Linear", "torch.nn.modules.sparse.Embedding"
TENSORS = {
    "model.embed_tokens.weight": TensorInfo((96, 16)),
    **{f"model.layers.{i}.attn.{n}_proj.weight": TensorInfo((32, 16)) for i in (0, 1) for n in "qo"},
    **{f"model.layers.{i}.attn.sinks": TensorInfo((8,)) for i in (0, 1)},
    **{f"model.layers.{i}.experts.gate_up_proj": TensorInfo((4, 64, 16)) for i in (0, 1)},
    **{f"model.layers.{i}.experts.down_proj": TensorInfo((4, 16, 32)) for i in (0, 1)},
    **{f"model.layers.{i}.experts.down_bias": TensorInfo((4, 16)) for i in (0, 1)},
    "model.norm.weight": TensorInfo((16,)),
    "lm_head.weight": TensorInfo((96, 16)),
}
MODULES = {
    "": "m.Model",
    "model": "m.Base",
    "model.embed_tokens": EMBEDDING,
    "model.layers": "",
    **{f"model.layers.{i}": "m.Layer" for i in (0, 1)},
    **{f"model.layers.{i}.attn": "m.Attention" for i in (0, 1)},
    **{f"model.layers.{i}.attn.{n}_proj": LINEAR for i in (0, 1) for n in "qo"},
    **{f"model.layers.{i}.experts": "m.Experts" for i in (0, 1)},
    "model.norm": "m.RMSNorm",
    "lm_head": LINEAR,
}
NOTHING = ["all_reduce", "ep_dispatch_experts", "ep_router", "local", "local_params"]
NOTHING += ["moe_identity_expert", "moe_tp_experts"]


def pins(plan):
    return {name: pin.layout for name, pin in resolve_plan(plan, TENSORS, MODULES, 2).pins.items()}


def test_every_string_that_transformers_registers_is_known():
    from transformers.distributed import tensor_parallel  # noqa: F401 - registers the styles
    from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES

    older = {"ep_router", "gather", "local", "local_colwise", "local_packed_rowwise", "local_rowwise"}
    assert {*ALL_PARALLEL_STYLES, *older} <= set(STYLE_NAMES)


def test_every_string_in_a_plan_that_transformers_ships_is_known():
    """Read off the sources of all configs and models: to import them all takes a minute."""
    plans = []
    for kind in ("configuration", "modeling"):
        for path in Path(transformers.models.__path__[0]).glob(f"*/{kind}_*.py"):
            plans += re.findall(r"\b\w*_(?:tp|ep)_plan(?:: [^=]*)? = (\{[^{}]*\})", path.read_text(encoding="utf-8"))
    used = {style for plan in plans for style in ast.literal_eval(plan).values()}
    assert len(plans) > 300
    assert {"colwise", "packed_colwise", "grouped_gemm", "colwise_gather_output", "mla_kv_a_proj"} <= used
    assert used <= set(STYLE_NAMES)


def test_strings_of_older_releases_are_known():
    """Those of 4.50 to 4.57, and of the first releases of 5."""
    older = "colwise rowwise colwise_rep rowwise_rep local_colwise local_rowwise local gather local_packed_rowwise"
    newer = "sequence_parallel replicate grouped_gemm ep_router embedding_rowwise moe_tp_experts packed_colwise"
    assert {*older.split(), *newer.split()} <= set(STYLE_NAMES)


@pytest.mark.parametrize("style", [style for style in STYLE_NAMES if style not in NOTHING])
def test_every_other_string_pins_something(style):
    keys = {"gather": "layers.*.attn.q_proj", "embedding_colwise": "embed_tokens", "embedding_rowwise": "embed_tokens"}
    keys |= dict.fromkeys([name for name in STYLE_NAMES if name.startswith(("colwise_", "rowwise_"))], keys["gather"])
    keys["sequence_parallel"] = "norm"
    resolved = resolve_plan({f"model.{keys.get(style, 'layers.*.experts.down_proj')}": style}, TENSORS, MODULES, 2)
    assert resolved.pins or resolved.boundaries


@pytest.mark.parametrize(
    ("name", "style", "dim"),
    [
        ("experts.gate_up_proj", "packed_colwise", 1),
        ("experts.gate_up_proj", "packed_rowwise", 2),
        ("experts.gate_up_proj", "local_packed_rowwise", 2),
        ("experts.gate_up_proj", "grouped_gemm", 0),
        ("experts.down_proj", "rowwise", 2),
        ("experts.down_proj", "colwise", 1),
        ("experts.down_proj", "local_colwise", 1),
        ("experts.down_proj", "mla_kv_a_proj", None),
        ("experts.down_bias", "colwise", 0),
        ("attn.sinks", "colwise", 0),
        ("attn.sinks", "local_rowwise", 0),
        ("attn.q_proj.weight", "colwise", 0),
        ("attn.o_proj.weight", "rowwise", 1),
    ],
)
def test_a_tensor_named_itself_is_cut_where_transformers_cuts_it(name, style, dim):
    found = pins({f"model.layers.*.{name}": style})
    whole = f"model.layers.0.{name}"
    wanted = REPLICATE if dim is None else resolve(Shard(dim), TENSORS[whole].shape, 2)
    assert found[whole] == wanted


@pytest.mark.parametrize("style", NOTHING)
def test_styles_about_gradients_and_partial_results_pin_nothing(style):
    resolved = resolve_plan({"model.layers.*.experts": style}, TENSORS, MODULES, 2)
    assert not resolved.pins
    assert not resolved.boundaries


def test_a_norm_named_by_its_weight_is_the_norm():
    by_tensor = resolve_plan({"model.norm.weight": "sequence_parallel"}, TENSORS, MODULES, 2)
    by_module = resolve_plan({"model.norm": "sequence_parallel"}, TENSORS, MODULES, 2)
    assert [(b.module, b.side, b.layout) for b in by_tensor.boundaries] == [
        (b.module, b.side, b.layout) for b in by_module.boundaries
    ]


def test_a_borrowed_plan_finds_its_prefix_and_names_what_is_left_out():
    entries = {"layers.*.attn.q_proj": "colwise", "layers.*.mlp.up_proj": "colwise", "lm_head": "colwise_rep"}
    with pytest.warns(PlanWarning, match=r"no 'layers\.\*\.mlp\.up_proj'"):
        fitted = hf_plan(entries).fit(MODULES, TENSORS)
    assert fitted == {"model.layers.*.attn.q_proj": "colwise", "lm_head": "colwise_rep"}


class TwoTowers(nn.Module):
    """Text alone is exported; images have a tower of their own, and a projection whose output is pinned."""

    def __init__(self):
        super().__init__()
        self.text, self.out, self.image = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 16)

    def forward(self, x):
        return self.out(self.text(x))


def test_entries_of_what_never_runs_are_left_out_by_name():
    exported = torch.export.export(TwoTowers(), (torch.randn(2, 8),))
    plan = {"text": "colwise", "out": "rowwise", "image": "colwise_gather_output"}
    with pytest.raises(PlanError, match="'image'"):
        sw.shard(exported, mesh=2, plan=plan)
    with pytest.warns(PlanWarning, match="has no 'image', or does not use them"):
        sharded = sw.shard(exported, mesh=2, plan=BorrowedPlan((BorrowedEntries(plan, "a family"),)))
    assert [c.kind for c in sharded.collectives] == ["all_reduce"]


def test_a_borrowed_plan_that_fits_nowhere_or_twice_is_an_error():
    with pytest.raises(PlanError, match="no entry of the plan"):
        hf_plan({"blocks.*.q": "colwise"}).fit(MODULES, TENSORS)
    towers = {f"{side}.layers.0.q": LINEAR for side in ("text", "vision")}
    with pytest.raises(PlanError, match="several parts of the program: 'text', 'vision'"):
        BorrowedPlan((BorrowedEntries({"layers.*.q": "colwise"}, "a config"),)).fit(towers, ())
    with pytest.raises(PlanError, match="carries no tensor-parallel plan"):
        hf_plan(nn.Linear(2, 2))


def test_a_plain_mapping_moves_inside_only_as_a_whole():
    inner = {"layers.*.attn.q_proj": "colwise", "norm": "replicate"}
    assert move_inside(inner, MODULES, TENSORS) == {f"model.{key}": style for key, style in inner.items()}
    assert move_inside({**inner, "layers.*.typo": "colwise"}, MODULES, TENSORS) == {**inner, "layers.*.typo": "colwise"}
    assert move_inside({**inner, "lm_head": "colwise"}, MODULES, TENSORS) == {**inner, "lm_head": "colwise"}


def test_only_classes_of_transformers_are_looked_up():
    with pytest.raises(PlanError, match="plan='hf' found no plan"):
        plan_of_classes({"": "os.path", "a": "transformers.models.nowhere.modeling_nowhere.NoModel", "b": LINEAR})


def tiny_llama():
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=32,
        use_cache=False,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, ids):
        return self.inner(input_ids=ids, use_cache=False).logits


def test_every_way_of_asking_for_the_maintainers_plan_gives_the_same_weights():
    model = tiny_llama()
    ids = torch.randint(0, 64, (2, 8))
    exported = torch.export.export(Wrapped(model), (ids,), strict=False)
    layouts = []
    for plan in ("hf", hf_plan(model), model.tp_plan, {f"inner.{k}": v for k, v in model.tp_plan.items()}):
        sharded = sw.shard(exported, mesh=2, plan=plan)
        layouts.append({w.name: str(w.layouts) for w in sharded.weights})
    assert sw.verify(sharded, exported, (ids,)).ok
    assert layouts[0] == layouts[1] == layouts[2] == layouts[3]
    for plan in (hf_plan(model.config), model.config.base_model_tp_plan):
        sharded = sw.shard(exported, mesh=2, plan=plan)
        cut = {w.name.rpartition(".layers.")[2] for w in sharded.weights if w.plan_key}
        assert cut == {
            f"0.{n}.weight"
            for n in (
                *(f"self_attn.{p}_proj" for p in "qkvo"),
                *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
            )
        }


def test_autodeploy_keys_are_searched_for_and_the_first_decides():
    modules = {
        "m.layers.0.mixer.in_proj": LINEAR,
        "m.layers.0.mixer.out_proj": LINEAR,
        "m.layers.0.mlp.shared.up": LINEAR,
        "m.layers.0.mlp.up": LINEAR,
        "m.layers.0.gate": LINEAR,
        "m.head": LINEAR,
        "m.norm": "m.RMSNorm",
    }
    tensors = [f"{path}.weight" for path in modules]
    entries = {
        "in_proj": "mamba",
        "layers*out_proj": "rowwise",
        "mlp.*up": "local_colwise",
        "gate": "gather",
        "head": "simple",
        "norm": "sequence_parallel",
    }
    with pytest.warns(PlanWarning, match="'norm': 'sequence_parallel'"):
        fitted = autodeploy_plan({"head_dim": 8, "tp_plan": entries}).fit(modules, tensors)
    assert fitted == {
        "m.layers.0.mixer.in_proj": "colwise",
        "m.layers.0.mixer.out_proj": "rowwise",
        "m.layers.0.mlp.shared.up": "colwise",
        "m.layers.0.gate": "colwise_gather_output",
        "m.head": "colwise_gather_output",
    }
    with pytest.raises(PlanError, match="no linear layer's name"):
        autodeploy_plan({"nothing": "colwise"}).fit(modules, tensors)
    with pytest.raises(PlanError, match=r"no such styles: 'up': 'colwize'\n  try: one of colwise, gather"):
        autodeploy_plan({"up": "colwize"})
    with pytest.raises(PlanError, match="is a mapping of names"):
        autodeploy_plan({"tp_plan": {}})
    with pytest.raises(PlanError, match=r"maps strings to strings, as .* does, got 'a': 3"):
        autodeploy_plan({"a": 3})


class Mixer(nn.Module):
    """A packed input projection, as state-space layers have it."""

    def __init__(self):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        gate, value, step = self.in_proj(x).split(16, -1)
        return self.out_proj(gate.sigmoid() * value * step.tanh())


def test_mamba_cuts_a_packed_projection_part_by_part():
    torch.manual_seed(0)
    x = torch.randn(3, 16)
    exported = torch.export.export(Mixer(), (x,))
    plan = autodeploy_plan({"tp_plan": {"in_proj": "mamba", "out_proj": "rowwise"}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sharded = sw.shard(exported, mesh=2, plan=plan)
    assert sw.verify(sharded, exported, (x,)).ok
    assert [c.kind for c in sharded.collectives] == ["all_reduce"]
    weight = next(w for w in sharded.weights if w.name == "in_proj.weight")
    assert str(weight.layouts["tp"]) == "Shard(0, Blocks(parts=(16, 16, 16), unit=1))"
