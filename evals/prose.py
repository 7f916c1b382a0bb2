"""Prose of the cards, in lines as short as those of code."""

import re
import textwrap

WIDTH = 120


def filled(text):
    """A page whose paragraphs have lines of at most ``WIDTH`` letters; what fits, tables and headings stay as they are.

    Code between backticks is not broken: where a line begins with it, it could be read as something else.
    """
    return "\n\n".join(_filled(paragraph) for paragraph in text.split("\n\n"))


def _filled(paragraph):
    lines = paragraph.splitlines()
    if all(len(line) <= WIDTH or line.startswith(("|", "#")) for line in lines):
        return paragraph
    words = re.sub(r"`[^`]+`", lambda code: code[0].replace(" ", "\0"), " ".join(lines).strip())
    found = textwrap.fill(words, WIDTH, break_long_words=False, break_on_hyphens=False).replace("\0", " ")
    before, after = (len(paragraph) - len(cut("\n")) for cut in (paragraph.lstrip, paragraph.rstrip))
    return "\n" * before + found + "\n" * after
