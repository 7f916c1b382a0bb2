"""Arguments of a wrong kind or out of range: one clear error in the caller's words, wherever they enter."""

import math
import os
import threading

import pytest
import torch
from torch import nn

import shardwright as sw
from shardwright.assign.cost import CostModel
from shardwright.plan.plan_files import read_plan
from shardwright.run.launch import launch

PLAN = {"0": "colwise", "2": "rowwise"}
X = torch.randn(4, 8)


@pytest.fixture(scope="module")
def exported():
    return torch.export.export(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)), (X,))


LAYOUTS = ["rowwise", None, [], 0, 1.5, {"shard": 0}, torch.float32, sw.Shard]
SHARD = {
    "inputs": ({"input": one} for one in LAYOUTS),
    "outputs": (one for one in LAYOUTS if one is not None),
    "budget": (3, "all_reduce", [], {"all_reduce": None}, {"all_reduce": math.nan}, {"all_reduce": -1}, {3: 1}),
    "slack": (None, "0.1", math.nan, math.inf, -1, True),
    "effort": (None, "1", math.nan, math.inf, 0, True, (1, 2)),
    "discover": (None, 1, "yes", torch.ones(2)),
    "time_limit_s": ("60", math.nan, math.inf, 0, True, {}),
    "cost": (3, "fast", {}),
    "plan": (3, None, [], {"[]": "colwise"}, {"[z-a]": "colwise"}, {"[a,]": "colwise"}, {3: "colwise"}, {"0": 7}),
    "mesh": (0, -1, 1.5, True, "2", None, {}, {"tp": True}, {"tp": 0}, {"tp": 1.5}, {3: 2}, {"": 2}, [2]),
}
CASES = [(name, value) for name, values in SHARD.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=lambda v: str(v)[:30])
def test_shard_refuses_in_words(exported, name, value):
    arguments = {"mesh": 2, "plan": PLAN, name: value}
    with pytest.raises(sw.ShardwrightError) as caught:
        sw.shard(exported, **arguments)
    assert type(caught.value).__module__ == "shardwright.errors"
    assert str(caught.value)


@pytest.mark.parametrize("dim", ["0", 0.5, None, True, [0]])
def test_a_dim_is_a_whole_number(dim):
    with pytest.raises(sw.LayoutError, match="Shard: the dim must be a whole number"):
        sw.Shard(dim)


@pytest.mark.parametrize("unit", [0, -1, 1.5, "64", True, None])
def test_a_unit_is_a_whole_number_of_at_least_one(unit):
    with pytest.raises(sw.LayoutError, match="Blocks: unit must be a whole number of at least 1"):
        sw.Blocks(unit=unit)


@pytest.mark.parametrize("parts", [(-8, 24), (1.5, 14.5), "ab", 16, (True, 15)])
def test_parts_are_whole_numbers(parts):
    with pytest.raises(sw.LayoutError, match="Blocks: parts must be whole numbers of at least 0"):
        sw.Blocks(parts=parts)


def test_parts_that_do_not_add_up_are_named(exported):
    with pytest.raises(sw.PlanError, match=r"parts \(8, 7\) sum to 15, but the dim has size 16"):
        sw.shard(exported, mesh=2, plan={"0.weight": sw.Shard(0, sw.Blocks(parts=(8, 7)))})


@pytest.mark.parametrize("op", ["nonsense", "avg", "", None, 3])
def test_a_partial_layout_names_a_reduction(op):
    with pytest.raises(sw.LayoutError, match="the reduction must be one of sum, max, min, product"):
        sw.Partial(op)


@pytest.mark.parametrize("rank", [1.5, 0.5, "0", None, True, -1, 2])
def test_a_rank_is_a_whole_number_of_the_mesh(exported, rank):
    sharded = sw.shard(exported, mesh=2, plan=PLAN)
    for ask in (sharded.exported, lambda rank: sw.tensor_parallel_transformation(exported, rank, 2, "cpu", PLAN)):
        with pytest.raises(sw.ShardwrightError, match="is not in the mesh"):
            ask(rank)


def test_all_wrong_layouts_are_named_at_once_and_two_names_of_one_input_must_agree(exported):
    with pytest.raises(sw.PlanError) as caught:
        sw.shard(exported, mesh=2, plan={}, inputs={"input": sw.Shard(0), 0: sw.Shard(1), "inptu": sw.Shard(0)})
    assert "input 'input' is given twice, as Shard(0) and as Shard(1)" in str(caught.value)
    assert "the program has no input 'inptu'" in str(caught.value)
    assert "2 problems" in str(caught.value)
    same = {"input": sw.Shard(0), 0: sw.Shard(0)}
    assert sw.verify(sw.shard(exported, mesh=2, plan={}, inputs=same), exported, (X,)).ok


