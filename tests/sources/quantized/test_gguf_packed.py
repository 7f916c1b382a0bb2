"""GGUF files whose blocks are kept: ranks hold whole blocks, and give what the dequantised model gives."""

import math

import gguf
import pytest
import torch
import transformers
from gguf.constants import GGML_QUANT_SIZES
from safetensors.torch import load_file
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from typer.testing import CliRunner

import shardwright as sw
from shardwright.cli.app import app
from shardwright.generate.writing import TextRequest
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.gguf_files import describe_experts, experts, gpt2_shapes, llama_shapes, write_file
from tests.support.models import relative_error
from tests.support.packed_weights import cut_right, opened_packed, sends
from tests.support.ranks import on_ranks
from tests.support.texts import greedy, written

IDS = torch.tensor([[5, 17, 20, 31, 9, 64, 3], [7, 9, 12, 12, 25, 1, 44]]) % 64
NEAR = {"within": 1e-5, "ids": IDS}
WHOLE = {"dtype": torch.float32, "cache_length": 0}


def write(path, kind, num_ranks, heads=None):
    """A Llama of this kind of block whose dims are whole blocks on every rank; fewer ``heads``: are not."""
    block = GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
    heads, size = heads or 4 * num_ranks, max(16, block // 4)
    # The model's class asks that heads divide it.
    width = math.lcm(max(64, block), heads)
    sizes = {"width": width, "heads": heads, "kv_heads": heads // 2, "head_size": size, "hidden": heads * size}
    shapes = llama_shapes(layers=1, **sizes) | {"output.weight": (64, width)}
    return write_file(path, shapes, kind=kind, layers=1, **sizes)


def opened_both(path, within=0.0):
    """A file opened with its blocks, the program of them with its weights, and that of plain weights."""
    opened, real = opened_packed(path, packed=True, **WHOLE)
    assert not opened.unused
    _, plain = opened_packed(path, **WHOLE)
    assert relative_error(real.module()(input_ids=IDS), plain.module()(input_ids=IDS)) <= within
    return opened, real, plain


CASES = [("Q8_0", 3), ("Q4_0", 4), ("Q4_K", 2), ("Q6_K", 3)]


@pytest.mark.parametrize(("kind", "num_ranks"), CASES)
def test_ranks_give_the_dequantised_models_numbers(kind, num_ranks, tmp_path):
    _, real, plain = opened_both(write(tmp_path / "tiny.gguf", kind, num_ranks))
    sharded = cut_right(real, num_ranks, **NEAR)
    assert sends(sharded).total() <= sends(sw.shard(plain, mesh=num_ranks)).total()
    of_layers = [one for one in sharded.weights if one.dtype == torch.uint8 and ".layers." in one.name]
    assert len(of_layers) == 7
    assert all(max(one.rank_bytes) == one.num_bytes / num_ranks for one in of_layers)


def test_the_automatic_plan_sends_no_more_than_of_plain_weights(tmp_path):
    """Also where six key-value heads go to four ranks."""
    _, real, plain = opened_both(write(tmp_path / "tiny.gguf", "Q8_0", 3))
    for num_ranks in (2, 3, 4):
        assert sends(sw.shard(real, mesh=num_ranks)).total() <= sends(sw.shard(plain, mesh=num_ranks)).total()


@pytest.mark.parametrize("kind", ["Q8_0"])
def test_what_blocks_do_not_divide_is_cut_at_whole_blocks(kind, tmp_path):
    """Two blocks of columns for four ranks, whose heads are half a block each."""
    _, real = opened_packed(write(tmp_path / "tiny.gguf", kind, 4, heads=4), packed=True, **WHOLE)
    sharded = cut_right(real, 4, **NEAR)
    for one in sharded.weights:
        if one.dtype == torch.uint8:
            # One row or one column of blocks more than a rank's part.
            assert max(one.rank_bytes) <= one.num_bytes / 4 + one.num_bytes / min(one.shape[:2])


def test_a_plan_cuts_rows_and_blocks(tmp_path):
    _, real, plain = opened_both(write(tmp_path / "tiny.gguf", "Q5_K", 2))
    sharded = cut_right(real, 2, "hf", **NEAR)
    assert sends(sharded) == sends(sw.shard(plain, mesh=2, plan="hf"))
    where = {one.name.split(".")[-2]: one.layouts["tp"].dim for one in sharded.weights if "layers.0.mlp" in one.name}
    assert where == {"gate_proj": 0, "up_proj": 0, "down_proj": 1}


def test_a_package_holds_the_files_own_bytes(tmp_path):
    """But that rows of queries and keys, which llama.cpp reorders, are in the model's order."""
    path = write(tmp_path / "tiny.gguf", "Q5_0", 2)
    sw.shard_checkpoint(path, tmp_path / "p", mesh=2, packed=True, **WHOLE)
    sw.gather(tmp_path / "p", tmp_path / "gathered.safetensors")
    found = load_file(tmp_path / "gathered.safetensors")
    stored = {one.name: torch.from_numpy(one.data.copy()) for one in gguf.GGUFReader(path).tensors}
    blocks = {name: one.flatten(1) for name, one in found.items() if name.endswith("_gguf")}
    assert len(blocks) == len([name for name in stored if stored[name].dtype == torch.uint8])
    assert torch.equal(blocks["model.layers.0.mlp.down_proj.weight_gguf"], stored["blk.0.ffn_down.weight"])
    queries, lying = blocks["model.layers.0.self_attn.q_proj.weight_gguf"], stored["blk.0.attn_q.weight"]
    assert not torch.equal(queries, lying)
    assert torch.equal(queries.unflatten(0, (8, 2, -1)).transpose(1, 2).flatten(0, 2), lying)


@pytest.mark.parametrize("lead", [(24,), (2, 12)], ids=["a matrix", "experts"])
def test_a_box_of_blocks_is_read_some_rows_at_a_time(lead, tmp_path, monkeypatch):
    """Two rows at a time, here; into what lies in memory otherwise than row by row as well."""
    from shardwright.sources.quantized import gguf_packed

    monkeypatch.setattr(gguf_packed, "READ_BYTES", 2 * 5 * 34)
    stored = torch.randint(256, (24, 5, 34), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "blocks").write_bytes(bytes(7) + stored.numpy().tobytes())
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1)).view(lead)
    shape = (*lead, 5, 34)
    held = gguf_packed.GgufBlocks(shape, tmp_path / "blocks", "blocks", torch.uint8, 7, order.numpy())
    box = (*(slice(1, size) for size in lead), slice(1, 4), slice(0, 34))
    wanted = stored[order]
    out = torch.zeros(*(size - 1 for size in lead), 6, 34, dtype=torch.uint8)
    held.copy(box, out[..., 2:5, :])
    assert torch.equal(out[..., 2:5, :], wanted[box])
    assert not out[..., :2, :].any()
    assert torch.equal(held.read(), wanted)


