"""Texts of any lengths beside each other are those that each prompt gets alone, and leave when they end."""

import pytest
import torch

import shardwright as sw
from shardwright.generate.decoding import write_rows
from shardwright.generate.writing import TextRequest
from shardwright.sources.hugging_face import recipes
from tests.support.ranks import on_ranks
from tests.support.texts import greedy, written
from tests.support.tiny import make_tokenizer, write_checkpoint

LENGTHS = (4, 4, 11, 1, 7, 7, 12, 2)
CACHE = 12

KINDS = {
    "grouped heads": ("llama", {}),
    "one key-value head": ("llama", {"num_hidden_layers": 1, "num_key_value_heads": 1}),
    "windows in some layers": (
        "gemma3_text",
        {"sliding_window": 6, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "learned positions": ("gpt2", {"n_embd": 48, "n_head": 6, "n_layer": 1, "n_positions": 64}),
    "positions counted by the mask": ("opt", {"num_hidden_layers": 1, "ffn_dim": 96, "word_embed_proj_dim": 48}),
}


def prompts_of(lengths, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 300, (length,), generator=generator).tolist() for length in lengths]


def collected(steps, count):
    texts = [[] for _ in range(count)]
    for row, token in steps:
        texts[row].append(token)
    return texts


def opened(folder, kind="llama", *, batch=3, **changes):
    whole = write_checkpoint(folder / "model", kind, **changes)
    sw.shard_checkpoint(folder / "model", folder / "p", mesh=1, cache_length=CACHE, batch=batch)
    return whole, sw.load(folder / "p")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("rows"), num_hidden_layers=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_what_it_is_alone(tmp_path, kind):
    """To the last place of the cache, which a short prompt reaches long after those beside it have left."""
    name, changes = KINDS[kind]
    whole, loaded = opened(tmp_path, name, **changes)
    prompts = prompts_of(LENGTHS)
    wanted = [greedy(whole, prompt, CACHE - len(prompt) + 1) for prompt in prompts]
    assert collected(sw.generate(loaded, prompts), len(prompts)) == wanted
    assert [list(sw.generate(loaded, prompt)) for prompt in prompts] == wanted
    assert max(map(len, wanted)) == CACHE


def test_texts_that_end_make_room(llama):
    whole, loaded = llama
    shapes = []
    hook = loaded.register_forward_pre_hook(
        lambda module, args, given: shapes.append((tuple(given["input_ids"].shape), given["attention_mask"].shape[1])),
        with_kwargs=True,
    )
    prompts = prompts_of((5, 5, 3, 2))
    ends = {0: 2, 1: 3, 2: 6, 3: 4}
    told = dict.fromkeys(ends, 0)

    def is_over(row, token):
        told[row] += 1
        return told[row] == ends[row]

    steps = list(write_rows(loaded, prompts, 100, sw.Sampling(), is_over))
    hook.remove()
    for row, prompt in enumerate(prompts):
        assert [step.token for step in steps if step.row == row] == greedy(whole, prompt, ends[row])
    assert [step.finish for step in steps if step.finish] == ["stop"] * 4
    # Prompts of one length are read together, and the fourth comes when the first is over. The longest that is left
    # says how much is read.
    assert shapes == [
        ((2, 5), 5),
        ((1, 3), 3),
        ((3, 1), 6),
        ((1, 2), 2),
        ((3, 1), 7),
        ((2, 1), 6),
        ((2, 1), 7),
        ((1, 1), 8),
    ]


def test_draws_belong_to_a_place_in_the_list(llama):
    _, loaded = llama
    how = {"max_new_tokens": 5, "sampling": sw.Sampling(temperature=2.0, seed=3)}
    prompts = prompts_of((3, 4, 4, 2, 5))
    texts = collected(sw.generate(loaded, prompts, **how), 5)
    assert collected(sw.generate(loaded, [prompts[4], *prompts[1:4]], **how), 4)[1:] == texts[1:4]
    assert list(sw.generate(loaded, prompts[0], **how)) == texts[0]
    same = collected(sw.generate(loaded, [prompts[0]] * 4, **how), 4)
    assert len({tuple(text) for text in same}) == 4


def test_what_was_no_number_stays_with_its_text(llama):
    whole, loaded = llama
    for name, buffer in loaded.module.named_buffers():
        if "cache" in name:
            buffer[:] = torch.nan
    prompts = prompts_of((2, 6, 4))
    assert collected(sw.generate(loaded, prompts), 3) == [greedy(whole, one, CACHE - len(one) + 1) for one in prompts]


def test_a_package_of_one_row_writes_texts_one_after_the_other(tmp_path):
    whole, loaded = opened(tmp_path, batch=1, num_hidden_layers=1)
    assert loaded.manifest.decoder.batch == 1
    prompts = prompts_of((3, 5, 2))
    pairs = list(sw.generate(loaded, prompts, max_new_tokens=3))
    assert [row for row, _ in pairs] == sorted(row for row, _ in pairs)
    assert collected(pairs, 3) == [greedy(whole, prompt, 3) for prompt in prompts]
    assert list(sw.generate(loaded, prompts, max_new_tokens=0)) == []


def test_all_prompts_that_are_wrong_are_named(llama):
    _, loaded = llama
    with pytest.raises(sw.InputError) as raised:
        sw.generate(loaded, [[1], [], list(range(13)), [5, 320], ["a"]])
    for words in (
        "(4 problems)",
        "prompt 2 of 5 is empty",
        "prompt 3 of 5 has 13 tokens, the cache holds 12",
        "prompt 4 of 5 holds the id 320, which is none of the 320 of the vocabulary",
        "prompt 5 of 5 must be a list such as",
    ):
        assert words in str(raised.value)


def test_another_call_between_two_steps(llama):
    _, loaded = llama
    steps = sw.generate(loaded, prompts_of((3, 4)))
    next(steps)
    next(steps)
    loaded(input_ids=torch.tensor([[5]]), attention_mask=torch.ones(1, 1, dtype=torch.long))
    with pytest.raises(sw.RunError, match="its cache holds something else now"):
        list(steps)


@pytest.mark.ranks
def test_many_texts_on_real_ranks(tmp_path):
    """Heads cut unevenly; as many texts at a time as the package takes, and more."""
    whole = write_checkpoint(tmp_path / "model", tokenizer=True)
    sw.shard_checkpoint(tmp_path / "model", tmp_path / "p", mesh=2, cache_length=40, batch=3)
    prompts = ["the cat", "a dog ran in the park", "one two three four five", "sky", "the sky is blue and wide"]
    request = TextRequest(prompts, 12, chat=False)
    sampled = TextRequest(prompts, 6, sw.Sampling(temperature=2.0, seed=1), chat=False)
    texts = on_ranks(2, written, str(tmp_path / "p"), request, sampled)
    tokenizer = make_tokenizer()
    for first, second in zip(*texts, strict=True):
        assert (first.ids, first.text, first.finish) == (second.ids, second.text, second.finish)
    for text, prompt in zip(texts[0], prompts, strict=False):
        assert text.prompt == prompt
        assert text.prompt_ids == tokenizer(prompt)["input_ids"]
        assert text.ids == greedy(whole, text.prompt_ids, 12)


def test_models_that_padding_would_move_are_refused(tmp_path, monkeypatch):
    """Shard them for one text at a time: such a package writes rows one after the other."""
    write_checkpoint(tmp_path / "model", num_hidden_layers=1)
    monkeypatch.setattr(recipes, "_positions", lambda mask, places: places[None])
    with pytest.raises(
        sw.CheckpointError, match="LlamaForCausalLM cannot write 2 texts beside each other: it takes no"
    ):
        sw.shard_checkpoint(tmp_path / "model", tmp_path / "p", mesh=1, cache_length=CACHE, batch=2)
    with pytest.raises(sw.CheckpointError, match="batch=2 is of texts in a decoder's key-value cache"):
        sw.shard_checkpoint(tmp_path / "model", tmp_path / "p", mesh=1, cache_length=0, batch=2)
