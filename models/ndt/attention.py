"""Dropout and banded self-attention as fast as one CPU core allows, exact in their maths.

Four facts shape this module. `nn.Dropout` spends most of its time drawing one Bernoulli number an
element, so here masks come from 16 random bits an element (the keep probability is thereby rounded to
1/65536 and the scale uses the rounded value, so the expectation stays exact). The band mask makes most
attention scores of a narrow context useless, so scores are only formed for the key range that a block
of queries can see. Attention is worked through in chunks that fit a core's cache. And rows that are no whole
vector registers, such as 142 units, slow MKL's products down, but not oneDNN's.

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


class _ReluDropout(torch.autograd.Function):
    """dropout(relu(x)). What is positive was kept, so the backward pass needs neither bits nor mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: Tensor, threshold: int, scale: float) -> Tensor:
        ctx.scale = scale
        out = _mask(bits, threshold, x.dtype).mul_(x).mul_(scale).clamp_(min=0)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grads[0], out, 0).mul_(ctx.scale), None, None, None


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

    def relu(self, x: Tensor) -> Tensor:
        """dropout(relu(x))."""
        if not self.training or self.p == 0.0 or not self._cheap(x):
            return self(F.relu(x))  # type: ignore[no-any-return]
        out: Tensor = _ReluDropout.apply(x, self._bits.draw(x.shape), *_threshold(self.p))
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

    def seen_before(self, query: int) -> int:
        """The key up to which blocks of earlier queries reach; they leave out none, as each bin sees itself."""
        return max((k1 for q0, _, _, k1 in self.blocks if q0 < query), default=0)


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
    """softmax(q k^T + band), dropout without its rescaling, times v: chunk by chunk, forward and backward.

    qkv is (B, T, 3, H, W) with rows zero-padded to whole vector registers; the result is (B, T, H, W). The scale
    of q and dropout's rescaling of v belong into the projection's weights: there they cost next to nothing.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, band: Band, bits: RandomBits | None, p: float) -> Tensor:
        batch, length, _, heads, width = qkv.shape
        out = qkv.new_empty(batch, length, heads, width)
        threshold, _ = _threshold(p)
        saved: list[Tensor] = []
        views = _per_head(qkv)
        for piece, head, (q0, q1, k0, k1) in _chunks(batch, heads, band):
            q_all, k_all, v_all = views[head]
            q, k, v = q_all[piece, q0:q1], k_all[piece, k0:k1], v_all[piece, k0:k1]
            if band.bias is None:
                scores = torch.bmm(q, k.transpose(1, 2))
            else:
                scores = torch.baddbmm(band.bias[q0:q1, k0:k1], q, k.transpose(1, 2))
            weights = torch.softmax(scores, -1, out=scores)
            if bits is None:
                out[piece, q0:q1, head] = torch.bmm(weights, v)
            else:
                seen = _mask(bits.draw(weights.shape), threshold, weights.dtype).mul_(weights)
                out[piece, q0:q1, head] = torch.bmm(seen, v)
                weights.add_(seen, alpha=-2)  # the sign remembers the mask: what was kept is negative
            saved.append(weights)
        ctx.save_for_backward(qkv, out)
        ctx.saved, ctx.band, ctx.dropped = saved, band, bits is not None
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        qkv, out = ctx.saved_tensors
        (grad,) = grads
        batch, _, _, heads, _ = qkv.shape
        dqkv = torch.empty_like(qkv)
        views, dviews = _per_head(qkv), _per_head(dqkv)
        # dS = seen * dP - P * sum_j P_j dP_j, and that sum is dO . O, under dropout, too
        sign = 1 if ctx.dropped else -1
        for (piece, head, (q0, q1, k0, k1)), weights in zip(_chunks(batch, heads, ctx.band), ctx.saved, strict=True):
            q_all, k_all, v_all = views[head]
            dq, dk, dv = dviews[head]
            q, k, v = q_all[piece, q0:q1], k_all[piece, k0:k1], v_all[piece, k0:k1]
            do = grad[piece, q0:q1, head]
            if ctx.dropped:
                # -seen and -dO: their products are those of seen and dO
                seen, do = weights.clamp(max=0), do.neg()
                weights = weights.abs()
            else:
                seen = weights
            inner = (do * out[piece, q0:q1, head]).sum(-1, keepdim=True)
            dscores = torch.bmm(do, v.transpose(1, 2)).mul_(seen).addcmul_(weights, inner, value=sign)
            dq[piece, q0:q1] = torch.bmm(dscores, k)
            # keys that an earlier block saw have a gradient already
            old = min(max(ctx.band.seen_before(q0), k0), k1)
            for total, part in (
                (dv, torch.bmm(seen.transpose(1, 2), do)),
                (dk, torch.bmm(dscores.transpose(1, 2), q)),
            ):
                if old > k0:
                    total[piece, k0:old] += part[:, : old - k0]
                total[piece, old:k1] = part[:, old - k0 :]
        return dqkv, None, None, None


def _per_head(qkv: Tensor) -> list[list[Tensor]]:
    """(B, T, 3, H, W) as H times q, k and v, each (B, T, W)."""
    return [list(head.unbind(2)) for head in qkv.unbind(3)]


def _chunks(batch: int, heads: int, band: Band) -> list[tuple[slice, int, tuple[int, int, int, int]]]:
    largest = max((q1 - q0) * (k1 - k0) for q0, q1, k0, k1 in band.blocks)
    size = max(1, _CACHE_FLOATS // largest)
    pieces = [slice(start, min(start + size, batch)) for start in range(0, batch, size)]
    # a head's blocks in turn: they share keys and values
    return [(piece, head, block) for piece in pieces for head in range(heads) for block in band.blocks]


# oneDNN's products do not mind rows that are no whole vector registers; MKL's lose up to half of their speed
_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        dx = _product(grad, weight.t(), None) if ctx.needs_input_grad[0] else None
        rows, flat = x.flatten(0, -2), grad.flatten(0, -2)
        # MKL is fastest where the result's rows are whole vector registers
        dweight = flat.t() @ rows if x.shape[-1] % 8 == 0 else (rows.t() @ flat).t()
        return dx, dweight, flat.sum(0)


def aligned_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear`, on the CPU by the fastest products there: the same sums."""
    if _ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32:
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
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
        on_cpu = x.device.type == "cpu"
        ours = on_cpu and torch.is_grad_enabled()
        # zero-padded heads: rows of whole vector registers
        pad = -self.head_width % 8
        split = (3, self.heads, self.head_width)
        weight = F.pad(self.in_proj_weight.view(*split, -1), (0, 0, 0, pad))
        bias = F.pad(self.in_proj_bias.view(*split), (0, pad))
        if ours:
            factors = weight.new_tensor([scale, 1.0, _threshold(dropout)[1]]).view(3, 1, 1)
            weight, bias = weight * factors.unsqueeze(3), bias * factors
        qkv = aligned_linear(x, weight.flatten(0, 2), bias.flatten()).view(batch, length, 3, self.heads, -1)
        if ours:
            seen = _BandedAttention.apply(qkv, band, self._bits if dropout > 0.0 else None, dropout)
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
        return aligned_linear(seen.flatten(2), out, self.out_proj.bias)
