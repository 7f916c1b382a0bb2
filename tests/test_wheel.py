"""A wheel that lacks what runs is noticed (`make dist` asks for each that it builds)."""

import zipfile

from tests.support.wheel import left_out, source_files


def test_files_that_are_not_python_are_asked_for():
    assert {"shardwright/page/page.html", "shardwright/run/queue.h", "shardwright/run/aot/runner.cpp"} <= source_files()


def test_what_a_wheel_lacks_is_named(tmp_path):
    lacking = {"shardwright/page/page.html", "shardwright/run/queue.h"}
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as wheel:
        for name in source_files() - lacking:
            wheel.writestr(name, "")
    assert left_out(tmp_path / "wheel.whl") == sorted(lacking)
    with zipfile.ZipFile(tmp_path / "wheel.whl", "a") as wheel:
        for name in lacking:
            wheel.writestr(name, "")
    assert left_out(tmp_path / "wheel.whl") == []
