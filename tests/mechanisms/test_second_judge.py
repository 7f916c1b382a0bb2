"""Programs are type-checked by `spmd_types` too: what it infers for results must equal our layouts."""

import pytest
import torch

import shardwright as sw
from tests.support.models import MEGATRON, Decoder, MLPs, PackedAttention, redraw

pytest.importorskip("spmd_types", reason="needs the extra 'dev'")

from tests.support.second_judge import judge, rank_program

IDS = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))


def decoder(**changes):
    # At least two heads a rank: the checker cannot tell which of a view's dims is cut where a rank has one.
    return torch.export.export(redraw(Decoder(heads=8, kv_heads=8, **changes)), (IDS,))


CASES = {
    "mlps": lambda: sw.shard(torch.export.export(redraw(MLPs()), (torch.randn(4, 12),)), mesh=2),
    "packed": lambda: sw.shard(torch.export.export(redraw(PackedAttention()), (torch.randn(2, 8, 48),)), mesh=2),
    "megatron": lambda: sw.shard(decoder(), mesh=2, plan=MEGATRON),
    "four ranks": lambda: sw.shard(decoder(), mesh=4, plan=MEGATRON),
    "automatic": lambda: sw.shard(decoder(), mesh=2),
    "tied": lambda: sw.shard(decoder(tied=True), mesh=2),
    "parallel": lambda: sw.shard(decoder(parallel=True), mesh=2, plan=MEGATRON),
    "sequence": lambda: sw.shard(
        decoder(), mesh=2, plan={**MEGATRON, "layers.*.norm[1,2]": "sequence_parallel", "norm": "sequence_parallel"}
    ),
}


def convinced(sharded, share):
    """No disagreement, and most calls known: a judge that knows nothing would agree with anything."""
    verdict = judge(rank_program(sharded), sharded.assignments["tp"].layouts, sharded.mesh.num_ranks)
    assert not verdict.disagreed, "\n".join(verdict.disagreed)
    known, unknown = verdict.agreed.total(), verdict.unknown.total()
    assert known / (known + unknown) >= share, verdict.unknown


@pytest.mark.parametrize("case", CASES)
def test_it_infers_our_layouts(case):
    convinced(CASES[case](), share=0.6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "phi3", "bert", "gpt_neox", "falcon", "cohere", "mixtral"])
def test_it_infers_our_layouts_for_models_of_transformers(kind):
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    from tests.support.architectures import IDS as ids
    from tests.support.architectures import build

    convinced(sw.shard(torch.export.export(build(kind), (ids,)), mesh=2), share=0.5)


@pytest.mark.parametrize("claim", [sw.Replicate(), sw.Shard(2)])
def test_it_objects_to_a_false_claim(claim):
    """The output of a row-cut linear is partial; the judge must not believe that it is anything else."""
    sharded = sw.shard(decoder(), mesh=2, plan=MEGATRON)
    program = rank_program(sharded)
    name = next(
        n for n, (_, layouts) in program.origins.items() if n.startswith("linear") and "Partial" in str(layouts)
    )
    program.origins[name] = (name, (claim,))
    verdict = judge(program, sharded.assignments["tp"].layouts, 2)
    assert [text for text in verdict.disagreed if text.startswith(name) and "theirs is Partial" in text]
