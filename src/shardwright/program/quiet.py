"""What other libraries log and nobody who calls this one can act on is not shown; what they raise is.

Torch logs what it cannot read or write, traceback and all, besides raising it; here only the error is kept.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from shardwright.program.torch_private import EXPORT_LOGS


@contextmanager
def quiet_export() -> Iterator[list[BaseException]]:
    """Keep torch's readers and writers of programs from logging; the errors that they would have logged, in order."""
    heard: list[BaseException] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            heard.append(record.exc_info[1])
        return False

    logs = [logging.getLogger(name) for name in EXPORT_LOGS]
    for log in logs:
        log.addFilter(keep)
    try:
        yield heard
    finally:
        for log in logs:
            log.removeFilter(keep)


@contextmanager
def quiet_reading() -> Iterator[None]:
    """Keep torch 2.12 from warning, once, of the bytes that it reads: nobody could write to them, and nobody does.

    To be entered by one thread at a time (within `texts_read_once`): each puts back the filters that it found.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
        yield


_WHEN_IMPORTED = {
    # Its compiled parts are tried one after the other; those for other machines and versions do not load.
    "torchao": "Failed to load ",
    # Of torchao's own classes.
    "torch.utils._pytree": " is an Enum subclass and is now natively supported",
}
"""Logger → what warnings hold that libraries give when they are imported, and that say nothing of the caller's work."""


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Import libraries, or what does, without what they say of themselves; every other record, and errors, stay."""

    def is_news(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or _WHEN_IMPORTED[record.name] not in record.getMessage()

    logs = [logging.getLogger(name) for name in _WHEN_IMPORTED]
    for log in logs:
        log.addFilter(is_news)
    try:
        yield
    finally:
        for log in logs:
            log.removeFilter(is_news)
