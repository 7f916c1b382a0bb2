"""Models as the command line takes them: exported programs and checkpoints."""

from pathlib import Path
from typing import Any


def load_model(model: Path) -> Any:
    """The exported program of a file, or of a checkpoint without its weights."""
    if is_checkpoint(model):
        from shardwright.sources.checkpoint import open_checkpoint

        return open_checkpoint(model).exported
    from shardwright.program.exported import load_exported

    return load_exported(model)


def is_checkpoint(model: Path) -> bool:
    """Whether a path is a checkpoint rather than an exported program."""
    return model.is_dir() or model.suffix == ".gguf"


def shard_model(model: Path, num_ranks: int, plan: str, **options: Any) -> Any:
    """A model, sharded; ``options``: further arguments of `shard`."""
    import shardwright

    return shardwright.shard(load_model(model), mesh=num_ranks, plan=plan, **options)


def is_package(path: Path) -> bool:
    """Whether a path is a package folder."""
    from shardwright.package.manifest import MANIFEST_NAME

    return (path / MANIFEST_NAME).exists()


def package_facts_of(folder: Path, hardware: str | None) -> Any:
    """What a package says of itself; ``hardware``: what times are predicted for."""
    from shardwright.assign.hardware import cost_model
    from shardwright.package.manifest import read_manifest
    from shardwright.page.facts import package_facts

    return package_facts(folder, read_manifest(folder), cost_model(hardware))
