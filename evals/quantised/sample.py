"""What every writer begins with, and what it leaves behind: a checkpoint, and the plain model that it stands for."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.support.tiny import write_checkpoint

LLAMA = {
    "hidden_size": 384,
    "num_attention_heads": 24,
    "num_key_value_heads": 12,
    "head_dim": 16,
    "intermediate_size": 768,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
    "max_position_embeddings": 128,
}
"""Twelve key-value heads, twelve groups of 32 columns: they divide among 2, 3 and 4 ranks."""


@dataclass(frozen=True)
class Sample:
    """A checkpoint that a package has written, in a folder of its own.

    ``name``: of the format. ``package``: which wrote it, and how. ``path``: the checkpoint; the model that it stands
    for is beside it, in ``plain/``. ``unit``: the rows and columns of a weight that are packed together; 0: all
    columns. ``packed``: a GGUF file's blocks are to be kept. ``refused``: part of what the message has to say where the
    format is not read. ``ranks``: numbers of real processes that write text after ``prompts``, which has to fit in
    ``cache_length``. ``dtype``: in which simulated ranks compute; ``allowed``: how far an output may be from the plain
    model's, relative to the largest.
    """

    name: str
    package: str
    path: str
    unit: tuple[int, int] = (1, 0)
    packed: bool = False
    refused: str = ""
    ranks: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ("abcab", "deadbeef")
    cache_length: int = 32
    dtype: str = "float64"
    allowed: float = 1e-5

    def save(self) -> None:
        """Write this beside the checkpoint."""
        path = Path(self.path)
        (path.parent / "sample.json").write_text(json.dumps(asdict(self)))

    @property
    def plain(self) -> Path:
        """The folder of the plain model."""
        return Path(self.path).parent / "plain"


def read_samples(folder: Path) -> list[Sample]:
    """What the writers left in a folder, in the order of writing."""
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("*/sample.json"))]
    return [
        Sample(**{key: tuple(one) if isinstance(one, list) else one for key, one in said.items()}) for said in found
    ]


def write_base(folder: Path, kind: str = "llama", **changes: object) -> Path:
    """A small model at random, unquantised, with a tokenizer; written once for equal arguments."""
    own = folder / "base" / "-".join([kind, *(f"{key}={value}" for key, value in changes.items())])
    if not own.exists():
        sizes = LLAMA if kind == "llama" else {}
        write_checkpoint(own, kind, max_shard_size="1GB", tokenizer=True, **{**sizes, **changes})
    return own


def write_plain(base: Path, sample: Sample, weights: Mapping[str, torch.Tensor]) -> None:
    """The model of a checkpoint: what is stored plain, and these weights, which must be near the base's."""
    tensors, stored = load_file(base / "model.safetensors"), load_file(Path(sample.path) / "model.safetensors")
    # A package may store what it leaves plain in another dtype.
    tensors |= {name: one for name, one in stored.items() if name in tensors and name not in weights}
    assert weights, f"{sample.name}: nothing is quantised"
    for name, weight in weights.items():
        assert weight.shape == tensors[name].shape, f"{sample.name}: {name} has the shape {tuple(weight.shape)}"
        both = torch.stack([weight.flatten().double(), tensors[name].flatten().double()])
        # GPTQ moves weights away from the nearest numbers; what is unpacked wrongly has next to nothing in common.
        likeness = float(torch.corrcoef(both)[0, 1])
        assert likeness > 0.8, f"{sample.name}: {name} has little to do with the weight, {likeness:.2f}"
        tensors[name] = weight
    sample.plain.mkdir()
    tensors = {name: one.double().contiguous() for name, one in tensors.items()}
    save_file(tensors, sample.plain / "model.safetensors", {"format": "pt"})
    (sample.plain / "config.json").write_text((base / "config.json").read_text())
    sample.save()


def copy_around(base: Path, folder: Path, quantization: Mapping[str, object] | None = None) -> None:
    """The base's tokenizer, and its configuration with what is said of the quantisation, in a checkpoint's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            (folder / file.name).write_bytes(file.read_bytes())
    if quantization is not None:
        config = json.loads((base / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "quantization_config": dict(quantization)}))


def load_base(base: Path) -> torch.nn.Module:
    """The unquantised model, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def each_projection(model: torch.nn.Module) -> list[tuple[str, torch.nn.Linear]]:
    """The linear layers that are quantised: all but the head."""
    return [(name, one) for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and "proj" in name]


def write_each(base: Path, sample: Sample, pack: Callable[[torch.nn.Linear], tuple], said: Mapping) -> None:
    """A checkpoint whose linear layers are what ``pack`` makes of each: the stored tensors, and the plain weight."""
    stored, plain = load_file(base / "model.safetensors"), {}
    for name, layer in each_projection(load_base(base)):
        parts, weight = pack(layer)
        del stored[f"{name}.weight"]
        stored |= {f"{name}.{last}": part.contiguous() for last, part in parts.items()}
        plain[f"{name}.weight"] = weight
    copy_around(base, Path(sample.path), said)
    save_file(stored, Path(sample.path) / "model.safetensors", {"format": "pt"})
    write_plain(base, sample, plain)
