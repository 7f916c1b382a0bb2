# ruff: noqa: E501  (what is compared stands as it is written)
"""Every stage as text: golden files for an MLP on one axis and on two, and what a folder may hold."""

import re
import tempfile
from pathlib import Path

import expecttest
import pytest
import torch
from torch import nn

import shardwright as sw
from tests.support.models import MEGATRON, Decoder, redraw


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


class Branches(Mlp):
    def forward(self, x):
        return torch.cond(x.sum() > 0, super().forward, torch.sin, (x,))


PLAN = {"up": "colwise", "down": "rowwise"}


def exported(model):
    return torch.export.export(model, (torch.ones(2, 4),))


def stages(folder, model=Mlp, **options):
    """What `shard` writes: name of the stage → text."""
    sw.shard(exported(model()), dump=folder, **options)
    return {path.name: path.read_text() for path in sorted(Path(folder).iterdir())}


class TestGolden(expecttest.TestCase):
    """To accept other texts: ``EXPECTTEST_ACCEPT=1 pytest tests/compiler/test_dump.py``."""

    def stages(self, **options):
        with tempfile.TemporaryDirectory() as folder:
            return stages(folder, **options)

    def test_a_module_on_one_axis(self):
        found = self.stages(mesh=2, plan=PLAN)
        self.assertExpectedInline(
            "\n".join(f"== {name}\n{text}" for name, text in found.items()),
            """\
== 01-program.txt
program of 1 input, 1 output
weight  p_up_weight  float32[8, 4]  up.weight
weight  p_up_bias  float32[8]  up.bias
weight  p_down_weight  float32[4, 8]  down.weight
weight  p_down_bias  float32[4]  down.bias
input   x  float32[2, 4]
linear  float32[2, 8] = aten.linear.default(x, p_up_weight, p_up_bias)  # up
relu  float32[2, 8] = aten.relu.default(linear)
linear_1  float32[2, 4] = aten.linear.default(relu, p_down_weight, p_down_bias)  # down
return  linear_1

== 02-tp-pins.txt
p_up_weight  Shard(0), the cut is free  by 'up'
p_up_bias  Shard(0), the cut is free  by 'up'
p_down_weight  Shard(1), the cut is free  by 'down'

== 03-tp-steps.txt
   0  input       p_up_weight  float32[8, 4]
   1  input       p_up_bias  float32[8]
   2  input       p_down_weight  float32[4, 8]
   3  input       p_down_bias  float32[4]
   4  input       x  float32[2, 4]
   5  call        linear  float32[2, 8] = aten.linear.default(%4, %0, %1)  _0 i, o i, o -> _0 o
   6  call        relu  float32[2, 8] = aten.relu.default(%5)  _0 _1 -> _0 _1
   7  call        linear_1  float32[2, 4] = aten.linear.default(%6, %2, %3)  _0 i, o i, o -> _0 o
   8  output      output 0  %7

== 04-tp-assignment.txt
   0  input       p_up_weight  - -> Shard(0)
   1  input       p_up_bias  - -> Shard(0)
   2  input       p_down_weight  - -> Shard(1)
   3  input       p_down_bias  - -> Partial()
   4  input       x  - -> Replicate()
   5  call        linear  Replicate(), Shard(0), Shard(0) -> Shard(1)  cuts o
   6  call        relu  Shard(1) -> Shard(1)  cuts _1
   7  call        linear_1  Shard(1), Shard(1), Partial() -> Partial()  cuts i
   8  output      output 0  Replicate() -> -
collectives 10 us, work 0.0001408 us, gap 0.00%

== 05-tp-partitioned.txt
program of 1 input, 1 output
weight  p_up_weight  float32[4, 4]  up.weight  of [8, 4]: Shard(0) rank 0
weight  p_up_bias  float32[4]  up.bias  of [8]: Shard(0) rank 0
weight  p_down_weight  float32[4, 4]  down.weight  of [4, 8]: Shard(1) rank 0
weight  p_down_bias  float32[4]  down.bias  of [4]: Partial() rank 0
input   x  float32[2, 4]
linear  float32[2, 4] = aten.linear.default(x, p_up_weight, p_up_bias)  # up
relu  float32[2, 4] = aten.relu.default(linear)
linear_1  float32[2, 4] = aten.linear.default(relu, p_down_weight, p_down_bias)  # down
all_reduce  float32[2, 4] = all_reduce(linear_1, 'sum', 'tp')  # down
return  all_reduce

== 06-merged.txt
program of 1 input, 1 output
weight  p_up_weight  float32[4, 4]  up.weight  of [8, 4]: Shard(0) rank 0
weight  p_up_bias  float32[4]  up.bias  of [8]: Shard(0) rank 0
weight  p_down_weight  float32[4, 4]  down.weight  of [4, 8]: Shard(1) rank 0
weight  p_down_bias  float32[4]  down.bias  of [4]: Partial() rank 0
input   x  float32[2, 4]
linear  float32[2, 4] = aten.linear.default(x, p_up_weight, p_up_bias)  # up
relu  float32[2, 4] = aten.relu.default(linear)
linear_1  float32[2, 4] = aten.linear.default(relu, p_down_weight, p_down_bias)  # down
all_reduce  float32[2, 4] = all_reduce(linear_1, 'sum', 'tp')  # down
return  all_reduce

== 07-arranged.txt
program of 1 input, 1 output
weight  p_up_weight  float32[4, 4]  up.weight  of [8, 4]: Shard(0) rank 0
weight  p_up_bias  float32[4]  up.bias  of [8]: Shard(0) rank 0
weight  p_down_weight  float32[4, 4]  down.weight  of [4, 8]: Shard(1) rank 0
weight  p_down_bias  float32[4]  down.bias  of [4]: Partial() rank 0
input   x  float32[2, 4]
linear  float32[2, 4] = aten.linear.default(x, p_up_weight, p_up_bias)  # up
relu  float32[2, 4] = aten.relu.default(linear)
linear_1  float32[2, 4] = aten.linear.default(relu, p_down_weight, p_down_bias)  # down
all_reduce  float32[2, 4] = all_reduce(linear_1, 'sum', 'tp')  # down
return  all_reduce

== 08-lowered.txt
program of 1 input, 1 output
weight  p_up_weight  float32[4, 4]  up.weight  of [8, 4]: Shard(0) rank 0
weight  p_up_bias  float32[4]  up.bias  of [8]: Shard(0) rank 0
weight  p_down_weight  float32[4, 4]  down.weight  of [4, 8]: Shard(1) rank 0
weight  p_down_bias  float32[4]  down.bias  of [4]: Partial() rank 0
input   x  float32[2, 4]
linear  float32[2, 4] = aten.linear.default(x, p_up_weight, p_up_bias)  # up
relu  float32[2, 4] = aten.relu.default(linear)
linear_1  float32[2, 4] = aten.linear.default(relu, p_down_weight, p_down_bias)  # down
all_reduce_default  float32[2, 4] = _c10d_functional.all_reduce.default(linear_1, 'sum', 'tp')  # down
wait_tensor_default  float32[2, 4] = _c10d_functional.wait_tensor.default(all_reduce_default)  # down
return  wait_tensor_default

== 09-dropped.txt
program of 1 input, 1 output
weight  p_up_weight  float32[4, 4]  up.weight  of [8, 4]: Shard(0) rank 0
weight  p_up_bias  float32[4]  up.bias  of [8]: Shard(0) rank 0
weight  p_down_weight  float32[4, 4]  down.weight  of [4, 8]: Shard(1) rank 0
weight  p_down_bias  float32[4]  down.bias  of [4]: Partial() rank 0
input   x  float32[2, 4]
linear  float32[2, 4] = aten.linear.default(x, p_up_weight, p_up_bias)  # up
relu  float32[2, 4] = aten.relu.default(linear)
linear_1  float32[2, 4] = aten.linear.default(relu, p_down_weight, p_down_bias)  # down
all_reduce_default  float32[2, 4] = _c10d_functional.all_reduce.default(linear_1, 'sum', 'tp')  # down
wait_tensor_default  float32[2, 4] = _c10d_functional.wait_tensor.default(all_reduce_default)  # down
return  wait_tensor_default

== 10-lean.txt
program of 1 input, 1 output
weight  p_up_weight  float32[4, 4]  up.weight  of [8, 4]: Shard(0) rank 0
weight  p_up_bias  float32[4]  up.bias  of [8]: Shard(0) rank 0
weight  p_down_weight  float32[4, 4]  down.weight  of [4, 8]: Shard(1) rank 0
weight  p_down_bias  float32[4]  down.bias  of [4]: Partial() rank 0
input   x  float32[2, 4]
linear  float32[2, 4] = aten.linear.default(x, p_up_weight, p_up_bias)  # up
relu  float32[2, 4] = aten.relu.default(linear)
linear_1  float32[2, 4] = aten.linear.default(relu, p_down_weight, p_down_bias)  # down
all_reduce_default  float32[2, 4] = _c10d_functional.all_reduce.default(linear_1, 'sum', 'tp')  # down
wait_tensor_default  float32[2, 4] = _c10d_functional.wait_tensor.default(all_reduce_default)  # down
return  wait_tensor_default

== 11-counts.txt
merged    4 calls, 1 communicate
arranged  4 calls, 1 communicate
lowered   5 calls, 1 communicate
dropped   5 calls, 1 communicate
lean      5 calls, 1 communicate
""",
        )

    def test_the_second_axis_reads_what_the_first_wrote(self):
        found = self.stages(mesh={"dp": 2, "tp": 2}, plan={"dp": {}, "tp": PLAN}, inputs={"dp": {"x": sw.Shard(0)}})
        names = ["02-dp-pins.txt", "05-dp-partitioned.txt", "08-tp-assignment.txt", "14-lean.txt"]
        self.assertExpectedInline(
            "\n".join(f"== {name}\n{found[name]}" for name in names),
            """\
== 02-dp-pins.txt
input x  Shard(0)

== 05-dp-partitioned.txt
program of 1 input, 1 output
weight  p_up_weight  float32[8, 4]  up.weight
weight  p_up_bias  float32[8]  up.bias
weight  p_down_weight  float32[4, 8]  down.weight
weight  p_down_bias  float32[4]  down.bias
input   x  float32[1, 4]
linear  float32[1, 8] = aten.linear.default(x, p_up_weight, p_up_bias)  # up
relu  float32[1, 8] = aten.relu.default(linear)
linear_1  float32[1, 4] = aten.linear.default(relu, p_down_weight, p_down_bias)  # down
all_gather  float32[2, 4] = all_gather(linear_1, 0, Cut(num_ranks=2, runs=((0, 1), (1, 1))), 'dp', 0)  # down
return  all_gather

== 08-tp-assignment.txt
   0  input       p_up_weight  - -> Shard(0)
   1  input       p_up_bias  - -> Shard(0)
   2  input       p_down_weight  - -> Shard(1)
   3  input       p_down_bias  - -> Partial()
   4  input       x  - -> Replicate()
   5  call        linear  Replicate(), Shard(0), Shard(0) -> Shard(1)  cuts o
   6  call        relu  Shard(1) -> Shard(1)  cuts _1
   7  call        linear_1  Shard(1), Shard(1), Partial() -> Partial()  cuts i
   8  call        all_gather  Replicate() -> Replicate()
   9  output      output 0  Replicate() -> -
collectives 10 us, work 0.0001024 us, gap 0.00%

== 14-lean.txt
program of 1 input, 1 output
weight  p_up_weight  float32[4, 4]  up.weight  of [8, 4]: Shard(0) rank 0
weight  p_up_bias  float32[4]  up.bias  of [8]: Shard(0) rank 0
weight  p_down_weight  float32[4, 4]  down.weight  of [4, 8]: Shard(1) rank 0
weight  p_down_bias  float32[4]  down.bias  of [4]: Partial() rank 0
input   x  float32[1, 4]
linear  float32[1, 4] = aten.linear.default(x, p_up_weight, p_up_bias)  # up
relu  float32[1, 4] = aten.relu.default(linear)
linear_1  float32[1, 4] = aten.linear.default(relu, p_down_weight, p_down_bias)  # down
all_reduce_default  float32[1, 4] = _c10d_functional.all_reduce.default(linear_1, 'sum', 'tp')  # down
wait_tensor_default  float32[1, 4] = _c10d_functional.wait_tensor.default(all_reduce_default)  # down
all_gather_into_tensor_default  float32[2, 4] = _c10d_functional.all_gather_into_tensor.default(wait_tensor_default, 2, 'dp')  # down
wait_tensor_default_1  float32[2, 4] = _c10d_functional.wait_tensor.default(all_gather_into_tensor_default)  # down
return  wait_tensor_default_1
""",
        )


