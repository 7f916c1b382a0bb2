"""Whether a built wheel holds all that runs: `python -m tests.support.wheel dist/*.whl`."""

import sys
from pathlib import Path
from zipfile import ZipFile

SOURCE = Path(__file__).parent.parent.parent / "src" / "shardwright"


def source_files():
    """Every file of the package, as a wheel names it: Python, C++, and the template of the report."""
    files = (path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(SOURCE.parent).as_posix() for path in files}


def left_out(wheel):
    """The files of the package that a wheel lacks."""
    with ZipFile(wheel) as archive:
        return sorted(source_files() - set(archive.namelist()))


if __name__ == "__main__":
    missing = left_out(sys.argv[1])
    sys.exit(f"{sys.argv[1]} lacks {', '.join(missing)}" if missing else 0)
