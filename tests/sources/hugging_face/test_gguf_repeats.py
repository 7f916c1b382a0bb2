"""What is shared while a GGUF file is opened, and put back after."""

import gguf
import numpy as np
import pytest

from shardwright.sources.checkpoint import open_checkpoint
from shardwright.sources.hugging_face.gguf_repeats import parsed_once
from tests.support.gguf_files import llama_shapes, write_file

NAMES = ("GGUFReader", "get_tensor_name_map")


def test_a_file_is_parsed_once(tmp_path):
    path = write_file(tmp_path / "tiny.gguf", llama_shapes())
    with parsed_once(path.name):
        reader, table = gguf.GGUFReader(path), gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        assert gguf.GGUFReader(path) is reader
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is table
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3) is not table


def test_a_reader_keeps_plain_arrays(tmp_path):
    path = write_file(tmp_path / "tiny.gguf", llama_shapes())
    own = gguf.GGUFReader(path)
    with parsed_once(path.name):
        reader = gguf.GGUFReader(path)
    tokens, wanted = (one.get_field("tokenizer.ggml.tokens") for one in (reader, own))
    assert {type(part) for part in tokens.parts} == {np.ndarray}
    assert tokens.contents() == wanted.contents()
    for found, before in zip(reader.tensors, own.tensors, strict=True):
        assert (found.name, found.data_offset) == (before.name, before.data_offset)
        assert np.array_equal(found.data, before.data)


def test_opening_a_file_parses_it_once_however_it_is_read(tmp_path, monkeypatch):
    path, parsed = write_file(tmp_path / "tiny.gguf", llama_shapes()), []
    own = gguf.GGUFReader
    monkeypatch.setattr(gguf, "GGUFReader", lambda *args: parsed.append(args) or own(*args))
    open_checkpoint(path)
    assert parsed == [(str(path),)]


@pytest.mark.parametrize("name", ["tiny.gguf", None])
def test_what_was_there_is_put_back(name):
    before = [getattr(gguf, one) for one in NAMES]
    with pytest.raises(ValueError, match="stop"), parsed_once(name), parsed_once(name):
        raise ValueError("stop")
    assert [getattr(gguf, one) for one in NAMES] == before
