"""Thirteen families of transformers and a sentence encoder, tiny, in training: `python -m evals.training [KINDS]`.

For each, the loss and every gradient on 2 and on 4 ranks and on two axes, with the batch cut on one, held against the
same joint program run whole, in double and in single precision; one line a verdict.
"""

import sys
import time

import torch
import transformers
from tests.mechanisms.test_transformers import EXPERTS, PARALLEL, SEQUENTIAL
from tests.support.architectures import build
from tests.support.training import next_token
from torch import nn

import shardwright as sw

DRAWN = torch.randint(3, 96, (4, 9), generator=torch.Generator().manual_seed(5))
TOKENS = (DRAWN[:, :-1], DRAWN[:, 1:].masked_fill(DRAWN[:, 1:] > 70, -100))
MESHES = ((2, "auto"), (4, "auto"), ({"dp": 2, "tp": 2}, {"tp": "auto"}))
ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-5}
"""Relative to the largest entry; some families compute norms and softmaxes in single precision whatever their own."""


class Encoder(nn.Module):
    """MiniLM's shape: BERT without a pooler, means of tokens, unit length."""

    def __init__(self):
        super().__init__()
        sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 96}
        config = transformers.BertConfig(vocab_size=96, max_position_embeddings=64, **sizes)
        self.bert = transformers.BertModel(config, add_pooling_layer=False)

    def forward(self, ids):
        return nn.functional.normalize(self.bert(input_ids=ids).last_hidden_state.mean(1), dim=-1)


def pairs(vectors, target):
    """A contrastive loss: each sentence against all others."""
    return nn.functional.cross_entropy(vectors @ vectors.T * 20, target)


def made(kind):
    """The model, its inputs and its loss."""
    if kind == "minilm":
        return Encoder(), (TOKENS[0], torch.tensor([0, 1, 2, 3])), pairs
    return build(kind, num_hidden_layers=1, n_layer=1), TOKENS, next_token


def judge(kind, dtype):
    """A line for each mesh."""
    torch.manual_seed(0)
    model, args, loss = made(kind)
    started = time.perf_counter()
    joint = sw.export_training(model.to(dtype).train(), args, loss=loss)
    exported_s = time.perf_counter() - started
    for mesh, plan in MESHES:
        inputs = {"dp": {"ids": sw.Shard(0), "target": sw.Shard(0)}} if isinstance(mesh, dict) else None
        started = time.perf_counter()
        sharded = sw.shard(joint, mesh=mesh, plan=plan, inputs=inputs)
        report = sw.verify(sharded, joint, args, tolerance=ALLOWED[dtype])
        verdict = "right" if report.ok else "WRONG"
        taken_s = time.perf_counter() - started
        kinds = ", ".join(sorted({f"{c.axis} {c.kind.value}" for c in sharded.collectives}))
        parts = [
            f"{kind:10} {str(dtype)[6:]} {mesh!s:20} {verdict} {report.max_error:.0e}",
            f"{len(sharded.collectives)} collectives ({kinds})",
            f"whole: {sorted({f.op for f in sharded.fallbacks})}",
            f"exported in {exported_s:.1f} s, sharded and verified in {taken_s:.1f} s",
        ]
        print("; ".join(parts), flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or ["minilm", *SEQUENTIAL, *PARALLEL, *EXPERTS]:
        for precision in ALLOWED:
            judge(name, precision)
