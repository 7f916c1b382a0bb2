"""State-space layers, recurrences and linear attention: channels or heads are cut through the whole scan."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.sharding import PLAN, Attend, check, chunks, held, kinds

WIDTH, INNER, STATE, TOKENS = 16, 24, 4, 4
X = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


class Mamba(nn.Module):
    """Packed input, depthwise convolution, and a selective scan whose steps and states come from the channels."""

    def __init__(self):
        super().__init__()
        self.in_proj = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.conv = nn.Conv1d(INNER, INNER, 3, groups=INNER, padding=2)
        self.x_proj = nn.Linear(INNER, 2 + 2 * STATE, bias=False)
        self.dt_proj = nn.Linear(2, INNER)
        self.a_log = nn.Parameter(torch.empty(INNER, STATE))
        self.d = nn.Parameter(torch.empty(INNER))
        self.out_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x):
        x, gate = self.in_proj(x).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :TOKENS])
        step, b, c = self.x_proj(x.transpose(1, 2)).split([2, STATE, STATE], -1)
        step = F.softplus(self.dt_proj(step)).transpose(1, 2)
        decay = torch.exp(step[..., None] * -torch.exp(self.a_log)[None, :, None])
        added = step[..., None] * b[:, None] * x[..., None]
        state, out = torch.zeros_like(added[:, :, 0]), []
        for t in range(TOKENS):
            state = decay[:, :, t] * state + added[:, :, t]
            out.append(state @ c[:, t, :, None])
        y = torch.cat(out, -1) + self.d[:, None] * x
        return self.out_proj(y.transpose(1, 2) * F.silu(gate))


MAMBA = {"in_proj": "colwise", "x_proj": "rowwise", "dt_proj": "colwise", "out_proj": "rowwise"}


@pytest.mark.parametrize(("plan", "num_ranks"), [(MAMBA, 2), (MAMBA, 3), (MAMBA, 5), ("auto", 4)])
def test_channels_are_cut_through_a_convolution_and_a_scan(plan, num_ranks):
    """One sum for the steps and states that all channels share, one for what leaves the block."""
    sharded = check(Mamba(), (X,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 2}
    channels = chunks(INNER, num_ranks)
    for name in ("conv.weight", "conv.bias", "dt_proj.weight", "a_log", "d"):
        assert held(sharded, name) == channels
    for name in ("x_proj.weight", "out_proj.weight"):
        assert held(sharded, name, 1) == channels
    assert held(sharded, "in_proj.weight") == [[*mine, *(INNER + i for i in mine)] for mine in channels]


class Mamba2(nn.Module):
    """Heads of channels with a decay each and groups of states, computed in chunks as matmuls; a gated norm."""

    heads, groups, dim = 8, 4, 4

    def __init__(self):
        super().__init__()
        self.inner, self.shared = self.heads * self.dim, self.groups * STATE
        self.in_proj = nn.Linear(WIDTH, 2 * self.inner + 2 * self.shared + self.heads, bias=False)
        channels = self.inner + 2 * self.shared
        self.conv = nn.Conv1d(channels, channels, 3, groups=channels, padding=2)
        self.a_log, self.dt_bias, self.d = (nn.Parameter(torch.empty(self.heads)) for _ in range(3))
        self.out_proj = nn.Linear(self.inner, WIDTH, bias=False)

    def forward(self, x):
        gate, mixed, step = self.in_proj(x).split([self.inner, self.inner + 2 * self.shared, self.heads], -1)
        mixed = F.silu(self.conv(mixed.transpose(1, 2))[..., :TOKENS].transpose(1, 2))
        x, b, c = mixed.split([self.inner, self.shared, self.shared], -1)
        x = x.unflatten(-1, (self.heads, self.dim))
        b, c = (y.unflatten(-1, (self.groups, STATE)).repeat_interleave(self.heads // self.groups, 2) for y in (b, c))
        step = F.softplus(step + self.dt_bias)
        log_decay = (-torch.exp(self.a_log) * step).transpose(1, 2).cumsum(-1)
        within = torch.tril(torch.exp(log_decay[..., :, None] - log_decay[..., None, :]))
        scores = torch.einsum("bthn,bshn->bhts", c, b) * within
        y = torch.einsum("bhts,bsh,bshp->bthp", scores, step, x) + self.d[:, None] * x
        return self.out_proj(y.flatten(2) * F.silu(gate))


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("plan", [{"in_proj": "colwise", "out_proj": "rowwise"}, "auto"], ids=["by name", "auto"])
def test_heads_of_states_are_cut_with_their_groups(plan, num_ranks):
    sharded = check(Mamba2(), (X,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    heads = chunks(Mamba2.heads, num_ranks)
    for name in ("a_log", "dt_bias", "d"):
        assert held(sharded, name) == heads
    # z, x, b, c and dt, each part by part.
    rows, start = [[] for _ in range(num_ranks)], 0
    for size in (32, 32, 16, 16, 8):
        for rank, mine in enumerate(chunks(size, num_ranks)):
            rows[rank] += [start + i for i in mine]
        start += size
    assert held(sharded, "in_proj.weight") == rows


@pytest.mark.parametrize("num_ranks", [2, 4, 8])
def test_states_that_all_heads_share_are_whole_on_every_rank(num_ranks):
    """One group, as most Mamba-2 models have: no gather for the states inside a fused projection."""

    class OneGroup(Mamba2):
        groups = 1

    sharded = check(OneGroup(), (X,), num_ranks, {"in_proj": "colwise", "out_proj": "rowwise"})
    assert kinds(sharded) == {"all_reduce": 1}
    for rank, heads in enumerate(chunks(OneGroup.heads, num_ranks)):
        mine = [4 * head + i for head in heads for i in range(4)]
        assert held(sharded, "conv.weight")[rank] == [*mine, *range(32, 40)]
        assert held(sharded, "in_proj.weight")[rank] == [
            *mine,
            *(32 + i for i in [*mine, *range(32, 40)]),
            *(72 + h for h in heads),
        ]


class Rwkv(nn.Module):
    """A shift by a token, and a recurrence of every channel with a running maximum."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.empty(WIDTH))
        self.decay, self.first = nn.Parameter(torch.empty(INNER)), nn.Parameter(torch.empty(INNER))
        self.key, self.value, self.receptance = (nn.Linear(WIDTH, INNER, bias=False) for _ in range(3))
        self.output = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x):
        x = x * self.mix + F.pad(x, (0, 0, 1, -1)) * (1 - self.mix)
        key, value, gate = self.key(x), self.value(x), torch.sigmoid(self.receptance(x))
        top, above, below = torch.full_like(key[:, 0], -1e30), torch.zeros_like(key[:, 0]), torch.zeros_like(key[:, 0])
        out = []
        for t in range(TOKENS):
            now = torch.maximum(top, key[:, t] + self.first)
            old, new = torch.exp(top - now), torch.exp(key[:, t] + self.first - now)
            out.append((old * above + new * value[:, t]) / (old * below + new))
            now = torch.maximum(top - torch.exp(self.decay), key[:, t])
            old, new = torch.exp(top - torch.exp(self.decay) - now), torch.exp(key[:, t] - now)
            top, above, below = now, old * above + new * value[:, t], old * below + new
        return self.output(gate * torch.stack(out, 1))


