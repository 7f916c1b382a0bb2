"""A conversation is what its whole text gives, however much of it the cache holds already."""

import fcntl
import os
import pty
import select
import subprocess
import sys
import termios
import time

import pytest
import torch

import shardwright as sw
from shardwright.generate.conversation import Conversation, Manner
from shardwright.package.manifest import read_manifest
from tests.support.command_line import shardwright
from tests.support.texts import greedy
from tests.support.tiny import make_tokenizer, write_checkpoint

LONG = 200


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk") / "model"
    return folder, write_checkpoint(folder, tokenizer=True, num_hidden_layers=1, max_position_embeddings=256)


@pytest.fixture(scope="module", params=[1, 2], ids=["one row", "two rows"])
def package(request, checkpoint):
    path = checkpoint[0].parent / f"package-{request.param}"
    sw.shard_checkpoint(checkpoint[0], path, mesh=1, cache_length=LONG, batch=request.param)
    return path


def wanted(model, messages, count):
    """The ids of a conversation and of what the unsharded model replies to it."""
    tokenizer = make_tokenizer()
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    return ids, greedy(model, ids, count)


def counted(model):
    """How many tokens each call is given from now on."""
    found = []
    model.register_forward_pre_hook(lambda _, __, given: found.append(given["input_ids"].shape[1]), with_kwargs=True)
    return found


