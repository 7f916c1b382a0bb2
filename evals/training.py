"""Thirteen families of transformers and a sentence encoder, tiny, in training: `python -m evals.training [KINDS]`.

For each, the loss and every gradient on 2 and on 4 ranks and on two axes, with the batch cut on one, held against the
same joint program run whole, and that against autograd of the model, in double and in single precision; one line a
verdict. In double precision what a family computes in single (norms, softmaxes) is in double as well.
"""

import sys
import time

import torch
import transformers
from tests.mechanisms.test_transformers import EXPERTS, PARALLEL, SEQUENTIAL
from tests.support.architectures import build
from tests.support.training import InDouble, next_token, run_alone, run_whole
from torch import nn

import shardwright as sw
from shardwright.compiler.verify import relative_error

DRAWN = torch.randint(3, 96, (4, 9), generator=torch.Generator().manual_seed(5))
TOKENS = (DRAWN[:, :-1], DRAWN[:, 1:].masked_fill(DRAWN[:, 1:] > 70, -100))
MESHES = ((2, "auto"), (4, "auto"), ({"dp": 2, "tp": 2}, {"tp": "auto"}))
ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Relative to the largest entry."""


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


def of_autograd(model, joint, args, loss):
    """How far the loss and the gradients of a joint program, run whole, are from those of autograd."""
    (found, _), (wanted, _) = run_whole(joint, args), run_alone(model, args, loss)
    return max(relative_error(found[name], value) for name, value in wanted.items())


def judge(kind, dtype):
    """A line for each mesh; whether all are right."""
    torch.manual_seed(0)
    model, args, loss = made(kind)
    model = (InDouble(model) if dtype == torch.float64 else model).train()
    started = time.perf_counter()
    joint = sw.export_training(model, args, loss=loss)
    exported_s = time.perf_counter() - started
    far = of_autograd(model, joint, args, loss)
    right = far <= ALLOWED[dtype]
    print(f"{kind:10} {str(dtype)[6:]} exported in {exported_s:.1f} s, {far:.0e} from autograd", flush=True)
    for mesh, plan in MESHES:
        inputs = {"dp": {"ids": sw.Shard(0), "target": sw.Shard(0)}} if isinstance(mesh, dict) else None
        started = time.perf_counter()
        sharded = sw.shard(joint, mesh=mesh, plan=plan, inputs=inputs)
        report = sw.verify(sharded, joint, args, tolerance=ALLOWED[dtype])
        right &= report.ok
        verdict = ("right" if report.ok else "WRONG") + (", rounding explains more" if report.rounded else "")
        taken_s = time.perf_counter() - started
        kinds = ", ".join(sorted({f"{c.axis} {c.kind.value}" for c in sharded.collectives}))
        parts = [
            f"{kind:10} {str(dtype)[6:]} {mesh!s:20} {verdict} {report.max_error:.0e}",
            f"{len(sharded.collectives)} collectives ({kinds})",
            f"whole: {sorted({f.op for f in sharded.fallbacks})}",
            f"sharded and verified in {taken_s:.1f} s",
        ]
        print("; ".join(parts), flush=True)
    return right


if __name__ == "__main__":
    kinds = sys.argv[1:] or ["minilm", *SEQUENTIAL, *PARALLEL, *EXPERTS]
    verdicts = [judge(kind, precision) for kind in kinds for precision in ALLOWED]
    if not all(verdicts):
        raise SystemExit("not all are right")
