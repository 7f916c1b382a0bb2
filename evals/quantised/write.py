"""`python -m evals.quantised.write PACKAGE FOLDER`: has one package write its checkpoints into a folder."""

import importlib
import sys
from pathlib import Path

import torch


def main() -> None:
    """Import the package's writer, and run it."""
    package, folder = sys.argv[1:]
    torch.manual_seed(0)
    importlib.import_module(f"evals.quantised.by_{package}").write(Path(folder))


if __name__ == "__main__":
    main()