def test_twenty_thousand_unknown_keys_are_a_message_of_a_screen(exported):
    with pytest.raises(sw.PlanError) as caught:
        sw.shard(exported, mesh=2, plan={f"layers.{i}.up": "colwise" for i in range(20_000)})
    assert "(20000 problems)" in str(caught.value)
    assert str(caught.value).endswith("… and 19980 more")
    assert len(str(caught.value).splitlines()) < 100


FILES = {
    "a key twice": ("up: colwise\nup: rowwise\n", "the key 'up' is given twice"),
    "two layouts": ("up: {replicate: 5, shard: 0}\n", "is more than one layout"),
    "replicate with a value": ("up: {replicate: 5}\n", "replicate takes no value, got 5"),
    "a unit below one": ("up: {shard: 0, unit: -1}\n", "unit must be a whole number of at least 1"),
    "an unknown reduction": ("up: {partial: nonsense}\n", "the reduction must be one of"),
    "a dim in quotes": ("up: {shard: '0'}\n", "shard and unit are numbers"),
    "a list": ("[1, 2]\n", "holds list, not a mapping"),
}


@pytest.mark.parametrize(("text", "says"), FILES.values(), ids=FILES)
def test_plan_files_say_one_thing_once(tmp_path, text, says):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(sw.PlanError, match=says):
        read_plan(path)


def test_what_is_no_file_is_not_read(tmp_path, exported):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml"):
        with pytest.raises(sw.PlanError, match=r"is a folder|is not a regular file"):
            sw.shard(exported, mesh=2, plan=path)


RULES = {
    "operands": (("mm", "m k -> m"), {}, r"has 1 operands, the operator 2 \(self, mat2\)"),
    "results": (("mm", "m k, k n -> m n, m"), {}, "has 2 results, the operator 1"),
    "linear": (("mm", "m k, k n -> m n"), {"linear": [[0], [2]]}, r"number the operands 0 to 1, got \[2\]"),
    "reduce": (("mm", "m k, k n -> m n"), {"reduce": "mean"}, "reduce must be one of sum"),
    "size_arg": (("mm", "m k, k n -> m n"), {"size_arg": "size"}, "size_arg 'size' is not an argument"),
    "no notation": (("mm", 3), {}, "a rule is a line of notation"),
    "a mapping": (("mm", {}), {}, "a rule is a line of notation"),
}


@pytest.mark.parametrize(("rule", "options", "says"), RULES.values(), ids=RULES)
def test_a_rule_fits_its_operator(rule, options, says):
    name, notation = rule
    with pytest.raises(sw.RuleError, match=says):
        sw.register_rule(f"aten::{name}", notation, **options)


OPERATORS = (7, 1.5, None, set(), {"0": 1}, torch.ones(2), nn.Linear(2, 2), len)


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: type(op).__name__)
def test_an_operator_is_one_of_torchs(op):
    for ask in (sw.check_rule, sw.discover_rule):
        with pytest.raises(sw.RuleError, match=r"an operator is torch\.ops\.mylib\.op\.default or its name"):
            ask(op, X, X)
    with pytest.raises(sw.RuleError, match="an operator's name is a string"):
        sw.register_rule(op, "m k, k n -> m n")


def test_samples_that_an_operator_refuses_are_named():
    for ask in (sw.check_rule, sw.discover_rule):
        with pytest.raises(sw.RuleError, match="refuses these sample arguments: mat1 and mat2 shapes"):
            ask("aten::mm", X, X)


def test_ranks_and_tolerance_of_a_rules_check():
    for options in ({"num_ranks": 2}, {"num_ranks": ("2",)}, {"num_ranks": (0,)}, {"tolerance": "1e-5"}):
        with pytest.raises(sw.RuleError, match=f"{next(iter(options))} must be"):
            sw.check_rule("aten::mm", X, X.T, **options)


@pytest.mark.parametrize(("name", "value"), [("linear", 3), ("linear", [3]), ("added", 3), ("added", "01")])
def test_operands_are_numbered_in_lists(name, value):
    with pytest.raises(sw.RuleError, match="must be a list such as"):
        sw.register_rule("aten::mm", "m k, k n -> m n", **{name: value})


