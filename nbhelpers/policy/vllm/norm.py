"""Gemma's RMS norm as one kernel, in vLLM and in the policy that is trained.

Written out in PyTorch it is eight small kernels forward and about twice as many backward, six times a layer. For vLLM
that is why Inductor pays off although it compiles for the better part of a minute: vLLM 0.26 has a kernel for RMS norm,
but not for Gemma's, whose weight is 1 + w in float32 (`vllm/kernels/vllm_c.py` asks for the input's own type). For the
policy it halves what a norm keeps for the backward pass (5,124 bytes against 10,404 a token of Gemma-3 4B); a step of
2,000 tokens was not seen to get faster.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any


@functools.cache
def _kernels() -> tuple[Any, Any]:
    import triton
    import triton.language as tl

    @triton.jit
    def forward(
        x, residual, weight, out, summed, scales, heads, token_stride, head_stride, width, eps,
        add: tl.constexpr, keep: tl.constexpr, block: tl.constexpr,
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
        if keep:
            tl.store(scales + row, scale)
        gain = 1.0 + tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * width + column, (values * scale * gain).to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def backward(grad, x, weight, scales, out, width, block: tl.constexpr):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, block)
        inside = column < width
        scale = tl.load(scales + row)
        normed = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32) * scale
        gain = 1.0 + tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        slope = tl.load(grad + row * width + column, mask=inside, other=0.0).to(tl.float32) * gain
        slope -= normed * (tl.sum(slope * normed, axis=0) / width)
        tl.store(out + row * width + column, (slope * scale).to(out.dtype.element_ty), mask=inside)

    return forward, backward


def _launch(width: int) -> dict[str, int]:
    import triton

    block = triton.next_power_of_2(width)
    return {"block": block, "num_warps": min(8, max(1, block // 256))}


def fused_norm(x: Any, residual: Any | None, weight: Any, eps: float, *, scales: Any | None = None) -> Any:
    """The norm of `x` over its last dimension times 1 + `weight`, in one kernel.

    Args:
        x: (tokens, width) or (tokens, heads, width) on a GPU, its last dimension contiguous.
        residual: (tokens, width), contiguous, or None.
        weight: (width,).
        scales: (rows,), float32: receives each row's 1 / RMS, which the backward pass needs.

    Returns:
        The norm of x, or (norm of x + residual, x + residual), contiguous and of the type of x.
    """
    import torch

    width, heads = x.shape[-1], x.shape[1] if x.dim() == 3 else 1
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    summed = torch.empty_like(out) if residual is not None else out
    rows = x.numel() // width
    if rows:
        _kernels()[0][(rows,)](
            x,
            x if residual is None else residual,
            weight,
            out,
            summed,
            weight if scales is None else scales,
            heads,
            x.stride(0),
            x.stride(1) if x.dim() == 3 else 0,
            width,
            eps,
            add=residual is not None,
            keep=scales is not None,
            **_launch(width),
        )
    return out if residual is None else (out, summed)


@functools.cache
def use_in_vllm() -> None:
    """Let vLLM build its Gemma norms with `fused_norm` from now on (`CustomOp.register_oot`, vLLM's own place for such
    replacements).
    """
    from vllm.model_executor.layers.layernorm import GemmaRMSNorm

    class FusedGemmaRMSNorm(GemmaRMSNorm):
        def forward_cuda(self, x: Any, residual: Any | None = None) -> Any:
            plain = (
                x.dim() in (2, 3)
                and x.stride(-1) == 1
                and (residual is None or (x.dim() == 2 and residual.is_contiguous()))
            )
            return (
                fused_norm(x, residual, self.weight, self.variance_epsilon)
                if plain
                else self.forward_native(x, residual)
            )

    GemmaRMSNorm.register_oot(FusedGemmaRMSNorm, name="GemmaRMSNorm")


@functools.cache
def _differentiable() -> Any:
    import torch

    class FusedNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, eps):
            flat = x.reshape(-1, x.shape[-1])
            scales = torch.empty(flat.shape[0], dtype=torch.float32, device=x.device)
            out = fused_norm(flat, None, weight, eps, scales=scales)
            ctx.save_for_backward(flat, weight, scales)
            return out.view(x.shape)

        @staticmethod
        def backward(ctx, grad):
            x, weight, scales = ctx.saved_tensors
            out = torch.empty_like(x)
            if len(x):
                _kernels()[1][(len(x),)](grad.contiguous(), x, weight, scales, out, x.shape[-1], **_launch(x.shape[-1]))
            return out.view(grad.shape), None, None

    return FusedNorm


def differentiable_norm(x: Any, weight: Any, eps: float) -> Any:
    """`Gemma3RMSNorm.forward` (transformers 5.17) in one kernel each way, for a frozen `weight` and any shape of `x`."""
    # Queries and keys come as (batch, heads, tokens, width), a transposed view whose memory is contiguous.
    if x.dim() == 4 and not x.is_contiguous() and x.transpose(1, 2).is_contiguous():
        return _differentiable().apply(x.transpose(1, 2), weight, eps).transpose(1, 2)
    return _differentiable().apply(x.contiguous(), weight, eps)


@contextlib.contextmanager
def fused_norms(model: Any) -> Iterator[None]:
    """Inside, the frozen Gemma norms of `model` on a GPU run as one kernel each."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    norms = [
        module
        for module in model.modules()
        if isinstance(module, Gemma3RMSNorm) and module.weight.is_cuda and not module.weight.requires_grad
    ]
    for norm in norms:
        norm.forward = functools.partial(differentiable_norm, weight=norm.weight, eps=norm.eps)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
