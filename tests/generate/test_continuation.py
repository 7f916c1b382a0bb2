"""Stop strings are found wherever tokens begin and end, and nothing is shown that they take back."""

import pytest

import shardwright as sw
from shardwright.generate.continuation import Continuation, check_stop
from tests.support.tiny import make_tokenizer

TOKENIZER = make_tokenizer()


def told(text, stop=(), tokenizer=TOKENIZER):
    """The answer after each token of a text, until it is over: what was certain then, and the text in the end."""
    answer, shown = Continuation(tokenizer, stop), []
    for token in tokenizer(text)["input_ids"]:
        over = answer.add(token)
        shown.append(answer.certain)
        if over:
            break
    return answer, shown


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("the cat sat on the mat", (), "the cat sat on the mat"),
        ("the cat sat on the mat", ("at on",), "the cat s"),
        ("the cat sat on the mat", ("mat", "sat"), "the cat "),
        ("the cat sat on the mat", ("the",), ""),
        ("one\n\ntwo", ("\n\n",), "one"),
        ("one\ntwo", ("\n\n",), "one\ntwo"),
        ("a a a b", ("a a b",), "a "),
        ("näh: grüße", ("üß",), "näh: gr"),
        ("the sky is 🐈 blue", ("🐈",), "the sky is "),
        ("the sky</s>is blue", ("</s>",), "the sky"),
        ("the sky</s>is blue", (), "the skyis blue"),
    ],
)
def test_a_text_is_cut_before_a_stop_string(text, stop, wanted):
    answer, shown = told(text, stop)
    assert answer.text == wanted
    assert answer.is_over == ((bool(stop) and stop != ("\n\n",)) or text == "one\n\ntwo")
    # What is shown grows, and nothing of it is taken back.
    for before, after in zip(shown, [*shown[1:], wanted], strict=True):
        assert after.startswith(before)
    assert "\ufffd" not in "".join(shown)


def test_the_beginning_of_a_stop_string_is_held_back():
    answer, shown = told("one two three four", ("three five",))
    assert not answer.is_over
    assert not any(text.endswith("thr") for text in shown)
    assert shown[-1] == answer.text == "one two three four"


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ([""], "a stop string is empty"),
        (["", 3, "x"], r"(?s)2 problems.*is empty.*must be a string, got 3"),
        (["x</s>"], "holds '</s>', which is a token that is no part of any text"),
        (3, "stop must be a list such as"),
    ],
)
def test_strings_that_cannot_end_a_text(stop, words):
    with pytest.raises(sw.InputError, match=words):
        check_stop(TOKENIZER, stop)
    assert check_stop(TOKENIZER, "x") == check_stop(TOKENIZER, ["x"]) == ("x",)
