"""Files that are written whole or not at all."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """The path of a draft beside ``target``: it takes the target's place when the block ends well, else it is removed.

    Nobody else has a file of that name, so that two writers do not spoil each other's drafts: the later one stays.
    """
    with written_together(target) as (draft,):
        yield draft


@contextmanager
def written_together(*targets: Path) -> Iterator[list[Path]]:
    """Drafts of several files, none of which is there yet: all take their places when the block ends well, or none."""
    drafts = [target.with_name(f".{target.name}.{uuid.uuid4().hex}") for target in targets]
    placed: list[Path] = []
    try:
        yield drafts
        for draft, target in zip(drafts, targets, strict=True):
            draft.replace(target)
            placed.append(target)
    except BaseException:
        for path in (*drafts, *placed):
            with suppress(OSError):
                # On a disk that cannot be written there is nothing to remove, and no way to.
                path.unlink()
        raise
