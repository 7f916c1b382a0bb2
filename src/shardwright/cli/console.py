"""Where the command line prints: results to standard output, everything else to standard error."""

import sys

from shardwright.report.tables import make_console

out = make_console()

err = make_console(stderr=True)


def print_text(text: str) -> None:
    """Print to standard output, with a line's end."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
