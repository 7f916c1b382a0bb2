"""All ranks of a sharded program in lockstep, in one process, with simulated collectives.

Every rank's graph runs as a generator that stops at each collective; when all ranks of a group stand at theirs, the
collective is worked out from all their operands at once. No process group, no threads, the same order every time.
What some backend would not take, or get wrong (`backends`), is refused here as well.
Ranks that draw random numbers draw the same ones, as real ranks do when they are seeded alike.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind

from shardwright.errors import RunError
from shardwright.layout.reduce import reduce_shares
from shardwright.program.backends import is_taken
from shardwright.program.collectives import LOWERED, REDUCING, CollectiveKind, lowered_name
from shardwright.program.inputs import bind_inputs
from shardwright.program.nodes import draws_numbers, graphs_of, held_at, higher_order_name, subgraph_of
from shardwright.program.program import RETURNED, Program
from shardwright.program.signature import Signature, unflatten_outputs

Watch = Callable[[int, fx.Node, Any], Any]
"""Called with rank, node and value for every node that runs; what it returns is the node's value from then on."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A collective a rank stands at: the operator, its operands and its group."""

    name: str
    tensor: torch.Tensor
    args: tuple[Any, ...]
    group: str


class Simulation:
    """The ranks of one sharded program with their weights and buffers.

    ``programs``: one lowered program a rank. ``groups``: group name → the groups' rank lists. Buffers that the program
    mutates keep their new values from call to call, as they would on real ranks. ``signature``: how the original is
    called; absent, as far as the first program knows.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        groups: Mapping[str, Sequence[Sequence[int]]],
        signature: Signature | None = None,
    ) -> None:
        self.programs = list(programs)
        self.groups = groups
        self.signature = signature
        self.state = [{t: w.materialize().detach() for t, w in program.weights.items()} for program in self.programs]
        self.gradients: list[dict[str, torch.Tensor]] = [{} for _ in self.programs]
        """Of a joint program: every rank's gradients of the last call by parameter, in the layout of that."""

    def __call__(self, *args: Any, watch: Watch | None = None, **kwargs: Any) -> list[Any]:
        """Every rank's outputs, in the original's structure, for one set of (whole) inputs.

        Raises `InputError` when the inputs do not fit.
        """
        flat = bind_inputs(self.programs[0], args, kwargs, self.signature)
        results = self.run_flat([flat] * len(self.programs), watch)
        return [unflatten_outputs(p, r) for p, r in zip(self.programs, results, strict=True)]

    def run_flat(self, inputs: Sequence[Sequence[Any]], watch: Watch | None = None) -> list[list[Any]]:
        """Every rank's flat user outputs for every rank's flat inputs; mutated buffers keep their new values."""
        found = self.run_raw(inputs, watch)
        return [self._store(rank, values) for rank, values in enumerate(found)]

    def run_raw(self, inputs: Sequence[Sequence[Any]], watch: Watch | None = None) -> list[list[Any]]:
        """Every rank's outputs in the order of the program's, mutated buffers included; nothing is kept."""
        runs = [
            _run(program, state, given, rank, watch)
            for rank, (program, state, given) in enumerate(zip(self.programs, self.state, inputs, strict=True))
        ]
        answers: list[Any] = [None] * len(runs)
        outputs: list[list[Any] | None] = [None] * len(runs)
        pending: dict[int, _Pending] = {}
        random = _RandomStates(self.programs)
        with torch.no_grad():
            while any(output is None for output in outputs):
                progressed = False
                for rank, run in enumerate(runs):
                    if outputs[rank] is not None or rank in pending:
                        continue
                    progressed = True
                    try:
                        with random.of(rank):
                            pending[rank] = run.send(answers[rank])
                    except StopIteration as stop:
                        outputs[rank] = stop.value
                for rank in sorted(pending):
                    if rank in pending:
                        progressed |= self._meet(rank, pending, answers)
                if not progressed:
                    raise RunError(
                        "the ranks wait for each other: "
                        + ", ".join(f"rank {r} at {p.name} of group {p.group!r}" for r, p in sorted(pending.items()))
                    )
        return [output for output in outputs if output is not None]

    def _meet(self, rank: int, pending: dict[int, _Pending], answers: list[Any]) -> bool:
        name = pending[rank].group
        members = next((list(g) for g in self.groups.get(name, ()) if rank in g), None)
        if members is None:
            raise RunError(f"rank {rank} uses group {name!r}, which the mesh does not have")
        if not all(m in pending and pending[m].group == name for m in members):
            return False
        calls = [pending[m] for m in members]
        if len({call.name for call in calls}) != 1:
            raise RunError(f"ranks {members} meet at different collectives: {[call.name for call in calls]}")
        for member, result in zip(members, _collective(calls), strict=True):
            answers[member] = result
            del pending[member]
        return True

    def _store(self, rank: int, values: Sequence[Any]) -> list[Any]:
        kept = []
        for output, value in zip(self.programs[rank].outputs, values, strict=True):
            if output.kind == OutputKind.BUFFER_MUTATION:
                self.state[rank][str(output.target)] = value
            elif output.kind == OutputKind.GRADIENT_TO_PARAMETER:
                self.gradients[rank][str(output.target)] = value
            elif output.kind in RETURNED:
                kept.append(value)
        return kept


