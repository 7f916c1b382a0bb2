"""Lines of the cards' prose."""

from evals.prose import WIDTH, filled

LONG = "one `two three` four " * 12


def test_paragraphs_are_filled_and_all_else_stays():
    page = f"# {'Title ' * 30}\n\nshort\nlines\n\n| {'cell | ' * 40}\n\n{LONG.strip()}.\n"
    title, short, table, prose = filled(page).split("\n\n")
    assert [title, short, table] == page.split("\n\n")[:3]
    assert prose.endswith(" four.\n")
    assert prose.split() == f"{LONG.strip()}.\n".split()
    lines = prose.splitlines()
    assert len(lines) == 3
    assert all(len(line) <= WIDTH and line.count("`") % 2 == 0 for line in lines)


def test_what_is_filled_stays():
    assert filled(filled(LONG)) == filled(LONG)


def test_blank_lines_around_a_paragraph_stay_and_no_line_begins_with_a_space():
    text = filled("a\n\n\n" + "word " * 40 + "\n\n\nb")
    assert text.startswith("a\n\n\nword") and text.endswith("word\n\n\nb")
    assert not any(line.startswith(" ") for line in text.splitlines())
