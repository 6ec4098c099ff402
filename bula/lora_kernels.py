"""What LoRA training spends most time on where there is no GPU, each as one function with its own backward pass.

`adapted` is base plus adapter of the linear layers that read one input (Hu et al. 2021, arXiv:2106.09685, equation 3) in the
base's precision, under float32 masters: PEFT's own copies every activation to float32, drops there, and copies back.
`answer_loss` is the head and the cross-entropy over supervised positions, some rows at a time, with the gradient found on the
way, so that no logits are kept for a second pass. `normalised` is Llama's norm with a frozen weight, `attended` its attention,
`widened` its MLP, each with fewer passes over memory. All are plain torch, for any device, but for `_Attention`, which calls
what the pinned torch uses on a CPU. Large products are made in the precision that `product_dtype` names, the inputs' or a wider
one; what passes from function to function is in the model's. bench/train.py says what they bring together, bench/lora_kernels.py what
each brings. Elementwise products of two large bfloat16 tensors are written to a third: in place they take torch's CPU kernels
twice the time.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, silu
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from bula.hardware import matmul_dtype
from bula.scoring import supervised_hidden

# Rows of the head's product made at once: each reads the whole head, 57 MB of SmolLM2 and 525 MB of Llama 3.2.
ROWS = 256
# Rows of it that go through float32 at once: 16 x 49,152 numbers are 3 MB and stay in a core's cache.
PART = 16
# Numbers that a function of many passes works on at once on a CPU: 1 MB of float32, which the cores' caches keep between passes.
CACHED = 1 << 18
# What params.yaml offers; transformers' own eager attention is no entry of its table.
ATTENTION = ("sdpa", "flash_attention_2")


def parts(x: Tensor) -> Iterator[slice]:
    """Slices over the rows of x (n, width): on a CPU as many at a time as stay in its cache, elsewhere all at once."""
    step = max(1, CACHED // x.shape[1] if x.device.type == "cpu" else len(x))
    return (slice(start, start + step) for start in range(0, len(x), step))


def dropped(x: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
    """x (n, width) after dropout without its scaling, and the mask: ones with probability 1 - dropout, to 1 part in 65,536, else
    zeros, in the precision and on the device of x.

    Four draws of 16 bits come out of each 64-bit word of torch's generator: torch itself draws one word for every number, on a
    CPU by one thread. A mask of booleans would be converted at each use.
    """
    if not dropout:
        return x, None
    seen, mask = torch.empty_like(x), torch.empty_like(x)
    for part in parts(x):
        kept = mask[part]
        words = torch.empty((kept.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(
            -(2**63), None
        )
        torch.ge(
            words.view(torch.int16)[: kept.numel()].view(kept.shape),
            round(dropout * 65536) - 32768,
            out=kept,
        )
        torch.mul(x[part], kept, out=seen[part])
    return seen, mask


class _Adapted(torch.autograd.Function):
    """x W^T + scale * seen A^T B^T for each frozen W, A and B that read the same x; gradients for x, every A and every B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        seen: Tensor,
        mask: Tensor | None,
        scales: tuple[float, ...],
        *matrices: Tensor,
    ) -> tuple[Tensor, ...]:
        """x (..., in), its rows `seen` (n, in) after dropout, and each weight (out, in) in one precision; each a (rank, in) and
        b (out, rank) in any. `matrices` are all weights, then all a, then all b.
        """
        count, kind = len(scales), matmul_dtype(x.dtype, x.device.type)
        weights, a, b = (matrices[first : first + count] for first in range(0, 3 * count, count))
        # One product for the rows' low-rank values of all.
        low = torch.split(linear(seen, torch.cat(a).to(x.dtype)), [len(one) for one in a], dim=1)
        ctx.save_for_backward(seen, mask, *low, *matrices)
        ctx.scales, rows = scales, x.reshape(seen.shape).to(kind)
        made = (
            linear(rows, w.to(kind)).addmm_(one.to(kind), up.to(kind).t(), alpha=s)
            for w, one, up, s in zip(weights, low, b, scales, strict=True)
        )
        return tuple(one.to(x.dtype).view(*x.shape[:-1], -1) for one in made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The chain rule by hand."""
        seen, mask, *saved = ctx.saved_tensors
        count = len(ctx.scales)
        low, weights, a, b = (saved[first : first + count] for first in range(0, 4 * count, count))
        kind = matmul_dtype(seen.dtype, seen.device.type)
        rows = [gradient.reshape(-1, gradient.shape[-1]).to(kind) for gradient in gradients]
        inner = torch.cat(
            [(g @ up.to(kind)).mul_(s) for g, up, s in zip(rows, b, ctx.scales, strict=True)], dim=1
        )
        to_a = [
            one.to(mine.dtype)
            for one, mine in zip(
                (inner.t() @ seen.to(kind)).split([len(one) for one in a]), a, strict=True
            )
        ]
        to_b = [
            (g.t() @ one.to(kind)).to(up.dtype).mul_(s)
            for g, one, up, s in zip(rows, low, b, ctx.scales, strict=True)
        ]
        to_x = None
        if ctx.needs_input_grad[0]:
            # Rounded as on the way forward.
            to_x = inner @ torch.cat(a).to(seen.dtype).to(kind)
            if mask is not None:
                to_x = to_x.mul_(mask) if kind == torch.float32 else to_x * mask
            for g, weight in zip(rows, weights, strict=True):
                to_x.addmm_(g, weight.to(kind))
            to_x = to_x.to(seen.dtype).view(*gradients[0].shape[:-1], -1)
        return to_x, None, None, None, *[None] * count, *to_a, *to_b


def fits(layer: Any) -> TypeGuard[Linear]:
    """Whether `adapted` computes this layer: plain LoRA over a full-precision linear layer without a bias."""
    return (
        type(layer) is Linear
        and layer.base_layer.bias is None
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
    )


def adapted(layers: Sequence[Linear], x: Tensor) -> tuple[Tensor, ...]:
    """What PEFT's layers give for the same x (..., in): base and the one adapter, dropout while training.

    They share one draw of dropout, as queries, keys and values do here, and gate and up: the same input, dropped once.
    """
    name, first = layers[0].active_adapters[0], layers[0]
    dropout = getattr(first.lora_dropout[name], "p", 0.0) if first.training else 0.0
    scales = tuple(layer.scaling[name] / (1 - dropout) for layer in layers)
    matrices = [layer.base_layer.weight for layer in layers]
    matrices += [layer.lora_A[name].weight for layer in layers] + [
        layer.lora_B[name].weight for layer in layers
    ]
    seen, mask = dropped(x.detach().reshape(-1, x.shape[-1]), dropout)
    return _Adapted.apply(x, seen, mask, scales, *matrices)  # type: ignore[no-any-return,no-untyped-call]


def alone(layer: Linear, x: Tensor) -> Tensor:
    """What one of PEFT's layers gives for x (..., in)."""
    return adapted([layer], x)[0]


def projected(layers: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """What each of these layers gives for x; those with an adapter in one function."""
    ours = [layer for layer in layers if fits(layer)]
    made = dict(zip(ours, adapted(ours, x), strict=True)) if ours else {}
    return [made[layer] if layer in made else layer(x) for layer in layers]


class _Rotated(torch.autograd.Function):
    """Rotary embedding (Su et al. 2021, arXiv:2104.09864): each pair (x_i, x_(i + width/2)) turned by its angle; gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (batch, tokens, heads, width); cos and sin (1 or batch, tokens, width), whose two halves are alike."""
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Turned back."""
        cos, sin = ctx.saved_tensors
        return turned(gradient, cos, -sin), None, None


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (batch, tokens, heads, width) turned by the angles: of a pair (a, b), a cos - b sin and b cos + a sin."""
    half = x.shape[-1] // 2
    signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
    return torch.mul(x, cos.unsqueeze(2)).addcmul_(x.roll(half, -1), signed.unsqueeze(2))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (batch, tokens, heads, width) with its positions in it; cos and sin (1 or batch, tokens, width)."""
    return _Rotated.apply(x, cos, sin)  # type: ignore[no-any-return,no-untyped-call]


class _Attention(torch.autograd.Function):
    """Causal attention of bfloat16 numbers on a CPU, whose backward pass computes in float32, in which torch's own is faster there,
    and exacter. Gradients for queries, keys and values.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """q (batch, heads, tokens, width), k and v the same with as many heads or a divisor of that; gives as q."""
        # What scaled_dot_product_attention calls here; the logarithms of the sums, which it keeps to itself, are wanted back.
        wide = (one.to(matmul_dtype(q.dtype, q.device.type)) for one in (q, k, v))
        made, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *wide, 0.0, True, scale=scale
        )
        output = made.to(q.dtype)
        ctx.save_for_backward(q, k, v, output, sums)
        ctx.scale = scale
        return output  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Flash attention's (Dao et al. 2022, arXiv:2205.14135, algorithm 4)."""
        q, k, v, output, sums = ctx.saved_tensors
        wide = (one.float() for one in (gradient, q, k, v, output))
        made = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *wide, sums, 0.0, True, scale=ctx.scale
        )
        return *(one.to(q.dtype) for one in made), None


