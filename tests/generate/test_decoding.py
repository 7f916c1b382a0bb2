"""A sharded decoder writes what the unsharded one writes, token for token, on real ranks."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import shardwright as sw
from shardwright.cli.app import app
from shardwright.generate.writing import TextRequest
from tests.support.command_line import shardwright
from tests.support.ranks import on_ranks
from tests.support.texts import greedy, written
from tests.support.tiny import make_tokenizer, write_checkpoint

PROMPTS = ["the cat sat", "one two three", "a dog and the sky"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder") / "model"
    return folder, write_checkpoint(folder, tokenizer=True)


@pytest.fixture(scope="module")
def package(checkpoint):
    folder, _ = checkpoint
    path = folder.parent / "package"
    sw.shard_checkpoint(folder, path, mesh=2, cache_length=40)
    return path


@pytest.fixture(scope="module")
def alone(checkpoint):
    """A package for one rank, whose cache holds eight tokens."""
    folder, _ = checkpoint
    path = folder.parent / "alone"
    sw.shard_checkpoint(folder, path, mesh=1, cache_length=8)
    return path


@pytest.mark.ranks
def test_greedy_text_on_real_ranks(checkpoint, package):
    _, model = checkpoint
    requests = [TextRequest(PROMPTS, 12, chat=chat) for chat in (True, False)]
    texts = on_ranks(2, written, str(package), *requests)
    tokenizer = make_tokenizer()
    assert texts[0][0].prompt_ids == tokenizer("<user> the cat sat <a> ")["input_ids"]
    assert texts[0][len(PROMPTS)].prompt_ids == tokenizer("the cat sat")["input_ids"]
    for first, second in zip(texts[0], texts[1], strict=True):
        assert first.ids == second.ids == greedy(model, first.prompt_ids, 12)
        assert first.text == tokenizer.decode(first.ids, skip_special_tokens=True)


def test_one_text_at_a_time(alone):
    loaded = sw.load(alone)
    first = sw.generate(loaded, [3, 4, 5], max_new_tokens=6)
    begun = next(first)
    second = list(sw.generate(loaded, [6, 7], max_new_tokens=3))
    with pytest.raises(sw.RunError, match="its cache holds something else now"):
        next(first)
    assert next(sw.generate(loaded, [3, 4, 5])) == begun
    assert list(sw.generate(loaded, [6, 7], max_new_tokens=3)) == second


def test_one_rank_needs_no_processes(checkpoint, alone):
    _, model = checkpoint
    loaded = sw.load(alone)
    ids = [5, 6, 7]
    assert list(sw.generate(loaded, ids, max_new_tokens=4)) == greedy(model, ids, 4)
    # The last token that the cache holds is read for one more.
    filled = list(sw.generate(loaded, ids, max_new_tokens=100))
    assert filled == greedy(model, ids, 6)[: len(filled)]
    assert len(filled) <= 6
    drawn = [list(sw.generate(loaded, ids, max_new_tokens=5, sampling=sw.Sampling(1.0, 0.9, seed))) for seed in (1, 1)]
    assert drawn[0] == drawn[1]
    nearly_greedy = sw.Sampling(temperature=1.0, top_p=1e-9)
    assert list(sw.generate(loaded, ids, max_new_tokens=4, sampling=nearly_greedy)) == greedy(model, ids, 4)
    with pytest.raises(sw.InputError, match="9 tokens, the cache holds 8"):
        list(sw.generate(loaded, range(3, 12)))
    with pytest.raises(sw.InputError, match="generate takes what `load` gives of a package, got int"):
        next(sw.generate(3, [1]))
    with pytest.raises(sw.InputError, match="the prompt is empty"):
        list(sw.generate(loaded, []))
    for prompt, count, words in (
        (torch.tensor([[1, 2]]), 4, r"the prompt must be a list such as \[1, 2, 3\]"),
        ("the cat", 4, "the prompt must be a list"),
        ([1], "5", "max_new_tokens must be a whole number of at least 0, got '5'"),
    ):
        with pytest.raises(sw.InputError, match=words):
            next(sw.generate(loaded, prompt, max_new_tokens=count))


KINDS = {
    "grouped heads": ("llama", {}),
    "heads of their own": ("llama", {"num_hidden_layers": 1, "num_key_value_heads": 6}),
    "one key-value head": ("llama", {"num_hidden_layers": 1, "num_key_value_heads": 1}),
    "a window": ("mistral", {"num_hidden_layers": 1, "sliding_window": 5, "head_dim": 8}),
    "windows in some layers": (
        "gemma3_text",
        {"sliding_window": 6, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "learned positions": ("gpt2", {"n_embd": 48, "n_head": 6, "n_layer": 1, "n_positions": 64}),
}


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory):
    """By what `KINDS` say: a model, and its package for one rank, whose cache holds twelve tokens."""

    @functools.cache
    def made(name, changes):
        folder = tmp_path_factory.mktemp("kind")
        whole = write_checkpoint(folder / "model", name, **json.loads(changes))
        sw.shard_checkpoint(folder / "model", folder / "p", mesh=1, cache_length=12)
        return whole, folder / "p"

    return lambda name, changes: made(name, json.dumps(changes))


@pytest.mark.parametrize("kind", KINDS)
def test_attention_reads_what_is_written(of_kind, kind):
    """Prompts of one token to all that the cache holds, in one piece and in several, up to its last place."""
    whole, package = of_kind(*KINDS[kind])
    loaded = sw.load(package)
    ids = torch.randint(3, 300, (1, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = whole(ids, use_cache=False).logits[0]
        for ends in ([12], [1, 2, 3, 12], [5, 6, 11, 12], [11, 12]):
            # What the text before has left behind does not matter.
            for start, end in zip([0, *ends], ends, strict=False):
                mask = torch.ones(1, end, dtype=torch.long)
                found = loaded(input_ids=ids[:, start:end], attention_mask=mask)[0, 0]
                torch.testing.assert_close(found, wanted[end - 1], rtol=1e-4, atol=1e-4)
        # A token that the mask leaves out is not seen.
        hidden = torch.ones(1, 12, dtype=torch.long)
        hidden[0, 2] = 0
        found = loaded(input_ids=ids, attention_mask=hidden)[0, 0]
        torch.testing.assert_close(
            found,
            whole(ids, attention_mask=hidden, position_ids=torch.arange(12)[None]).logits[0, -1],
            rtol=1e-4,
            atol=1e-4,
        )
    for length in (1, 7, 11, 12):
        prompt = ids[0, :length].tolist()
        text = greedy(whole, prompt, 13 - length)
        assert list(sw.generate(loaded, prompt, max_new_tokens=20)) == text


WINDOWS = {
    "a window": (KINDS["a window"], [5]),
    "windows in some layers": (KINDS["windows in some layers"], [6, None]),
    "chunks in some layers": (
        (
            "llama4_text",
            {
                "attention_chunk_size": 6,
                "head_dim": 8,
                "layer_types": ["chunked_attention", "full_attention"],
                "no_rope_layers": [1, 0],
            },
        ),
        [6, None],
    ),
    "a window as long as the cache": (("mistral", {"num_hidden_layers": 1, "sliding_window": 12}), [None]),
}


@pytest.mark.parametrize("kind", WINDOWS)
def test_attention_reads_no_further_back_than_it_looks(of_kind, kind):
    """What lies before is no number: a layer that read it, and gave it no weight, would give none either."""
    described, windows = WINDOWS[kind]
    whole, package = of_kind(*described)
    loaded = sw.load(package)
    caches = dict(loaded.module.named_buffers())
    ids = torch.randint(3, 300, (1, 12), generator=torch.Generator().manual_seed(3))
    for first, num_new in ((11, 1), (9, 3), (4, 2), (10, 2)):
        seen = first + num_new
        loaded(input_ids=ids[:, :first], attention_mask=torch.ones(1, first, dtype=torch.long))
        for layer, window in enumerate(windows):
            for buffer in (caches[f"key_cache_{layer}"], caches[f"value_cache_{layer}"]):
                buffer[:, :, seen:] = torch.nan
                buffer[:, :, : max(0, first + 1 - window) if window else 0] = torch.nan
        found = loaded(input_ids=ids[:, first:seen], attention_mask=torch.ones(1, seen, dtype=torch.long))
        with torch.no_grad():
            wanted = whole(ids[:, :seen], use_cache=False).logits[0, -1]
        torch.testing.assert_close(found[0, 0], wanted, rtol=1e-4, atol=1e-4)


def test_a_cache_is_written_in_place(alone):
    loaded = sw.load(alone)
    assert not any(node.target is torch.ops.aten.copy_.default for node in loaded.module.graph.nodes)
    caches = {name: buffer for name, buffer in loaded.module.named_buffers() if "cache" in name}
    assert len(caches) == 4
    list(sw.generate(loaded, [5, 6, 7], max_new_tokens=2))
    for name, cache in loaded.module.named_buffers():
        if name in caches:
            assert cache is caches[name]
            assert cache[0, 0, :4].any(1).all()
            assert not cache[0, 0, 4:].any()


def test_a_mask_of_fewer_tokens_than_are_given_is_an_error(alone):
    loaded = sw.load(alone)
    says = r"dim 1 of input 'input_ids' <= dim 1 of input 'attention_mask'; got .*: 2, .*: 3"
    with pytest.raises(sw.InputError, match=says):
        loaded(input_ids=torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(sw.InputError, match="dim 1 of input 'attention_mask' must be at most 8, got 9"):
        loaded(input_ids=torch.tensor([[5]]), attention_mask=torch.ones(1, 9, dtype=torch.long))


@pytest.mark.ranks
def test_the_command_streams_text(checkpoint, package):
    folder, model = checkpoint
    streamed = shardwright(folder, "generate", package, "--prompt", "the cat sat", "--max-tokens", 8)
    assert streamed.returncode == 0, streamed.stderr
    tokenizer = make_tokenizer()
    wanted = tokenizer.decode(greedy(model, tokenizer("<user> the cat sat <a> ")["input_ids"], 8))
    assert streamed.stdout.strip() == wanted.strip()
    assert "prompt tokens in" in streamed.stderr


@pytest.mark.ranks
def test_the_command_takes_many_prompts(checkpoint, package):
    """JSON lines alone on standard output, in the order of the prompts; all else on standard error."""
    folder, model = checkpoint
    prompts = ["the cat sat", "one two three", "a dog and the sky", "grüße"]
    (folder / "prompts.txt").write_text("\n".join(prompts))
    words = ("generate", package, "--prompts", "prompts.txt", "--max-tokens", 8, "--raw", "--stop", "z", "--json")
    written = shardwright(folder, *words)
    assert written.returncode == 0, written.stderr
    found = [json.loads(line) for line in written.stdout.splitlines()]
    assert [one["prompt"] for one in found] == prompts
    tokenizer = make_tokenizer()
    for one in found:
        whole = greedy(model, one["prompt_ids"], 8)
        text = tokenizer.decode(whole, skip_special_tokens=True)
        assert one["ids"] == whole[: one["num_tokens"]]
        assert one["text"] == text.partition("z")[0]
        ended = "stop" if "z" in text else "length" if len(whole) == 8 else "end"
        assert one["finish"] == ended
        assert one["prefill_s"] > 0
    assert "4 texts of" in written.stderr
    assert "up to 1 texts at a time" in written.stderr
    refused = shardwright(folder, "generate", package, "-p", "x " * 50, "-p", "y", "-p", "z " * 60)
    assert refused.returncode == 1
    assert "prompt 1 of 3 has" in refused.stderr
    assert "prompt 3 of 3 has" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_prompts_that_are_refused_before_ranks_start(alone, tmp_path):
    for words, said in (
        ((), "give it with --prompt, or a file of prompts"),
        (("-p", "x", "--prompts", "-"), "not both"),
        (("-p", " "), "the prompt is empty"),
        (("--prompts", tmp_path / "none"), "cannot read"),
    ):
        with pytest.raises(sw.InputError, match=said):
            command("generate", alone, *words)


def test_texts_in_a_script(checkpoint, tmp_path):
    folder, model = checkpoint
    sw.shard_checkpoint(folder, tmp_path / "p", mesh=1, cache_length=24, batch=2)
    loaded, tokenizer = sw.load(tmp_path / "p"), sw.load_tokenizer(tmp_path / "p")
    texts = sw.generate_text(loaded, tokenizer, PROMPTS, max_new_tokens=6)
    for text, prompt in zip(texts, PROMPTS, strict=True):
        assert text.prompt_ids == tokenizer(f"<user> {prompt} <a> ")["input_ids"]
        assert text.ids == greedy(model, text.prompt_ids, 6)
    one = sw.generate_text(loaded, tokenizer, PROMPTS[0], max_new_tokens=6)
    assert (one.ids, one.text, one.finish) == (texts[0].ids, texts[0].text, texts[0].finish)
    cut = one.text[len(one.text) // 2 :]
    stopped = sw.generate_text(loaded, tokenizer, PROMPTS[0], max_new_tokens=6, stop=cut)
    assert (stopped.finish, stopped.text) == ("stop", one.text.partition(cut)[0])
    with pytest.raises(sw.InputError, match=r"(?s)2 problems.*prompt 1 of 3 is empty.*prompt 3 of 3 must be a string"):
        sw.generate_text(loaded, tokenizer, ["", "x", 3])
    with pytest.raises(sw.InputError, match="a stop string is empty"):
        sw.generate_text(loaded, tokenizer, "x", stop="")


def command(*words):
    """A command run in this process; what it raises is raised."""
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_checkpoint_on_the_command_line(checkpoint, tmp_path):
    folder, _ = checkpoint
    shown = json.loads(command("inspect", folder, "--json"))
    assert shown["inputs"] == ["input_ids", "attention_mask"]
    plain = tmp_path / "plain"
    command("shard", folder, "--tp", 2, "--cache-length", 0, "--dtype", "bfloat16", "-o", plain)
    with pytest.raises(sw.InputError, match="holds no decoder with a key-value cache"):
        command("generate", plain, "--prompt", "x")
    command("gather", plain, "-o", tmp_path / "state.safetensors")
    assert {tensor.dtype for tensor in load_file(tmp_path / "state.safetensors").values()} == {torch.bfloat16}
    three = command("reshard", plain, "--tp", 3, "-o", tmp_path / "three", "--json")
    assert '"package"' in three
    with pytest.raises(sw.ShardwrightError, match="'int3' is not one of float32"):
        command("shard", folder, "--dtype", "int3", "-o", tmp_path / "other")
    with pytest.raises(sw.ShardwrightError, match="leaves on disk"):
        command("verify", folder)


def test_sampling_is_what_it_says():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draw = sw.Sampling(temperature=1.0, top_p=0.75)
    generator = draw.generator()
    counts = torch.bincount(torch.tensor([draw.choose(logits, generator) for _ in range(4000)]), minlength=4)
    assert counts[2:].tolist() == [0, 0]
    assert abs(counts[0].item() / 4000 - 0.5 / 0.8) < 0.03
    assert sw.Sampling().choose(logits, generator) == 0
    for bad in ({"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}):
        with pytest.raises(sw.InputError, match=rf"{next(iter(bad))} must be"):
            sw.Sampling(**bad)