@pytest.mark.parametrize("path", [None, 3, {}, sw.Shard, "", "a\0b"], ids=str)
def test_a_path_is_a_path(exported, path, tmp_path):
    sharded = sw.shard(exported, mesh=1, plan={})
    sharded.save(tmp_path / "p")
    asked = (
        lambda: sharded.save(path),
        lambda: sw.load(path),
        lambda: sw.compile_package(path),
        lambda: sw.gather(path, tmp_path / "state"),
        lambda: sw.gather(tmp_path / "p", path),
        lambda: sw.reshard(path, tmp_path / "q", mesh=2),
        lambda: sw.reshard(tmp_path / "p", path, mesh=2),
        lambda: sw.shard_checkpoint(path, tmp_path / "q", mesh=2),
    )
    for ask in asked:
        with pytest.raises(sw.ShardwrightError, match="must be a path"):
            ask()


@pytest.mark.parametrize("names", [3, "tp", ["tp"], {"tp": 3}, {3: "tp"}, torch.ones(2)], ids=str)
def test_group_names_are_strings(exported, names):
    sharded = sw.shard(exported, mesh=2, plan=PLAN)
    for ask in (lambda: sharded.exported(0, group_names=names), lambda: sw.rebind(sharded.exported(0), names)):
        with pytest.raises(sw.ShardwrightError, match="group_names"):
            ask()


def test_what_is_no_program_is_named(exported):
    with pytest.raises(sw.ShardwrightError, match="rebind changes an ExportedProgram, got int"):
        sw.rebind(3, {})
    with pytest.raises(sw.ShardwrightError, match="verify takes what `shard` returned, got ExportedProgram"):
        sw.verify(exported, exported, (X,))


@pytest.mark.parametrize("config", [None, 3, "tp_plan", [], {}, {"tp_plan": 3}], ids=str)
def test_an_autodeploy_plan_is_a_mapping(config):
    with pytest.raises(sw.PlanError, match="an AutoDeploy plan is a mapping"):
        sw.autodeploy_plan(config)


CHECKPOINT = [("dtype", "float32"), ("dtype", 3), ("cache_length", -1), ("cache_length", 1.5), ("cache_length", "8")]
CHECKPOINT += [("batch", 0), ("batch", 1.5), ("batch", True)]


@pytest.mark.parametrize(("name", "value"), CHECKPOINT)
def test_options_of_a_checkpoint(name, value, tmp_path):
    with pytest.raises(sw.CheckpointError, match=f"{name} must be"):
        sw.shard_checkpoint(tmp_path, tmp_path / "out", mesh=2, **{name: value})


SAMPLING = {"temperature": (-1, "0.5", None, math.nan), "top_p": (0, 1.5, "1", True), "seed": (1.5, "3", 2**64, None)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SAMPLING.items() for value in values])
def test_sampling_is_told_in_numbers(name, value):
    with pytest.raises(sw.InputError, match=f"{name} must be"):
        sw.Sampling(**{name: value})


@pytest.mark.parametrize("backend", ["fast", None, 3, torch.ones(2)], ids=str)
def test_a_backend_that_is_not_there_is_named(backend):
    with pytest.raises(sw.PackageError, match="there is no backend"):
        sw.load("package", backend=backend)


@pytest.mark.parametrize("check", [None, 1, "yes", torch.ones(2)], ids=str)
def test_a_flag_is_true_or_false(check):
    with pytest.raises(sw.PackageError, match="check must be True or False"):
        sw.load("package", check=check)


def test_verify_takes_inputs_as_torch_export_does(exported):
    sharded = sw.shard(exported, mesh=2, plan=PLAN)
    for arguments in ((X,), ((X,), 3), (3,)):
        with pytest.raises(sw.InputError):
            sw.verify(sharded, exported, *arguments)
    with pytest.raises(sw.InputError, match="takes no input None by name"):
        sw.verify(sharded, exported, (X,), {None: X})
    for tolerance in (math.nan, -1, "1e-4"):
        with pytest.raises(sw.ShardwrightError, match="tolerance must be a number of at least 0"):
            sw.verify(sharded, exported, (X,), tolerance=tolerance)


@pytest.mark.parametrize("device", ["nope", "cuda:99", 3.5, "meta:x"])
def test_a_device_that_is_not_there_is_named(exported, device, tmp_path):
    sw.shard(exported, mesh=1, plan={}).save(tmp_path / "out")
    with pytest.raises(sw.PackageError, match="there is no device"):
        sw.load(tmp_path / "out", device=device)


@pytest.mark.parametrize("timeout_s", [math.nan, 0, -1, math.inf, "60"])
def test_a_timeout_is_a_positive_number(timeout_s):
    with pytest.raises(sw.RunError, match="the timeout in seconds must be a number greater than 0"):
        launch(2, print, timeout_s=timeout_s)


def test_none_of_this_needs_the_main_thread(exported):
    found = []
    thread = threading.Thread(target=lambda: found.append(sw.shard(exported, mesh=2, plan=PLAN, cost=CostModel())))
    thread.start()
    thread.join()
    assert len(found) == 1