RWKV = {"[key,value,receptance]": "colwise", "output": "rowwise"}


@pytest.mark.parametrize(("plan", "num_ranks"), [(RWKV, 2), (RWKV, 5), ("auto", 4)])
def test_channels_of_a_recurrence_are_cut(plan, num_ranks):
    sharded = check(Rwkv(), (X,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    for name in ("key.weight", "value.weight", "receptance.weight", "decay", "first"):
        assert held(sharded, name) == chunks(INNER, num_ranks)


class Linear(Attend):
    """Attention without a softmax: sums of keys times values so far."""

    def attend(self, q, k, v):
        q, k = F.elu(q) + 1, F.elu(k) + 1
        sums = (k[..., None] * v[..., None, :]).cumsum(2)
        return (q[..., None, :] @ sums).squeeze(-2) / (q * k.cumsum(2)).sum(-1, keepdim=True)


class DeltaRule(Attend):
    """Qwen3-Next, Kimi: every head keeps a matrix that decays and is corrected a token at a time."""

    def __init__(self):
        super().__init__()
        self.beta, self.alpha = nn.Linear(self.width, self.heads), nn.Linear(self.width, self.heads)
        self.a_log = nn.Parameter(torch.empty(self.heads))

    def forward(self, x):
        self.rates = torch.sigmoid(self.beta(x)), -self.a_log.exp() * F.softplus(self.alpha(x))
        return super().forward(x)

    def attend(self, q, k, v):
        beta, log_decay = (rate.transpose(1, 2)[..., None] for rate in self.rates)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        state, out = torch.zeros_like(q[:, :, 0, :, None] * v[:, :, 0, None]), []
        for t in range(q.shape[2]):
            state = state * log_decay[:, :, t, :, None].exp()
            error = (v[:, :, t] - (k[:, :, t, None] @ state).squeeze(-2)) * beta[:, :, t]
            state = state + k[:, :, t, :, None] * error[..., None, :]
            out.append((q[:, :, t, None] @ state).squeeze(-2))
        return torch.stack(out, 2)


class Retention(Attend):
    """A decay a head, in the form of a mask."""

    def __init__(self):
        super().__init__()
        self.register_buffer("decay", torch.linspace(0.8, 0.9, 8).double())

    def attend(self, q, k, v):
        places = torch.arange(q.shape[2])
        back = places[:, None] - places
        weights = torch.where(back >= 0, self.decay[:, None, None] ** back.clamp_min(0), 0)
        return (q @ k.transpose(-1, -2) * weights) @ v


OF_HEADS = {Linear: [], DeltaRule: ["beta.weight", "alpha.weight", "alpha.bias", "a_log"], Retention: ["decay"]}
WIDE = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("plan", "num_ranks"), [(PLAN, 2), (PLAN, 3), ("auto", 4)], ids=["2", "3", "auto"])
@pytest.mark.parametrize("kind", OF_HEADS)
def test_heads_of_linear_attention_are_cut(kind, plan, num_ranks):
    sharded = check(kind(), (WIDE,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    heads = chunks(8, num_ranks)
    assert held(sharded, "q_proj.weight") == [[4 * head + i for head in mine for i in range(4)] for mine in heads]
    for name in OF_HEADS[kind]:
        assert held(sharded, name) == heads


class Hybrid(nn.Module):
    """Attention, a recurrence of channels and a state-space layer, one after the other."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(32, WIDTH), nn.Linear(WIDTH, 32)
        self.first, self.second, self.third = Attend(), Rwkv(), Mamba2()

    def forward(self, x):
        x = self.down(x + self.first(x))
        x = x + self.second(x)
        return self.up(x + self.third(x))


def test_a_hybrid_stack_costs_what_its_layers_cost():
    plan = {
        **{f"first.{key}": style for key, style in PLAN.items()},
        **{f"second.{key}": style for key, style in RWKV.items()},
        "third.in_proj": "colwise",
        "third.out_proj": "rowwise",
    }
    assert kinds(check(Hybrid(), (WIDE,), 2, plan)) == {"all_reduce": 3}