class _RandomStates:
    """A stream of random numbers for each rank, all of which begin where the caller's stood."""

    def __init__(self, programs: Sequence[Program]) -> None:
        draws = any(draws_random_numbers(program) for program in programs)
        self.states = [torch.get_rng_state() for _ in programs] if draws else None

    @contextmanager
    def of(self, rank: int) -> Iterator[None]:
        """Draw from one rank's stream."""
        if self.states is None:
            yield
            return
        torch.set_rng_state(self.states[rank])
        try:
            yield
        finally:
            self.states[rank] = torch.get_rng_state()


def draws_random_numbers(program: Program) -> bool:
    """Whether any operator of a program takes numbers from the random generator."""
    return any(draws_numbers(node) for graph in graphs_of(program.graph) for node in graph.nodes)


def run_graph(
    program: Program, state: Mapping[str, torch.Tensor], inputs: Sequence[Any], watch: Watch | None
) -> list[Any]:
    """Run a program that has no collectives: all flat outputs, mutations included."""
    try:
        next(_run(program, state, inputs, 0, watch))
    except StopIteration as stop:
        return stop.value
    raise RunError("this program communicates; simulate all its ranks")


def _run(
    program: Program, state: Mapping[str, torch.Tensor], inputs: Sequence[Any], rank: int, watch: Watch | None
) -> Generator[_Pending, Any, list[Any]]:
    given = iter(inputs)
    by_name = {i.name: i for i in program.inputs}
    values = [
        next(given) if by_name[n.name].kind == InputKind.USER_INPUT else state[str(by_name[n.name].target)]
        for n in program.placeholders()
    ]
    return list((yield from _run_nodes(program.graph, program.owner, values, rank, watch)))


def _run_nodes(
    graph: fx.Graph, owner: torch.nn.Module, inputs: Sequence[Any], rank: int, watch: Watch | None
) -> Generator[_Pending, Any, Any]:
    """What a graph returns; ``inputs``: the values of its placeholders."""
    given = iter(inputs)
    env: dict[fx.Node, Any] = {}
    last_use = _last_uses(graph)
    for node in graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            env[node] = held_at(owner, str(node.target))
        elif node.op == "output":
            return fx.map_arg(node.args[0], lambda n: env[n])
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: env[n])
            name = lowered_name(node)
            if name == "wait_tensor":
                env[node] = args[0]
            elif name:
                env[node] = yield _Pending(name, args[0], tuple(args[1:-1]), args[-1])
            elif higher_order_name(node) in _SUBGRAPH_RUNS and _communicates(node):
                env[node] = yield from _SUBGRAPH_RUNS[higher_order_name(node)](*args, rank=rank)
            else:
                env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        if watch is not None:
            env[node] = watch(rank, node, env[node])
        for dead in last_use.get(node, ()):
            del env[dead]
    raise AssertionError("a graph ends with its output")


def _communicates(node: fx.Node) -> bool:
    """Whether a graph that a node runs stops at collectives, so that the operator itself cannot run it."""
    subgraphs = (subgraph_of(argument) for argument in node.args)
    graphs = (graph for subgraph in subgraphs if subgraph is not None for graph in graphs_of(subgraph.graph))
    return any(lowered_name(inner) for graph in graphs for inner in graph.nodes)


