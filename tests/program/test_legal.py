"""Every law catches a program that breaks it, and looking at a program is one walk."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import fx, nn
from torch.export.graph_signature import OutputKind

import shardwright as sw
from shardwright.layout.layout import Shard, resolve
from shardwright.lean.arrange import arrange
from shardwright.lean.schedule import make_schedule
from shardwright.partition.lower import lower
from shardwright.program.collectives import all_reduce
from shardwright.program.duplicate import duplicate
from shardwright.program.legal import CHECK_SWITCH, IllegalProgramError, Stage, check, check_laws
from shardwright.program.nodes import graphs_of
from shardwright.program.program import Output

aten = torch.ops.aten


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls.add_(1)
        y = self.down(torch.relu(self.up(x)))
        return torch.cond(y.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (y,))


@pytest.fixture(scope="module")
def programs():
    """A legal program of every stage; what is broken is a duplicate of one."""
    exported = torch.export.export(Block(), (torch.ones(2, 8),))
    sharded = sw.shard(exported, mesh=2, plan={"up": "colwise", "down": "rowwise"})
    compiled = sharded.compiled.finished((1,))
    found = {Stage.READ: sharded.program, Stage.PARTITIONED: compiled, Stage.MERGED: compiled}
    found[Stage.ARRANGED] = arrange(duplicate(compiled), make_schedule([compiled]))
    lowered = lower(duplicate(compiled), {"tp": "tp"})
    return {**found, Stage.LOWERED: lowered, Stage.LEAN: sharded.rank_program(1)}


def node(program, text):
    return next(n for n in program.graph.nodes if n.op == "call_function" and text in str(n.target))


def insert(program, before, target, args, **meta):
    with program.graph.inserting_before(before):
        made = program.graph.call_function(target, args)
    made.meta = meta
    return made


def halved(weight):
    return weight.with_cut(resolve(Shard(0), weight.shape, 2), 0)


def read_late(program):
    relu, end = node(program, "relu"), program.graph.output_node()
    end.prepend(relu)
    return program


def same_name(program):
    node(program, "relu").name = node(program, "linear").name
    return program


def no_metadata(program):
    del node(program, "relu").meta["val"]
    return program


def lost_attribute(program):
    next(n for n in program.graph.nodes if n.op == "get_attr").target = "gone"
    return program


def a_module_call(program):
    relu = node(program, "relu")
    with program.graph.inserting_before(relu):
        program.graph.create_node("call_method", "relu", relu.args)
    return program


def a_write(program):
    relu = node(program, "relu")
    relu.target = aten.relu_.default
    return program


def a_write_in_a_subgraph(program):
    subgraph = list(graphs_of(program.graph))[1]
    next(n for n in subgraph.nodes if n.op == "call_function").target = aten.sin_.default
    return program


def swapped_inputs(program):
    return replace(program, inputs=program.inputs[::-1])


def no_weight(program):
    return replace(program, weights={name: w for name, w in program.weights.items() if name != "up.bias"})


def other_shape(program):
    return replace(program, weights={name: halved(w) for name, w in program.weights.items()})


def one_output_more(program):
    return replace(program, outputs=(*program.outputs, Output(OutputKind.USER_OUTPUT, None, None)))


def mutated_nothing(program):
    first, *rest = program.outputs
    return replace(program, outputs=(replace(first, kind=OutputKind.BUFFER_MUTATION, target="gone"), *rest))


def lost_origin(program):
    return replace(program, origins={"gone": ("relu", ())})


def own_collective(program):
    relu = node(program, "relu")
    insert(program, relu, all_reduce, (relu.args[0], "sum", "tp"), val=relu.meta["val"])
    return program


def not_waited_for(program):
    wait = node(program, "wait_tensor")
    wait.replace_all_uses_with(wait.args[0])
    return program


EVERYWHERE = {
    read_late: "made before they are read",
    same_name: "names are unique",
    no_metadata: "has metadata",
    lost_attribute: "attributes exist",
    a_module_call: "nodes are inputs, attributes",
    a_write: "no operator writes",
    a_write_in_a_subgraph: "no operator writes",
    swapped_inputs: "inputs are the placeholders",
    no_weight: "has a weight",
    other_shape: "local shape and dtype",
    one_output_more: "every output is returned",
    mutated_nothing: "every output is returned",
    lost_origin: "is in the graph",
    own_collective: "collective",
}


def own(program):
    """A duplicate to be broken, with subgraphs of its own too."""
    made = duplicate(program)
    for getter in [n for n in made.graph.nodes if n.op == "get_attr"]:
        subgraph = copy.deepcopy(getattr(made.owner, getter.target))
        setattr(made.owner, getter.target, subgraph)
    return made


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize(("breach", "law"), EVERYWHERE.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_broken_program_is_named_with_its_law(programs, stage, breach, law):
    check_laws(programs[stage], stage)
    with pytest.raises(IllegalProgramError, match=rf"the {stage.value} program is not legal[\s\S]*law: [^)]*{law}"):
        check_laws(breach(own(programs[stage])), stage)


def test_a_cut_weight_is_too_early_for_a_program_that_was_read(programs):
    broken = own(programs[Stage.READ])
    broken.weights = {name: halved(weight) for name, weight in broken.weights.items()}
    with pytest.raises(IllegalProgramError, match="no weight is cut"):
        check_laws(broken, Stage.READ)


def test_a_collective_is_left_or_not_waited_for(programs):
    with pytest.raises(IllegalProgramError, match="no collective of the compiler's is left"):
        check_laws(programs[Stage.PARTITIONED], Stage.LOWERED)
    with pytest.raises(IllegalProgramError, match="waited for"):
        check_laws(not_waited_for(own(programs[Stage.LOWERED])), Stage.LOWERED)


def test_values_of_one_message_that_stand_apart_are_named(programs):
    broken = own(programs[Stage.ARRANGED])
    first = node(broken, "all_reduce")
    first.meta["collective"] = replace(first.meta["collective"], message=1)
    again = insert(broken, first.next.next, all_reduce, first.args, **first.meta)
    assert again.prev is not first
    with pytest.raises(IllegalProgramError, match="one message stands together"):
        check_laws(broken, Stage.ARRANGED)


def test_the_laws_are_asked_where_the_switch_is_on(programs, monkeypatch):
    broken = lost_origin(own(programs[Stage.READ]))
    for off in ("0", ""):
        monkeypatch.setenv(CHECK_SWITCH, off)
        assert check(broken, Stage.READ) is broken
    monkeypatch.setenv(CHECK_SWITCH, "1")
    with pytest.raises(IllegalProgramError):
        check(broken, Stage.READ)


@pytest.mark.parametrize("stage", list(Stage))
def test_a_stage_is_walked_once(programs, stage, monkeypatch):
    walked = []
    nodes = fx.Graph.nodes
    monkeypatch.setattr(fx.Graph, "nodes", property(lambda graph: walked.append(graph) or nodes.fget(graph)))
    graphs = list(graphs_of(programs[stage].graph))
    walked.clear()
    check_laws(programs[stage], stage)
    assert len(walked) == len(graphs) == 3
