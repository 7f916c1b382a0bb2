"""What libraries log when they are imported is left out where it says nothing of the caller's work, and only there."""

import logging
import warnings

from shardwright.program.quiet import quiet_export, quiet_imports, quiet_reading


def test_what_torch_logs_is_kept(capfd):
    with quiet_export() as heard:
        logging.getLogger("torch.export").warning("words", exc_info=ValueError("a cause"))
        logging.getLogger("torch.export").warning("only words")
    assert [str(error) for error in heard] == ["a cause"]
    assert "words" not in capfd.readouterr().err


def test_bytes_that_are_read_are_no_news_and_other_warnings_are(recwarn):
    with quiet_reading():
        for text in ("The given buffer is not writable, and so on", "another buffer"):
            warnings.warn(text, UserWarning, stacklevel=1)
    assert [str(one.message) for one in recwarn] == ["another buffer"]


def test_news_of_a_library_is_left_out_and_all_else_is_heard(caplog):
    torchao = logging.getLogger("torchao")
    caplog.set_level(logging.WARNING)
    with quiet_imports():
        torchao.warning("Failed to load %s: %s", "_C_other.so", "another machine's")
        torchao.warning("another warning")
        torchao.error("Failed to load what is needed")
    assert caplog.messages == ["another warning", "Failed to load what is needed"]
    torchao.warning("Failed to load %s: %s", "_C_other.so", "another machine's")
    assert len(caplog.messages) == 3