def test_graphs_of_a_branch_stand_below_what_holds_them(tmp_path):
    text = stages(tmp_path, Branches, mesh=2, plan=PLAN)["05-tp-partitioned.txt"]
    assert re.search(r"^true_graph_0_tp  graph true_graph_0_tp\n    input   \w+  float32\[2, 4\]\n", text, re.MULTILINE)
    assert re.search(r"^    linear  float32\[2, 4\] = aten.linear.default\(", text, re.MULTILINE)


def test_both_parts_of_a_split_axis_are_written_and_then_merged(tmp_path):
    ids = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))
    program = torch.export.export(redraw(Decoder(heads=8, kv_heads=2, width=64, hidden=64)), (ids,))
    sw.shard(program, mesh=4, plan=MEGATRON, dump=tmp_path)
    found = {path.name.partition("-")[2]: path.read_text() for path in tmp_path.iterdir()}
    assert "may stay whole" in found["tp.1-pins.txt"]
    assert found["tp.1-partitioned.txt"].count("all_reduce(") == 2 * found["merged.txt"].count("all_reduce(")
    assert "all_reduce(" not in found["lowered.txt"]


def test_a_compilation_that_fails_leaves_the_stages_before(tmp_path):
    folder = tmp_path / "made" / "here"
    with pytest.raises(sw.PlanError, match="matches no module"):
        sw.shard(exported(Mlp()), mesh=2, plan={"upp": "colwise"}, dump=folder)
    assert [path.name for path in folder.iterdir()] == ["01-program.txt"]


def test_an_earlier_dump_is_replaced_and_other_files_are_left_alone(tmp_path):
    assert len(stages(tmp_path, mesh={"dp": 1, "tp": 1}, plan={})) == 15
    assert len(stages(tmp_path, mesh=1, plan={})) == 11
    (tmp_path / "01-notes.md").write_text("mine")
    with pytest.raises(sw.ShardwrightError, match=r"holds other files: 01-notes\.md"):
        stages(tmp_path, mesh=1, plan={})
    assert len(list(tmp_path.iterdir())) == 12
    with pytest.raises(sw.ShardwrightError, match="cannot be written"):
        stages(tmp_path / "01-notes.md", mesh=1, plan={})


@pytest.mark.parametrize("path", [3, "", "a\0b"])
def test_what_is_no_path_is_refused_by_name(path):
    with pytest.raises(sw.ShardwrightError, match=r"^dump"):
        stages(path, mesh=1, plan={})
