"""Tiny checkpoints on disk, as transformers writes them: weights at random, tokenizers of a few words."""

import math

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = ["the cat sat on the mat", "a dog ran in the park", "one two three four five", "the sky is blue and wide"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<a> {% endif %}"
)


def write_checkpoint(folder, kind="llama", *, dtype=torch.float32, max_shard_size="60KB", tokenizer=False, **changes):
    """A tiny model of a kind that transformers knows, saved with its config; the model."""
    config = transformers.CONFIG_MAPPING[kind](**{**SMALL, **changes})
    head = {"bert": transformers.AutoModelForMaskedLM}.get(kind, transformers.AutoModelForCausalLM)
    model = head.from_config(config, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(2 * noise / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 1 + 0.1 * noise)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if tokenizer:
        make_tokenizer().save_pretrained(folder)
    return model.eval()


SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 96,
    "vocab_size": 320,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make_tokenizer():
    """A byte-level BPE tokenizer with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = TEMPLATE
    return fast
