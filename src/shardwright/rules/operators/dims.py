"""Spelling the dims of a call: what every builder of structural rules starts from."""

from collections.abc import Sequence

from shardwright.layout.sizes import Size
from shardwright.rules.rule import Call, Dims, Term


def named_dims(shape: Sequence[Size], prefix: str = "d") -> tuple[Dims, dict[str, Size]]:
    """One factor a dim, ``d0 d1 …``, and their sizes."""
    return tuple(Term((f"{prefix}{i}",)) for i in range(len(shape))), {f"{prefix}{i}": s for i, s in enumerate(shape)}


def put(dims: Dims, dim: int, *terms: Term) -> Dims:
    """The dims with one of them replaced by ``terms``; without any, it is gone."""
    return (*dims[:dim], *terms, *dims[dim + 1 :])


def dim_of(call: Call, ndim: int, name: str = "dim", default: int = 0) -> int:
    """A dim argument counted from the front; 0 for a tensor without dims."""
    return int(call.arguments.get(name, default)) % max(ndim, 1)


def dims_of(call: Call, ndim: int, name: str = "dims") -> list[int]:
    """A list of dims counted from the front; all of them when the argument is absent or empty."""
    dims = call.arguments.get(name)
    if isinstance(dims, int):
        dims = [dims]
    return [int(dim) % max(ndim, 1) for dim in dims] if dims else list(range(ndim))
