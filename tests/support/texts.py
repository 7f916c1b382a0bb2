"""What a decoder writes: whole, and on a rank."""

import torch

from shardwright.generate.text import write_text


def greedy(model, ids, count):
    """The unsharded model's greedy text: whole sequences, no cache."""
    found = []
    with torch.no_grad():
        for _ in range(count):
            logits = model(torch.tensor([[*ids, *found]]), use_cache=False).logits[0, -1]
            if int(logits.argmax()) == 2:
                break
            found.append(int(logits.argmax()))
    return found


def written(rank, package, *requests):
    return [text for request in requests for text in write_text(package, request).texts]
