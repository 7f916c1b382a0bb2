"""A fixed sample of damaged packages: each is refused in words or still gives the right numbers, never others."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file

import shardwright as sw
from shardwright.package.manifest import MANIFEST_NAME
from tests.support.json_trees import places
from tests.support.models import Cache, redraw

X = (torch.linspace(-1, 1, 32).view(2, 1, 16), torch.tensor([0]))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The folder of a package for one rank and one for two, the outputs, and the whole state."""
    folder = tmp_path_factory.mktemp("mutations")
    exported = torch.export.export(redraw(Cache()), X)
    state = {name: tensor.detach().clone() for name, tensor in exported.state_dict.items()}
    outputs = exported.module()(*X)
    for count in (1, 2):
        sw.shard(torch.export.export(redraw(Cache()), X), mesh=count).save(folder / str(count))
    return folder, outputs, state


def a_byte(random, path):
    data = bytearray(path.read_bytes())
    # Headers and text come first; of weights, the end is values.
    data[random.randrange(min(len(data), 4000))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


def a_shorter_file(random, path):
    path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])


def a_longer_file(random, path):
    path.write_bytes(path.read_bytes() + bytes(random.randrange(1, 99)))


def no_file(random, path):
    path.unlink()


def another_name(random, path):
    path.rename(path.with_name(f"{random.randrange(99)}{path.name}"))


def a_file_more(random, path):
    shutil.copy(path, path.with_name(f"{random.randrange(99)}{path.name}"))


def another_file(random, path):
    others = sorted(other for other in path.parent.iterdir() if other != path)
    path.write_bytes(random.choice(others).read_bytes())


def a_value(random, path):
    """A value of the manifest becomes one of another type, or leaves, or comes twice."""
    path = path.with_name(MANIFEST_NAME)
    tree = json.loads(path.read_bytes())
    holder, key = random.choice(places(tree))
    how = random.randrange(3)
    if how == 0 and isinstance(holder, dict):
        del holder[key]
    elif how == 1 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        values = [None, -1, 2**62, 0.5, "", "tp", [], [[]], {}, {"a": 1}]
        holder[key] = random.choice([one for one in values if type(one) is not type(holder[key])])
    path.write_text(json.dumps(tree))


KINDS = (a_byte, a_shorter_file, a_longer_file, no_file, another_name, a_file_more, another_file, a_value, a_value)


def opens(package, outputs):
    with torch.no_grad():
        torch.testing.assert_close(sw.load(package)(*X), outputs)


def gathers(package, state, target):
    sw.gather(package, target)
    found = load_file(target)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("kind", dict.fromkeys(KINDS), ids=lambda kind: kind.__name__)
def test_damage_is_named_or_does_no_harm(honest, tmp_path, kind):
    folder, outputs, state = honest
    drawn = random.Random(kind.__name__)
    refused = 0
    for number in range(30):
        count = drawn.choice((1, 2))
        package = tmp_path / f"{number}"
        shutil.copytree(folder / str(count), package)
        kind(drawn, drawn.choice(sorted(package.iterdir())))
        target = tmp_path / f"{number}.safetensors"
        try:
            gathers(package, state, target)
            if count == 1:
                opens(package, outputs)
        except sw.ShardwrightError as error:
            refused += 1
            assert str(package) in str(error)  # noqa: PT017 - either outcome is right
        finally:
            shutil.rmtree(package)
    assert refused or kind is a_file_more


def lied_to(package, edit):
    path = package / MANIFEST_NAME
    told = json.loads(path.read_bytes())
    edit({entry["name"]: entry for entry in told["tensors"]})
    path.write_text(json.dumps(told))


LIES = {
    "another tensor of its shape": lambda tensors: tensors["o_proj.weight"].update(alias_of="k_proj.weight"),
    "a weight made of zeros": lambda tensors: tensors["k_proj.weight"].update(zeros=True, in_state=False),
    "a buffer of the state made of zeros": lambda tensors: tensors["keys"].update(zeros=True),
}


@pytest.mark.parametrize("edit", LIES.values(), ids=LIES)
def test_a_manifest_that_says_another_source_is_refused(honest, tmp_path, edit):
    package = tmp_path / "p"
    shutil.copytree(honest[0] / "1", package)
    lied_to(package, edit)
    with pytest.raises(sw.PackageError, match=r"contradicts itself|does not use"):
        sw.load(package)
