"""Plans: keys, styles, and every error at once."""

import pytest
import yaml
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor import Shard as TorchShard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleInputOutput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
)

from shardwright.errors import PlanError
from shardwright.layout.cut import Blocks, Cut
from shardwright.layout.layout import REPLICATE, Shard, resolve
from shardwright.plan.made_of import TensorInfo
from shardwright.plan.patterns import generalize, matches
from shardwright.plan.plan_files import read_plan, style_to_yaml
from shardwright.plan.resolve import resolve_plan

LINEAR, EMBEDDING = "torch.nn.modules.linear.Linear", "torch.nn.modules.sparse.Embedding"
TENSORS = {
    "embed.weight": TensorInfo((100, 16)),
    **{f"layers.{i}.{name}_proj.weight": TensorInfo((32, 16)) for i in (0, 1) for name in "qkv"},
    **{f"layers.{i}.q_proj.bias": TensorInfo((32,)) for i in (0, 1)},
    **{f"layers.{i}.o_proj.weight": TensorInfo((16, 32)) for i in (0, 1)},
    "layers.0.conv.weight": TensorInfo((16, 48)),
    "norm.weight": TensorInfo((16,)),
    "cache": TensorInfo((2, 8), "buffer"),
}
MODULES = {
    "": "model.Model",
    "embed": EMBEDDING,
    "layers": "",
    **{f"layers.{i}": "model.Layer" for i in (0, 1)},
    **{f"layers.{i}.{name}_proj": LINEAR for i in (0, 1) for name in "qkvo"},
    "layers.0.conv": "transformers.pytorch_utils.Conv1D",
    "norm": "model.RMSNorm",
}


def resolved(plan, num_ranks=2):
    return resolve_plan(plan, TENSORS, MODULES, num_ranks)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("layers.*.[qk]_proj", {"layers.0.q_proj", "layers.0.k_proj", "layers.1.q_proj", "layers.1.k_proj"}),
        ("layers.0.[q,conv]*", {"layers.0.q_proj", "layers.0.conv"}),
        ("layers.*", {"layers.0", "layers.1"}),
        ("**.o_proj", {"layers.0.o_proj", "layers.1.o_proj"}),
        ("layers.**", {n for n in MODULES if n.startswith("layers")}),
        ("layers.[0-3].v_proj", {"layers.0.v_proj", "layers.1.v_proj"}),
        ("", {""}),
        ("layer*.q_proj", set()),
        ("q_proj", set()),
    ],
)
def test_keys_match_token_by_token(key, found):
    assert set(matches(key, MODULES)) == found


def test_generalize():
    assert generalize("layers.3.mlp.0") == "layers.*.mlp.*"


@pytest.mark.parametrize(
    ("style", "weight", "bias"),
    [
        ("colwise", Shard(0), Shard(0)),
        (ColwiseParallel, Shard(0), Shard(0)),
        (ColwiseParallel(), Shard(0), Shard(0)),
        ("packed_colwise", Shard(0), Shard(0)),
        ("rowwise", Shard(1), None),
        (RowwiseParallel, Shard(1), None),
        (RowwiseParallel(), Shard(1), None),
        ("packed_rowwise", Shard(1), None),
        ("replicate", REPLICATE, REPLICATE),
        ("replicated_with_grad_allreduce", REPLICATE, REPLICATE),
    ],
)
def test_styles_on_a_linear(style, weight, bias):
    found = resolved({"layers.0.q_proj": style})
    assert found.pins["layers.0.q_proj.weight"].layout == resolve(weight, (32, 16), 2)
    assert ("layers.0.q_proj.bias" in found.pins) == (bias is not None)
    assert found.boundaries == ()


@pytest.mark.parametrize(
    ("key", "style", "layout"),
    [
        ("embed", "embedding_rowwise", Shard(0)),
        ("embed", "rowwise", Shard(0)),
        ("embed", RowwiseParallel, Shard(0)),
        ("embed", "embedding_colwise", Shard(1)),
        ("embed", ColwiseParallel, Shard(1)),
        ("layers.0.conv", "colwise", Shard(1)),
        ("layers.0.conv", "rowwise", Shard(0)),
        ("embed.weight", TorchShard(-1), Shard(1)),
        ("embed.weight", Shard(0, Blocks(unit=10)), Shard(0, Blocks(unit=10))),
    ],
)
def test_styles_by_module_class(key, style, layout):
    name = key if key.endswith("weight") else f"{key}.weight"
    assert resolved({key: style}).pins[name].layout == resolve(layout, TENSORS[name].shape, 2)


