"""What attention adds for positions goes with the heads it belongs to: nothing is communicated but the one sum."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.models import rotate
from tests.support.sharding import PLAN, Attend, check, chunks, held, kinds

X = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))


def frequencies(count, head_dim):
    return torch.arange(count)[:, None] / 100 ** (torch.arange(0, head_dim, 2) / head_dim)


class ByHalves(Attend):
    """Llama: the first half of a head is turned against the second."""

    def attend(self, q, k, v):
        angles = frequencies(q.shape[2], 4).to(q.dtype).repeat(1, 2)
        q, k = (x * angles.cos() + rotate(x) * angles.sin() for x in (q, k))
        return super().attend(q, k, v)


class ByPairs(Attend):
    """GPT-J: neighbours are turned against each other, of only a part of the head."""

    heads, kv_heads, head_dim = 4, 4, 8

    def attend(self, q, k, v):
        angles = frequencies(q.shape[2], 4).to(q.dtype).repeat_interleave(2, -1)

        def turn(x):
            turned, rest = x[..., :4], x[..., 4:]
            pairs = torch.stack((-turned[..., 1::2], turned[..., ::2]), -1).flatten(-2)
            return torch.cat((turned * angles.cos() + pairs * angles.sin(), rest), -1)

        return super().attend(turn(q), turn(k), v)


class ByComplex(Attend):
    """Llama as Meta wrote it: pairs are complex numbers."""

    def attend(self, q, k, v):
        angles = frequencies(q.shape[2], 4).to(q.dtype)
        turns = torch.polar(torch.ones_like(angles), angles)

        def turn(x):
            return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)

        return super().attend(turn(q), turn(k), v)


class Alibi(Attend):
    """Slopes of a buffer, one a head."""

    def __init__(self):
        super().__init__()
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, 9).double())

    def weigh(self, scores):
        places = torch.arange(scores.shape[-1])
        return (scores - self.slopes[:, None, None] * (places[:, None] - places).abs()).softmax(-1)


class AlibiMadeInPlace(Attend):
    """Slopes computed in the forward pass, as BLOOM does, and added where the heads are laid out with the batch."""

    def weigh(self, scores):
        b, h, t, _ = scores.shape
        slopes = 2.0 ** -torch.arange(1, h + 1, dtype=scores.dtype)
        bias = (slopes[:, None] * torch.arange(t))[:, None].expand(b, h, 1, t).reshape(b * h, 1, t)
        return (bias + scores.reshape(b * h, t, t)).view(b, h, t, t).softmax(-1)


class Buckets(Attend):
    """T5: an embedding of buckets of distances, one feature a head."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Embedding(7, self.heads)

    def weigh(self, scores):
        places = torch.arange(scores.shape[-1])
        bucket = (places - places[:, None]).clamp(-3, 3) + 3
        return (scores + self.bias(bucket).permute(2, 0, 1)[None]).softmax(-1)


class Table(Attend):
    """Swin: a table looked up at an index that is a buffer."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.empty(11, self.heads))
        places = torch.arange(6)
        self.register_buffer("index", (places - places[:, None]) + 5)

    def weigh(self, scores):
        bias = self.table[self.index.view(-1)].view(6, 6, -1).permute(2, 0, 1).contiguous()
        return (scores + bias.unsqueeze(0)).softmax(-1)


class Shifted(Attend):
    """Transformer-XL and Conformer: scores by distance, which a pad and a view shift into place."""

    def __init__(self):
        super().__init__()
        self.pos_proj = nn.Linear(self.width, self.heads * self.head_dim, bias=False)
        self.u, self.v = (nn.Parameter(torch.empty(self.heads, self.head_dim)) for _ in range(2))

    def attend(self, q, k, v):
        t = q.shape[2]
        distances = torch.arange(t - 1, -t, -1, dtype=q.dtype)[:, None]
        positions = self.pos_proj((distances / torch.arange(1, self.width + 1)).sin())
        positions = positions.view(1, 2 * t - 1, self.heads, self.head_dim).permute(0, 2, 3, 1)
        by_distance = F.pad((q + self.v[:, None]) @ positions, (1, 0))
        b, h, t, n = by_distance.shape
        shifted = by_distance.view(b, h, n, t)[:, :, 1:].view(b, h, t, n - 1)[..., :t]
        return ((q + self.u[:, None]) @ k.transpose(-1, -2) + shifted).mul(0.5).softmax(-1) @ v


class Window(Attend):
    """Causal, and no further back than a few tokens."""

    def weigh(self, scores):
        places = torch.arange(scores.shape[-1])
        back = places[:, None] - places
        return scores.masked_fill((back < 0) | (back >= 3), -math.inf).softmax(-1)


class WindowMask(Attend):
    """The same through the fused operator, with the mask as numbers, made as transformers makes it."""

    def attend(self, q, k, v):
        t = q.shape[2]
        mask = torch.full((t, t), -math.inf, dtype=q.dtype)
        mask = torch.triu(mask, 1) + torch.tril(mask, -3)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None, None].expand(len(q), 1, t, t))


class BlockMask(Attend):
    """Tokens see those of their block only."""

    def attend(self, q, k, v):
        block = torch.arange(q.shape[2]) // 3
        return F.scaled_dot_product_attention(q, k, v, attn_mask=block[:, None] == block)


class Blocks(Attend):
    """The same by laying the blocks out as a dim."""

    def attend(self, q, k, v):
        blocks = [x.unflatten(2, (-1, 3)) for x in (q, k, v)]
        return F.scaled_dot_product_attention(*blocks).flatten(2, 3)


class Sinks(Attend):
    """GPT-OSS: every head has a score of its own to give weight to nothing."""

    def __init__(self):
        super().__init__()
        self.sinks = nn.Parameter(torch.empty(self.heads))

    def weigh(self, scores):
        sinks = self.sinks.reshape(1, -1, 1, 1).expand(len(scores), -1, scores.shape[2], 1)
        scores = torch.cat((scores, sinks), -1)
        return (scores - scores.max(-1, keepdim=True).values).softmax(-1)[..., :-1]


class Softcap(Attend):
    """Gemma: scores bounded, and a scale learnt for every head."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(self.heads, 1, 1))

    def weigh(self, scores):
        return (5 * torch.tanh(scores * self.scale / 5)).softmax(-1)


