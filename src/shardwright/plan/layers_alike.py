"""Entries of a plan that say the same of every layer, as one entry with a wildcard."""

from collections.abc import Collection, Hashable, Mapping

from shardwright.plan.patterns import generalize, matches

LONGEST_KEY = 1000
"""YAML takes a key of at most 1,024 characters where it stands on a line with its value."""


def merge_layers(entries: Mapping[str, Hashable], others: Collection[str] = ()) -> dict[str, list[str]]:
    """Plan key → the names it stands for, so that each key matches names of one value only.

    ``entries``: a name of a module or tensor → what a plan says of it. ``others``: further names that no key may match.
    Layers that differ from their neighbours are named by number (``layers.[0,4].mlp``).

    >>> merge_layers({"layers.0.up": "colwise", "layers.1.up": "colwise", "head": "replicate"})
    {'layers.*.up': ['layers.0.up', 'layers.1.up'], 'head': ['head']}
    """
    groups: dict[str, list[str]] = {}
    for name in entries:
        groups.setdefault(generalize(name), []).append(name)
    known = [*entries, *others]
    merged: dict[str, list[str]] = {}
    for key, names in groups.items():
        merged |= _keys(key, names, entries, known)
    return merged


def _keys(key: str, names: list[str], entries: Mapping[str, Hashable], known: list[str]) -> dict[str, list[str]]:
    """The fewest keys for names that a key with wildcards stands for, none matching what is not among them."""
    if len(names) == 1:
        return {names[0]: names}
    if len({entries[name] for name in names}) == 1 and set(matches(key, known)) == set(names):
        return {key: names}
    place = key.split(".").index("*")
    numbered: dict[str, list[str]] = {}
    for name in names:
        numbered.setdefault(name.split(".")[place], []).append(name)
    if "*" in key.split(".")[place + 1 :]:
        found: dict[str, list[str]] = {}
        for number, inside in numbered.items():
            found |= _keys(_at(key, place, number), inside, entries, known)
        return found
    by_value: dict[Hashable, list[str]] = {}
    for name in names:
        by_value.setdefault(entries[name], []).append(name)
    listed = {_listed(key, place, alike): alike for alike in by_value.values()}
    return listed if all(len(one) < LONGEST_KEY for one in listed) else {name: [name] for name in names}


def _at(key: str, place: int, token: str) -> str:
    tokens = key.split(".")
    return ".".join([*tokens[:place], token, *tokens[place + 1 :]])


def _listed(key: str, place: int, names: list[str]) -> str:
    """The key with the numbers of these names in brackets."""
    numbers = [name.split(".")[place] for name in names]
    return names[0] if len(names) == 1 else _at(key, place, f"[{','.join(numbers)}]")
