"""Torch logs what it cannot read or write, traceback and all, besides raising it; here only the error is kept."""

import logging
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
