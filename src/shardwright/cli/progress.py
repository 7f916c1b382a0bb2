"""Progress on a terminal: a spinner, steps, bytes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from shardwright.cli.console import err


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """A spinner with the time taken, on a terminal."""
    with Progress(SpinnerColumn(), TextColumn(what), TimeElapsedColumn(), console=err, transient=True) as progress:
        progress.add_task(what)
        yield


@contextmanager
def steps_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar; the function it gives takes what is being done, the steps done, and all steps."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda doing, done, total: progress.update(task, description=doing, completed=done, total=total)


@contextmanager
def bytes_bar(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar; the function it gives takes what is being done, the bytes done, and the bytes to do (0: not known)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def step(doing: str, done: int, total: int) -> None:
            progress.update(task, description=doing, completed=done, total=total or None)

        yield step
