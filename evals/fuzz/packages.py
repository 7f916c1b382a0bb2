"""Damaged packages, opened by our own reader only: refused in words, or nothing that counts was damaged."""

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.support.models import Cache, redraw

import shardwright as sw
from evals.fuzz.judge import RIGHT, Verdict, refusal
from shardwright.package.manifest import MANIFEST_NAME

EXAMPLE = (torch.linspace(-1, 1, 32).view(2, 1, 16), torch.tensor([0]))
VALUES = (None, True, -1, 0, 7, 2**40, 2**62, 0.5, "", "tp", "nn", [], [[]], [-1], {}, {"tp": 0})
"""What takes the place of a value of the manifest."""


@dataclass(frozen=True)
class Damage:
    """A package of one or two ranks, its files by number in order of their names, and what is done to one after the
    other: a kind in `KINDS`, drawn from a seed.
    """

    num_ranks: int
    done: tuple[tuple[str, int, int], ...]

    def verdict(self) -> Verdict:
        """Of opening and gathering what is left."""
        honest, outputs, state = _honest(self.num_ranks)
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "package"
            shutil.copytree(honest, package)
            for kind, number, seed in self.done:
                files = _plain(package)
                KINDS[kind](random.Random(seed), files[number % len(files)])
            try:
                return _opened(package, self.num_ranks, outputs, state)
            except Exception as error:  # noqa: BLE001 - whatever is raised is the verdict
                found = refusal(error)
                names = str(package) in found.said
                return found if found.is_fault or names else Verdict("fault", "names no package", found.said)


def _plain(package: Path) -> list[Path]:
    return [path for path in sorted(package.iterdir()) if path.is_file() and not path.is_symlink()]


def _opened(package: Path, num_ranks: int, outputs: Any, state: dict[str, torch.Tensor]) -> Verdict:
    target = package.parent / "state.safetensors"
    sw.gather(package, target)
    found = load_file(target)
    if found.keys() != state.keys() or not all(torch.equal(found[name], state[name]) for name in state):
        return Verdict("fault", "wrong state", f"gathered {sorted(found)}")
    if num_ranks == 1:
        with torch.no_grad():
            got = sw.load(package)(*EXAMPLE)
        if not torch.allclose(got, outputs):
            return Verdict("fault", "wrong numbers", f"{got - outputs}")
    return RIGHT


def draw_damage(seed: int) -> Damage:
    """One to three things done to a package."""
    dice = random.Random(f"package {seed}")
    count = dice.choice((1, 1, 1, 2, 3))
    kinds = sorted(KINDS) + ["a value of the manifest"] * 3
    done = tuple((dice.choice(kinds), dice.randrange(99), dice.randrange(2**32)) for _ in range(count))
    return Damage(dice.choice((1, 2)), done)


@cache
def _honest(num_ranks: int) -> tuple[Path, torch.Tensor, dict[str, torch.Tensor]]:
    """The folder of a whole package, kept as long as the process; its outputs and its state."""
    folder = tempfile.TemporaryDirectory()
    _KEPT.append(folder)
    exported = torch.export.export(redraw(Cache()), EXAMPLE)
    state = {name: tensor.detach().clone() for name, tensor in exported.state_dict.items()}
    package = Path(folder.name) / "package"
    sw.shard(exported, mesh=num_ranks).save(str(package))
    return package, torch.export.export(redraw(Cache()), EXAMPLE).module()(*EXAMPLE).detach(), state


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def _bits(dice: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(dice.randint(1, 3) if data else 0):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def _shorter(dice: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size + 1)])


def _longer(dice: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes() + dice.randbytes(dice.randint(1, 99)))


def _gone(_: random.Random, path: Path) -> None:
    path.unlink()


def _renamed(dice: random.Random, path: Path) -> None:
    path.rename(path.with_name(f"{dice.randrange(99)}{path.name}"))


def _another(dice: random.Random, path: Path) -> None:
    path.write_bytes(dice.choice(_plain(path.parent)).read_bytes())


def _folder(_: random.Random, path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(_: random.Random, path: Path) -> None:
    elsewhere = path.with_name(f"{path.name}.elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere.name)


def _value(dice: random.Random, path: Path) -> None:
    """A value of the manifest becomes another, leaves, or comes twice."""
    path = path.with_name(MANIFEST_NAME)
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return  # It was damaged before.
    places = list(_places(tree))
    if not places:
        return
    holder, key = dice.choice(places)
    how = dice.randrange(3)
    if how == 0 and isinstance(holder, dict):
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = dice.choice([one for one in VALUES if type(one) is not type(holder[key])])
    path.write_text(json.dumps(tree))


def _places(value: Any) -> Any:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


KINDS: dict[str, Callable[[random.Random, Path], None]] = {
    "a folder": _folder,
    "a link": _link,
    "a value of the manifest": _value,
    "another file": _another,
    "another name": _renamed,
    "bits": _bits,
    "longer": _longer,
    "no file": _gone,
    "shorter": _shorter,
}


def shortened(damage: Damage, fails: Callable[[Damage], bool]) -> Damage:
    """Less damage that fails still."""
    for one in damage.done:
        less = Damage(damage.num_ranks, tuple(other for other in damage.done if other != one))
        if fails(less):
            damage = less
    return damage


def text_of(damage: Damage) -> str:
    """Python that judges the damage again."""
    return f"from evals.fuzz.packages import Damage\n\nprint({damage!r}.verdict())\n"
