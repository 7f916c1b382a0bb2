"""Plan keys: names matched token by token, with wildcards."""

import re
from collections.abc import Iterable
from functools import lru_cache

from shardwright.errors import PlanError

_TOKEN = re.compile(r"\[[^\]]*\]|[^.\[]+|\.")


def split_tokens(key: str) -> list[str]:
    """A key's tokens: split at dots, but not inside brackets."""
    tokens = [""]
    for piece in _TOKEN.findall(key):
        if piece == ".":
            tokens.append("")
        else:
            tokens[-1] += piece
    return tokens


@lru_cache(maxsize=4096)
def compile_key(key: str) -> re.Pattern[str]:
    """The regular expression of a key.

    ``*`` stands for any text within one token (``layers.*.mlp``, ``*_proj``), ``**`` for any number of tokens,
    ``[qkv]`` for one of the letters, ``[gate,up]`` for one of the words. Everything else stands for itself. Raises
    `PlanError` for brackets that hold nothing, and for a range that runs backwards.
    """
    parts = [r"(?:[^.]+(?:\.[^.]+)*)?" if token == "**" else _token_pattern(token) for token in split_tokens(key)]
    text = r"\.".join(parts).replace(r"\.(?:[^.]+(?:\.[^.]+)*)?", r"(?:\.[^.]+)*")
    try:
        return re.compile(text.replace(r"(?:[^.]+(?:\.[^.]+)*)?\.", r"(?:[^.]+\.)*"))
    except re.error as error:
        raise PlanError(f"its brackets hold no letters or ranges of letters ({error.msg})") from error


def _token_pattern(token: str) -> str:
    found = ""
    for piece in re.split(r"(\[[^\]]*\]|\*)", token):
        if piece == "*":
            found += r"[^.]*" if token != "*" else r"[^.]+"
        elif piece.startswith("[") and piece.endswith("]"):
            inside = piece[1:-1]
            words = inside.split(",")
            if not all(word.strip() for word in words):
                raise PlanError(f"the brackets {piece} hold an empty choice")
            found += (
                f"(?:{'|'.join(re.escape(w.strip()) for w in words)})" if len(words) > 1 else f"[{_letters(inside)}]"
            )
        else:
            found += re.escape(piece)
    return found


def _letters(inside: str) -> str:
    # A range such as 0-3 stays one; anything special does not.
    return re.sub(r"([\\\]^])", r"\\\1", inside)


def matches(key: str, names: Iterable[str]) -> list[str]:
    """The names a key matches, in their order."""
    pattern = compile_key(key)
    return [name for name in names if pattern.fullmatch(name)]


def generalize(name: str) -> str:
    """A name with its numbers as wildcards, the way people write keys: ``layers.3.mlp`` → ``layers.*.mlp``."""
    return ".".join("*" if token.isdigit() else token for token in name.split("."))
