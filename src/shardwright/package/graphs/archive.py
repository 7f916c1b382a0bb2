"""Graph files: zip archives that hold a program's JSON and the shapes of its tensors, and nothing else.

A file is parsed into strict types (`schema`), and torch is given an archive that is written from them. It never sees a
byte of the file itself.
"""

import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from shardwright.errors import first_line
from shardwright.package.graphs.schema import ExportedProgram, PayloadConfig

_T = TypeVar("_T")
_MODEL = "models/model.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_EMPTY = re.compile(r"data/weights/weight_\d{1,9}|data/constants/tensor_\d{1,9}|data/sample_inputs/model\.pt")
_FRAME = frozenset({"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"})
_MAX_FRAME = 100


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What a graph file says, checked: the program, and its tensors without data."""

    program: ExportedProgram
    weights: PayloadConfig
    constants: PayloadConfig


def parse_graph(data: bytes) -> GraphFile:
    """Read a graph file; raises `ValueError` where it holds anything that a sharded program does not need."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = _entries(archive, len(data))
            return GraphFile(
                _decoded(entries, _MODEL, ExportedProgram),
                _decoded(entries, _WEIGHTS, PayloadConfig),
                _decoded(entries, _CONSTANTS, PayloadConfig),
            )
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not a zip archive: {first_line(error)}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def format_graph(graph: GraphFile) -> bytes:
    """An archive for torch's reader, written from the parsed parts; equal parts give equal bytes."""
    from torch.export.pt2_archive import constants  # It brings torch's own compiler, a second of imports.

    weights, constant = _numbered(graph.weights, "weight"), _numbered(graph.constants, "tensor")
    parts = {
        constants.ARCHIVE_FORMAT_PATH: constants.ARCHIVE_FORMAT_VALUE.encode(),
        constants.ARCHIVE_VERSION_PATH: constants.ARCHIVE_VERSION_VALUE.encode(),
        "byteorder": b"little",
        ".data/version": b"3\n",
        _MODEL: msgspec.json.encode(graph.program),
        _WEIGHTS: msgspec.json.encode(weights),
        _CONSTANTS: msgspec.json.encode(constant),
        "data/sample_inputs/model.pt": b"",
        **{f"data/weights/{meta.path_name}": b"" for meta in weights.config.values()},
        **{f"data/constants/{meta.path_name}": b"" for meta in constant.config.values()},
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(f"graph/{name}"), content)
    return out.getvalue()


def _entries(archive: zipfile.ZipFile, length: int) -> dict[str, bytes]:
    """The entries by name without their folder; all are stored as they are, so they hold no more than the file."""
    infos = archive.infolist()
    claimed = sum(max(info.file_size, info.compress_size) for info in infos)
    if claimed > length:
        raise ValueError(f"its entries claim {claimed} bytes, the file has {length}")
    roots = {info.filename.partition("/")[0] for info in infos}
    names = [info.filename.partition("/")[2] for info in infos]
    if len(roots) != 1 or len(set(names)) != len(names):
        raise ValueError("its entries do not lie in one folder under different names")
    found = {}
    for name, info in zip(names, infos, strict=True):
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise ValueError(f"its entry {name!r} is compressed or encrypted")
        known = name in (_MODEL, _WEIGHTS, _CONSTANTS)
        if not known and not (name in _FRAME and info.file_size <= _MAX_FRAME):
            if _EMPTY.fullmatch(name) is None:
                raise ValueError(f"it holds {name!r}, which no graph has")
            if info.file_size:
                raise ValueError(f"its entry {name!r} is not empty: a graph has no data")
        found[name] = archive.read(info)
    return found


def _decoded(entries: dict[str, bytes], name: str, kind: type[_T]) -> _T:
    if name not in entries:
        raise ValueError(f"it lacks {name!r}")
    try:
        return msgspec.json.decode(entries[name], type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(f"{name}: {error}") from None


def _numbered(config: PayloadConfig, kind: str) -> PayloadConfig:
    """The configuration with an entry for every tensor: those that share one would share its dtype too."""
    tensors = enumerate(config.config.items())
    return PayloadConfig({name: replace(meta, path_name=f"{kind}_{number}") for number, (name, meta) in tensors})
