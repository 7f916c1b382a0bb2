"""One checkpoint of a package, sharded packed: what ranks compute, hold, send and write, beside the plain model."""

import gc
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from tests.support.models import relative_error
from tests.support.packed_weights import opened_packed
from tests.support.ranks import on_ranks
from tests.support.texts import greedy, written

import shardwright as sw
from evals.quantised.sample import Sample
from shardwright.generate.writing import TextRequest
from shardwright.sources.checkpoint import open_checkpoint

NUM_RANKS = (2, 3, 4)
NUM_TOKENS = 12


@dataclass
class Verdict:
    """What was found of a sample: by number of ranks the largest error, the collectives of packed and plain weights,
    the bytes of packed weights on the busiest rank and the most that they may be, each as a share of all of them.
    ``texts``: the numbers of real ranks that wrote what one process writes. ``wrong``: what is not as it should be.
    """

    name: str
    package: str
    errors: dict[int, float] = field(default_factory=dict)
    sent: dict[int, tuple[int, int]] = field(default_factory=dict)
    held: dict[int, tuple[float, float]] = field(default_factory=dict)
    texts: list[int] = field(default_factory=list)
    refused: str = ""
    wrong: list[str] = field(default_factory=list)


def judge(sample: Sample) -> Verdict:
    """Everything that is asked of a sample."""
    found = Verdict(sample.name, sample.package)
    if sample.refused:
        try:
            open_checkpoint(sample.path, cache_length=0)
            found.wrong.append("is read, and should be refused")
        except sw.CheckpointError as error:
            found.refused = str(error).splitlines()[0]
            if sample.refused not in str(error):
                found.wrong.append(f"is refused without naming {sample.refused}")
        return found
    _compare(sample, found)
    gc.collect()
    if sample.ranks:
        _write_texts(sample, found)
    return found


def _model(sample: Sample, dtype: torch.dtype) -> torch.nn.Module:
    how = {"dtype": dtype, "attn_implementation": "eager" if "mxfp4" in sample.name else "sdpa"}
    return transformers.AutoModelForCausalLM.from_pretrained(sample.plain, **how).eval()


def _compare(sample: Sample, found: Verdict) -> None:
    dtype = getattr(torch, sample.dtype)
    model = _model(sample, dtype)
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(input_ids=ids, use_cache=False).logits
    shapes = {name: tuple(one.shape) for name, one in model.state_dict().items()}
    del model
    opened, real = opened_packed(sample.path, dtype=dtype, packed=sample.packed)
    kept = {name.rpartition(".")[0] for name in real.state_dict if name not in shapes and name in opened.source.holders}
    if not kept:
        found.wrong.append("nothing is held packed")
    for num_ranks in NUM_RANKS:
        sharded = sw.shard(real, mesh=num_ranks)
        error = max(relative_error(one, wanted) for one in sharded.simulate(input_ids=ids))
        found.errors[num_ranks] = error
        found.sent[num_ranks] = len(sharded.collectives), _sent_plain(sample, num_ranks)
        found.held[num_ranks] = _held(sample, sharded, shapes, kept)
        if not error <= sample.allowed:
            found.wrong.append(f"{num_ranks} ranks are {error:.1e} from the package's model")
        if sharded.fallbacks or sharded.gathered_weights:
            found.wrong.append(f"{num_ranks} ranks run an operator or gather a weight whole")
        if found.sent[num_ranks][0] > found.sent[num_ranks][1]:
            found.wrong.append(f"{num_ranks} ranks send more than those of plain weights")
        if found.held[num_ranks][0] > found.held[num_ranks][1]:
            found.wrong.append(f"a rank of {num_ranks} holds more than its part and a group of each weight")


_PLAIN: dict[tuple[str, str, int], int] = {}


def _sent_plain(sample: Sample, num_ranks: int) -> int:
    """How many collectives there are of the plain model of the same configuration."""
    config, dtype = (sample.plain / "config.json").read_text(), getattr(torch, sample.dtype)
    if (config, sample.dtype, num_ranks) not in _PLAIN:
        how = {"dtype": dtype} if sample.packed else {"dequantize": dtype}
        exported = open_checkpoint(sample.path, cache_length=0, **how).exported
        for ranks in NUM_RANKS:
            _PLAIN[config, sample.dtype, ranks] = len(sw.shard(exported, mesh=ranks).collectives)
    return _PLAIN[config, sample.dtype, num_ranks]


def _held(sample: Sample, sharded: sw.ShardedProgram, shapes: dict, kept: set[str]) -> tuple[float, float]:
    """The share of all packed bytes on the busiest rank, and that of a rank's part and a unit of each weight."""
    num_ranks, held, whole, most = sharded.mesh.num_ranks, [0] * sharded.mesh.num_ranks, 0, 0.0
    for weight in sharded.weights:
        path = weight.name.rpartition(".")[0]
        if path not in kept:
            continue
        rows, columns = _sizes(path, shapes)
        unit = max(sample.unit[0] / rows, (sample.unit[1] or columns) / columns if sample.unit[1] else 0.0)
        whole += weight.num_bytes
        most += weight.num_bytes * (1 / num_ranks + unit)
        held = [one + more for one, more in zip(held, weight.rank_bytes, strict=True)]
    return max(held) / whole, min(most / whole, 1.0)


def _sizes(path: str, shapes: dict) -> tuple[int, int]:
    """Rows and columns of the weight that a module has in the plain model; of experts those of the smallest."""
    inside = [shape for name, shape in shapes.items() if name.rpartition(".")[0] == path and len(shape) > 1]
    inside += [shape for name, shape in shapes.items() if name.startswith(f"{path}.weight")]
    return min((shape[-2:] for shape in inside), key=math.prod)


def _write_texts(sample: Sample, found: Verdict) -> None:
    """Real processes, each number of them, write what the plain model writes alone."""
    how = {"dtype": torch.float32, "packed": sample.packed, "cache_length": sample.cache_length}
    model = _model(sample, torch.float32)
    for num_ranks in sample.ranks:
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "package"
            sw.shard_checkpoint(sample.path, package, mesh=num_ranks, **how)
            texts = on_ranks(num_ranks, written, str(package), TextRequest(list(sample.prompts), NUM_TOKENS))
        for first, *others in zip(*texts, strict=True):
            if first.ids != greedy(model, first.prompt_ids, NUM_TOKENS):
                found.wrong.append(f"{num_ranks} processes write another text")
            if any(other.ids != first.ids for other in others):
                found.wrong.append(f"{num_ranks} processes write different texts")
        found.texts.append(num_ranks)
