"""The command line: in this process, and in one of its own."""

import os
import subprocess
import sys

import pytest

from shardwright.cli.app import main


def outcome(monkeypatch, capfd, words):
    """Exit code and all that was said, of the command line in this process."""
    code, out, err = outputs(monkeypatch, capfd, words)
    return code, out + err


def outputs(monkeypatch, capfd, words):
    """Exit code, standard output and standard error, of the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["shardwright", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    return ended.value.code, said.out, said.err


def shardwright(folder, *words, preexec=None, given=None):
    """The command line in a process of its own, which takes seconds to start; ``given``: its standard input."""
    command = [sys.executable, "-W", "ignore", "-m", "shardwright", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    how = {"capture_output": True, "text": True, "input": given, "preexec_fn": preexec}
    return subprocess.run(command, cwd=folder, env=env, check=False, **how)
