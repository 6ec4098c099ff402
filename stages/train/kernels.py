"""What LoRA training spends most time on where there is no GPU, each as one function with its own backward pass.

`adapted` is base plus adapter of one linear layer (Hu et al. 2021, arXiv:2106.09685, equation 3) in the base's precision,
under float32 masters: PEFT's own copies every activation to float32, drops there, and copies back. `answer_loss` is the
head and the cross-entropy over supervised positions, some rows at a time, with the gradient found on the way, so that no
logits are kept for a second pass. `normalised` is Llama's norm with a frozen weight. All are plain torch, for any device;
bench/train.py says what they bring.
"""

import functools
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from bula.models import supervised_hidden

# Rows of the head's product made at once: each reads the whole head, 57 MB of SmolLM2 and 525 MB of Llama 3.2.
ROWS = 256
# Rows of it that go through float32 at once: 16 x 49,152 numbers are 3 MB and stay in a core's cache.
PART = 16


def keep_mask(shape: torch.Size, dropout: float, like: Tensor) -> Tensor:
    """Ones with probability 1 - dropout, to 1 part in 65,536, else zeros, in the precision and on the device of `like`.

    Four draws of 16 bits come out of each 64-bit word of torch's generator: torch itself draws one word for every number, on a
    CPU by one thread. A mask of booleans would be converted at each use.
    """
    words = torch.empty((shape.numel() + 3) // 4, dtype=torch.int64, device=like.device).random_(-(2**63), None)
    draws = words.view(torch.int16)[: shape.numel()].view(shape)
    return torch.ge(draws, round(dropout * 65536) - 32768, out=torch.empty(shape, dtype=like.dtype, device=like.device))


def dropped(x: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
    """x (..., in) as rows (n, in) after dropout without its scaling, and the mask; drawn once for all layers that read this x.

    Queries, keys and values share theirs, gate and up too: the same input, dropped once, kept on the tensor until it goes.
    """
    if not dropout:
        return x.detach().reshape(-1, x.shape[-1]), None
    made: tuple[Tensor, Tensor] | None = getattr(x, "dropped", None)
    if made is None:
        rows = x.detach().reshape(-1, x.shape[-1])
        mask = keep_mask(rows.shape, dropout, rows)
        made = x.dropped = (rows * mask, mask)  # type: ignore[attr-defined]
    return made


class _Adapted(torch.autograd.Function):
    """x W^T + scale * seen A^T B^T for a frozen W; gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float, seen: Tensor, mask: Tensor | None) -> Tensor:
        """x (..., in), its rows `seen` after dropout, and weight (out, in) in one precision; a (rank, in), b (out, rank) in any."""
        low = linear(seen, a.to(x.dtype))
        ctx.save_for_backward(weight, a, b, low, seen, mask)
        ctx.scale = scale
        return linear(x.reshape(seen.shape), weight).addmm_(low, b.to(x.dtype).t(), alpha=scale).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The chain rule by hand."""
        weight, a, b, low, seen, mask = ctx.saved_tensors
        shape, gradient = gradient.shape[:-1], gradient.reshape(-1, gradient.shape[-1])
        inner = (gradient @ b.to(gradient.dtype)).mul_(ctx.scale)
        to_a = (inner.t() @ seen).to(a.dtype)
        to_b = (gradient.t() @ low).to(b.dtype).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            back = inner @ a.to(inner.dtype)
            to_x = (back if mask is None else back.mul_(mask)).addmm_(gradient, weight).view(*shape, -1)
        return to_x, None, to_a, to_b, None, None, None


def adapted(layer: Linear, x: Tensor) -> Tensor:
    """What PEFT's layer gives for x (..., in): base and its one adapter, dropout while training."""
    name = layer.active_adapters[0]
    dropout = getattr(layer.lora_dropout[name], "p", 0.0) if layer.training else 0.0
    a, b, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name] / (1 - dropout)
    return _Adapted.apply(x, layer.base_layer.weight, a, b, scale, *dropped(x, dropout))  # type: ignore[no-any-return,no-untyped-call]


class _AnswerLoss(torch.autograd.Function):
    """Sum of the negative log-likelihood and number of tokens predicted right; the gradient for hidden alone."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (n, width), the frozen head (vocabulary, width), targets (n,); float32 scalar and int64 scalar."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        right = torch.zeros((), dtype=torch.int64, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Logits, and then their gradient, in the model's precision; and the few rows of them that float32 is spent on.
        product = hidden.new_empty(min(ROWS, len(targets)), len(weight))
        scratch = torch.empty(min(PART, len(targets)), len(weight), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(targets), ROWS):
            rows = hidden[start : start + ROWS]
            logits = torch.mm(rows, weight.t(), out=product[: len(rows)])
            for at in range(0, len(rows), PART):
                part, target = logits[at : at + PART], targets[start + at : start + min(at + PART, len(rows)), None]
                p = scratch[: len(part)].copy_(part)
                top, own = p.amax(-1, keepdim=True), p.gather(1, target)
                # The first of several largest logits is the prediction; only where the target's is one of them can it be right.
                largest = (own == top).squeeze(1)
                right += (p[largest].argmax(-1, keepdim=True) == target[largest]).sum()
                summed = p.sub_(top).exp_().sum(-1, keepdim=True)
                total -= (own - top - summed.log()).sum()
                if gradient is not None:
                    # d(-log p_y)/d logits = p - 1 at the target, p elsewhere.
                    part.copy_(p.div_(summed).scatter_add_(1, target, torch.full_like(own, -1)))
            if gradient is not None:
                torch.mm(logits, weight, out=gradient[start : start + len(rows)])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """The gradient that forward found, scaled."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None


def answer_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood in nats (float32) of targets (n,) after hidden (n, width), and tokens predicted right."""
    return _AnswerLoss.apply(hidden, weight, targets)  # type: ignore[no-any-return,no-untyped-call]


class _Normalised(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight for a frozen weight (Zhang & Sennrich 2019, arXiv:1910.07467); gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x (..., width); float32 inside, rounded to x's precision before the weight, as LlamaRMSNorm does."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return torch.mul(x, inverse).to(x.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """(g - x^ mean(g x^)) / norm, with g the gradient times the weight and x^ the normalised input."""
        x, weight, inverse = ctx.saved_tensors
        unit, g = torch.mul(x, inverse), torch.mul(gradient, weight.float())
        along = torch.linalg.vecdot(g, unit).unsqueeze(-1).div_(x.shape[-1])
        return g.addcmul_(unit, along, value=-1).mul_(inverse).to(x.dtype), None, None


def normalised(layer: LlamaRMSNorm, x: Tensor) -> Tensor:
    """What LlamaRMSNorm gives for x (..., width)."""
    return _Normalised.apply(x, layer.weight, layer.variance_epsilon)  # type: ignore[no-any-return,no-untyped-call]


def use_kernels(model: PeftModel) -> None:
    """Let every plain LoRA layer over a full-precision linear layer, and every frozen Llama norm, compute by the functions here.

    Others (4 bit, DoRA, a bias, other norms) stay as they are.
    """
    for layer in model.modules():
        if type(layer) is Linear and layer.base_layer.bias is None and not layer.lora_variant and not any(layer.lora_bias.values()):
            layer.forward = functools.partial(adapted, layer)
        elif type(layer) is LlamaRMSNorm and not layer.weight.requires_grad:
            layer.forward = functools.partial(normalised, layer)


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
        return *answer_loss(hidden, model.get_output_embeddings().weight, targets), targets.new_tensor(len(targets))

    model.forward = forward
