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
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield draft
        draft.replace(target)
    except BaseException:
        with suppress(OSError):
            # On a disk that cannot be written there is nothing to remove, and no way to.
            draft.unlink()
        raise