def norm(x, weight):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class NormPerHead(Attend):
    """Qwen3: one norm for every head of q and of k."""

    def __init__(self):
        super().__init__()
        self.q_norm, self.k_norm = (nn.Parameter(torch.empty(self.head_dim)) for _ in range(2))

    def attend(self, q, k, v):
        return super().attend(norm(q, self.q_norm), norm(k, self.k_norm), v)


class NormWithWeightsPerHead(Attend):
    """StableLM, Cohere: the weights differ from head to head."""

    def __init__(self):
        super().__init__()
        self.q_norm, self.k_norm = (nn.Parameter(torch.empty(self.heads, 1, self.head_dim)) for _ in range(2))

    def attend(self, q, k, v):
        return super().attend(norm(q, self.q_norm), norm(k, self.k_norm), v)


class NormOverHeads(Attend):
    """OLMo-2: one norm over all heads."""

    def __init__(self):
        super().__init__()
        self.q_norm, self.k_norm = (nn.Parameter(torch.empty(self.heads * self.head_dim)) for _ in range(2))

    def project(self, x):
        q, k = norm(self.q_proj(x), self.q_norm), norm(self.k_proj(x), self.k_norm)
        return [y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for y in (q, k, self.v_proj(x))]


CUT_WITH_THE_HEADS = {
    Alibi: {"slopes": 0},
    Buckets: {"bias.weight": 1},
    Table: {"table": 1},
    Sinks: {"sinks": 0},
    Softcap: {"scale": 0},
    NormWithWeightsPerHead: {"q_norm": 0, "k_norm": 0},
    Shifted: {"u": 0, "v": 0},
}
"""The dims of what belongs to heads."""

ONE_SUM = [
    *CUT_WITH_THE_HEADS,
    *(ByHalves, ByPairs, ByComplex, AlibiMadeInPlace, Window, WindowMask, BlockMask, Blocks, NormPerHead),
]


@pytest.mark.parametrize(("plan", "num_ranks"), [(PLAN, 2), (PLAN, 3), ("auto", 4)], ids=["2", "3", "auto"])
@pytest.mark.parametrize("kind", ONE_SUM)
def test_heads_are_cut_with_all_that_belongs_to_them(kind, plan, num_ranks):
    sharded = check(kind(), (X,), num_ranks, plan)
    assert kinds(sharded) == {"all_reduce": 1}
    heads = chunks(kind.heads, num_ranks)
    rows = [[kind.head_dim * head + i for head in mine for i in range(kind.head_dim)] for mine in heads]
    for name in "qkv":
        assert held(sharded, f"{name}_proj.weight") == rows
    assert held(sharded, "o_proj.weight", 1) == rows
    for name, dim in CUT_WITH_THE_HEADS.get(kind, {}).items():
        assert held(sharded, name, dim) == heads


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_a_norm_over_all_heads_adds_up_one_number_a_token(num_ranks):
    sharded = check(NormOverHeads(), (X,), num_ranks, PLAN)
    assert kinds(sharded) == {"all_reduce": 3}
    assert sorted(c.shape for c in sharded.collectives) == [(2, 6, 1), (2, 6, 1), (2, 6, 32)]
    for name in ("q_norm", "k_norm"):
        assert held(sharded, name) == held(sharded, "q_proj.weight")