@pytest.mark.ranks
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_text_on_real_ranks(num_ranks, tmp_path):
    """The command line keeps the blocks, and ranks write what transformers' dequantised model writes."""
    path = write(tmp_path / "tiny.gguf", "Q4_0", num_ranks)
    asked = ["shard", str(path), "-o", str(tmp_path / "p"), "--tp", str(num_ranks)]
    asked += ["--packed", "--cache-length", "24"]
    assert CliRunner().invoke(app, [*asked, "--dtype", "float32"]).exit_code == 0
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    model.load_state_dict(load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"])
    texts = on_ranks(num_ranks, written, str(tmp_path / "p"), TextRequest(["abcab", "deadbeef"], 8))
    for first, *others in zip(*texts, strict=True):
        assert first.ids == greedy(model, first.prompt_ids, 8)
        assert all(other.ids == first.ids for other in others)
    names = [file.name for file in (tmp_path / "p").glob("weights-*")]
    stored = [load_file(tmp_path / "p" / name)["model.layers.0.mlp.down_proj.weight_gguf"] for name in names]
    assert [one.dtype for one in stored] == [torch.uint8] * num_ranks


def test_an_embedding_that_is_the_head_too(tmp_path):
    """It is held once; rows that are looked up are unpacked alone."""
    path = write_file(tmp_path / "tiny.gguf", llama_shapes(layers=1), layers=1)
    opened, real, _ = opened_both(path)
    held = [name for name in opened.exported.state_dict if name.endswith(("tokens.weight_gguf", "head.weight_gguf"))]
    assert len({id(opened.source.holders[name]) for name in held}) == 1
    cut_right(real, 2, **NEAR)


def test_experts_in_one_tensor(tmp_path):
    path = write_file(tmp_path / "moe.gguf", experts(layers=1), "qwen3moe", layers=1, describe=describe_experts)
    _, real, _ = opened_both(path)
    names = {name.rpartition(".")[2] for name in real.state_dict if ".experts." in name}
    assert names == {"gate_up_proj__ffn_gate_exps__gguf", "gate_up_proj__ffn_up_exps__gguf", "down_proj_gguf"}
    plan = dict.fromkeys(["**.experts.gate_up_proj", "**.experts.down_proj"], sw.Shard(0))
    sharded = cut_right(real, 2, plan, **NEAR)
    assert {one.layouts["tp"].dim for one in sharded.weights if ".experts." in one.name} == {0}


def test_weights_that_lie_the_other_way(tmp_path):
    """GPT-2's, which transformers transposes."""
    path = write_file(tmp_path / "gpt2.gguf", gpt2_shapes(layers=1), "gpt2", layers=1)
    # A matmul reads a transposed weight in another order.
    _, real, _ = opened_both(path, within=1e-6)
    assert any(name.endswith("c_fc.weight_gguf_t") for name in real.state_dict)
    # Rows looked up by positions that no input says are gathered as bytes, and count as a weight's.
    sharded = sw.shard(real, mesh=2)
    assert not sharded.fallbacks
    assert sw.verify(sharded, real, (), {"input_ids": IDS}).max_error < 1e-5


def test_a_kind_that_is_not_kept_is_named(tmp_path, monkeypatch):
    from shardwright.sources.quantized import gguf_blocks

    path = write(tmp_path / "tiny.gguf", "Q4_1", 2)
    monkeypatch.delitem(gguf_blocks.KEPT_KINDS, "Q4_1")
    with pytest.raises(sw.CheckpointError, match=r"(?s)'blk.0.attn_q.weight' is of the kind Q4_1.*without packed"):
        open_checkpoint(path, packed=True, **WHOLE)


def test_a_file_without_blocks_has_nothing_to_keep(tmp_path, monkeypatch):
    from shardwright.sources.quantized import gguf_packed

    path = write_file(tmp_path / "tiny.gguf", llama_shapes(layers=1), layers=1)
    monkeypatch.setattr(gguf_packed, "NOT_BLOCKS", (*gguf_packed.NOT_BLOCKS, "Q8_0"))
    with pytest.raises(sw.CheckpointError, match=r"(?s)none of its tensors lies in blocks.*without packed"):
        open_checkpoint(path, packed=True, **WHOLE)


def test_packed_and_dequantized_are_refused_together(tmp_path):
    with pytest.raises(sw.CheckpointError, match="cannot stay packed and be dequantised both"):
        open_checkpoint(tmp_path, packed=True, dequantize=torch.float32)
