"""Where ranks stand: one that waited in vain for others is not blamed for what it does after that."""

import time

import pytest

from shardwright.run import standing
from shardwright.run.standing import noted, standings


@pytest.mark.parametrize("in_vain", [False, True], ids=["busy", "after a wait"])
def test_a_rank_that_has_waited_in_vain_keeps_nobody_waiting(tmp_path, monkeypatch, in_vain):
    monkeypatch.setattr(standing, "_INTERVAL_S", 0.01)
    with noted(tmp_path, 0) as waited:
        if in_vain:
            waited.set()
        while not (tmp_path / "standing-0.json").exists():
            time.sleep(0.01)
        [note] = standings(tmp_path, 1)
    assert "test_standing.py" in note.at
    assert note.hangs is not in_vain


def test_a_rank_without_a_note_hangs(tmp_path):
    [note] = standings(tmp_path, 1)
    assert note.hangs
    assert str(note) == "rank 0 stopped before it said where it is"
