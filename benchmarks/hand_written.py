"""A Llama that is tensor-parallel by hand, as Megatron has it: what people write today, to compare with.

Queries, keys, values, gate and up are cut by columns, what follows them by rows, and each of a layer's two sums is one
all-reduce in place. Norms and the embedding are whole on every rank. In training, what enters columns has the two
gradients' sums as well: Megatron's f, beside its g.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
ROWS = ("o_proj", "down_proj")


def linear(module, rank, num_ranks):
    """This rank's share of a linear layer, by its name in the layer."""
    name, layer = module
    weight = layer.weight.detach()
    piece = weight.chunk(num_ranks, 0 if name in COLUMNS else 1)[rank].clone()
    mine = nn.Linear(piece.shape[1], piece.shape[0], bias=False, device="meta")
    mine.weight = nn.Parameter(piece, requires_grad=False)
    return mine


class Enter(torch.autograd.Function):
    """Megatron's f: a value as it is, its gradient summed over the ranks."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class Leave(torch.autograd.Function):
    """Megatron's g: a value summed over the ranks, its gradient as it is."""

    @staticmethod
    def forward(ctx, x, group):
        dist.all_reduce(x, group=group)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def rotate(x, cos, sin):
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


class Layer(nn.Module):
    def __init__(self, layer, config, rank, num_ranks, enter, add):
        super().__init__()
        self.norm1, self.norm2 = layer.input_layernorm, layer.post_attention_layernorm
        for part in (layer.self_attn, layer.mlp):
            for name in (*COLUMNS, *ROWS):
                if hasattr(part, name):
                    setattr(self, name, linear((name, getattr(part, name)), rank, num_ranks))
        self.head_dim, self.eps, self.add = config.head_dim, config.rms_norm_eps, add
        self.enter = enter

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        h = self.enter(F.rms_norm(x, (width,), self.norm1.weight, self.eps))
        q, k, v = (
            f(h).view(batch, length, -1, self.head_dim).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1, enable_gqa=q.shape[1] != k.shape[1])
        x = x + self.add(self.o_proj(h.transpose(1, 2).reshape(batch, length, -1)))
        h = self.enter(F.rms_norm(x, (width,), self.norm2.weight, self.eps))
        return x + self.add(self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h)))


class HandWritten(nn.Module):
    """This rank's piece of a transformers ``LlamaModel``. ``group``: of its all-reduces; None: there are none.

    ``trained``: its weights require gradients; norms and the embedding are then those of ``model`` itself.
    """

    def __init__(self, model, rank, num_ranks, group, *, trained=False):
        super().__init__()

        def add(x):
            if group is None:
                return x
            if trained:
                return Leave.apply(x, group)
            dist.all_reduce(x, group=group)
            return x

        def enter(x):
            return Enter.apply(x, group) if trained and group is not None else x

        config = model.config
        self.embed, self.norm, self.rotary = model.embed_tokens, model.norm, model.rotary_emb
        self.layers = nn.ModuleList(Layer(layer, config, rank, num_ranks, enter, add) for layer in model.layers)
        self.eps = config.rms_norm_eps
        if trained:
            self.requires_grad_()

    def forward(self, ids):
        x = self.embed(ids)
        cos, sin = (one[:, None] for one in self.rotary(x, torch.arange(ids.shape[1])[None]))
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.rms_norm(x, (x.shape[-1],), self.norm.weight, self.eps)
