"""Ctrl-C at the terminal."""

import signal
from contextlib import ExitStack

import pytest

from shardwright.generate.chatting import _Interrupts


def read(interrupts, count):
    """Ctrl-C so often while a message is read; each but the first while what the one before it has raised unwinds."""
    with interrupts.raised():
        assert not interrupts.asked
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with ExitStack() as stack:
            for _ in range(count):
                stack.callback(signal.raise_signal, signal.SIGINT)


@pytest.fixture
def _ctrl_c_is_raised():
    """As at a terminal; what a shell starts in the background is told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_is_raised")
def test_ctrl_c_is_raised_while_a_message_is_read_and_noted_else():
    """`input` runs handlers while the first one's exception is set: one in Python would end in a SystemError."""
    with _Interrupts() as interrupts:
        for count in (1, 2):
            signal.raise_signal(signal.SIGINT)
            assert interrupts.asked
            with pytest.raises(KeyboardInterrupt):
                read(interrupts, count)
            assert not interrupts.asked
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
