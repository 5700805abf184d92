"""Dropout and banded self-attention as fast as one CPU core allows, exact in their maths.

Three facts shape this module. `nn.Dropout` spends most of its time drawing one Bernoulli number an
element, so here masks come from 16 random bits an element (the keep probability is thereby rounded to
1/65536 and the scale uses the rounded value, so the expectation stays exact). The band mask makes most
attention scores of a narrow context useless, so scores are only formed for the key range that a block
of queries can see. And attention is worked through in chunks that fit a core's cache.

On a GPU the same modules use torch's own fused dropout and scaled-dot-product attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 65536  # 16 bits an element
_CACHE_FLOATS = 160_000  # scores worked on at a time: they and their mask stay in a core's L2 cache


class RandomBits:
    """A seeded stream of 16-bit random integers, as tensors. Its state is plain JSON."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.SFC64(seed))

    def draw(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """An int16 tensor of `shape`, uniform over all its 65536 values."""
        count = math.prod(shape)
        words = self._rng.integers(-(2**63), 2**63, dtype=np.int64, size=(count + 3) // 4)
        return torch.from_numpy(words).view(torch.int16)[:count].view(shape)

    def state(self) -> dict[str, Any]:
        state = self._rng.bit_generator.state
        return {
            "words": [int(word) for word in state["state"]["state"]],
            "has_uint32": int(state["has_uint32"]),
            "uinteger": int(state["uinteger"]),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = {
            "bit_generator": "SFC64",
            "state": {"state": np.array(state["words"], dtype=np.uint64)},
            "has_uint32": state["has_uint32"],
            "uinteger": state["uinteger"],
        }


def _threshold(p: float) -> tuple[int, float]:
    """The largest int16 that is kept, and the scale of what is kept."""
    keep = min(max(round((1.0 - p) * _LEVELS), 1), _LEVELS)
    return keep - _LEVELS // 2 - 1, _LEVELS / keep


def _mask(bits: Tensor, threshold: int, dtype: torch.dtype) -> Tensor:
    return torch.le(bits, threshold, out=torch.empty(bits.shape, dtype=dtype))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Tensor, threshold: int, scale: float) -> Tensor:
        ctx.save_for_backward(bits)
        ctx.threshold, ctx.scale = threshold, scale
        return _mask(bits, threshold, x.dtype).mul_(x).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (bits,) = ctx.saved_tensors
        return _mask(bits, ctx.threshold, grads[0].dtype).mul_(grads[0]).mul_(ctx.scale), None, None, None


class _ResidualDropout(torch.autograd.Function):
    """residual + dropout(x) in one pass."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, bits: Tensor, threshold: int, scale: float) -> Tensor:
        ctx.save_for_backward(bits)
        ctx.threshold, ctx.scale = threshold, scale
        return torch.addcmul(residual, x, _mask(bits, threshold, x.dtype), value=scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (bits,) = ctx.saved_tensors
        grad = grads[0]
        return grad, _mask(bits, ctx.threshold, grad.dtype).mul_(grad).mul_(ctx.scale), None, None, None


class Dropout(nn.Module):
    """`nn.Dropout` with cheap masks on the CPU; `bits` is shared by all dropouts of a network."""

    def __init__(self, p: float, bits: RandomBits) -> None:
        super().__init__()
        self.p = float(p)
        self._bits = bits

    def _cheap(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and self.p < 1.0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if not self._cheap(x):
            return F.dropout(x, self.p)
        out: Tensor = _Dropout.apply(x, self._bits.draw(x.shape), *_threshold(self.p))
        return out

    def add(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + dropout(x)."""
        if not self.training or self.p == 0.0:
            return residual + x
        if not self._cheap(x):
            return residual + F.dropout(x, self.p)
        out: Tensor = _ResidualDropout.apply(residual, x, self._bits.draw(x.shape), *_threshold(self.p))
        return out


@dataclass(frozen=True)
class Band:
    """Which key bins each query bin sees, and how to walk it in blocks.

    Attributes:
        visible: bool (T, T), or None when every bin sees every bin.
        bias: float (T, T) of 0 and -inf, or None.
        blocks: (query start, query end, key start, key end), covering all that is visible.
    """

    visible: Tensor | None
    bias: Tensor | None
    blocks: tuple[tuple[int, int, int, int], ...]


def make_band(length: int, forward: int, backward: int, full: bool, wrap_initial: bool, device: torch.device) -> Band:
    """The NDT's context mask: key j is seen from i iff i - backward <= j <= i + forward.

    Args:
        length: bins T.
        forward: bins seen ahead; negative means all.
        backward: bins seen back; zero or less means all.
        full: no mask at all.
        wrap_initial: the first `backward` queries also see the end of the trial, as if time were a ring
            (query i sees keys T - backward + j for j >= i).
        device: where the masks live.
    """
    if full:
        return Band(None, None, ((0, length, 0, length),))
    ahead = length if forward < 0 else forward
    back = length if backward <= 0 else backward
    i = torch.arange(length).unsqueeze(1)
    j = torch.arange(length).unsqueeze(0)
    visible = (j >= i - back) & (j <= i + ahead)
    if wrap_initial and back < length:
        visible |= (i < back) & (j - (length - back) >= i)
    if bool(visible.all()):
        return Band(None, None, ((0, length, 0, length),))
    bias = torch.zeros(length, length).masked_fill_(~visible, float("-inf"))
    return Band(visible.to(device), bias.to(device), _blocks(visible))


def _blocks(visible: Tensor) -> tuple[tuple[int, int, int, int], ...]:
    length = visible.shape[0]
    best: tuple[int, tuple[tuple[int, int, int, int], ...]] | None = None
    for parts in (1, 2, 3, 4):
        size = math.ceil(length / parts)
        blocks = []
        for start in range(0, length, size):
            end = min(start + size, length)
            keys = visible[start:end].any(0).nonzero()
            first, last = int(keys[0]), int(keys[-1]) + 1
            # keys aligned to 8: whole vector registers
            blocks.append((start, end, first - first % 8, min(length, last + (-last) % 8)))
        # each extra block costs about as much as a tenth of the full square
        cost = sum((e - s) * (ke - ks) for s, e, ks, ke in blocks) + parts * length * length // 20
        if best is None or cost < best[0]:
            best = (cost, tuple(blocks))
    assert best is not None
    return best[1]


class _BandedAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + band), dropout, times v: chunk by chunk, forward and backward.

    qkv is (B, T, 3, H, W) with W >= d zero-padded; the result is (B, T, H, W).
    The backward pass uses sum_j P_ij dP_ij = dO_i . O_i, which also holds under dropout.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, band: Band, scale: float, bits: RandomBits | None, p: float) -> Tensor:
        batch, length, _, heads, width = qkv.shape
        out = qkv.new_empty(batch, length, heads, width)
        saved: list[tuple[Tensor, Tensor | None]] = []
        threshold, rescale = _threshold(p) if bits is not None else (0, 1.0)
        for piece, head, (q0, q1, k0, k1) in _chunks(batch, heads, band):
            q = qkv[piece, q0:q1, 0, head]
            k = qkv[piece, k0:k1, 1, head]
            v = qkv[piece, k0:k1, 2, head]
            if band.bias is None:
                scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
            else:
                scores = torch.baddbmm(band.bias[q0:q1, k0:k1], q, k.transpose(1, 2), alpha=scale)
            weights = torch.softmax(scores, -1, out=scores)
            drawn = None
            if bits is not None:
                drawn = bits.draw(weights.shape)
                seen = _mask(drawn, threshold, weights.dtype).mul_(weights)
                out[piece, q0:q1, head] = torch.bmm(seen, v).mul_(rescale)
            else:
                out[piece, q0:q1, head] = torch.bmm(weights, v)
            saved.append((weights, drawn))
        ctx.save_for_backward(qkv, out)
        ctx.saved, ctx.band, ctx.scale, ctx.threshold, ctx.rescale = saved, band, scale, threshold, rescale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        qkv, out = ctx.saved_tensors
        grad = grads[0].contiguous()
        batch, _, _, heads, _ = qkv.shape
        dqkv = torch.zeros_like(qkv)
        inner = (grad * out).sum(-1, keepdim=True)
        for (piece, head, (q0, q1, k0, k1)), (weights, drawn) in zip(
            _chunks(batch, heads, ctx.band), ctx.saved, strict=True
        ):
            q = qkv[piece, q0:q1, 0, head]
            k = qkv[piece, k0:k1, 1, head]
            v = qkv[piece, k0:k1, 2, head]
            do = grad[piece, q0:q1, head]
            dweights = torch.bmm(do, v.transpose(1, 2))
            if drawn is None:
                seen = weights
            else:
                kept = _mask(drawn, ctx.threshold, weights.dtype)
                dweights.mul_(kept)
                seen = kept.mul_(weights)
            dqkv[piece, k0:k1, 2, head] += torch.bmm(seen.transpose(1, 2), do).mul_(ctx.rescale)
            # dS = P * (rescale * dP - inner) * scale
            dscores = (
                torch.sub(dweights.mul_(ctx.rescale), inner[piece, q0:q1, head], out=dweights)
                .mul_(weights)
                .mul_(ctx.scale)
            )
            dqkv[piece, q0:q1, 0, head] = torch.bmm(dscores, k)
            dqkv[piece, k0:k1, 1, head] += torch.bmm(dscores.transpose(1, 2), q)
        return dqkv, None, None, None, None


