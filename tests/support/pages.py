"""The pages of the documentation, and what is in them."""

import contextlib
import doctest
import io
import re
import shlex
import sys
import tempfile
from pathlib import Path

import pytest
from torch.distributed import run as torchrun

from shardwright.cli.app import main
from shardwright.run.launch import _restored_signals
from tests.support.ranks import launch_warm

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
    """What a command line prints; ours and torchrun's run in this process, which has imported torch."""
    if words[0] == "shardwright":
        monkeypatch.setattr(sys, "argv", words)
        return _printed(_run_main)
    assert words[0] == "torchrun", words
    return _said_by_ranks(words[1:], monkeypatch)


def _said_by_ranks(words, monkeypatch):
    """What the ranks that torchrun starts print, one rank after the other. They are forked, as `launch_warm` says."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as patch, _restored_signals():
        patch.setattr(torchrun, "elastic_launch", launch_warm)
        torchrun.main(["--run-path", "--log-dir", folder, "--redirects", "1", *words])
        logs = sorted(Path(folder).rglob("stdout.log"), key=lambda log: int(log.parent.name))
        return "".join(log.read_text() for log in logs)


def _run_main():
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
