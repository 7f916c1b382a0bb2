"""Prompts from a file or from standard input: one a line, or JSON lines."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from shardwright.errors import Finding, InputError, raise_findings
from shardwright.layout.values import check_file

STANDARD_INPUT = "-"
JSON_LINES = ".jsonl"


def read_prompts(source: str) -> list[str]:
    """The prompts of a file, in order. ``source``: its path, or ``-`` for standard input.

    Every line of UTF-8 text is a prompt. In a file whose name ends in ``.jsonl`` every line is a JSON string, or an
    object with the prompt under ``"prompt"``, whose other fields are not read; such prompts may have several lines.
    Raises `InputError` with all lines that are no prompt, and for a file without lines.
    """
    if source == STANDARD_INPUT:
        if sys.stdin is None:
            raise InputError("there is no standard input to read prompts from")
        name, data, is_json = "standard input", sys.stdin.buffer.read(), False
    else:
        path: Path = check_file(source, "the prompts", error=InputError)
        name, data, is_json = source, path.read_bytes(), path.suffix == JSON_LINES
    if not data.strip():
        raise InputError(f"{name} holds no prompts: it is empty")
    found, findings = [], []
    for number, line in enumerate(_lines(data), 1):
        try:
            found.append(check_words(_prompt(line) if is_json else line.decode()))
        except UnicodeDecodeError as error:
            findings.append(Finding(f"byte {error.start + 1} of the line is not UTF-8", f"{name}, line {number}"))
        except ValueError as error:
            findings.append(Finding(str(error), f"{name}, line {number}"))
    raise_findings(InputError, findings, summary=f"{name} holds lines that are no prompts")
    return found


def check_words(prompt: Any, name: str = "the prompt") -> str:
    """A prompt that says something; raises `InputError` for one that does not, or is no text."""
    if not isinstance(prompt, str):
        raise InputError(f"{name} must be a string, got {prompt!r}")
    if not prompt.strip():
        raise InputError(f"{name} is empty: there is nothing to go on from")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise InputError(f"{name} is not text: some of its bytes are not UTF-8")
    return prompt


def _lines(data: bytes) -> Iterator[bytes]:
    """Lines without their ends; a mark of the byte order, which some editors write first, is none of the text's."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for line in lines if lines[-1] else lines[:-1]:
        yield line.removesuffix(b"\r")


def _prompt(line: bytes) -> str:
    try:
        said: Any = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise InputError(f"not JSON: {error}") from error
    prompt = said.get("prompt") if isinstance(said, dict) else said
    if not isinstance(prompt, str):
        raise InputError(f'neither a string nor an object with a string under "prompt": {line.decode()[:60]}')
    return prompt
