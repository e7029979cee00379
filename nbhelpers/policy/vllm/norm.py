"""Gemma's RMS norm as one kernel, for vLLM.

Written out in PyTorch it is eight small kernels, six times a layer. That is why Inductor pays off for vLLM although it
compiles for the better part of a minute: vLLM 0.26 has a kernel for RMS norm, but not for Gemma's, whose weight is
1 + w in float32 (`vllm/kernels/vllm_c.py` asks for the input's own type).
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def _kernel() -> Any:
    import triton
    import triton.language as tl

    @triton.jit
    def forward(
        x, residual, weight, out, summed, heads, token_stride, head_stride, width, eps,
        add: tl.constexpr, block: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, block)
        inside = column < width
        start = (row // heads) * token_stride + (row % heads) * head_stride
        values = tl.load(x + start + column, mask=inside, other=0.0).to(tl.float32)
        if add:
            values += tl.load(residual + row * width + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(summed + row * width + column, values.to(summed.dtype.element_ty), mask=inside)
        scale = tl.rsqrt(tl.sum(values * values, axis=0) / width + eps)
        gain = 1.0 + tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * width + column, (values * scale * gain).to(out.dtype.element_ty), mask=inside)

    return forward


def fused_norm(x: Any, residual: Any | None, weight: Any, eps: float) -> Any:
    """The norm of `x` over its last dimension times 1 + `weight`, in one kernel.

    Args:
        x: (tokens, width) or (tokens, heads, width) on a GPU, its last dimension contiguous.
        residual: (tokens, width), contiguous, or None.
        weight: (width,).

    Returns:
        The norm of x, or (norm of x + residual, x + residual), contiguous and of the type of x.
    """
    import torch
    import triton

    width, heads = x.shape[-1], x.shape[1] if x.dim() == 3 else 1
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    summed = torch.empty_like(out) if residual is not None else out
    if rows := x.numel() // width:
        strides = (x.stride(0), x.stride(1) if x.dim() == 3 else 0)
        block = triton.next_power_of_2(width)
        options = {"add": residual is not None, "block": block, "num_warps": min(8, max(1, block // 256))}
        read = x if residual is None else residual
        _kernel()[(rows,)](x, read, weight, out, summed, heads, *strides, width, eps, **options)
    return out if residual is None else (out, summed)
