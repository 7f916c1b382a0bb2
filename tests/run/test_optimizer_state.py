"""An optimiser's state goes with the weights: to fewer ranks and more, to one process, or is refused in words."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

import shardwright as sw
from shardwright.run.optimizer_state import works_on_pieces
from tests.support.models import MEGATRON, Decoder, redraw
from tests.support.ranks import on_ranks
from tests.support.training import Dropped, batches, next_token, outcome

PLAN = {**MEGATRON, "embed": "rowwise"}


def groups(module):
    """Two groups: what is decayed, and what is not."""
    named = dict(module.named_parameters())
    decayed = [p for name, p in named.items() if "norm" not in name]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": [p for n, p in named.items() if "norm" in n]}]


def adamw(module):
    return torch.optim.AdamW(groups(module), lr=3e-3, weight_decay=0.0, amsgrad=True)


def steps(step, optimizer, given):
    losses = []
    for args in given:
        losses.append(float(step(*args)))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def steps_alone(model, optimizer, given, loss=next_token):
    losses = []
    for *args, target in given:
        value = loss(model(*args), target)
        value.backward()
        losses.append(float(value.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def train(rank, package, given, save_to, make=adamw, resumes=False):
    torch.manual_seed(7)
    step = sw.load(package)
    optimizer = make(step)
    if resumes:
        step.resume(optimizer)
    losses = steps(step, optimizer, given)
    step.save(save_to, optimizer)
    return losses


@pytest.mark.ranks
def test_training_goes_on_with_two_ranks_then_four_then_one(tmp_path):
    model = redraw(Decoder(layers=1, tied=True)).train()
    given = batches(24)
    joint = sw.export_training(model, given[0], loss=next_token)
    sw.shard(joint, mesh=2, plan=PLAN).save(tmp_path / "two")
    found = on_ranks(2, train, tmp_path / "two", given[:6], tmp_path / "after-two")[0]
    sw.reshard(tmp_path / "after-two", tmp_path / "four", mesh=4)
    found += on_ranks(4, train, tmp_path / "four", given[6:12], tmp_path / "after-four", adamw, True)[0]
    sw.reshard(tmp_path / "after-four", tmp_path / "one", mesh=1)
    found += train(0, tmp_path / "one", given[12:18], tmp_path / "after-one", adamw, resumes=True)
    # And without Shardwright.
    sw.gather(tmp_path / "after-one", tmp_path / "state.safetensors", optimizer=tmp_path / "optimizer.pt")
    gathered = redraw(Decoder(layers=1, tied=True)).train()
    gathered.load_state_dict(load_file(tmp_path / "state.safetensors"), strict=False)
    last = adamw(gathered)
    set_optimizer_state_dict(gathered, last, torch.load(tmp_path / "optimizer.pt"))
    assert last.param_groups[0]["weight_decay"] == 0.1
    found += steps_alone(gathered, last, given[18:])
    wanted = steps_alone(model, adamw(model), given)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert wanted[-1] < 0.98 * wanted[0]


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-2)),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
    "asgd": lambda p: torch.optim.ASGD(p, lr=1e-2),
}
"""All of torch's that work element by element."""


def mlp():
    return redraw(nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 12))).train()


def pairs(num):
    draw = torch.Generator().manual_seed(4)
    return [tuple(torch.randn(4, 12, generator=draw) for _ in range(2)) for _ in range(num)]


def package(model, given, path, num_ranks=2):
    joint = sw.export_training(model, given[0], loss=F.mse_loss)
    sw.shard(joint, mesh=num_ranks, plan={"0": "colwise", "2": "rowwise"}).save(path)


def train_and_go_on(rank, folder, given, kind):
    """Three steps, and three more from what was saved: by the optimiser that was saved, and by a new one."""
    step = sw.load(folder / "out")
    optimizer = OPTIMIZERS[kind](step.parameters())
    steps(step, optimizer, given[:3])
    step.save(folder / kind, optimizer)
    again = sw.load(folder / kind)
    other = OPTIMIZERS[kind](again.parameters())
    again.resume(other)
    return steps(step, optimizer, given[3:]), steps(again, other, given[3:])


def train_and_go_on_with_each(rank, folder, given):
    return {kind: train_and_go_on(rank, folder, given, kind) for kind in OPTIMIZERS}


@pytest.mark.ranks
def test_optimisers_that_work_element_by_element(tmp_path):
    model, given = mlp(), pairs(6)
    package(model, given, tmp_path / "out")
    for found in on_ranks(2, train_and_go_on_with_each, tmp_path, given):
        for kind, (went_on, resumed) in found.items():
            assert went_on == resumed, kind
            whole = mlp()
            wanted = steps_alone(whole, OPTIMIZERS[kind](whole.parameters()), given, F.mse_loss)
            assert resumed == pytest.approx(wanted[3:], rel=1e-4), kind


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_element_by_element_is_seen(kind):
    optimizer = OPTIMIZERS[kind]([nn.Parameter(torch.ones(3, 2))])
    assert works_on_pieces(optimizer, optimizer.param_groups[0])


