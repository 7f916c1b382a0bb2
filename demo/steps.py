"""What the demos print while they work."""

import time
from collections.abc import Callable

from shardwright.report.tables import make_console

console = make_console()


def timed(what: str, step: Callable[[], object]) -> object:
    """Run a step with a spinner; print how long it took."""
    start = time.perf_counter()
    with console.status(what):
        result = step()
    console.print(f"[green]✓[/green] {what} [dim]{time.perf_counter() - start:.1f} s[/dim]")
    return result
