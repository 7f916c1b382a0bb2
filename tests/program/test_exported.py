"""A file that is not an exported program is refused in words, before torch reads it."""

import zipfile

import pytest
import torch

import shardwright as sw
from shardwright.program.exported import load_exported


def test_files_that_hold_no_program(tmp_path, capfd):
    (tmp_path / "text.pt2").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "zip.pt2", "w") as archive:
        archive.writestr("notes.txt", "notes")
    says = {
        "text.pt2": "a .pt2 file is a zip archive",
        "zip.pt2": "is a zip archive that holds no exported program\n  try: torch.export.save",
        "nothing.pt2": "there is no file",
        ".": "is a folder",
    }
    for name, words in says.items():
        with pytest.raises(sw.ProgramError, match=words):
            load_exported(tmp_path / name)
    assert capfd.readouterr().err == ""


def test_a_program_is_read(tmp_path):
    exported = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),))
    torch.export.save(exported, tmp_path / "model.pt2")
    assert load_exported(tmp_path / "model.pt2").graph_module.code == exported.graph_module.code