class Normed(torch.optim.SGD):
    """Steps of a size that follows from the whole matrix, as LAMB's and LARS's."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(p.norm() / p.grad.norm())
        return super().step(closure)


class Divided(torch.optim.SGD):
    """Gradients are divided by a norm: of each row, of all parameters, or of what a group's option asks for."""

    def __init__(self, params, by, lr=1e-2):
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group.setdefault("by", by)

    def step(self, closure=None):
        total = torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                of_rows = p.grad.norm(dim=-1, keepdim=True)
                p.grad.div_({"rows": of_rows, "all": total, "matrix": p.grad.norm(), "none": 1}[group["by"]])
        return super().step(closure)


@pytest.mark.parametrize("by", ["rows", "all", "matrix", "none"])
@pytest.mark.parametrize("of_group", [False, True])
def test_norms_of_more_than_an_element_are_seen(by, of_group):
    group = {"params": [nn.Parameter(torch.ones(3, 2))], **({"by": by} if of_group else {})}
    optimizer = Divided([group], "none" if of_group else by)
    assert works_on_pieces(optimizer, optimizer.param_groups[0]) is (by == "none")


class Factored(torch.optim.Optimizer):
    """Keeps sums of rows, as Adafactor does; a step of it cannot be tried."""

    def __init__(self, params, rate):
        super().__init__(params, {"lr": 0.1})

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            self.state[p]["rows"] = p.grad.sum(-1)


