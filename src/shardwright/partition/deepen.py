"""`deepen`: from a rank's shallow program to its deep one, every layer that was left out written as the one kept.

What a rank runs for the layer that stands for others is the same for each of them, with weights of its own and the
values of the layer before it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from torch import fx

from shardwright.layout.layout import Layout
from shardwright.partition.written_layers import UnlikeLayersError, WrittenLayer, find_written
from shardwright.program.collectives import Collective
from shardwright.program.duplicate import own_holder
from shardwright.program.layers import Layer
from shardwright.program.legal import Stage, check
from shardwright.program.nodes import add_node, val_of
from shardwright.program.program import Input, Program, Weight
from shardwright.program.shallow import Shallow, Shortened
from shardwright.rules.call import map_values

_SHARED_META = ("stack_trace",)
"""Metadata that is the same for all layers."""


def deepen(local: Program, shallow: Shallow) -> Program:
    """One rank's deep program. ``local``: the shallow one, not lowered.

    Raises `UnlikeLayersError` where the layer kept was not written as the one before it.
    """
    return check(_Deepening(local, shallow, find_written(local, shallow)).run(), Stage.MERGED)


class _Deepening:
    """One rank's deep program on the way. ``env``: what stands for the nodes of the shallow one."""

    def __init__(self, local: Program, shallow: Shallow, written: Sequence[WrittenLayer]) -> None:
        self.local, self.shallow, self.deep, self.written = local, shallow, shallow.deep, written
        self.owner = own_holder(local.graph, local.owner)
        self.graph = fx.Graph(self.owner)  # type: ignore[arg-type]
        self.env: dict[fx.Node, fx.Node] = {}
        self.placeholders: dict[str, fx.Node] = {}
        """Those written so far, by name."""
        self.inputs: list[Input] = []
        self.origins: dict[str, tuple[str, tuple[Layout, ...]]] = {}
        self.originals = {node.name for node in shallow.program.graph.nodes}
        self.taken = {node.name for node in self.deep.graph.nodes}
        self.outputs: dict[int, Any] = {}
        self.behind: list[_Twin] = []
        """The last layers of the stacks so far: what is said of a kept layer from there on is said of them."""

    def run(self) -> Program:
        local, deep = self.local, self.deep
        self._write_placeholders()
        last = {one.kept.nodes[-1]: one for one in self.written}
        twins = {one.stack: _Twin(one.stack, one.stack.before, one.stack.kept) for one in self.written}
        kept = {node: twins[one.stack] for one in self.written for node in one.kept.nodes}
        returned = local.numbers_of_outputs()
        self.outputs = dict(zip(self.shallow.outputs, local.output_values(), strict=True))
        for node in local.graph.nodes:
            if node.op not in ("placeholder", "output"):
                self.env[node] = made = self._copy(node, None)
                if node in kept:
                    made.meta.update(kept[node].meta(made.meta))
            for number in returned.get(node, ()):
                self.outputs[self.shallow.outputs[number]] = self.env[node]
            if node in last:
                self._write_layers(last[node])
        values = tuple(self.outputs[number] for number in range(len(deep.outputs)))
        output = self.graph.output(values)
        output.meta = {**local.graph.output_node().meta, "val": map_values(values, val_of)}
        return replace(
            local,
            graph=self.graph,
            inputs=tuple(self.inputs),
            outputs=deep.outputs,
            weights=self._weights(),
            owner=self.owner,
            origins=self.origins,
            members={},
        )

    def _write_placeholders(self) -> None:
        """Those of the shallow program in their order, each with those left out that follow it in the deep one."""
        stands_for = self.shallow.stands_for()
        originals = {node.name: node for node in self.deep.placeholders()}
        local = {node.name: node for node in self.local.placeholders()}
        behind: dict[str, list[Input]] = {}
        previous = ""
        for item in self.deep.inputs:
            if item.name in stands_for:
                behind.setdefault(previous, []).append(item)
            else:
                previous = item.name
        for item in (None, *self.local.inputs):
            if item is not None:
                node = local[item.name]
                self.env[node] = self._add(node, node.name if node.name in originals else self._free(node.name))
                self._note(item, self.env[node], node, None)
            for out in behind.get(item.name if item is not None else "", ()):
                node, kept = local[stands_for[out.name]], originals[stands_for[out.name]]
                made = self._add(node, out.name)
                made.meta = dict(originals[out.name].meta)
                if node.meta["val"] is not kept.meta["val"]:
                    made.meta["val"] = node.meta["val"]
                    made.meta.pop("tensor_meta", None)
                self._note(out, made, node, out.name)

    def _note(self, item: Input, made: fx.Node, node: fx.Node, origin: str | None) -> None:
        """Note a placeholder that was written, as ``node`` is in the shallow program; ``origin``: the original's."""
        self.placeholders[made.name] = made
        self.inputs.append(replace(item, name=made.name))
        if node.name in self.local.origins:
            known, layouts = self.local.origins[node.name]
            self.origins[made.name] = origin or known, layouts

    def _write_layers(self, written: WrittenLayer) -> None:
        """Write the layers that are left out of a stack, right behind the one that is kept."""
        stack, kept = written.stack, written.kept
        own = {node.name: place for place, node in enumerate(stack.kept.own)}
        returned = self.deep.numbers_of_outputs()
        place_of = {node: place for place, node in enumerate(kept.nodes)}
        layers = [stack.before, stack.kept, *stack.left_out]
        values, numbers = self.local.output_values(), {mine: place for place, mine in enumerate(self.shallow.outputs)}
        for number, layer in enumerate(stack.left_out, 2):
            twin = _Twin(stack, layers[number - 1], layer)
            previous = [self.env[node] for node in kept.nodes]
            self.env.update(zip(written.before.nodes, previous, strict=True))
            self.env.update((node, self.placeholders[layer.own[own[node.name]].name]) for node in kept.own)
            for node in kept.nodes:
                self.env[node] = self._copy(node, twin)
            for original, out in zip(stack.kept.nodes, layer.nodes, strict=True):
                for mine, theirs in zip(returned.get(original, ()), returned.get(out, ()), strict=True):
                    value = values[numbers[mine]]
                    if value not in place_of:
                        raise UnlikeLayersError(f"what {kept.module!r} returns is written elsewhere")
                    self.outputs[theirs] = self.env[value]
        self.behind.append(_Twin(stack, *layers[-2:], is_behind=True))

    def _copy(self, node: fx.Node, twin: "_Twin | None") -> fx.Node:
        """A call as it is, or as it is in a layer that was left out."""
        known, layouts = self.local.origins.get(node.name, ("", ()))
        is_original = known == node.name and known in self.originals
        if twin is None:
            made = self._add(node, known if is_original else self._free(node.name))
            made.meta.update(node.meta)
            if "collective" in node.meta:
                made.meta["collective"] = self._of_output(node.meta["collective"])
            for one in self.behind:
                made.meta.update(one.meta(made.meta))
                # What is read of the layer that is kept is read of the last one here.
                known = one.names.get(known, known)
        else:
            # What was written out of one operator has no name in the original.
            known = twin.names.get(known, "")
            made = self._add(node, known if is_original else self._free(f"{node.name}_{twin.number}"))
            made.meta.update(twin.meta(node.meta))
        if node.name in self.local.origins:
            self.origins[made.name] = known or made.name, layouts
        return made

    def _of_output(self, record: Collective) -> Collective:
        """What is recorded of a collective, with the number that an output has in the deep program."""
        outputs = self.shallow.outputs
        cause = re.sub(r"(?<=; output )\d+(?= is )", lambda found: str(outputs[int(found[0])]), record.cause)
        return record if cause == record.cause else replace(record, cause=cause)

    def _add(self, node: fx.Node, name: str) -> fx.Node:
        find = self.env.__getitem__
        args, kwargs = fx.map_arg(node.args, find), fx.map_arg(node.kwargs, find) if node.kwargs else {}
        made = add_node(self.graph, node.op, name if node.op == "placeholder" else node.target, args, kwargs, name)
        if made.name != name:
            made.name = name
        if node.op == "placeholder":
            made.meta.update(node.meta)
        return made

    def _free(self, name: str) -> str:
        """A name that no other node has or will have."""
        found = name
        for number in count(1):
            if found not in self.taken:
                break
            found = f"{name}_{number}"
        self.taken.add(found)
        return found

    def _weights(self) -> dict[str, Weight]:
        """Every weight in the order of the inputs, those left out cut as the ones that stand for them."""
        targets = {item.name: str(item.target) for item in self.deep.inputs}
        found = dict(self.local.weights)
        for name, kept in self.shallow.stands_for().items():
            known = self.local.weights.get(targets[kept])
            if known is not None:
                found[targets[name]] = replace(self.deep.weights[targets[name]], cuts=known.cuts)
        order = [target for target in targets.values() if target in found]
        return {target: found[target] for target in dict.fromkeys((*order, *found))}


