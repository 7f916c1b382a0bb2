"""The pages of the documentation, and what is in them."""

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from shardwright.cli.app import main

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def all_blocks(page):
    """(language, text) of a page's fenced blocks, from top to bottom; ``""``: those that name none."""
    return _BLOCK.findall(page.read_text())


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    return [text for name, text in all_blocks(page) if name == language]


def run_page(page, monkeypatch):
    """Do what a page tells its reader, from top to bottom, in the working directory.

    A block whose first line is ``# name.py`` or ``# name.yaml`` is that file. Other Python is one session; plain blocks
    are command lines; a block of ``text`` is what the block before it has printed, where ``...`` stands for anything.
    Blocks of other languages are not run.
    """
    session, said = {}, ""
    for number, (language, text) in enumerate(all_blocks(page), 1):
        where = f"{page.name}, block {number}"
        if file := re.match(r"# (\w+\.(?:py|yaml))\n", text):
            Path(file[1]).write_text(text)
        elif language == "python":
            said = _printed(lambda text=text, where=where: exec(compile(text, where, "exec"), session))
        elif not language:
            said = "".join(_said_by(shlex.split(line, comments=True), monkeypatch) for line in text.splitlines())
        elif language == "text":
            assert doctest.OutputChecker().check_output(text, said, _SAME), f"{where} says\n{text}\nprinted was\n{said}"
    here = str(Path.cwd())
    for name in [name for name, one in list(sys.modules.items()) if str(getattr(one, "__file__", "")).startswith(here)]:
        del sys.modules[name]


def _printed(call):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        call()
    return printed.getvalue()


def _said_by(words, monkeypatch):
    """What a command line prints; those of ours run in this process, which has imported torch."""
    if words[0] == "shardwright":
        monkeypatch.setattr(sys, "argv", words)
        return _printed(_run_main)
    assert words[0] == "torchrun", words
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout


def _run_main():
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