class Told(torch.optim.SGD):
    """A number that follows from this rank's piece."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            self.state[p]["size"] = float(p.detach().norm())
        return super().step(closure)


WHOLE = {
    "Muon": lambda step: torch.optim.Muon([p for p in step.parameters() if p.dim() == 2], lr=1e-2),
    "Adafactor": lambda step: torch.optim.Adafactor(step.parameters(), lr=1e-2),
    "Normed": lambda step: Normed(step.parameters(), lr=0.0),
    "Factored": lambda step: Factored(step.parameters(), None),
    "Told": lambda step: Told(step.parameters(), lr=1e-2),
    "others": lambda step: torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=1e-2),
    "a function": lambda step: torch.optim.SGD(step.parameters(), lr=1e-2).step,
}
SAID = {
    "Muon": "Muon looks at more than one element at a time",
    "Adafactor": "Adafactor looks at more than one element at a time",
    "Normed": "Normed looks at more than one element at a time",
    "Factored": "'rows' is a tensor of shape",
    "Told": "the optimiser's 'size' of '0.weight' is",
    "others": "1 of the optimiser's 1 tensors are no parameters of this step",
    "on one rank": "an optimiser is given on rank 1, not on rank 0",
    "a function": "an optimiser is a torch.optim.Optimizer, got",
}


def refused(rank, folder, args):
    found = {}
    for name, make in WHOLE.items():
        step = sw.load(folder / "out")
        optimizer = make(step)
        step(*args)
        if isinstance(optimizer, torch.optim.Optimizer) and name != "others":
            optimizer.step()
        found[name] = outcome(step.save, folder / "saved", optimizer)
    step = sw.load(folder / "out")
    found["on one rank"] = outcome(step.save, folder / "saved", torch.optim.SGD(step.parameters()) if rank else None)
    found["resume"] = outcome(step.resume, torch.optim.SGD(step.parameters()))
    return found


@pytest.mark.ranks
def test_what_cannot_be_cut_is_refused_on_every_rank(tmp_path):
    given = pairs(1)
    package(mlp(), given, tmp_path / "out")
    for found in on_ranks(2, refused, tmp_path, given[0]):
        assert "keeps no optimiser's state" in found.pop("resume")
        for name, text in found.items():
            assert text.startswith("PackageError") and SAID[name] in text, text
    assert not (tmp_path / "saved").exists()


def test_whole_weights_may_be_looked_at_as_a_whole(tmp_path):
    given = pairs(1)
    package(mlp(), given, tmp_path / "out", num_ranks=1)
    step = sw.load(tmp_path / "out")
    optimizer = WHOLE["Muon"](step)
    steps(step, optimizer, given)
    step.save(tmp_path / "saved", optimizer)
    again = sw.load(tmp_path / "saved")
    again.resume(WHOLE["Muon"](again))


def test_groups_are_those_that_were_saved(tmp_path):
    given = pairs(2)
    package(mlp(), given, tmp_path / "out", num_ranks=1)
    step = sw.load(tmp_path / "out")
    optimizer = torch.optim.SGD(step.named_parameters(), lr=0.5, momentum=0.9)
    steps(step, optimizer, given)
    step.save(tmp_path / "saved", optimizer)
    again = sw.load(tmp_path / "saved")
    other = torch.optim.SGD([*again.parameters()][::-1], lr=0.1)
    again.resume(other)
    assert other.param_groups[0]["lr"] == 0.5
    assert torch.equal(momentum(again, other), momentum(step, optimizer))
    with pytest.raises(sw.PackageError, match=r"has 1 groups of \[3\] parameters, the one that was saved had 1 of"):
        again.resume(torch.optim.SGD([*again.parameters()][:3], lr=0.1))
    # A step without an optimiser leaves none behind.
    again.save(tmp_path / "bare")
    with pytest.raises(sw.PackageError, match="keeps no optimiser's state"):
        sw.gather(tmp_path / "bare", tmp_path / "state.safetensors", optimizer=tmp_path / "optimizer.pt")
    assert not list(tmp_path.glob("bare/optimizer*")) and not (tmp_path / "state.safetensors").exists()


def momentum(step, optimizer):
    return optimizer.state[step.get_parameter("2.bias")]["momentum_buffer"]


def test_dropout_draws_on_from_where_it_was(tmp_path):
    given = pairs(4)
    joint = sw.export_training(redraw(Dropped()).train(), given[0], loss=F.mse_loss)
    sw.shard(joint, mesh=1).save(tmp_path / "out")
    step = sw.load(tmp_path / "out")
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    steps(step, optimizer, given[:2])
    step.save(tmp_path / "saved", optimizer)
    torch.manual_seed(99)
    again = sw.load(tmp_path / "saved")
    other = torch.optim.SGD(again.parameters(), lr=0.1)
    again.resume(other)
    assert steps(again, other, given[2:]) == steps(step, optimizer, given[2:])


def test_dropout_begins_anew_on_another_kind_of_device(tmp_path):
    given = pairs(1)
    joint = sw.export_training(redraw(Dropped()).train(), given[0], loss=F.mse_loss)
    sw.shard(joint, mesh=1).save(tmp_path / "out")
    step = sw.load(tmp_path / "out")
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    steps(step, optimizer, given)
    step.save(tmp_path / "saved", optimizer)
    manifest = tmp_path / "saved" / "shardwright.json"
    written = json.loads(manifest.read_text())
    written["training"]["streams"] = {"cuda": written["training"]["streams"]["cpu"]}
    manifest.write_text(json.dumps(written))
    again = sw.load(tmp_path / "saved")
    with pytest.warns(sw.CheckpointWarning, match="drawn on cuda, and are drawn on cpu now"):
        again.resume(torch.optim.SGD(again.parameters(), lr=0.1))


class Precise(torch.optim.Optimizer):
    """Keeps float32 beside parameters of any dtype."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1e-2})

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if not state:
                state.update(sums=torch.zeros_like(p, dtype=torch.float32), rate=torch.tensor(1 / 3))
            state["sums"].mul_(0.9).add_(p.grad)
            p.sub_(state["sums"] * state["rate"] * 0.01)


def test_moments_keep_their_own_dtype(tmp_path):
    given = [tuple(one.bfloat16() for one in pair) for pair in pairs(2)]
    package(mlp().bfloat16(), given, tmp_path / "out", num_ranks=1)
    step = sw.load(tmp_path / "out")
    optimizer = Precise(step.parameters())
    steps(step, optimizer, given)
    step.save(tmp_path / "saved", optimizer)
    again = sw.load(tmp_path / "saved")
    other = Precise(again.parameters())
    again.resume(other)
    for name, parameter in again.named_parameters():
        for key, value in optimizer.state[step.get_parameter(name)].items():
            assert other.state[parameter][key].dtype == torch.float32
            assert torch.equal(other.state[parameter][key], value)


def test_the_state_of_another_optimiser_is_refused(tmp_path):
    given = pairs(1)
    package(mlp(), given, tmp_path / "out", num_ranks=1)
    step = sw.load(tmp_path / "out")
    optimizer = torch.optim.SGD(step.parameters(), lr=0.5)
    steps(step, optimizer, given)
    step.save(tmp_path / "saved", optimizer)
    again = sw.load(tmp_path / "saved")
    for kind in (torch.optim.AdamW, torch.optim.RMSprop):
        other = kind(again.parameters(), lr=0.1)
        with pytest.raises(sw.PackageError, match=f"is that of SGD, the optimiser is {kind.__name__}"):
            again.resume(other)
        assert other.param_groups[0]["lr"] == 0.1 and not other.state
