"""A transformers model built for export: parameters that are shapes only, buffers that are computed.

Parameters are fake tensors on the device the program is for, not meta tensors: a graph exported on the meta device
makes meta tensors wherever it makes any. Buffers (rotary frequencies, masks) are computed as the class computes them.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.modules.module import register_module_parameter_registration_hook

from shardwright.errors import CheckpointError, first_line
from shardwright.program.torch_private import FakeTensor, FakeTensorMode, TorchDispatchMode
from shardwright.sources.pipeline import no_checkpoint
from shardwright.sources.quantized.config_values import TOP, whole_config

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.txt", "vocab.json")


def find_checkpoint(path: Path) -> tuple[Path, str | None]:
    """The folder of a checkpoint and, for GGUF, the file's name in it; raises `CheckpointError` when it is neither."""
    if path.is_file() and path.suffix == ".gguf":
        return path.parent, path.name
    if (path / "config.json").is_file():
        return path, None
    if instead := no_checkpoint(path):
        raise CheckpointError(instead)
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint folder or .gguf file {path}")
    files = sorted(file.name for file in path.glob("*.gguf"))
    if len(files) == 1:
        return path, files[0]
    raise CheckpointError(
        f"{path} is not a checkpoint: it has no config.json"
        + (f", and {len(files)} GGUF files\n  try: name one of {files}" if files else " and no GGUF file")
    )


def read_config(folder: Path, gguf: str | None) -> Any:
    """The transformers configuration; raises `CheckpointError` for an unknown or unsupported model."""
    from transformers import AutoConfig, PretrainedConfig

    if gguf is None:
        said, _ = hugging_face(lambda: PretrainedConfig.get_config_dict(folder, local_files_only=True), folder)
        if not isinstance(said, Mapping):
            raise CheckpointError(f"{folder / 'config.json'} holds {type(said).__name__}, not a configuration")
        if said.get(TOP) is not None:
            # transformers takes it for an object of its own where it is no mapping, and fails.
            whole_config(said[TOP])
    return hugging_face(lambda: AutoConfig.from_pretrained(folder, gguf_file=gguf, local_files_only=True), folder)


def build_model(config: Any, folder: Path, dtype: torch.dtype) -> tuple[Any, FakeTensorMode]:
    """The model of a configuration, in eval mode, and the fake mode its parameters live in."""
    kind = _class_of(config)
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with shapes_only(mode):
        # None asks each class: sdpa where it has it, else eager (attention with sinks).
        model = hugging_face(lambda: kind._from_config(config, dtype=dtype, attn_implementation=None), folder)
    set_dtypes(model, mode, None, _kept_names(model, dtype))
    return model.eval(), mode


def _kept_names(model: Any, dtype: torch.dtype) -> Callable[[str], bool]:
    """Whether transformers keeps a tensor in float32 where the others are of ``dtype``, by its name.

    Its loader finds these texts anywhere in a name (``gate.weight``), dots and stars as in patterns. A model has those
    of its parts too, which its class need not name.
    """
    texts = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    texts |= set(getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else set()
    if not texts or dtype not in (torch.float16, torch.bfloat16):
        return lambda name: False
    pattern = re.compile("|".join(f"(?:{text.replace('*', '.*')})" for text in sorted(texts)))
    return lambda name: pattern.search(name) is not None


def set_dtypes(
    model: torch.nn.Module, mode: FakeTensorMode, dtype: torch.dtype | None, is_kept: Callable[[str], bool]
) -> None:
    """Give floating parameters and stored buffers a dtype: float32 where ``is_kept`` says so of the name.

    ``dtype``: of all others; absent: what they have. A shared one stays shared. Buffers keep the values that the class
    computes, which are those of the model where no checkpoint stores them.
    """
    made: dict[int, Any] = {}
    stored = model.state_dict(keep_vars=True).keys()
    for path, module in model.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            full = f"{path}.{name}" if path else name
            wanted = torch.float32 if is_kept(full) else dtype or tensor.dtype
            if full not in stored or not tensor.is_floating_point() or tensor.dtype == wanted:
                continue
            if id(tensor) not in made:
                made[id(tensor)] = _of_dtype(tensor, mode, wanted)
            setattr(module, name, made[id(tensor)])


def _of_dtype(tensor: torch.Tensor, mode: FakeTensorMode, dtype: torch.dtype) -> torch.Tensor:
    if not isinstance(tensor.data, FakeTensor):
        return tensor.to(dtype)
    with mode:
        other = torch.empty(tensor.shape, dtype=dtype)
    return torch.nn.Parameter(other) if isinstance(tensor, torch.nn.Parameter) else other


def _class_of(config: Any) -> Any:
    import transformers

    names = getattr(config, "architectures", None) or []
    kind = next((getattr(transformers, name) for name in names if hasattr(transformers, name)), None)
    if kind is None:
        causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        kind = (transformers.AutoModelForCausalLM if causal else transformers.AutoModel)._model_mapping[type(config)]
    return kind


def check_takes_text(config: Any, folder: Path) -> None:
    """Raise `CheckpointError` for a model that is not called with token ids alone: how then is not known here."""
    kind = _class_of(config)
    if config.is_encoder_decoder and "decoder_input_ids" in inspect.signature(kind.forward).parameters:
        raise CheckpointError(
            f"{folder}: {config.model_type} has an encoder and a decoder, which are two programs\n"
            "  try: export them yourself and shard the .pt2 files, or give example= or --example"
        )
    if getattr(kind, "main_input_name", "input_ids") != "input_ids":
        raise CheckpointError(
            f"{kind.__name__} takes {kind.main_input_name!r}, not token ids\n"
            "  try: example= or --example, with the inputs you need; or export it yourself and shard the .pt2 file"
        )


def read_tokenizer(folder: Path, gguf: str | None) -> Any:
    """The tokenizer beside the weights; None where there is none."""
    if gguf is None and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    return hugging_face(lambda: AutoTokenizer.from_pretrained(folder, gguf_file=gguf, local_files_only=True), folder)


def hugging_face(make: Callable[[], Any], folder: Path) -> Any:
    """What transformers makes of a folder; what it raises for a bad one as a `CheckpointError`."""
    return read_by("transformers", make, folder)


def read_by(library: str, make: Callable[[], Any], folder: Path) -> Any:
    """What a library makes of a folder; what it raises for a bad one as a `CheckpointError`."""
    try:
        return make()
    except Exception as error:
        # Damaged files surface as anything from struct.error to a bare Exception of the tokenizers library.
        raise CheckpointError(f"{folder}: {library} cannot read it: {first_line(error)}") from error


class _NothingTrue(TorchDispatchMode):
    """No value that is not there is true: initialisers ask whether what they drew is out of range, and draw again."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return not isinstance(args[0], FakeTensor) and func(*args)
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_only(mode: FakeTensorMode) -> Iterator[None]:
    """Parameters that modules register become fake tensors before they are initialised; tied ones stay one."""

    # torch declares that a hook returns None; it takes what one returns as the parameter to register.
    def replace(_: Any, __: str, parameter: torch.nn.Parameter | None) -> Any:
        if parameter is None or isinstance(parameter.data, FakeTensor):
            return None
        with mode:
            empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
            return torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(replace)
    try:
        with _NothingTrue():
            yield
    finally:
        handle.remove()
