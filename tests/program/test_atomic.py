"""Files are written whole or not at all."""

import stat
from pathlib import Path

import pytest

from shardwright.program.atomic import written_together, written_whole


def test_a_draft_takes_the_place_of_an_older_file(tmp_path):
    target = tmp_path / "plan.yaml"
    target.write_text("old")
    with written_whole(target) as draft:
        draft.write_text("new")
        assert target.read_text() == "old" and draft.parent == tmp_path
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def break_off(target, error):
    with written_whole(target) as draft:
        draft.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_what_goes_wrong_leaves_the_older_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "plan.yaml"
    target.write_text("old")
    with pytest.raises(type(error)):
        break_off(target, error)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_an_error_before_anything_is_written_stays_the_same(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weight"), written_whole(tmp_path / "x"):
        raise FileNotFoundError("no such weight")


def test_two_writers_do_not_share_a_draft(tmp_path):
    target = tmp_path / "out"
    with written_whole(target) as first:
        first.write_text("first")
        with written_whole(target) as second:
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with written_whole(tmp_path / "whole") as draft:
        draft.write_text("")
    assert stat.S_IMODE((tmp_path / "whole").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_of_several_files_there_are_all_or_none(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()

    def write(*targets):
        with written_together(*targets) as drafts:
            for draft in drafts:
                draft.write_text("new")

    with pytest.raises(OSError, match="second"):
        # The first has its place when the second is found to have none.
        write(first, second)
    assert list(tmp_path.iterdir()) == [second]
    second.rmdir()
    write(first, second)
    assert first.read_text() == second.read_text() == "new"


@pytest.mark.parametrize("stop_at", [1, 2])
def test_an_interruption_between_two_files_leaves_both_or_none(tmp_path, monkeypatch, stop_at):
    replace, targets = Path.replace, [tmp_path / "first", tmp_path / "second"]
    placed = []

    def interrupted(draft, target):
        replace(draft, target)
        placed.append(target)
        if len(placed) == stop_at:
            raise KeyboardInterrupt

    def write():
        with written_together(*targets) as drafts:
            for draft in drafts:
                draft.write_text("new")

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert sorted(tmp_path.iterdir()) == (targets if stop_at == len(targets) else [])


def test_an_interruption_once_the_file_is_there_leaves_it(tmp_path, monkeypatch):
    target, replace = tmp_path / "plan.yaml", Path.replace
    target.write_text("old")

    def interrupted(draft, place):
        replace(draft, place)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), written_whole(target) as draft:
        draft.write_text("new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]
