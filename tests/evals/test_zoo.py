"""The zoo's recipe, its results file and its card (the zoo itself takes hours: `make zoo`)."""

import json

import pytest
import torch

import shardwright as sw

transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")

from evals.zoo import exporting  # noqa: E402
from evals.zoo.agreement_card import agreement_section  # noqa: E402
from evals.zoo.build import NotBuildableError, build  # noqa: E402
from evals.zoo.card import render  # noqa: E402
from evals.zoo.checks import follow, supply  # noqa: E402
from evals.zoo.comparing import compare  # noqa: E402
from evals.zoo.double import in_double, is_rounding  # noqa: E402
from evals.zoo.inputs import candidates, least  # noqa: E402
from evals.zoo.measure import describe  # noqa: E402
from evals.zoo.rare import told  # noqa: E402
from evals.zoo.recipe import shrink  # noqa: E402
from evals.zoo.results import latest, one_line  # noqa: E402
from evals.zoo.sizes import VOCABULARY  # noqa: E402
from evals.zoo.types import ModelType  # noqa: E402


@pytest.mark.parametrize(("level", "key_value_heads"), [("grouped", 4), ("plain", 8)])
def test_a_config_is_shrunk_by_the_names_of_its_sizes(level, key_value_heads):
    config = shrink(transformers.MixtralConfig, level)
    assert (config.hidden_size, config.num_hidden_layers, config.num_local_experts) == (64, 2, 4)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, key_value_heads, 8)
    assert config.vocab_size == VOCABULARY
    assert not config.use_cache


def test_true_widths_stay_where_only_layers_are_cut():
    config, whole = shrink(transformers.LlamaConfig, "layers"), transformers.LlamaConfig()
    assert config.num_hidden_layers == 2
    assert (config.hidden_size, config.vocab_size) == (whole.hidden_size, whole.vocab_size)


def test_every_kind_of_layer_stays_and_parts_are_shrunk_too():
    config = shrink(transformers.Gemma3Config, "grouped")
    assert set(config.text_config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.text_config.num_hidden_layers == len(config.text_config.layer_types) == 2
    assert config.vision_config.num_hidden_layers == 2
    assert config.text_config.eos_token_id < VOCABULARY


def test_frequencies_fill_the_part_of_a_head_that_is_rotated():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [24, 20, 20], "partial_rotary_factor": 0.5}
    config = shrink(lambda: transformers.Qwen3Config(head_dim=128, rope_parameters=rope), "grouped")
    assert sum(config.rope_parameters["mrope_section"]) * 2 == config.head_dim // 2


def test_windows_that_no_stage_fills_are_shrunk():
    assert shrink(transformers.SwinConfig, "windows").window_size == 2
    assert shrink(transformers.SwinConfig, "own").window_size == transformers.SwinConfig().window_size


def test_inputs_that_a_signature_does_not_ask_for_come_after_those_it_does():
    model = transformers.AutoModel.from_config(shrink(transformers.LxmertConfig, "grouped"))
    labels = [label for label, _ in candidates(model)]
    assert labels[0] == "input_ids"
    assert "input_ids visual_feats visual_pos" in labels
    assert list(least(model)) == ["input_ids"]


def test_what_a_class_leaves_open_is_filled_and_what_a_composite_sets_is_kept():
    assert shrink(transformers.EsmConfig, "matched").pad_token_id is not None
    assert shrink(transformers.PaliGemmaConfig, "matched").text_config.num_key_value_heads == 1


def test_a_backbone_of_a_library_that_is_not_there_has_a_stand_in():
    config = shrink(transformers.DetrConfig, "matched")
    with torch.device("meta"):
        transformers.AutoModel.from_config(config)


def test_what_the_checks_of_a_class_say_is_followed():
    part = transformers.LlamaConfig(intermediate_size=128)
    given = {"adaptor_config": part, "num_key_value_heads": 4, "num_attention_heads": 8}
    assert follow("`adaptor_config.intermediate_size` (128) must equal `text.hidden_size // 4` (16).", given, None)
    assert follow("num_key_value_heads must match num_attention_heads", given, None)
    assert (part.intermediate_size, given["num_key_value_heads"]) == (16, 8)
    assert not follow("something else is wrong", given, None)


def test_an_attribute_that_a_model_looks_for_in_vain_is_supplied():
    config = transformers.LlamaConfig()
    message = "'LlamaConfig' object has no attribute 'clip_qkv'"
    assert supply(message, config, {"clip_qkv": 8.0}.get)
    assert config.clip_qkv == 8.0
    assert not supply("no such message", config, {}.get)


def test_inputs_are_resized_as_errors_say():
    inputs = {"input_features": torch.randn(2, 5, 80), "use_cache": False}
    (name, found), *_ = told(inputs, "mat1 and mat2 shapes cannot be multiplied (10x80 and 320x64)")
    assert (name, found["input_features"].shape) == ("input_features", (2, 5, 320))
    assert not list(told(inputs, "anything else"))


