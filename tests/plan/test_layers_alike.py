"""Entries of layers that are alike, written once."""

from shardwright.plan.layers_alike import merge_layers
from shardwright.plan.patterns import matches


def merged(entries, others=()):
    """The keys; each matches its own names only."""
    found = merge_layers(entries, others)
    assert [name for names in found.values() for name in names] != []
    for key, names in found.items():
        assert matches(key, [*entries, *others]) == names, key
        assert len({entries[name] for name in names}) == 1
    assert sorted(name for names in found.values() for name in names) == sorted(entries)
    return list(found)


def layers(count, says, name="layers.{}.up"):
    return {name.format(i): says(i) for i in range(count)}


def test_layers_alike_are_one_key():
    assert merged(layers(80, lambda i: "colwise") | {"head": "colwise"}) == ["layers.*.up", "head"]


def test_a_layer_that_differs_is_named():
    assert merged(layers(12, lambda i: "a" if i == 10 else "b")) == [
        "layers.[0,1,2,3,4,5,6,7,8,9,11].up",
        "layers.10.up",
    ]


def test_every_second_layer():
    assert merged(layers(4, lambda i: "ab"[i % 2])) == ["layers.[0,2].up", "layers.[1,3].up"]


def test_experts_within_layers():
    entries = {f"layers.{i}.experts.{e}.up": "a" for i in range(3) for e in range(4)}
    assert merged(entries) == ["layers.*.experts.*.up"]
    entries |= {f"layers.1.experts.{e}.up": "b" for e in range(4)}
    assert merged(entries) == ["layers.0.experts.*.up", "layers.1.experts.*.up", "layers.2.experts.*.up"]
    entries["layers.2.experts.3.up"] = "b"
    assert merged(entries)[2:] == ["layers.2.experts.[0,1,2].up", "layers.2.experts.3.up"]


def test_a_wildcard_never_takes_what_is_not_a_layer():
    entries = layers(2, lambda i: "a") | {"layers.last.up": "b"}
    assert merged(entries) == ["layers.[0,1].up", "layers.last.up"]
    assert merged(layers(2, lambda i: "a"), others=["layers.last.up"]) == ["layers.[0,1].up"]


def test_a_number_alone():
    assert merged({"0.weight": "a", "2.weight": "a", "10.bias": "b"}) == ["*.weight", "10.bias"]


def test_a_key_that_yaml_would_not_take_is_not_made():
    assert len(merged(layers(300, lambda i: "ab"[i % 2]))) == 2
    assert len(merged(layers(700, lambda i: "ab"[i % 2]))) == 700
