"""Checkpoints are sharded on read: the same bytes as sharding the loaded model, and every kind of damage named."""

import json
import shutil
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import shardwright as sw
from shardwright.layout.box import Region
from shardwright.layout.pieces import take_shard
from shardwright.package.manifest import read_manifest
from shardwright.report.tables import unused_table
from shardwright.run.load import load_rank
from shardwright.sources.checkpoint import open_checkpoint
from tests.support.tiny import write_checkpoint


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


def written(kind, folder):
    """A checkpoint's folder, its model, and what is opened of it."""
    return folder, write_checkpoint(folder, kind), open_checkpoint(folder, cache_length=8 if kind == "mixtral" else 0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return written("bert", tmp_path_factory.mktemp("bert"))


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
    return [load_file(package / name) for name in read_manifest(package).weights]


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
    # One slot more than tokens: a part that may be the whole cannot be exported.
    assert tuple(exported.constants["key_cache_0"].shape) == (1, 2, 17, 8)
    assert manifest.decoder.cache_length == 16
    assert manifest.decoder.end_ids == [2]


def test_weights_are_cast(llama, tmp_path):
    folder, _ = llama
    sw.shard_checkpoint(folder, tmp_path / "p", mesh=2, cache_length=8, dtype=torch.bfloat16)
    state = load_whole(folder, dtype=torch.bfloat16).state_dict()
    same(gathered(tmp_path / "p", tmp_path), without_head(state))


@pytest.mark.parametrize("kind", ["mixtral", "gpt2", "bert"])
def test_names_and_layouts_of_other_checkpoints(kind, bert, tmp_path):
    folder, _, opened = bert if kind == "bert" else written(kind, tmp_path / "model")
    sharded = sw.shard(opened.exported, mesh=2)
    opened.save(sharded, tmp_path / "p")
    found = gathered(tmp_path / "p", tmp_path)
    whole = load_whole(folder).state_dict()
    assert found.keys() <= whole.keys()
    assert {tensor.data_ptr() for name, tensor in whole.items()} == {whole[name].data_ptr() for name in found}
    for name, tensor in found.items():
        assert torch.equal(tensor, whole[name]), name
    stored = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    assert any("experts.3" in name for name in stored) == (kind == "mixtral"), "experts are stored one by one"


def test_a_bert_computes_what_the_original_does(bert, tmp_path):
    _, model, opened = bert
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
    change(data := json.loads(path.read_text()))
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


def turned(places):
    """Every tensor in the file of the next."""
    return dict(zip(places, [*list(places.values())[1:], next(iter(places.values()))], strict=True))


INDEX = "model.safetensors.index.json"
DAMAGE = {
    "a missing file": (lambda f: sorted(f.glob("model-*"))[1].unlink(), "the checkpoint lacks .*model-00002"),
    "a truncated file": (truncate, "not a safetensors file, or it is truncated"),
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
    "a malformed configuration": (lambda f: (f / "config.json").write_text("{"), "transformers cannot read it"),
    "only pickles": (pickle_only, "pickled .*never opened"),
    "a malformed index": (lambda f: (f / INDEX).write_text("[]"), "not an index"),
    "an index that leads outside": (
        lambda f: edit(f / INDEX, lambda i: i["weight_map"].update(x="../x.safetensors")),
        "outside its folder",
    ),
    "an index that leads to the root": (
        lambda f: edit(f / INDEX, lambda i: i["weight_map"].update(x="/x.safetensors")),
        "outside its folder",
    ),
    "an index of files that are not there": (
        lambda f: edit(f / INDEX, lambda i: i["weight_map"].update(x="a.safetensors", y="b.safetensors")),
        r"\(2 problems\).*lacks .*/a.safetensors.*lacks .*/b.safetensors",
    ),
    "an index of other files": (
        lambda f: edit(f / INDEX, lambda i: i.update(weight_map=turned(i["weight_map"]))),
        r"contradicts itself .*holds .*, but it does not.*the index is of other files: model-",
    ),
    "weights named outside the folder": (
        lambda f: edit(f / "config.json", lambda c: c.update(transformers_weights="../x.safetensors")),
        "outside its folder",
    ),
    "an index of tensors that are not there": (
        lambda f: edit(f / INDEX, lambda i: i["weight_map"].update(x=min(i["weight_map"].values()))),
        "holds 'x', but it does not",
    ),
    "weights quantised by something else": (
        lambda f: edit(f / "config.json", lambda c: c.update(quantization_config={"quant_method": "bitsandbytes"})),
        "quantised by 'bitsandbytes', which is not read",
    ),
    "weights said to be quantised": (
        lambda f: edit(f / "config.json", lambda c: c.update(quantization_config={"quant_method": "fp8"})),
        "quantised by 'fp8', but none is stored so",
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


def add_to(file, tensors):
    save_file({**load_file(file), **tensors}, file, {"format": "pt"})


def unused_of(folder):
    """What is opened, and the warnings it gave."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", sw.CheckpointWarning)
        opened = open_checkpoint(folder, cache_length=0)
    return opened, [str(one.message) for one in told if one.category is sw.CheckpointWarning]


def reads(opened, model):
    """Whether everything the program takes from the checkpoint is what transformers loads."""
    wanted = model.state_dict()
    names = [name for name in opened.exported.state_dict if name in opened.source.holders]
    assert set(names) == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name in names:
        found = opened.source.read(name, Region.whole(wanted[name].shape), wanted[name].dtype)
        assert torch.equal(found, wanted[name]), name
    return True


def test_the_index_decides_which_file_a_tensor_is_read_from(llama, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(llama[0], folder)
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    name, last = min(places, key=places.get), max(places.values())
    add_to(folder / last, {name: torch.zeros_like(load_file(folder / places[name])[name]), "more": torch.ones(3)})
    opened, told = unused_of(folder)
    assert reads(opened, load_whole(llama[0]))
    assert [(one.name, one.file) for one in opened.unused] == [(name, last), ("more", last)]
    assert f"{name} (the index gives it to {places[name]})" in told[0]
    assert "more (the index does not name it)" in told[0]


def test_a_folder_saved_twice_is_read_as_transformers_reads_it(tmp_path):
    write_checkpoint(tmp_path / "model")
    model = write_checkpoint(tmp_path / "model", max_shard_size="1GB")
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    model.save_pretrained(tmp_path / "model", max_shard_size="1GB")
    assert (tmp_path / "model" / INDEX).is_file(), "the old index stays"
    opened, told = unused_of(tmp_path / "model")
    assert reads(opened, load_whole(tmp_path / "model"))
    assert told == [f"not read from the checkpoint: {INDEX} (model.safetensors is read)"]


def test_weights_that_the_configuration_names(tmp_path):
    folder = tmp_path / "model"
    write_checkpoint(folder, max_shard_size="1GB")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    edit(folder / "config.json", lambda c: c.update(transformers_weights="other.safetensors"))
    opened, told = unused_of(folder)
    assert reads(opened, load_whole(folder))
    assert not told
    shutil.copy(folder / "other.safetensors", folder / "model.safetensors")
    assert [one.file for one in unused_of(folder)[0].unused] == ["model.safetensors"]


def test_tensors_that_the_model_lacks_are_named(tmp_path):
    folder = tmp_path / "model"
    write_checkpoint(folder, max_shard_size="1GB")
    whole = load_whole(folder)
    more = {"extra.weight": torch.ones(2), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    # Both names mean the model's norm; transformers reads the first in order.
    add_to(folder / "model.safetensors", {**more, "norm.weight": torch.zeros(48)})
    opened, told = unused_of(folder)
    assert {one.name for one in opened.unused} == {*more, "norm.weight"}
    assert "extra.weight" in told[0]
    assert "model.norm.weight is read from another tensor" in told[0]
    assert "inv_freq" not in told[0], "the model computes it"
    assert [row["tensor"] for row in unused_table(opened.unused).as_data()] == [one.name for one in opened.unused]
    assert reads(opened, whole)


def test_experts_of_different_sizes_are_named(tmp_path):
    folder = tmp_path / "model"
    write_checkpoint(folder, "mixtral", max_shard_size="1GB")
    name = next(n for n in load_file(folder / "model.safetensors") if "experts.3.w1" in n)
    add_to(folder / "model.safetensors", {name: torch.zeros(5, 48)})
    with pytest.raises(sw.CheckpointError, match=r"cannot be made of .*experts\.0\.w1"):
        open_checkpoint(folder, cache_length=0)
