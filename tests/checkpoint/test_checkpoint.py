"""Checkpoints are sharded on read: the same bytes as sharding the loaded model, and every kind of damage named."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import shardwright as sw
from shardwright.checkpoint import open_checkpoint
from shardwright.package import load_rank, read_manifest
from tests.tiny import write_checkpoint


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    return folder, write_checkpoint(folder)


@pytest.fixture(scope="module")
def opened(llama):
    return open_checkpoint(llama[0], cache_length=16)


@pytest.fixture(scope="module")
def for_two(opened):
    return sw.shard(opened.exported, mesh=2)


@pytest.fixture(scope="module")
def for_three(opened):
    return sw.shard(opened.exported, mesh=3)


def stop_at(rank):
    """A progress function that interrupts while a rank is written."""

    def progress(doing, done, total):
        if doing == f"rank {rank}" and done:
            raise KeyboardInterrupt

    return progress


def load_whole(folder, **options):
    """The model as transformers loads it."""
    config = transformers.AutoConfig.from_pretrained(folder)
    head = getattr(transformers, config.architectures[0])
    return head.from_pretrained(folder, attn_implementation="sdpa", **options).eval()


def tensors_of(package):
    manifest = read_manifest(package)
    return [load_file(package / name) for name in manifest.weights]


def same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def gathered(package, tmp_path):
    sw.gather(package, tmp_path / "gathered.safetensors")
    return load_file(tmp_path / "gathered.safetensors")


def test_ranks_hold_what_sharding_the_loaded_model_gives(llama, opened, for_three, tmp_path):
    folder, _ = llama
    assert len(list(folder.glob("model-*.safetensors"))) > 1, "the checkpoint is in several files"
    sharded = for_three
    opened.save(sharded, tmp_path / "streamed")
    state = {**load_whole(folder).state_dict(), **opened.exported.constants}
    for weight in sharded.weights:
        assert (weight.name in opened.source.holders) == sharded.program.weights[weight.name].tensor.is_meta
    whole = {name: tensor for name, tensor in state.items() if not tensor.is_meta}
    for rank, found in enumerate(tensors_of(tmp_path / "streamed")):
        local = sharded.rank_program(rank).weights
        for name, piece in found.items():
            wanted = local[name].materialize() if name not in whole else cut(whole[name], local[name].cuts)
            assert torch.equal(piece, wanted), name
    same(gathered(tmp_path / "streamed", tmp_path), without_head(load_whole(folder).state_dict()))


def without_head(state):
    """A state dict without the name under which a tied tensor is not written."""
    return {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}


def cut(tensor, cuts):
    from shardwright.layout import take_shard

    for layout, coordinate in cuts:
        tensor = take_shard(tensor, layout, coordinate)
    return tensor


def test_caches_are_cut_on_heads_and_made_on_loading(opened, for_two, tmp_path):
    opened.save(for_two, tmp_path / "p")
    manifest = read_manifest(tmp_path / "p")
    caches = [entry for entry in manifest.tensors if "_cache_" in entry.name]
    assert len(caches) == 4
    assert {json.dumps(entry.layouts) for entry in caches} == {'{"tp": {"shard": 1}}'}
    assert all(entry.zeros and not entry.in_state for entry in caches)
    assert not any("_cache_" in name for name in tensors_of(tmp_path / "p")[0])
    exported = load_rank(tmp_path / "p", 0)
    assert tuple(exported.constants["key_cache_0"].shape) == (1, 2, 16, 8)
    assert manifest.decoder.cache_length == 16
    assert manifest.decoder.end_ids == [2]


def test_weights_are_cast(llama, tmp_path):
    folder, _ = llama
    sw.shard_checkpoint(folder, tmp_path / "p", mesh=2, cache_length=8, dtype=torch.bfloat16)
    state = load_whole(folder, dtype=torch.bfloat16).state_dict()
    same(gathered(tmp_path / "p", tmp_path), without_head(state))


@pytest.mark.parametrize("kind", ["mixtral", "gpt2", "bert"])
def test_names_and_layouts_of_other_checkpoints(kind, tmp_path):
    write_checkpoint(tmp_path / "model", kind)
    opened = open_checkpoint(tmp_path / "model", cache_length=0)
    sharded = sw.shard(opened.exported, mesh=2)
    opened.save(sharded, tmp_path / "p")
    found = gathered(tmp_path / "p", tmp_path)
    whole = load_whole(tmp_path / "model").state_dict()
    assert found.keys() <= whole.keys()
    assert {tensor.data_ptr() for name, tensor in whole.items()} == {whole[name].data_ptr() for name in found}
    for name, tensor in found.items():
        assert torch.equal(tensor, whole[name]), name
    if kind == "mixtral":
        stored = {name for file in (tmp_path / "model").glob("*.safetensors") for name in load_file(file)}
        assert any("experts.3" in name for name in stored), "the checkpoint stores experts one by one"


def test_a_bert_computes_what_the_original_does(tmp_path):
    model = write_checkpoint(tmp_path / "model", "bert")
    opened = open_checkpoint(tmp_path / "model")
    opened.save(sw.shard(opened.exported, mesh=1), tmp_path / "p")
    ids, mask = torch.randint(3, 300, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    with torch.no_grad():
        got = sw.load(tmp_path / "p")(input_ids=ids, attention_mask=mask)
        wanted = model(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(got["logits"], wanted.logits)


def test_an_interrupted_run_goes_on(opened, for_three, tmp_path):
    opened.save(for_three, tmp_path / "wanted")
    with pytest.raises(KeyboardInterrupt):
        opened.save(for_three, tmp_path / "p", progress=stop_at(1))
    assert not (tmp_path / "p").exists()
    first = tmp_path / ".p.partial" / "weights-00000-of-00003.safetensors"
    kept = first.stat()
    opened.save(for_three, tmp_path / "p")
    again = (tmp_path / "p" / first.name).stat()
    assert (again.st_ino, again.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns), "rank 0 was not written again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "wanted"]
    for name in read_manifest(tmp_path / "wanted").weights:
        assert (tmp_path / "p" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes(), name


def test_a_partial_folder_of_another_job_is_not_used(opened, for_two, for_three, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        opened.save(for_two, tmp_path / "p", progress=stop_at(1))
    opened.save(for_three, tmp_path / "p")
    assert read_manifest(tmp_path / "p").num_ranks == 3
    assert not list((tmp_path / "p").glob("*of-00002*"))


def test_a_damaged_partial_file_is_written_again(opened, for_two, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        opened.save(for_two, tmp_path / "p", progress=stop_at(1))
    first = tmp_path / ".p.partial" / "weights-00000-of-00002.safetensors"
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    opened.save(for_two, tmp_path / "p")
    load_rank(tmp_path / "p", 0)


def test_two_runs_do_not_write_one_package(opened, for_two, tmp_path):
    refused = []

    def run_again(doing, done, total):
        if doing == "rank 0" and not done:
            with pytest.raises(sw.PackageError, match="another process is writing"):
                opened.save(for_two, tmp_path / "p")
            refused.append(True)

    opened.save(for_two, tmp_path / "p", progress=run_again)
    assert refused == [True]
    load_rank(tmp_path / "p", 1)


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def drop_tensor(folder):
    file = next(f for f in sorted(folder.glob("model-*")) if "model.norm.weight" in load_file(f))
    kept = {name: tensor for name, tensor in load_file(file).items() if name != "model.norm.weight"}
    save_file(kept, file)
    edit(folder / "model.safetensors.index.json", lambda index: index["weight_map"].pop("model.norm.weight"))


def truncate(folder):
    file = sorted(folder.glob("model-*"))[1]
    file.write_bytes(file.read_bytes()[:-100])


def pickle_only(folder):
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


INDEX = "model.safetensors.index.json"
DAMAGE = {
    "a missing file": (lambda f: sorted(f.glob("model-*"))[1].unlink(), "the checkpoint lacks .*model-00002"),
    "a truncated file": (truncate, "no safetensors file, or it is truncated"),
    "a missing tensor": (drop_tensor, "lacks 'model.norm.weight'"),
    "another size": (
        lambda f: edit(f / "config.json", lambda c: c.update(intermediate_size=100)),
        r"has shape \(96, 48\), the configuration says \(100, 48\)",
    ),
    "more layers than weights": (
        lambda f: edit(f / "config.json", lambda c: c.update(num_hidden_layers=3, layer_types=None)),
        r"\(9 problems\)",
    ),
    "an unknown model": (
        lambda f: edit(f / "config.json", lambda c: c.update(model_type="nothing")),
        "transformers cannot read it",
    ),
    "no configuration": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "a configuration that is none": (lambda f: (f / "config.json").write_text("{"), "transformers cannot read it"),
    "only pickles": (pickle_only, "pickled .*never opened"),
    "an index that is none": (lambda f: (f / INDEX).write_text("[]"), "no index"),
    "an index that leads outside": (
        lambda f: edit(f / INDEX, lambda i: i["weight_map"].update(x="../x.safetensors")),
        "outside its folder",
    ),
    "an index of tensors that are not there": (
        lambda f: edit(f / INDEX, lambda i: i["weight_map"].update(x=min(i["weight_map"].values()))),
        "holds 'x', but it does not",
    ),
    "quantised weights": (
        lambda f: edit(f / "config.json", lambda c: c.update(quantization_config={"quant_method": "fp8"})),
        "quantised",
    ),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(llama, tmp_path, damage, says):
    shutil.copytree(llama[0], tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(sw.CheckpointError, match=f"(?s){says}"):
        sw.shard_checkpoint(tmp_path / "copy", tmp_path / "p", mesh=2, cache_length=8)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_cache_longer_than_the_model_allows(llama, tmp_path):
    with pytest.raises(sw.CheckpointError, match="a cache of 65 tokens does not fit"):
        open_checkpoint(llama[0], cache_length=65)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(sw.CheckpointError, match="there is no checkpoint"):
        open_checkpoint(tmp_path / "nothing")


def test_an_encoder_with_a_decoder_is_refused(tmp_path):
    transformers.T5Config(d_model=16, num_layers=1, num_heads=2, vocab_size=32).save_pretrained(tmp_path)
    with pytest.raises(sw.CheckpointError, match="an encoder and a decoder"):
        open_checkpoint(tmp_path)


def test_a_stored_buffer_of_another_shape_is_named():
    from shardwright.checkpoint.checkpoint import _share_ties
    from shardwright.package.regions import WholeTensor

    model = torch.nn.Module()
    model.register_buffer("table", torch.zeros(4, 2))
    _share_ties(model, {"table": WholeTensor((4, 2))})
    with pytest.raises(sw.ShardwrightError, match=r"'table' has shape \(4, 3\), the model makes \(4, 2\)"):
        _share_ties(model, {"table": WholeTensor((4, 3))})