RankRun = Generator[_Pending, Any, Any]


def _run_subgraph(subgraph: fx.GraphModule, inputs: Sequence[Any], rank: int) -> Generator[_Pending, Any, list[Any]]:
    found = yield from _run_nodes(subgraph.graph, subgraph, inputs, rank, None)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _run_cond(predicate: Any, true: Any, false: Any, operands: Sequence[Any], *, rank: int) -> RankRun:
    return (yield from _run_subgraph(true if bool(predicate) else false, operands, rank))


def _run_while_loop(condition: Any, body: Any, carried: Sequence[Any], further: Sequence[Any], *, rank: int) -> RankRun:
    carried = list(carried)
    while bool((yield from _run_subgraph(condition, [*carried, *further], rank))[0]):
        carried = yield from _run_subgraph(body, [*carried, *further], rank)
    return carried


def _run_stacking_while_loop(
    condition: Any, body: Any, carried: Sequence[Any], further: Sequence[Any], *, rank: int
) -> RankRun:
    """As `_run_while_loop`; what every round made, stacked. Without a round it is what the loop began with."""
    carried, rounds = list(carried), []
    while bool((yield from _run_subgraph(condition, [*carried, *further], rank))[0]):
        carried = yield from _run_subgraph(body, [*carried, *further], rank)
        rounds.append(carried)
    return [torch.stack(values) for values in zip(*(rounds or [carried]), strict=True)]


def _run_scan(
    combine: Any, carried: Sequence[Any], along: Sequence[Any], further: Sequence[Any], *, rank: int
) -> RankRun:
    carried, rounds = list(carried), []
    for values in zip(*along, strict=True):
        found = yield from _run_subgraph(combine, [*carried, *values, *further], rank)
        rounds.append(found[len(carried) :])
        carried = found[: len(carried)]
    return [*carried, *map(torch.stack, zip(*rounds, strict=True))]


def _run_map(body: Any, along: Sequence[Any], further: Sequence[Any], *, rank: int) -> RankRun:
    return (yield from _run_scan(body, [], along, further, rank=rank))


_SUBGRAPH_RUNS: dict[str, Callable[..., RankRun]] = {
    "cond": _run_cond,
    "map_impl": _run_map,
    "scan": _run_scan,
    "while_loop": _run_while_loop,
    "while_loop_stack_output": _run_stacking_while_loop,
}


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    seen: set[fx.Node] = set()
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(graph.nodes):
        for source in node.all_input_nodes:
            if source not in seen:
                seen.add(source)
                found.setdefault(node, []).append(source)
    return found


def _collective(calls: Sequence[_Pending]) -> list[torch.Tensor]:
    tensors = [call.tensor for call in calls]
    first = calls[0]
    if first.name not in LOWERED:
        raise RunError(f"the simulator does not know the collective {first.name!r}")
    kind = LOWERED[first.name]
    if len({(tuple(t.shape), t.dtype) for t in tensors}) != 1 and kind is not CollectiveKind.ALL_TO_ALL:
        raise RunError(f"{kind} of unequal tensors: {[(tuple(t.shape), t.dtype) for t in tensors]}")
    op = str(first.args[0]) if kind in REDUCING else ""
    if not is_taken(kind, first.tensor.dtype, op):
        what = f"{kind} ({op})" if op else kind
        raise RunError(f"not every backend takes {what} of {first.tensor.dtype} and gets it right")
    if kind is CollectiveKind.ALL_REDUCE:
        total = reduce_shares(tensors, op)
        return [total.clone() for _ in tensors]
    if kind is CollectiveKind.ALL_GATHER:
        whole = torch.cat(tensors, 0)
        return [whole.clone() for _ in tensors]
    if kind is CollectiveKind.REDUCE_SCATTER:
        return list(reduce_shares(tensors, op).chunk(len(tensors), 0))
    split = [t.split(list(call.args[1]), 0) for t, call in zip(tensors, calls, strict=True)]
    return [torch.cat([pieces[rank] for pieces in split], 0) for rank in range(len(tensors))]
