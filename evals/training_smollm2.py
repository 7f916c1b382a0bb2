"""SmolLM2-135M trained from its real weights on several processes and in one: `make training-smollm2`.

Fifty steps of AdamW on this project's own documentation, tokenised as the model wants it, by `sw.load` on real ranks
and by transformers and autograd in one process. The losses of every rank must follow those of the one process to 1e-4.
``--layers 4`` takes the first layers alone; with all, a machine of two cores needs some ten minutes and 4 GB.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from demo.smollm2 import find_weights, load_original
from tests.support.architectures import Logits
from transformers import AutoTokenizer

import shardwright as sw
from shardwright.run.launch import launch

ALLOWED = 1e-4
DOCS = Path(__file__).parents[1] / "docs"


def next_token(logits, target):
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def batches(file, steps, texts, length):
    """Token ids and targets of every step: consecutive pieces of the documentation, from the start again at its end."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    words = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
    ids = torch.tensor(tokenizer(words)["input_ids"])
    size = texts * (length + 1)
    whole = ids[: len(ids) // size * size].view(-1, texts, length + 1)
    return [(piece[:, :-1], piece[:, 1:]) for piece in whole[torch.arange(steps) % len(whole)]]


def train(step, parameters, given, rate):
    """The loss of every step; ``step`` leaves gradients in the parameters."""
    optimizer, losses = torch.optim.AdamW(parameters, lr=rate), []
    for args in given:
        losses.append(float(step(*args)))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def train_rank(package, given, rate):
    step = sw.load(package)
    return train(step, step.parameters(), given, rate)


def train_alone(model, given, rate):
    def step(ids, target):
        loss = next_token(model(ids), target)
        loss.backward()
        return loss.detach()

    return train(step, model.parameters(), given, rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, help="the first layers alone; default: all")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--texts", type=int, default=2, help="of a batch; default: %(default)s")
    parser.add_argument("--length", type=int, default=32, help="tokens of a text; default: %(default)s")
    parser.add_argument("--rate", type=float, default=1e-4, help="the learning rate; default: %(default)s")
    options = parser.parse_args()
    file = find_weights()
    given = batches(file, options.steps, options.texts, options.length)
    model = Logits(load_original(file)).train()
    layers = model.model.model.layers
    del layers[options.layers or len(layers) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "package"
        start = time.perf_counter()
        joint = sw.export_training(model, given[0], loss=next_token)
        sw.shard(joint, mesh=options.ranks, plan="hf").save(path)
        del joint
        print(f"{len(layers)} layers exported and sharded in {time.perf_counter() - start:.0f} s", flush=True)
        found = launch(options.ranks, train_rank, str(path), given, options.rate)
    wanted = train_alone(model, given, options.rate)
    furthest = [max(abs(loss / true - 1) for loss, true in zip(one, wanted, strict=True)) for one in found.values()]
    print(f"losses of one process: {wanted[0]:.4f}, then {min(wanted):.4f} at the least, {wanted[-1]:.4f} at the end")
    for rank, far in enumerate(furthest):
        print(f"rank {rank}: furthest from it {far:.1e} in {options.steps} steps, allowed {ALLOWED:.0e}")
    if max(furthest) > ALLOWED:
        raise SystemExit("the ranks do not follow the one process")


if __name__ == "__main__":
    main()
