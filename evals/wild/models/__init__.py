"""The list of models, one file a field."""

import importlib

FIELDS = (
    "attention",
    "audio",
    "autoencoders",
    "diffusion",
    "graphs",
    "images",
    "language",
    "large",
    "recipes",
    "science",
    "series",
    "tables",
    "video",
    "vision",
)


def entries():
    """All entries by name, in a fixed order."""
    found = [entry for name in FIELDS for entry in _of(name)]
    names = [entry.name for entry in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"entries of one name: {', '.join(twice)}")
    return dict(zip(names, found, strict=True))


def fields():
    """The field of each entry, by the entry's name."""
    return {entry.name: name for name in FIELDS for entry in _of(name)}


def _of(name):
    return importlib.import_module(f"evals.wild.models.{name}").ENTRIES
