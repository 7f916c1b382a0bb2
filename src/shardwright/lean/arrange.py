"""`arrange`: one rank's program in the order of a schedule, the values of one message side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from shardwright.lean.dependences import Sources, is_collective, sources_in, sources_of
from shardwright.lean.schedule import Schedule
from shardwright.program.collectives import Collective
from shardwright.program.legal import Stage, check
from shardwright.program.nodes import graphs_of, subgraph_of
from shardwright.program.program import Program


def arranged_collectives(program: Program, schedule: Schedule) -> list[Collective]:
    """The collectives of a program in the order in which `arrange` puts them, which leaves it as it is."""
    numbers, nodes = _numbers(program, schedule), list(program.graph.nodes)
    order = [nodes[place] for place in arranged_places(program, schedule)]
    own = [replace(node.meta["collective"], message=numbers.get(node, 0)) for node in order if is_collective(node)]
    inside = (graph for node in order if (held := subgraph_of(node)) is not None for graph in graphs_of(held.graph))
    return [*own, *(node.meta["collective"] for graph in inside for node in graph.nodes if is_collective(node))]


def arranged_places(program: Program, schedule: Schedule) -> list[int]:
    """The order in which `arrange` puts the nodes of a program, by where they stand now; worked out once."""
    return program.once(("places", schedule), lambda: _places(program, schedule, sources_in(program)))


def _places(program: Program, schedule: Schedule, sources: Sources) -> list[int]:
    place = {node: number for number, node in enumerate(program.graph.nodes)}
    return [place[node] for node in _Arranging(program.graph, _messages(program, schedule), sources).run()]


def arrange(program: Program, schedule: Schedule, order: Sequence[int] | None = None) -> Program:
    """The program, changed: its collectives in the schedule's order, each as soon as its operand exists.

    What no collective needs (gradients of weights) comes behind the next one, to be computed while that is under way.
    Everything else keeps its order, but for what a message needs of later nodes. ``program`` is not lowered.
    ``order``: the `arranged_places` of a program that this one is a copy of; absent: worked out.
    """
    for node, number in _numbers(program, schedule).items():
        node.meta["collective"] = replace(node.meta["collective"], message=number)
    nodes = list(program.graph.nodes)
    if order is None:
        order = _places(program, schedule, sources_of(program.graph))
    resequence(program.graph, [nodes[place] for place in order])
    return check(program, Stage.ARRANGED)


def _messages(program: Program, schedule: Schedule) -> list["_Message"]:
    nodes = [node for node in program.graph.nodes if is_collective(node)]
    return [_Message([nodes[member] for member in one.members], one.early) for one in schedule.messages]


def _numbers(program: Program, schedule: Schedule) -> dict[fx.Node, int]:
    """The number of its message, from 1 on, by each collective that is sent together with others."""
    shared = [one.nodes for one in _messages(program, schedule) if len(one.nodes) > 1]
    return {node: number for number, nodes in enumerate(shared, 1) for node in nodes}


def resequence(graph: fx.Graph, order: Sequence[fx.Node]) -> None:
    """Put the nodes of a graph in another order, in place."""
    last = order[0]
    if last is not next(iter(graph.nodes)):
        next(iter(graph.nodes)).prepend(last)
    for node in order[1:]:
        if last.next is not node:
            last.append(node)
        last = node


@dataclass(frozen=True, slots=True)
class _Message:
    nodes: list[fx.Node]
    early: bool


@dataclass(slots=True)
class _Arranging:
    graph: fx.Graph
    messages: list[_Message]
    sources: Sources
    order: list[fx.Node] = field(default_factory=list)
    put_off: list[fx.Node] = field(default_factory=list)
    done: set[fx.Node] = field(default_factory=set)
    issued: int = 0
    of: dict[fx.Node, int] = field(init=False)

    def __post_init__(self) -> None:
        self.of = {node: number for number, one in enumerate(self.messages) for node in one.nodes}

    def run(self) -> list[fx.Node]:
        """All nodes: inputs first, then the rest in turn, and after each what can be sent."""
        idle = self._idle()
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._place(node)
        for node in self.graph.nodes:
            if node in idle and self.issued < len(self.messages) and self.messages[self.issued].early:
                self.put_off.append(node)
                continue
            if node.op == "output":
                # What this rank reads of no message others may read: a rank without a share of an operator.
                while self.issued < len(self.messages):
                    self._make(self.messages[self.issued].nodes[0])
                self._catch_up()
            issued = self.issued
            self._make(node)
            while self._is_ready():
                self._make(self.messages[self.issued].nodes[0])
            if self.issued > issued:
                self._catch_up()
        return self.order

    def _idle(self) -> set[fx.Node]:
        """The nodes that no collective needs."""
        needed: set[fx.Node] = set()
        for node in reversed(self.graph.nodes):
            if node in needed or node in self.of:
                needed.update(self.sources[node])
        kept = {node for node in self.graph.nodes if node.op in ("placeholder", "output")}
        return {node for node in self.graph.nodes if node not in needed and node not in self.of and node not in kept}

    def _catch_up(self) -> None:
        """Place what was put off."""
        for node in self.put_off:
            self._make(node)
        self.put_off.clear()

    def _is_ready(self) -> bool:
        """Whether the next message is to be sent as soon as it can be, and the operand of a member exists."""
        if self.issued == len(self.messages) or not self.messages[self.issued].early:
            return False
        return any(self.done.issuperset(self.sources[node]) for node in self.messages[self.issued].nodes)

    def _make(self, wanted: fx.Node) -> None:
        """Place a node after all that it needs."""
        waiting, seen = [wanted], set[fx.Node]()
        while waiting:
            node = waiting[-1]
            needed = [] if node in self.done else [one for one in self._needs(node) if one not in self.done]
            if needed:
                assert node not in seen, f"{node.name} needs itself"
                seen.add(node)
                waiting.extend(reversed(needed))
                continue
            waiting.pop()
            if node not in self.done:
                self._place(node)

    def _needs(self, node: fx.Node) -> Iterator[fx.Node]:
        """What must come first: for a collective, what all members of its message read, and the message before."""
        number = self.of.get(node)
        if number is None:
            yield from self.sources[node]
            return
        for member in self.messages[number].nodes:
            yield from self.sources[member]
        if number > self.issued:
            yield self.messages[number - 1].nodes[0]

    def _place(self, node: fx.Node) -> None:
        number = self.of.get(node)
        placed = [node] if number is None else self.messages[number].nodes
        self.order += placed
        self.done.update(placed)
        if number is not None:
            assert number == self.issued, "messages are sent in order"
            self.issued += 1
