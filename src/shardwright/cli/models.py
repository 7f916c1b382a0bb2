"""Models as the command line takes them: exported programs and checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardwright.errors import ShardwrightError


def load_model(model: Path, example: Path | None = None, method: str = "forward") -> Any:
    """The exported program of a file, or of a checkpoint without its weights.

    ``example``: inputs that the checkpoint's ``method`` is exported with; a program has been exported already.
    """
    if is_checkpoint(model):
        from shardwright.sources.checkpoint import open_checkpoint

        return open_checkpoint(model, example=example, method=method).exported
    refuse_export(model, {"--example": example, "--method": None if method == "forward" else method})
    from shardwright.program.exported import load_exported

    return load_exported(model)


def is_checkpoint(model: Path) -> bool:
    """Whether a path is a checkpoint, or should be one, rather than an exported program."""
    from shardwright.sources.pipeline import no_checkpoint

    return model.is_dir() or model.suffix == ".gguf" or (not model.exists() and bool(no_checkpoint(model)))


def refuse_export(model: Path, options: Mapping[str, Any]) -> None:
    """Raise `ShardwrightError` for options about exporting, by name, that are given for an exported program."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ShardwrightError(
            f"{', '.join(given)}: for checkpoints, which are exported here; {model} is an exported program"
        )


def shard_model(
    model: Path, num_ranks: int, plan: str, *, example: Path | None = None, method: str = "forward", **options: Any
) -> Any:
    """A model, sharded; ``options``: further arguments of `shard`."""
    import shardwright

    return shardwright.shard(load_model(model, example, method), mesh=num_ranks, plan=plan, **options)


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
