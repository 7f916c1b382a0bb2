"""Nested JSON, for tests that damage it."""


def places(tree):
    """Where every value of nested JSON is held: (the list or object, its index or name), the outer ones first."""
    found = []
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        found.append((tree, key))
        if isinstance(tree[key], dict | list):
            found += places(tree[key])
    return found