def sides(style, key="layers.0.q_proj"):
    return [(b.side, b.position, b.layout) for b in resolved({key: style}).boundaries]


def test_layout_arguments_become_boundaries():
    assert sides(ColwiseParallel(output_layouts=TorchReplicate())) == [("output", None, REPLICATE)]
    assert sides("colwise_rep") == sides("colwise_gather_output") == [("output", None, REPLICATE)]
    assert sides(RowwiseParallel(output_layouts=TorchShard(1))) == [("output", None, Shard(1))]
    assert sides(RowwiseParallel(input_layouts=TorchReplicate())) == [("input", 0, REPLICATE)]
    assert sides("rowwise_split_input") == sides("rowwise_rep") == [("input", 0, REPLICATE)]
    assert sides(ColwiseParallel(input_layouts=TorchShard(1))) == [("input", 0, Shard(1))]
    sequence = [("input", 0, Shard(1)), ("output", None, Shard(1))]
    assert sides(SequenceParallel, "norm") == sides("sequence_parallel", "norm") == sequence
    assert sides(SequenceParallel(sequence_dim=0), "norm")[0] == ("input", 0, Shard(0))
    prepare = PrepareModuleInput(input_layouts=(TorchShard(1), None), desired_input_layouts=(TorchReplicate(), None))
    assert sides(prepare, "layers.0") == [("input", 0, REPLICATE)]
    leave = PrepareModuleOutput(output_layouts=TorchReplicate(), desired_output_layouts=TorchShard(0))
    assert sides(leave, "layers.0") == [("output", 0, Shard(0))]
    both = PrepareModuleInputOutput(
        input_layouts=(TorchShard(1),),
        desired_input_layouts=(TorchReplicate(),),
        output_layouts=(TorchReplicate(),),
        desired_output_layouts=(TorchShard(1),),
    )
    assert sides(both, "layers.0") == [("input", 0, REPLICATE), ("output", 0, Shard(1))]


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"layers.*.p_proj": "colwise"}, r"matches no module.*\n.*layers\.\*\.[qkvo]_proj"),
        ({"layers.*.q_proj": "colwize"}, r"unknown style 'colwize'; did you mean 'colwise'"),
        ({"layers.*.q_proj": 3}, "3 is not a style"),
        ({"layers.0": "colwise"}, r"does not fit module 'layers.0' \(model.Layer\)"),
        ({"layers.*.q_proj": "colwise", "layers.0.q_proj": "rowwise"}, "disagree on 'layers.0.q_proj.weight'"),
        ({"norm.weight": Shard(1)}, "cuts dim 1 of a tensor with 1 dims"),
        ({"cache": Shard(0, Blocks(parts=(3,)))}, "parts .* sum to 3"),
        ({"cache": "sequence_parallel"}, "is for modules"),
        ({"layers.0.q_proj": PrepareModuleInput}, "needs its layout arguments|expect"),
    ],
)
def test_errors_say_what_where_and_what_to_do(plan, says):
    if plan.get("layers.0.q_proj") is PrepareModuleInput:
        plan = {"layers.0.q_proj": PrepareModuleOutput}
    with pytest.raises(PlanError, match=f"(?s){says}"):
        resolved(plan)


def test_all_errors_are_raised_at_once():
    with pytest.raises(PlanError, match="3 problems"):
        resolved({"nope": "colwise", "embed": "colwize", "norm.weight": Shard(4)})


def test_a_dim_smaller_than_the_ranks():
    with pytest.raises(PlanError, match="has only 2 indices"):
        resolved({"cache": Shard(0)}, num_ranks=4)


def test_files_round_trip(tmp_path):
    plan = {"a": "colwise", "b": Shard(0, Blocks((4, 2, 2), 2)), "c": Shard(1), "d": "replicate"}
    plan["e"] = Shard(0, Cut.join([Cut.of(2, [(0, 3), (1, 1)]), Cut.whole(2, 2)]))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({key: style_to_yaml(value) for key, value in plan.items()}))
    assert read_plan(tmp_path / "plan.yaml") == plan


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n- b", "not a mapping"),
        ("a: [1", "not YAML, as the plan has to be"),
        ("a: {sard: 0}", "unknown fields"),
        ("a: {shard: x}", "are numbers"),
        ("a: 3", "expected a style name"),
        ("a: {shard: 0, owners: [[-1, 4]]}", "owners are numbers from 0, or -1 for every rank"),
        ("a: {shard: 0, owners: [[0, 4], [-2, 4]]}", "owners are numbers from 0, or -1 for every rank"),
    ],
)
def test_bad_files(tmp_path, text, says):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(PlanError, match=says):
        read_plan(tmp_path / "plan.yaml")
