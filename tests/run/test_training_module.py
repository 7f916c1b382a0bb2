"""Training on real ranks: losses, norms and weights follow those of one process."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import shardwright as sw
from tests.support.architectures import Logits
from tests.support.models import MEGATRON, Decoder, redraw
from tests.support.ranks import on_ranks
from tests.support.training import Dropped, batches, cut_batch, next_token, outcome

NUM_STEPS = 50
ADDING = (1,)
"""The batch, by its number, to whose gradients those of the next are added."""


def train_on_rank(rank, package, given, save_to, rate=3e-3, adding=()):
    """Losses and norms of every call. ``adding``: the calls whose gradients stay, for those of the next to be added."""
    # Whatever a rank was seeded with, the first one's seed counts.
    torch.manual_seed(7 + rank)
    step = sw.load(package)
    optimizer = torch.optim.AdamW(step.parameters(), lr=rate)
    losses, norms = [], []
    for number, args in enumerate(given):
        losses.append(float(step(*args)))
        if number in adding:
            continue
        norms.append(float(sw.clip_grad_norm_(step, 1.0)))
        optimizer.step()
        optimizer.zero_grad()
    if save_to:
        step.save(save_to)
    return losses, norms


def train_alone(model, given, loss, rate=3e-3, adding=()):
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    losses, norms = [], []
    for number, (*args, target) in enumerate(given):
        value = loss(model(*args), target)
        value.backward()
        losses.append(float(value.detach()))
        if number in adding:
            continue
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms


@pytest.mark.ranks
def test_fifty_steps_follow_those_of_one_process(tmp_path):
    model = redraw(Decoder(layers=2, tied=True)).train()
    given = batches(NUM_STEPS)
    joint = sw.export_training(model, given[0], loss=next_token)
    sw.shard(joint, mesh=2, plan={**MEGATRON, "embed": "rowwise"}).save(tmp_path / "out")
    found = on_ranks(2, train_on_rank, tmp_path / "out", given, tmp_path / "trained")
    wanted = train_alone(model, given, next_token)
    for losses, norms in found:
        assert losses == pytest.approx(wanted[0], rel=1e-4)
        assert norms == pytest.approx(wanted[1], rel=1e-3)
    assert wanted[0][-1] != pytest.approx(wanted[0][0], rel=1e-2)
    sw.gather(tmp_path / "trained", tmp_path / "state.safetensors")
    state = load_file(tmp_path / "state.safetensors")
    for name, value in model.state_dict().items():
        if name in state:
            torch.testing.assert_close(state[name], value, rtol=1e-2, atol=1e-3)
    assert "embed.weight" in state or "lm_head.weight" in state
    # Elsewhere, from where it stands.
    sw.reshard(tmp_path / "trained", tmp_path / "alone", mesh=1)
    again = sw.load(tmp_path / "alone")
    value = next_token(model(given[0][0]), given[0][1])
    assert float(again(*given[0])) == pytest.approx(float(value.detach()), rel=1e-3)


def train_on_part(rank, package, given):
    """On the half of every batch that is this rank's place on the first of two axes."""
    parts = [[one.chunk(2)[rank // 2] for one in args] for args in given]
    return train_on_rank(rank, package, parts, None, adding=ADDING)


@pytest.mark.ranks
def test_two_axes_and_weights_cut_over_both(tmp_path):
    """Each rank has its part of a batch; losses are of all of it, and norms count once what several ranks hold. The
    gradients of two batches in a row are added.
    """
    model = redraw(Decoder(layers=1)).train()
    given = batches(4)
    stored = {"layers.*.mlp.[gate,up]_proj.weight": sw.Shard(1), "layers.*.mlp.down_proj.weight": sw.Shard(0)}
    joint = sw.export_training(model, given[0], loss=next_token)
    plan, inputs = {"dp": stored, "tp": MEGATRON}, {"dp": cut_batch()}
    with pytest.warns(sw.GatherWarning):
        sw.shard(joint, mesh={"dp": 2, "tp": 2}, plan=plan, inputs=inputs).save(tmp_path / "out")
    found = on_ranks(4, train_on_part, tmp_path / "out", given)
    wanted = train_alone(model, given, next_token, adding=ADDING)
    assert len(wanted[1]) == len(given) - len(ADDING)
    for losses, norms in found:
        assert losses == pytest.approx(wanted[0], rel=1e-5)
        assert norms == pytest.approx(wanted[1], rel=1e-4)


class InThree(Dropped):
    """Dropout of three groups, which are cut whole."""

    def forward(self, x):
        groups = self.up(x).unflatten(-1, (3, 10)).softmax(-1)
        return x + self.down(self.drop(groups).flatten(-2))


@pytest.mark.ranks
@pytest.mark.parametrize(("kind", "num_ranks"), [(Dropped, 2), (InThree, 2), (InThree, 4)])
def test_dropout_draws_what_one_process_draws(tmp_path, kind, num_ranks):
    """Also where a rank's share is smaller than the others', or nothing."""
    generator = torch.Generator().manual_seed(3)
    given = [tuple(torch.randn(6, 12, generator=generator) for _ in range(2)) for _ in range(4)]
    model = redraw(kind()).train()
    joint = sw.export_training(model, given[0], loss=F.mse_loss)
    sw.shard(joint, mesh=num_ranks, plan={"up": "colwise", "down": "rowwise"}).save(tmp_path / "out")
    found = on_ranks(num_ranks, train_on_rank, tmp_path / "out", given, None)
    torch.manual_seed(7)
    wanted = train_alone(model, given, F.mse_loss)
    for losses, norms in found:
        assert losses == pytest.approx(wanted[0], rel=1e-5)
        assert norms == pytest.approx(wanted[1], rel=1e-4)


def test_a_package_of_one_rank_is_trained_without_a_process_group(tmp_path):
    model = redraw(Decoder(layers=1)).train()
    given = batches(3)
    sw.shard(sw.export_training(model, given[0], loss=next_token), mesh=1).save(tmp_path / "out")
    found = train_on_rank(0, tmp_path / "out", given, tmp_path / "trained")
    wanted = train_alone(model, given, next_token)
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert found[1] == pytest.approx(wanted[1], rel=1e-4)
    with pytest.raises(sw.PackageError, match="trained"):
        sw.load(tmp_path / "trained").save(tmp_path / "trained")


@pytest.mark.parametrize("step", [nn.Linear(2, 2), None])
def test_gradients_of_anything_else_are_not_clipped(step):
    with pytest.raises(sw.ShardwrightError, match="takes what `load` gives of a package for training"):
        sw.clip_grad_norm_(step, 1.0)


def test_a_step_is_compiled(tmp_path):
    args = (torch.randn(3, 4), torch.randn(3, 2))
    sw.shard(sw.export_training(nn.Linear(4, 2), args, loss=F.mse_loss), mesh=1).save(tmp_path / "out")
    steps = [sw.load(tmp_path / "out", backend=backend) for backend in ("eager", "compile")]
    losses = [step(*args) for step in steps]
    torch.testing.assert_close(losses[0], losses[1])
    for plain, compiled in zip(*(step.parameters() for step in steps), strict=True):
        torch.testing.assert_close(plain.grad, compiled.grad)


def test_native_code_is_for_inference(tmp_path):
    args = (torch.randn(3, 4), torch.randn(3, 2))
    sw.shard(sw.export_training(nn.Linear(4, 2), args, loss=F.mse_loss), mesh=1).save(tmp_path / "out")
    with pytest.raises(sw.PackageError, match="training"):
        sw.compile_package(tmp_path / "out")


def refused_together_then_alone(rank, package, args, what):
    step = sw.load(package, timeout_s=3)
    wrong = (args[0][:, :3], args[1])
    found = [outcome(step, *wrong), float(step(*args))]
    if rank == 0 and what == "clipping":
        found.append(outcome(sw.clip_grad_norm_, step, -1.0))
    else:
        # Rank 1 waits in a collective that rank 0 does not come to.
        found.append(outcome(step, *(wrong if rank == 0 else args)))
    before = {name: p.grad.clone() for name, p in step.named_parameters()}
    found.append(outcome(step, *args))
    return [*found, all(torch.equal(p.grad, before[name]) for name, p in step.named_parameters())]


@pytest.mark.ranks
@pytest.mark.parametrize("what", ["a step", "clipping"])
def test_what_one_rank_alone_refuses_is_not_followed_by_gradients_of_two_batches(tmp_path, what):
    model = redraw(nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 12))).train()
    args = (torch.randn(4, 12), torch.randn(4, 12))
    sw.shard(sw.export_training(model, args, loss=F.mse_loss), mesh=2, plan={"0": "colwise", "2": "rowwise"}).save(
        tmp_path / "out"
    )
    for rank, found in enumerate(on_ranks(2, refused_together_then_alone, tmp_path / "out", args, what)):
        together, loss, alone, next_one, is_kept = found
        assert together.startswith("InputError")
        assert loss == pytest.approx(float(F.mse_loss(model(args[0]), args[1]).detach()), rel=1e-4)
        assert "Error" in alone and ("RunError" not in alone)
        assert next_one.startswith(f"RunError: a call failed on rank {rank}")
        assert is_kept


def load_compiled(rank, package):
    return outcome(lambda: str(sw.load(package, backend="compile")))


@pytest.mark.ranks
def test_compiled_ranks_would_draw_different_masks(tmp_path):
    args = (torch.randn(6, 12), torch.randn(6, 12))
    joint = sw.export_training(redraw(Dropped()).train(), args, loss=F.mse_loss)
    sw.shard(joint, mesh=2, plan={"up": "colwise", "down": "rowwise"}).save(tmp_path / "out")
    for found in on_ranks(2, load_compiled, tmp_path / "out"):
        assert found.startswith("PackageError: the package draws random numbers (dropout)")
        assert "try: backend='eager'" in found


@pytest.mark.ranks
def test_a_layer_of_the_shape_of_smollm2(tmp_path):
    """Nine heads in three groups on two ranks, tied embeddings, by the plan that the model brings."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    sizes = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=96, tie_word_embeddings=True)
    model = Logits(transformers.LlamaForCausalLM(config)).train()
    given = batches(5) * (NUM_STEPS // 5)
    joint = sw.export_training(model, given[0], loss=next_token)
    sw.shard(joint, mesh=2, plan="hf").save(tmp_path / "out")
    found = on_ranks(2, train_on_rank, tmp_path / "out", given, None, 1e-4)
    wanted = train_alone(model, given, next_token, 1e-4)
    for losses, _ in found:
        assert losses == pytest.approx(wanted[0], rel=1e-4)
    assert wanted[0][-1] < 0.98 * wanted[0][0]
