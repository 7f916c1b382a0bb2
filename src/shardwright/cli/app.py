"""The command line: ``shardwright inspect | plan | shard | verify | train-check | report | diff | compile | run |
generate | chat | gather | reshard | calibrate``.
"""

import sys
import warnings
from typing import Any

import typer

from shardwright.cli.calibrate import calibrate
from shardwright.cli.chat import chat
from shardwright.cli.compile import compile_
from shardwright.cli.console import err
from shardwright.cli.diff import diff
from shardwright.cli.gather import gather
from shardwright.cli.generate import generate
from shardwright.cli.inspect import inspect
from shardwright.cli.plan import plan
from shardwright.cli.report import report
from shardwright.cli.reshard import reshard
from shardwright.cli.run import run
from shardwright.cli.shard import shard
from shardwright.cli.train_check import train_check
from shardwright.cli.verify import verify
from shardwright.errors import CheckpointWarning, GatherWarning, PlanWarning, ShardwrightError, SolverWarning

app = typer.Typer(
    name="shardwright",
    help="Tensor parallelism for exported PyTorch programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_COMMANDS = (
    inspect,
    plan,
    shard,
    verify,
    train_check,
    report,
    diff,
    compile_,
    run,
    generate,
    chat,
    gather,
    reshard,
    calibrate,
)
for _command in _COMMANDS:
    app.command(_command.__name__.rstrip("_").replace("_", "-"))(_command)


def main() -> None:
    """The entry point: errors of ours and of the system are one clear message and a non-zero exit."""
    warnings.showwarning = _show_warning
    # Torch's own, of the trees of arguments that it copies when it exports.
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\).* is deprecated", FutureWarning)
    try:
        app()
    except ShardwrightError as error:
        err.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)
    except OSError as error:
        err.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Ours in one line, without the place in our code that found it; others as Python shows them."""
    if issubclass(category, (CheckpointWarning, GatherWarning, PlanWarning, SolverWarning)):
        err.print(f"warning: {message}", style="yellow", markup=False)
    else:
        err.print(warnings.formatwarning(message, category, *where[:2]), markup=False, end="")