def _chunks(batch: int, heads: int, band: Band) -> list[tuple[slice, int, tuple[int, int, int, int]]]:
    chunks = []
    for block in band.blocks:
        q0, q1, k0, k1 = block
        size = max(1, _CACHE_FLOATS // ((q1 - q0) * (k1 - k0)))
        for start in range(0, batch, size):
            for head in range(heads):
                chunks.append((slice(start, min(start + size, batch)), head, block))
    return chunks


def aligned_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear`, on the CPU with input columns zero-padded to whole vector registers: the same sums, faster."""
    pad = -x.shape[-1] % 8
    if pad and x.device.type == "cpu":
        return F.linear(F.pad(x, (0, pad)), F.pad(weight, (0, pad)), bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` through `aligned_linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return aligned_linear(input, self.weight, self.bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention under a band, with the parameter names of `nn.MultiheadAttention`.

    Where `heads` divides `d_model` the parameters have torch's shapes, so published weights load. Where it
    does not, heads are ceil(d_model / heads) wide and the projections are that much larger.
    """

    def __init__(self, d_model: int, heads: int, p: float, bits: RandomBits) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = math.ceil(d_model / heads)
        inner = heads * self.head_width
        self.in_proj_weight = nn.Parameter(torch.empty(3 * inner, d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * inner))
        self.out_proj = nn.Linear(inner, d_model)
        self.p = float(p)
        self._bits = bits
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, band: Band) -> Tensor:
        """x: (B, T, D) -> (B, T, D)."""
        batch, length, _ = x.shape
        dropout = self.p if self.training else 0.0
        scale = self.head_width**-0.5
        # zero-padded heads: rows of whole vector registers
        pad = -self.head_width % 8
        split = (3 * self.heads, self.head_width)
        weight = F.pad(self.in_proj_weight.view(*split, -1), (0, 0, 0, pad)).flatten(0, 1)
        bias = F.pad(self.in_proj_bias.view(*split), (0, pad)).flatten()
        qkv = aligned_linear(x, weight, bias).view(batch, length, 3, self.heads, -1)
        on_cpu = x.device.type == "cpu"
        if on_cpu and torch.is_grad_enabled():
            seen = _BandedAttention.apply(qkv, band, scale, self._bits if dropout > 0.0 else None, dropout)
        else:
            # without gradients torch's fused attention beats ours on a CPU, too; on a GPU it always does
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            parts = []
            for q0, q1, k0, k1 in band.blocks if on_cpu else ((0, length, 0, length),):
                mask = None if band.bias is None else band.bias[q0:q1, k0:k1]
                part = (q[:, :, q0:q1], k[:, :, k0:k1], v[:, :, k0:k1])
                parts.append(F.scaled_dot_product_attention(*part, attn_mask=mask, dropout_p=dropout, scale=scale))
            seen = torch.cat(parts, 2).transpose(1, 2)
        out = F.pad(self.out_proj.weight.view(-1, self.heads, self.head_width), (0, pad)).flatten(1)
        return F.linear(seen.flatten(2), out, self.out_proj.bias)