def test_the_reason_is_that_of_the_level_that_came_furthest():
    with pytest.raises(NotBuildableError, match="inference_session") as found:
        build(ModelType("sam3_video", "base"))
    assert "parameters after shrinking" not in str(found.value)


class ReadsSizes(torch.nn.Module):
    """Loops over sizes that are given as values."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("stride", torch.tensor(2), persistent=False)

    def forward(self, hidden_states, grid_thw):
        parts = hidden_states.split(grid_thw.prod(-1).tolist())
        return torch.cat([self.linear(part)[:: self.stride.item()] for part in parts])


def test_inputs_that_describe_sizes_are_held_constant_where_export_takes_them_no_other_way():
    model = ReadsSizes().eval()
    inputs = {"hidden_states": torch.randn(6, 4), "grid_thw": torch.tensor([[1, 2, 1], [1, 2, 2]])}
    with pytest.raises(Exception, match=r"data-dependent|unbacked"):
        exporting.plain(model, inputs)
    exported = exporting.export(model, inputs)
    assert exported.way == "sizes and masks held constant"
    assert list(exported.inputs) == ["hidden_states"]
    torch.testing.assert_close(exported.program.module()(**exported.inputs), model(**inputs))
    assert "stride" in dict(model.named_buffers())


def test_a_reason_says_what_is_wrong_and_where_and_gives_no_advice():
    message = "Could not guard on Eq(u0, 0). (Size-like symbols: u0)\n\nCaused by: (_refs/x.py:42 in unbind)\n"
    text = one_line(RuntimeError(message + 'For more information, run with TORCH_LOGS="dynamic"'))
    assert text == "RuntimeError: Could not guard on Eq(u0, 0). (x.py:42 in unbind)"


def test_weights_that_are_left_whole_are_named():
    model = torch.nn.Sequential(torch.nn.Linear(8, 24), torch.nn.Linear(24, 8))
    exported = torch.export.export(model, (torch.randn(2, 8),))
    plan = {"0": "colwise", "1": "replicate"}
    beyond = describe(sw.shard(exported, mesh=2, plan=plan))["held_beyond"]
    whole = sum(p.numel() for p in model.parameters())
    # A name's numbers are wildcards: both linears are one entry.
    assert beyond["*.weight"] == pytest.approx(8 * 24 / 2 / whole, abs=1e-3)


def record(kind, plan, ranks, verdict, **facts):
    return {"type": kind, "group": "causal", "plan": plan, "num_ranks": ranks, "verdict": verdict, **facts}


def test_the_last_record_of_a_run_counts(tmp_path):
    path = tmp_path / "zoo.jsonl"
    records = [
        record("a", "", 0, "not buildable", reason="x"),
        record("b", "auto", 2, "gave up"),
        record("a", "auto", 2, "ok"),
        record("b", "auto", 2, "ok", torch="2.13.0"),
        record("c", "auto", 2, "ok"),
        record("c", "", 0, "not exportable", reason="y"),
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    found, facts = latest(path)
    assert {key: r["verdict"] for key, r in found.items()} == {
        ("a", "auto", 2): "ok",
        ("b", "auto", 2): "ok",
        ("c", "", 0): "not exportable",
    }
    assert facts["torch"] == "2.13.0"


def test_the_card_counts_and_lists_every_type():
    ok = {
        "max_error": 3e-7,
        "share": 0.5,
        "collectives": {"all_reduce": 4},
        "fallbacks": {"aten.x.default": 1},
        "shard_s": 1,
    }
    runs = [
        record("a", "auto", 2, "ok", **ok),
        record("a", "auto", 4, "ok", **ok | {"held_beyond": {"embed": 0.2}}),
        record("b", "auto", 2, "wrong", reason="output 0 | differs", max_error=0.5),
        record("c", "", 0, "not buildable", reason="no size fits"),
    ]
    records = {(r["type"], r["plan"], r["num_ranks"]): r for r in runs}
    card = render(records, {}, {"torch": "T", "transformers": "F"}, {"causal": 5, "base": 0})
    assert "| causal language models | auto, 2 ranks | 1 | 1 |  |  |  |  |  | 1 | 2 |" in card
    held = "4 ranks: whole or uneven: `embed` 20%"
    assert f"| `a` | ok | 3e-07 | 0.50 0.50 | 4 all-reduce | `aten.x` | 1.0 | {held} |" in card
    assert "auto, 2: output 0 \\| differs" in card
    assert "`aten.x.default` (1)" in card


AGREEMENT = {
    "equal": 3,
    "of": 5,
    "named_equal": 1,
    "named": 2,
    "differ": [
        {"weight": "layers.*.up.weight", "named": True, "auto": "dim 0", "hf": "dim 1", "count": 2}
        | {"auto_bytes": 2**20, "hf_bytes": 2**20}
    ],
    "auto_collectives": {"all_reduce": 2},
    "hf_collectives": {"all_reduce": 3},
}
AGREEMENT |= {"auto_sent": 50, "auto_held": 10, "auto_talk_us": 30.0, "auto_work_us": 40.0, "auto_gap": 0.0}
AGREEMENT |= {"hf_sent": 100, "hf_held": 10, "hf_talk_us": 50.0, "hf_work_us": 50.0, "hf_gap": 0.0}


def agreement(**facts):
    return agreement_section({("a", "agreement", 8): record("a", "agreement", 8, "ok", **AGREEMENT | facts)})


def test_the_card_says_how_far_plans_agree():
    text = agreement()
    assert "1 of the 2 weights that the plans name are held alike" in text
    assert "| `a` | 8 | 1/2 | 3/5 | 0.50 | 1.00 | 0.70 | 2 : 3 | cheaper |" in text
    assert "| `layers.up` | dim 0 | dim 1 | 1 | 1 | 0.50 | 1.00 | 0.70 |" in text
    assert "cheaper: sends 0.50x, holds 1.00x, 1 fewer collective; takes 0.70x: communication -20 µs, work -10" in text
    assert "dim 0, not dim 1: `layers.*.up` (1.0 MiB)" in text


def test_the_card_says_why_a_plan_is_dearer():
    dearer = agreement(auto_sent=101)
    assert "dearer: sends 1.01x, holds 1.00x" in dearer
    assert "communication -20 µs, work -10 µs\n" in dearer
    slower = {"auto_sent": 101, "auto_work_us": 80.0, "unbounded_talk_us": 40.0, "unbounded_work_us": 50.0}
    assert "takes 1.10x: communication -20 µs, work +30 µs (0.90x without the bound" in agreement(**slower)
    assert "(the solver stopped 20% from" in agreement(auto_work_us=80.0, auto_gap=0.2)
    assert "(not explained)" in agreement(auto_work_us=80.0)


class Attention(torch.nn.Module):
    """Two key-value heads: on four ranks an axis of its own two parts holds them."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (torch.nn.Linear(64, n, bias=False) for n in (64, 16, 16, 64))

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (-1, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        heads = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(heads.transpose(1, 2).flatten(2))


class Amplifies(torch.nn.Module):
    """As snakes of large frequencies do, one after the other: what comes in differs, what comes out differs wildly."""

    def __init__(self, times):
        super().__init__()
        self.times, self.up, self.down = times, torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

    def forward(self, x):
        x = self.down(self.up(x))
        for _ in range(self.times):
            x = torch.sin(8 * x)
        return x


@pytest.mark.parametrize(("times", "is_some", "is_no_more"), [(0, False, True), (11, True, True), (30, True, False)])
def test_what_a_model_amplifies_is_judged_by_the_last_digit_of_its_inputs(times, is_some, is_no_more):
    def export(model, inputs):
        return exporting.plain(model, inputs), inputs

    torch.manual_seed(0)
    model, inputs = Amplifies(times).eval(), {"x": torch.randn(8, 64)}
    error, change = in_double(model, inputs, {"up": "colwise", "down": "rowwise"}, 4, export)
    assert (error > 1e-9) == is_some
    assert is_rounding(error, change) == is_no_more
    assert model.up.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("error", "change"), [(1e-6, 0.0), (1e-6, 1e-8), (1e-3, 1.0), (float("inf"), 1e-5), (None, None)]
)
def test_an_error_beyond_rounding_is_wrong(error, change):
    assert not is_rounding(error, change)


def test_weights_are_compared_by_what_every_rank_holds():
    exported = torch.export.export(Attention(), (torch.randn(1, 4, 64),))
    split = sw.shard(exported, mesh=4, plan={"q": "colwise", "k": "colwise", "v": "colwise", "o": "rowwise"})
    assert split.mesh.names == ("tp.0", "tp.1")
    found = compare(split, split)
    assert (found["equal"], found["of"], found["differ"]) == (4, 4, [])
    assert found["auto_sent"] == found["hf_sent"] == round(2 * 4 * 64 * 4 * 3 / 4)
    # What both parts of an axis cut is as the whole axis would cut it.
    even = sw.shard(exported, mesh=4, plan={"q": sw.Shard(0), "o": sw.Shard(1), "k": "replicate", "v": "replicate"})
    found = compare(even, split)
    assert {d["weight"]: (d["auto"], d["hf"]) for d in found["differ"]} == {
        "k.weight": ("whole", "dim 0 among 2"),
        "v.weight": ("whole", "dim 0 among 2"),
    }
