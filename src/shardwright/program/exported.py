"""Exported programs in files of the user's own, which are trusted as torch trusts them."""

import os
import zipfile
from pathlib import Path

import torch
from torch.export import ExportedProgram

from shardwright.errors import ProgramError, first_line
from shardwright.layout.values import check_file, check_path
from shardwright.program.operator_libraries import import_named_in
from shardwright.program.quiet import quiet_export, quiet_imports, quiet_reading
from shardwright.program.torch_repeats import quick_tracing


def load_exported(path: str | os.PathLike[str]) -> ExportedProgram:
    """The exported program in a ``.pt2`` file; raises `ProgramError` when it is missing, damaged or no such."""
    file = check_path(path, "the program", error=ProgramError)
    if not file.exists():
        raise ProgramError(f"there is no file {path}")
    if file.is_dir():
        raise ProgramError(f"{path} is a folder, not an exported program\n  try: the .pt2 file torch.export.save wrote")
    file = check_file(file, "the program", error=ProgramError)
    if not zipfile.is_zipfile(file):
        raise ProgramError(
            f"{path} is not an exported program, or it is truncated: a .pt2 file is a zip archive\n"
            "  try: torch.export.save(exported, 'model.pt2')"
        )
    if not _holds_program(file):
        raise ProgramError(
            f"{path} is a zip archive that holds no exported program\n  try: torch.export.save(exported, 'model.pt2')"
        )
    from shardwright.program.torch_files import texts_read_once  # It brings torch's own compiler, a second of imports.

    with quiet_export() as heard, quiet_imports(), texts_read_once(), quiet_reading(), quick_tracing():
        try:
            return _load(file, heard)
        except Exception as error:
            # torch raises many kinds for a damaged archive, and says the cause of some only to its log.
            cause = heard[0] if heard else error
            raise ProgramError(
                f"{path} cannot be read as an exported program: {first_line(cause)}\n"
                f"  try: save it again with torch {torch.__version__} (torch.export.save)"
            ) from error


def _load(file: Path, heard: list[BaseException]) -> ExportedProgram:
    """What torch reads; where it does not know an operator, once more with the library that defines it.

    ``heard``: what torch says to its log, which may name the operator where the error does not.
    """
    try:
        return torch.export.load(file)
    except Exception as error:
        if not import_named_in(" ".join(map(str, (error, *heard)))):
            raise
    heard.clear()
    return torch.export.load(file)


def _holds_program(file: Path) -> bool:
    """Whether an archive has an entry for a program, as torch has named it since its first versions."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        # Damage is for torch to name.
        return True
    return any("models/" in name or name == "serialized_exported_program.json" for name in names)