class _Twin:
    """What is otherwise in a layer that was left out than in the one that is kept: names, and what metadata says.

    ``before``: the layer before it. ``is_behind``: whether it is asked of what comes behind the layer.
    """

    def __init__(self, stack: Shortened, before: Layer, layer: Layer, *, is_behind: bool = False) -> None:
        self.number = layer.number
        # What the axes before wrote has no name in the original.
        self._suffix = f"_{layer.number}" if layer in stack.left_out and not is_behind else ""
        pairs = [(stack.before, before), (stack.kept, layer)]
        self.names: dict[str, str] = {}
        self._own: dict[int, Any] = {}
        shared: set[int] = set()
        for kept, out in pairs:
            for node, other in zip((*kept.own, *kept.nodes), (*out.own, *out.nodes), strict=True):
                self.names[node.name] = other.name
                for key, value in node.meta.items():
                    if key in _SHARED_META or key not in other.meta:
                        continue
                    known = self._own.setdefault(id(value), other.meta[key])
                    if known is not other.meta[key]:
                        shared.add(id(value))
        # What both layers have in common is of none of them.
        for key in shared:
            del self._own[key]
        kept = stack.kept.number
        # The layer after the one that is kept is the next one here.
        behind = stack.left_out[-1].number + 1
        numbers = {kept - 1: layer.number - 1, kept: layer.number, behind: layer.number + 1}
        self._path = re.compile(rf"(?<![\w.]){re.escape(stack.kept.container)}\.(\d+)(?!\w)")
        self._shift = lambda found: (
            f"{stack.kept.container}.{numbers[int(found[1])]}" if int(found[1]) in numbers else found[0]
        )

    def meta(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """What metadata says of the kept layer, said of this one."""
        found = {key: self._own.get(id(value), value) for key, value in meta.items()}
        record = meta.get("collective")
        if isinstance(record, Collective):
            found["collective"] = replace(
                record,
                module=self._path.sub(self._shift, record.module),
                node=self.names.get(record.node, f"{record.node}{self._suffix}"),
                cause=self._path.sub(self._shift, record.cause),
            )
        return found