def attended(
    layer: LlamaAttention,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """What LlamaAttention gives for hidden_states (batch, tokens, width); with a cache, by its own forward."""
    if past_key_values is not None:
        return LlamaAttention.forward(  # type: ignore[no-any-return]
            layer, hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
        )
    heads = (*hidden_states.shape[:-1], -1, layer.head_dim)
    q, k, v = (
        one.view(heads)
        for one in projected([layer.q_proj, layer.k_proj, layer.v_proj], hidden_states)
    )
    q, k = (rotated(one, *position_embeddings) for one in (q, k))
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    kind, weights = layer.config._attn_implementation, None
    if (
        kind == "sdpa"
        and attention_mask is None
        and q.device.type == "cpu"
        and q.dtype == torch.bfloat16
    ):
        output = _Attention.apply(q, k, v, layer.scaling).transpose(1, 2)  # type: ignore[no-untyped-call]
    else:
        output, weights = ALL_ATTENTION_FUNCTIONS[kind](
            layer, q, k, v, attention_mask, dropout=0.0, scaling=layer.scaling, **kwargs
        )
    return layer.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


class _Gated(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020, arXiv:2002.05202); gradients for both. What silu gave is made again, not kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """Both (..., width)."""
        ctx.save_for_backward(gate, up)
        return silu(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The product rule."""
        gate, up = ctx.saved_tensors
        made = silu(gate)
        to_up = made * gradient
        to_gate = torch.mul(gradient, up, out=made)
        torch.ops.aten.silu_backward.grad_input(to_gate, gate, grad_input=to_gate)
        return to_gate, to_up


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, all (..., width)."""
    return _Gated.apply(gate, up)  # type: ignore[no-any-return,no-untyped-call]


def widened(layer: LlamaMLP, x: Tensor) -> Tensor:
    """What LlamaMLP gives for x (..., width)."""
    made: Tensor = layer.down_proj(gated(*projected([layer.gate_proj, layer.up_proj], x)))
    return made


class _AnswerLoss(torch.autograd.Function):
    """Sum of the negative log-likelihood and number of tokens predicted right; the gradient for hidden alone."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (n, width), the frozen head (vocabulary, width), targets (n,); float32 scalar and int64 scalar."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        right = torch.zeros((), dtype=torch.int64, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Logits, and then their gradient; and the few rows of them that float32 is spent on where they are not in it.
        kind = matmul_dtype(hidden.dtype, hidden.device.type)
        weight = weight.to(kind)
        product = hidden.new_empty(min(ROWS, len(targets)), len(weight), dtype=kind)
        few = 0 if kind == torch.float32 else min(PART, len(targets))
        scratch = torch.empty(few, len(weight), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), ROWS):
            rows = hidden[start : start + ROWS].to(kind)
            logits = torch.mm(rows, weight.t(), out=product[: len(rows)])
            for at in range(0, len(rows), PART):
                part, target = (
                    logits[at : at + PART],
                    targets[start + at : start + min(at + PART, len(rows)), None],
                )
                p = part if kind == torch.float32 else scratch[: len(part)].copy_(part)
                top, own = p.amax(-1, keepdim=True), p.gather(1, target)
                # The first of several largest logits is the prediction; only where the target's is one of them can it be right.
                largest = (own == top).squeeze(1)
                right += (p[largest].argmax(-1, keepdim=True) == target[largest]).sum()
                summed = p.sub_(top).exp_().sum(-1, keepdim=True)
                total -= (own - top - summed.log()).sum()
                if gradient is not None:
                    # d(-log p_y)/d logits = p - 1 at the target, p elsewhere.
                    p.div_(summed).scatter_add_(1, target, torch.full_like(own, -1))
                    if p is not part:
                        part.copy_(p)
            if gradient is not None:
                gradient[start : start + len(rows)] = torch.mm(logits, weight)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """The gradient that forward found, scaled."""
        (gradient,) = ctx.saved_tensors
        # In float32: 1 / tokens rounded to bfloat16 would be off by up to 0.4 %, and with it the gradient of the whole step.
        return (gradient.float() * upstream).to(gradient.dtype), None, None


def answer_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood in nats (float32) of targets (n,) after hidden (n, width), and tokens predicted right."""
    return _AnswerLoss.apply(hidden, weight, targets)  # type: ignore[no-any-return,no-untyped-call]


class _Normalised(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight for a frozen weight (Zhang & Sennrich 2019, arXiv:1910.07467); gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x (..., width); float32 inside, rounded to x's precision before the weight, as LlamaRMSNorm does."""
        rows, width = x.reshape(-1, x.shape[-1]), x.shape[-1]
        made = torch.empty_like(rows)
        inverse = torch.empty(len(rows), 1, dtype=torch.float32, device=x.device)
        for part in parts(rows):
            wide = rows[part].to(torch.float32, copy=True)
            torch.linalg.vector_norm(wide, dim=-1, keepdim=True, out=inverse[part]).square_().div_(
                width
            ).add_(eps).rsqrt_()
            made[part].copy_(wide.mul_(inverse[part])).mul_(weight)
        ctx.save_for_backward(rows, weight, inverse)
        return made.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """(g - x^ mean(g x^)) / norm, with g the gradient times the weight and x^ the normalised input."""
        rows, weight, inverse = ctx.saved_tensors
        upstream, made, wide_weight = (
            gradient.reshape(rows.shape),
            torch.empty_like(rows),
            weight.float(),
        )
        for part in parts(rows):
            unit = rows[part].to(torch.float32, copy=True).mul_(inverse[part])
            g = upstream[part].to(torch.float32, copy=True).mul_(wide_weight)
            along = torch.linalg.vecdot(g, unit).unsqueeze(-1).div_(rows.shape[-1])
            made[part].copy_(g.addcmul_(unit, along, value=-1).mul_(inverse[part]))
        return made.view(gradient.shape), None, None


def normalised(layer: LlamaRMSNorm, x: Tensor) -> Tensor:
    """What LlamaRMSNorm gives for x (..., width)."""
    return _Normalised.apply(x, layer.weight, layer.variance_epsilon)  # type: ignore[no-any-return,no-untyped-call]


def use_kernels(model: PeftModel) -> None:
    """Let every plain LoRA layer over a full-precision linear layer, every frozen Llama norm, Llama's attention and its MLP
    compute by the functions here.

    Others (4 bit, DoRA, a bias, other norms, other activations) stay as they are.
    """
    for layer in model.modules():
        if fits(layer):
            layer.forward = functools.partial(alone, layer)
        elif type(layer) is LlamaRMSNorm and not layer.weight.requires_grad:
            layer.forward = functools.partial(normalised, layer)
        elif (
            type(layer) is LlamaAttention
            and not layer.attention_dropout
            and layer.config._attn_implementation in ATTENTION
        ):
            layer.forward = functools.partial(attended, layer)
        elif type(layer) is LlamaMLP and isinstance(layer.act_fn, nn.SiLU | SiLUActivation):
            layer.forward = functools.partial(widened, layer)


def add_answer_head(model: PreTrainedModel) -> None:
    """Teach `model(..., labels=labels, answer_head=True)` to give total loss, tokens predicted right and supervised tokens.

    As the model's own forward, since DDP and FSDP gather parameters and gradients around that call.
    """
    whole = model.forward

    @functools.wraps(type(model).forward)
    def forward(*arguments: Any, answer_head: bool = False, **inputs: Any) -> Any:
        if not answer_head:
            return whole(*arguments, **inputs)
        hidden, targets = supervised_hidden(model, inputs)
        return *answer_loss(
            hidden, model.get_output_embeddings().weight, targets
        ), targets.new_tensor(len(targets))

    model.forward = forward
