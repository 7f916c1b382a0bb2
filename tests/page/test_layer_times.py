"""Predicted time by layer."""

from shardwright.assign.cost import CostModel
from shardwright.layout.mesh import Mesh
from shardwright.page.facts import Facts
from shardwright.page.layer_times import layer_times
from shardwright.program.collectives import Collective, CollectiveKind

COST = CostModel(latency_us=10, link_bytes_per_us=1)


def collective(module, message=0):
    return Collective(CollectiveKind.ALL_REDUCE, "tp", 8, (2,), module, "model.py:1", "add", "why", message=message)


def facts(work_us, *collectives):
    return Facts(Mesh.of(2), (), collectives, COST, work_us=work_us)


def spelled(found):
    return [(one.name, one.compute_us, one.communication_us) for one in layer_times(found)]


def test_neighbours_that_take_equally_long_are_one():
    work = {"embed": 1.0, **{f"layers.{i}.{part}": 2.0 for i in range(3) for part in ("up", "down")}, "head": 3.0}
    found = facts(work, *(collective(f"layers.{i}.down") for i in range(3)))
    assert spelled(found) == [("embed", 1.0, 0.0), ("layers.0 … 2", 4.0, 18.0), ("head", 3.0, 0.0)]
    assert layer_times(found)[1].paths == ["layers.0", "layers.1", "layers.2"]


def test_a_layer_that_takes_longer_stands_between():
    work = {f"layers.{i}": 9.0 if i == 1 else 2.0 for i in range(4)}
    assert spelled(facts(work)) == [("layers.0", 2.0, 0.0), ("layers.1", 9.0, 0.0), ("layers.2 … 3", 2.0, 0.0)]


def test_a_layer_that_takes_no_time_is_not_counted_in():
    assert [name for name, *_ in spelled(facts({"layers.0": 1.0, "layers.2": 1.0}))] == ["layers.0", "layers.2"]


def test_lists_of_one_kind_are_not_joined():
    assert [name for name, *_ in spelled(facts({"down.0": 1.0, "up.0": 1.0}))] == ["down.0", "up.0"]


def test_what_is_sent_together_has_one_latency():
    found = facts({}, collective("a", message=1), collective("a", message=1), collective("b"))
    assert found.times_us() == [18.0, 8.0, 18.0]
    assert spelled(found) == [("a", 0.0, 26.0), ("b", 0.0, 18.0)]


def test_the_root_module_has_a_name():
    assert spelled(facts({"": 1.0})) == [("(the root module)", 1.0, 0.0)]
