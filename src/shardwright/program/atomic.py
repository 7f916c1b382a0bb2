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
    begun: list[Path] = []
    try:
        yield drafts
        for draft, target in zip(drafts, targets, strict=True):
            begun.append(target)
            draft.replace(target)
    except BaseException:
        # An interruption may come when a file has just got its place, or all of them have: then they stay.
        placed = [target for draft, target in zip(drafts, begun, strict=False) if not draft.exists()]
        for path in (*drafts, *placed) if len(placed) < len(targets) else ():
            with suppress(OSError):
                # On a disk that cannot be written there is nothing to remove, and no way to.
                path.unlink()
        raise