def test_the_cache_is_read_on_from(checkpoint, package):
    whole = checkpoint[1]
    model, tokenizer = sw.load(package), sw.load_tokenizer(package)
    talk = Conversation(model, tokenizer, Manner(max_new_tokens=6, system="be kind"))
    calls, messages = counted(model), [{"role": "system", "content": "be kind"}]
    for number, words in enumerate(["the cat sat", "a dog", "one two three"]):
        messages.append({"role": "user", "content": words})
        ids, reply = wanted(whole, messages, 6)
        calls.clear()
        assert talk.ask(words) == ids
        answer, finish = talk.reply(ids)
        assert answer.ids == reply
        assert finish == ("length" if len(reply) == 6 else "end")
        assert calls[0] == len(ids) if number == 0 else calls[0] < len(ids) - 10
        talk.heard(answer)
        messages.append({"role": "assistant", "content": answer.text})
        assert talk.messages == messages
    # Another call of the model leaves something else in the cache.
    model(input_ids=torch.tensor([[7, 8, 9]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
    messages.append({"role": "user", "content": "sky"})
    ids, reply = wanted(whole, messages, 6)
    assert talk.reply(talk.ask("sky"))[0].ids == reply
    # The same once more is one token to read.
    calls.clear()
    assert talk.reply(ids)[0].ids == reply
    assert calls[0] == 1
    talk.reset()
    assert talk.messages == messages[:1]
    _, reply = wanted(whole, messages[:2], 6)
    assert talk.reply(talk.ask("the cat sat"))[0].ids == reply


def test_a_reply_is_interrupted_and_the_conversation_goes_on(checkpoint, package):
    whole = checkpoint[1]
    model, tokenizer = sw.load(package), sw.load_tokenizer(package)
    talk = Conversation(model, tokenizer, Manner(max_new_tokens=20))
    _, reply = wanted(whole, [{"role": "user", "content": "the cat"}], 20)
    assert len(reply) > 3
    told = []
    answer, finish = talk.reply(talk.ask("the cat"), lambda one: told.append(one.certain), lambda: len(told) == 3)
    assert (answer.ids, finish, len(told)) == (reply[:3], "interrupted", 3)
    talk.heard(answer)
    messages = [*talk.messages, {"role": "user", "content": "a dog"}]
    _, reply = wanted(whole, messages, 20)
    assert talk.reply(talk.ask("a dog"))[0].ids == reply


def test_what_does_not_fit_is_no_part_of_the_conversation(package):
    model, tokenizer = sw.load(package), sw.load_tokenizer(package)
    talk = Conversation(model, tokenizer, Manner())
    for words, said in (
        ("x " * LONG, r"the conversation has \d+ tokens with this message, the cache holds 200\n  try: /reset"),
        (" ", "the message is empty"),
    ):
        with pytest.raises(sw.InputError, match=said):
            talk.ask(words)
        assert talk.messages == []
    with pytest.raises(sw.InputError, match="a stop string is empty"):
        Conversation(model, tokenizer, Manner(stop=[""]))
    tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(sw.InputError, match="chat template does not take this: no system here"):
        Conversation(model, tokenizer, Manner(system="x")).ask("y")
    tokenizer.chat_template = None
    with pytest.raises(sw.InputError, match="the tokenizer has no chat template"):
        Conversation(model, tokenizer, Manner())


@pytest.mark.ranks
def test_a_conversation_on_real_ranks(checkpoint, tmp_path):
    """The first rank reads standard input; the others are told."""
    folder, model = checkpoint
    sw.shard_checkpoint(folder, tmp_path / "p", mesh=2, cache_length=60)
    lines = ["the cat sat", "", "a dog", "/rest", "x " * 100, "/reset", "the cat sat"]
    written = shardwright(tmp_path, "chat", "p", "--max-tokens", 5, given="\n".join(lines))
    assert written.returncode == 0, written.stderr
    tokenizer, messages, texts = make_tokenizer(), [], []
    for words in ("the cat sat", "a dog"):
        messages.append({"role": "user", "content": words})
        texts.append(tokenizer.decode(wanted(model, messages, 5)[1], skip_special_tokens=True))
        messages.append({"role": "assistant", "content": texts[-1]})
    assert written.stdout == "".join(text + "\n" for text in [*texts, texts[0]])
    assert "there is no command /rest" in written.stderr
    assert "the cache holds 60" in written.stderr
    assert "Traceback" not in written.stderr


class Terminal:
    """The command line at a terminal of its own, whose Ctrl-C goes to all its processes."""

    def __init__(self, folder, *words):
        self.master, slave = pty.openpty()
        command = [sys.executable, "-W", "ignore", "-m", "shardwright", *map(str, words)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        how = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": self._control}
        self.process = subprocess.Popen(command, cwd=folder, env=env, **how)
        os.close(slave)
        self.shown = b""

    @staticmethod
    def _control():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def type(self, words):
        os.write(self.master, words.encode())

    def read(self, wanted):
        """Wait until ``wanted`` is shown; what is shown behind it is for the next one to read."""
        while wanted not in self.shown:
            self.wait()
        self.shown = self.shown.partition(wanted)[2]

    def until(self, words, wanted):
        """Type ``words`` again and again until ``wanted`` is shown.

        Ctrl-C makes the terminal forget what it has not shown yet and what nobody has read; Python misses one that
        comes just before it waits for a key, and readline all of them while it waits for a key that was forgotten.
        """
        until = time.monotonic() + 120
        self.type(words)
        while wanted not in self.shown:
            assert time.monotonic() < until, self.shown
            if select.select([self.master], [], [], 5)[0]:
                self.wait()
            else:
                if words == "\x03":
                    self.type("x")
                    time.sleep(1)
                self.type(words)
        self.read(wanted)

    def wait(self):
        """Wait until more is shown."""
        assert select.select([self.master], [], [], 120)[0], self.shown
        try:
            self.shown += os.read(self.master, 1 << 16)
        except OSError:
            raise AssertionError(f"it ended, and showed {self.shown}") from None


@pytest.mark.ranks
def test_ctrl_c_ends_a_reply_and_not_the_conversation(tmp_path):
    """Two ranks end it at the same step, and both are there for the next message, though it comes once too often."""
    write_checkpoint(tmp_path / "model", num_hidden_layers=1, max_position_embeddings=2048, eos_token_id=None)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    sw.shard_checkpoint(tmp_path / "model", tmp_path / "p", mesh=2, cache_length=2048)
    # Nothing else would end a reply before some two thousand tokens.
    assert read_manifest(tmp_path / "p").decoder.end_ids == []
    terminal = Terminal(tmp_path, "chat", "p", "--max-tokens", 2000)
    try:
        terminal.read(b"> ")
        for words in ("the cat", "a dog"):
            terminal.type(words + "\n")
            terminal.read(words.encode() + b"\r\n")
            if not terminal.shown:
                terminal.wait()
            terminal.until("\x03", b"(interrupted)")
            terminal.type("\x03")
            terminal.until(f"/still{len(words)}\n", f"no command /still{len(words)}".encode())
            terminal.type("half a message")
            terminal.until("\x03", b"(Ctrl-D leaves the conversation)")
            terminal.until(f"/here{len(words)}\n", f"no command /here{len(words)}".encode())
        terminal.read(b"> ")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=120) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
