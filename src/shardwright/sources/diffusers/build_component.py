"""A diffusers model built for export: parameters that are shapes only, in the dtypes its class asks for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from shardwright.errors import CheckpointError, near_misses
from shardwright.program.torch_private import FakeTensorMode
from shardwright.sources.hugging_face.build import read_by, set_dtypes, shapes_only


def find_class(config: Mapping[str, Any], folder: Path) -> Any:
    """The diffusers class that a configuration names; raises `CheckpointError` for one that is no model there."""
    try:
        import diffusers
    except ImportError as error:
        raise CheckpointError(
            f"{folder} holds a model of diffusers, which is not installed ({error})\n"
            "  try: pip install 'shardwright[diffusers]'"
        ) from error
    name = config["_class_name"]
    if isinstance(name, str) and _is_model(diffusers, name):
        return getattr(diffusers, name)
    close = [one for one in near_misses(str(name), dir(diffusers), limit=12) if _is_model(diffusers, one)][:3]
    raise CheckpointError(
        f"{folder}: {name!r} is no model of diffusers {diffusers.__version__}"
        + (f"\n  try: {' or '.join(map(repr, close))} as _class_name in config.json" if close else "")
        + "\n  try: a newer diffusers, if the model is newer; or export it yourself and shard the .pt2 file"
    )


def _is_model(library: Any, name: str) -> bool:
    kind = getattr(library, name, None)
    return isinstance(kind, type) and issubclass(kind, library.ModelMixin) and kind is not library.ModelMixin


def build_component(
    kind: Any, config: Mapping[str, Any], folder: Path, dtype: torch.dtype
) -> tuple[Any, FakeTensorMode]:
    """The model of a configuration, in eval mode, and the fake mode its parameters live in.

    As diffusers loads it: what the class keeps in float32 stays so, everything else is of ``dtype``.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    with shapes_only(mode), _default_dtype(dtype):
        model = read_by("diffusers", lambda: kind.from_config(dict(config)), folder)
    kept = getattr(kind, "_keep_in_fp32_modules", None) or ()
    parts = {kept} if isinstance(kept, str) else set(kept)
    set_dtypes(model, mode, dtype, lambda name: not parts.isdisjoint(name.split(".")))
    return model.eval(), mode


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
