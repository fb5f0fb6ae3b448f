"""The tiny llama-architecture network in PyTorch: token ids in, logits out.

Layer layout, names and conventions are those of GGUF's ``llama`` architecture: RMS norm before attention and before
the gated feed-forward, grouped-query attention, rotary positions on INTERLEAVED pairs (x[2i], x[2i+1]), so that the
weights go into the file without a permutation. The output layer is tied to the token embedding.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Shape:
    """All widths are multiples of 32, the block of Q8_0."""

    vocab: int = 1024
    width: int = 128
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 384
    context: int = 512
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class Norm(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.width))
        self.eps = shape.norm_eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_dim
        self.attn_norm, self.ffn_norm = Norm(shape), Norm(shape)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_v = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.ffn_down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x, angles, mask):
        x = x + self.attention(self.attn_norm(x), angles, mask)
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))

    def attention(self, x, angles, mask):
        """Head h of the queries reads key head h // (heads / kv_heads)."""
        s, (batch, length, _) = self.shape, x.shape
        group = s.heads // s.kv_heads
        q = rotate(self.attn_q(x).view(batch, length, s.heads, s.head_dim), angles)
        k = rotate(self.attn_k(x).view(batch, length, s.kv_heads, s.head_dim), angles)
        v = self.attn_v(x).view(batch, length, s.kv_heads, s.head_dim)
        q = q.view(batch, length, s.kv_heads, group, s.head_dim).permute(0, 2, 3, 1, 4)
        q = q.reshape(batch * s.kv_heads, group * length, s.head_dim)
        k = k.permute(0, 2, 3, 1).reshape(batch * s.kv_heads, s.head_dim, length)
        v = v.permute(0, 2, 1, 3).reshape(batch * s.kv_heads, length, s.head_dim)
        scores = torch.baddbmm(mask.repeat(group, 1), q, k, alpha=1 / math.sqrt(s.head_dim))
        out = torch.bmm(torch.softmax(scores, dim=-1), v)
        out = out.view(batch, s.kv_heads, group, length, s.head_dim).permute(0, 3, 1, 2, 4)
        return self.attn_output(out.reshape(batch, length, s.width))


class Network(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = Norm(shape)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                ends_residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(p, std=0.05 / (math.sqrt(2 * shape.layers) if ends_residual else 1))

    def forward(self, ids):
        """ids [batch, length] -> logits [batch, length, vocab]"""
        length = ids.shape[1]
        angles = rope_angles(self.shape, length)
        mask = torch.full((length, length), -1e9).triu(1)
        x = self.token_embd(ids)
        for layer in self.blk:
            x = layer(x, angles, mask)
        return F.linear(self.output_norm(x), self.token_embd.weight)


def rope_angles(shape: Shape, length: int):
    """cos and sin, each [length, 1, head_dim / 2]"""
    half = torch.arange(shape.head_dim // 2, dtype=torch.float32)
    frequency = shape.rope_base ** (-2 * half / shape.head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency).unsqueeze(1)
    return angle.cos(), angle.sin()


def rotate(x, angles):
    """Turns the pair (x[2i], x[2i+1]) of every head of x [batch, length, heads, head_dim] by its position's angle."""
    cos, sin = angles
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
