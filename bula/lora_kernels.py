"""Compute the costly functions of LoRA training on CPUs.

Each function has a backward pass written for CPUs.

- `lora_linears`: a frozen linear layer plus its adapter (Hu et al. 2021, arXiv:2106.09685,
  equation 3), in the precision of the base. PEFT copies every activation to float32 and back.
- `fused_linear_cross_entropy`: head and loss in chunks of rows. The forward pass also computes the
  gradient, so memory never contains the logits of a complete batch.
- `apply_rotary`, `causal_attention`, `gated_unit`, `rms_norm`: the functions of Llama and Gemma 3
  with fewer passes over memory.

bula/model_kernels.py chooses the layers of a model that these functions compute.

All functions are plain PyTorch and run on any device, except `causal_attention`, which calls a CPU
function of the pinned torch. `matmul_dtype` names the precision of large matmuls; values that pass
between functions have the precision of the model. An elementwise product of two large bfloat16
tensors is written to a third tensor, because torch's CPU kernels take twice as long in place.
bench/train.py times all functions together, bench/lora_kernels.py each of them.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear, silu

from bula.hardware import matmul_dtype

# Rows of logits per matmul. Each matmul reads the head: 57 MB of SmolLM2, 525 MB of Llama 3.2.
LOGITS_CHUNK_ROWS = 256
# Rows per softmax in float32: 16 x 49,152 numbers are 3 MB, which fit into a core's cache.
SOFTMAX_CHUNK_ROWS = 16
# Numbers per chunk of an elementwise function on a CPU: 1 MB of float32 stays in the cache.
CACHE_NUMBERS = 1 << 18


def row_chunks(x: Tensor) -> Iterator[slice]:
    """Yield slices over the rows of x that fit into the cache.

    x has the shape (n, width). On other devices than the CPU one slice covers all rows.
    """
    step = len(x)
    if x.device.type == "cpu":
        step = CACHE_NUMBERS // x.shape[1]
    step = max(1, step)
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def fill_keep_mask(mask: Tensor, dropout: float) -> None:
    """Fill mask with ones at probability 1 - dropout, else zeros.

    The probability is exact to 1 part in 65,536. Each 64-bit word of torch's generator yields four
    draws of 16 bits; torch's own dropout takes one word per number, in one thread on a CPU.
    """
    numbers = mask.numel()
    words = torch.empty((numbers + 3) // 4, dtype=torch.int64, device=mask.device)
    words.random_(-(2**63), None)
    draws = words.view(torch.int16)[:numbers].view(mask.shape)
    threshold = round(dropout * 65536) - 32768
    torch.ge(draws, threshold, out=mask)


def drop_unscaled(x: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
    """Return x after dropout without rescaling, and the keep mask.

    x has the shape (n, width). The mask has the precision of x, because a boolean mask would be
    converted at each use; it is None without dropout.
    """
    if not dropout:
        return x, None
    dropped = torch.empty_like(x)
    mask = torch.empty_like(x)
    for chunk in row_chunks(x):
        fill_keep_mask(mask[chunk], dropout)
        torch.mul(x[chunk], mask[chunk], out=dropped[chunk])
    return dropped, mask


# --- linear layers with adapters ---------------------------------------------------------------


def as_rows(x: Tensor) -> Tensor:
    """Return x (..., width) in the shape (n, width)."""
    return x.reshape(-1, x.shape[-1])


def in_groups(tensors: Sequence[Tensor], size: int) -> list[Sequence[Tensor]]:
    """Split a sequence into consecutive groups of one size."""
    starts = range(0, len(tensors), size)
    return [tensors[start : start + size] for start in starts]


def lora_a_gradients(
    low_rank_gradients: Tensor, dropped: Tensor, matrices_a: Sequence[Tensor]
) -> list[Tensor]:
    """Return the gradient of every A, computed by one matmul."""
    inputs = dropped.to(low_rank_gradients.dtype)
    joined = low_rank_gradients.t() @ inputs
    ranks = [len(a) for a in matrices_a]
    parts = torch.split(joined, ranks)
    return [part.to(a.dtype) for part, a in zip(parts, matrices_a, strict=True)]


def lora_input_gradient(
    low_rank_gradients: Tensor,
    output_gradients: Sequence[Tensor],
    weights: Sequence[Tensor],
    joined_a: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Return the gradient of the common input of some LoRA layers.

    All arguments but the weights and the mask have the precision of the matmuls.
    """
    gradient = low_rank_gradients @ joined_a
    dtype = gradient.dtype
    if mask is not None and dtype == torch.float32:
        gradient.mul_(mask)
    elif mask is not None:
        gradient = gradient * mask
    for output_gradient, weight in zip(output_gradients, weights, strict=True):
        gradient.addmm_(output_gradient, weight.to(dtype))
    return gradient


class _LoraLinears(torch.autograd.Function):
    """Compute x W^T + scale * dropped A^T B^T for several layers.

    All layers read x. W is frozen; x, every A and every B receive gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor,
        mask: Tensor | None,
        scales: tuple[float, ...],
        *matrices: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return one output (..., out) per layer.

        Shapes: x (..., in), dropped and mask (n, in), W (out, in), A (rank, in), B (out, rank).
        `matrices` are all W, then all A, then all B. x, dropped and W have one precision.
        """
        weights, matrices_a, matrices_b = in_groups(matrices, len(scales))
        # One matmul computes the low-rank values of all layers.
        joined_a = torch.cat(tuple(matrices_a)).to(x.dtype)
        ranks = [len(a) for a in matrices_a]
        low_rank = torch.split(linear(dropped, joined_a), ranks, dim=1)
        ctx.scales = scales
        ctx.save_for_backward(dropped, mask, *low_rank, *matrices)
        dtype = matmul_dtype(x.dtype, x.device.type)
        rows = x.reshape(dropped.shape).to(dtype)
        output_shape = (*x.shape[:-1], -1)
        outputs = []
        for weight, low, b, scale in zip(weights, low_rank, matrices_b, scales, strict=True):
            output = linear(rows, weight.to(dtype))
            output.addmm_(low.to(dtype), b.to(dtype).t(), alpha=scale)
            rounded = output.to(x.dtype)
            outputs.append(rounded.view(output_shape))
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, every A and every B."""
        dropped, mask, *saved = ctx.saved_tensors
        scales = ctx.scales
        low_rank, weights, matrices_a, matrices_b = in_groups(saved, len(scales))
        dtype = matmul_dtype(dropped.dtype, dropped.device.type)
        output_gradients = []
        low_rank_gradients = []
        b_gradients = []
        for gradient, low, b, scale in zip(gradients, low_rank, matrices_b, scales, strict=True):
            rows = as_rows(gradient).to(dtype)
            low_gradient = rows @ b.to(dtype)
            b_gradient = (rows.t() @ low.to(dtype)).to(b.dtype)
            output_gradients.append(rows)
            low_rank_gradients.append(low_gradient.mul_(scale))
            b_gradients.append(b_gradient.mul_(scale))
        inner = torch.cat(low_rank_gradients, dim=1)
        a_gradients = lora_a_gradients(inner, dropped, matrices_a)
        x_gradient = None
        if ctx.needs_input_grad[0]:
            # Rounded as in the forward pass.
            joined_a = torch.cat(tuple(matrices_a)).to(dropped.dtype)
            x_gradient = lora_input_gradient(
                inner, output_gradients, weights, joined_a.to(dtype), mask
            ).to(dropped.dtype)
            x_gradient = x_gradient.view(*gradients[0].shape[:-1], -1)
        not_differentiable = [None] * (3 + len(weights))
        return x_gradient, *not_differentiable, *a_gradients, *b_gradients


def is_plain_lora(layer: Any) -> TypeGuard[Linear]:
    """Return whether `lora_linears` can compute this layer.

    It can if the layer is plain LoRA over a full-precision linear layer without a bias.
    """
    return (
        type(layer) is Linear
        and type(layer.base_layer) is nn.Linear
        and layer.base_layer.bias is None
        and not layer.base_layer.weight.requires_grad
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
    )


def active_dropout(layer: Linear, adapter: str) -> float:
    """Return the adapter's dropout rate, which is 0 outside training."""
    if not layer.training:
        return 0.0
    # PEFT inserts nn.Identity, which has no p, for a rate of 0.
    module = layer.lora_dropout[adapter]
    return float(getattr(module, "p", 0.0))


def lora_linears(layers: Sequence[Linear], x: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of PEFT's LoRA layers for one input x.

    x has the shape (..., in). The layers share one dropout mask, because queries, keys and values,
    and gate and up, read the same input.
    """
    first = layers[0]
    adapter = first.active_adapters[0]
    dropout = active_dropout(first, adapter)
    scales = tuple(layer.scaling[adapter] / (1 - dropout) for layer in layers)
    weights = [layer.base_layer.weight for layer in layers]
    matrices_a = [layer.lora_A[adapter].weight for layer in layers]
    matrices_b = [layer.lora_B[adapter].weight for layer in layers]
    dropped, mask = drop_unscaled(as_rows(x.detach()), dropout)
    return _LoraLinears.apply(  # type: ignore[no-any-return,no-untyped-call]
        x, dropped, mask, scales, *weights, *matrices_a, *matrices_b
    )


def lora_linear(layer: Linear, x: Tensor) -> Tensor:
    """Return the output of one of PEFT's LoRA layers for x."""
    return lora_linears([layer], x)[0]


def project(layers: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """Return the outputs of linear layers that read the same x.

    One function computes all layers with a plain adapter; the others run their own forward.
    """
    plain = [layer for layer in layers if is_plain_lora(layer)]
    outputs: dict[nn.Module, Tensor] = {}
    if plain:
        plain_outputs = lora_linears(plain, x)
        outputs = dict(zip(plain, plain_outputs, strict=True))
    for layer in layers:
        if layer not in outputs:
            outputs[layer] = layer(x)
    return [outputs[layer] for layer in layers]


# --- attention ---------------------------------------------------------------------------------


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_i, x_(i + width/2)) by its angle.

    A pair (a, b) becomes (a cos - b sin, b cos + a sin). Shapes as in `apply_rotary`.
    """
    first_sin, second_sin = sin.chunk(2, dim=-1)
    signed_sin = torch.cat((-first_sin, second_sin), dim=-1)
    partners = x.roll(x.shape[-1] // 2, -1)
    # The angles are the same for all heads.
    rotated = torch.mul(x, cos.unsqueeze(2))
    return rotated.addcmul_(partners, signed_sin.unsqueeze(2))


class _Rotary(torch.autograd.Function):
    """Rotate pairs of values; x receives the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate by the angles."""
        ctx.save_for_backward(cos, sin)
        return rotate_pairs(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Rotate the gradient by the negative angles."""
        cos, sin = ctx.saved_tensors
        return rotate_pairs(gradient, cos, -sin), None, None


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary position embedding to queries or keys.

    Su et al. 2021, arXiv:2104.09864. x has the shape (batch, tokens, heads, width), cos and sin
    (1 or batch, tokens, width); their two halves are equal.
    """
    return _Rotary.apply(x, cos, sin)  # type: ignore[no-any-return,no-untyped-call]


class _CausalAttention(torch.autograd.Function):
    """Compute causal attention on a CPU, with a backward pass in float32.

    For bfloat16 inputs torch's own backward pass is slower and less exact there.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Return the attention output in the shape and precision of q."""
        dtype = matmul_dtype(q.dtype, q.device.type)
        # scaled_dot_product_attention calls this too, but keeps the logarithms of the sums.
        result, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q.to(dtype), k.to(dtype), v.to(dtype), 0.0, True, scale=scale
        )
        output: Tensor = result.to(q.dtype)
        ctx.save_for_backward(q, k, v, output, log_sums)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Run the backward pass of flash attention.

        Dao et al. 2022, arXiv:2205.14135, algorithm 4.
        """
        q, k, v, output, log_sums = ctx.saved_tensors
        in_float32 = (tensor.float() for tensor in (gradient, q, k, v, output))
        gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *in_float32, log_sums, 0.0, True, scale=ctx.scale
        )
        return *(one.to(q.dtype) for one in gradients), None


def causal_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Return causal attention of queries, keys and values on a CPU.

    q and the output have the shape (batch, heads, tokens, width). k and v may have fewer heads if
    their number divides that of q.
    """
    return _CausalAttention.apply(q, k, v, scale)  # type: ignore[no-any-return,no-untyped-call]


# --- MLP ---------------------------------------------------------------------------------------


class Activation(NamedTuple):
    """An activation function and its derivative."""

    apply: Callable[[Tensor], Tensor]
    """Return the function of each number."""
    multiply_slope: Callable[..., Any]
    """Write gradient (first) x slope at x (second) to the keyword grad_input."""


SILU = Activation(silu, torch.ops.aten.silu_backward.grad_input)
GELU_TANH = Activation(
    functools.partial(gelu, approximate="tanh"),
    functools.partial(torch.ops.aten.gelu_backward.grad_input, approximate="tanh"),
)


class _GatedUnit(torch.autograd.Function):
    """Compute activation(gate) * up; gate and up receive gradients.

    The backward pass computes activation(gate) again, which saves its memory.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        """Return the product."""
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return activation.apply(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Apply the product rule."""
        gate, up = ctx.saved_tensors
        activated = ctx.activation.apply(gate)
        up_gradient = activated * gradient
        # The buffer of activation(gate) is reused from here on.
        gate_gradient = torch.mul(gradient, up, out=activated)
        ctx.activation.multiply_slope(gate_gradient, gate, grad_input=gate_gradient)
        return gate_gradient, up_gradient, None


def gated_unit(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """Return activation(gate) * up, all of one shape (..., width).

    Shazeer 2020, arXiv:2002.05202: SwiGLU with SILU, GeGLU with GELU_TANH.
    """
    return _GatedUnit.apply(  # type: ignore[no-any-return,no-untyped-call]
        gate, up, activation
    )


# --- loss --------------------------------------------------------------------------------------


def score_logits(
    logits: Tensor, targets: Tensor, scratch: Tensor, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the summed log-likelihood and the number of correct predictions.

    Shapes: logits (n, vocabulary), targets (n, 1). With `needs_gradient` the gradient of the loss
    overwrites the logits. `scratch` is float32 with n rows or more, and unused for float32 logits.
    """
    in_place = logits.dtype == torch.float32
    values = logits if in_place else scratch[: len(logits)].copy_(logits)
    largest = values.amax(-1, keepdim=True)
    target_logits = values.gather(1, targets)
    # The first of several largest logits is the prediction, so ties need argmax.
    candidates = (target_logits == largest).squeeze(1)
    predictions = values[candidates].argmax(-1, keepdim=True)
    correct = (predictions == targets[candidates]).sum()
    exponentials = values.sub_(largest).exp_()
    sums = exponentials.sum(-1, keepdim=True)
    log_likelihood = (target_logits - largest - sums.log()).sum()
    if needs_gradient:
        # d(-log p_y) / d logits is p - 1 at the target and p elsewhere.
        exponentials.div_(sums).scatter_add_(1, targets, torch.full_like(target_logits, -1))
        if not in_place:
            logits.copy_(exponentials)
    return log_likelihood, correct


class LogitsBuffers(NamedTuple):
    """Memory that all chunks of rows share."""

    logits: Tensor
    """Logits of a chunk, then their gradient, in the precision of the matmuls."""
    softmax: Tensor
    """Float32 copies of a few rows; empty if the logits are float32 themselves."""


def make_buffers(weight: Tensor, rows: int) -> LogitsBuffers:
    """Allocate the buffers for some rows and a head (vocabulary, width)."""
    vocabulary = len(weight)
    logits_rows = min(LOGITS_CHUNK_ROWS, rows)
    softmax_rows = min(SOFTMAX_CHUNK_ROWS, rows)
    if weight.dtype == torch.float32:
        softmax_rows = 0
    return LogitsBuffers(
        logits=weight.new_empty(logits_rows, vocabulary),
        softmax=weight.new_empty(softmax_rows, vocabulary, dtype=torch.float32),
    )


def softmax_chunks(logits: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits (n, vocabulary) and targets (n, 1) of a few rows."""
    logits_parts = torch.split(logits, SOFTMAX_CHUNK_ROWS)
    targets_parts = torch.split(targets.unsqueeze(1), SOFTMAX_CHUNK_ROWS)
    yield from zip(logits_parts, targets_parts, strict=True)


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """Compute head and cross-entropy in chunks of rows.

    Only hidden receives a gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the number of correct predictions."""
        dtype = matmul_dtype(hidden.dtype, hidden.device.type)
        weight = weight.to(dtype)
        buffers = make_buffers(weight, len(targets))
        loss = hidden.new_zeros((), dtype=torch.float32)
        correct = hidden.new_zeros((), dtype=torch.int64)
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(hidden)
        for start in range(0, len(targets), LOGITS_CHUNK_ROWS):
            chunk = slice(start, start + LOGITS_CHUNK_ROWS)
            rows = hidden[chunk].to(dtype)
            logits = buffers.logits[: len(rows)]
            torch.mm(rows, weight.t(), out=logits)
            for part, target in softmax_chunks(logits, targets[chunk]):
                log_likelihood, part_correct = score_logits(
                    part, target, buffers.softmax, needs_gradient=gradient is not None
                )
                loss -= log_likelihood
                correct += part_correct
            if gradient is not None:
                gradient[chunk] = torch.mm(logits, weight)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient that the forward pass computed."""
        (gradient,) = ctx.saved_tensors
        # 1 / tokens rounded to bfloat16 would be off by up to 0.4 %, so the product is in float32.
        scaled = gradient.float() * upstream
        return scaled.to(gradient.dtype), None, None


def fused_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the summed loss and the number of correct predictions.

    Shapes: hidden (n, width), weight of the frozen head (vocabulary, width), targets (n,). The loss
    is a negative log-likelihood in nats, a float32 scalar; the number is an int64 scalar.
    """
    return _FusedLinearCrossEntropy.apply(  # type: ignore[no-any-return,no-untyped-call]
        hidden, weight, targets
    )


# --- norm --------------------------------------------------------------------------------------


def float32_copy(x: Tensor) -> Tensor:
    """Return a copy in float32, even if x is float32."""
    return x.to(torch.float32, copy=True)


class _RmsNorm(torch.autograd.Function):
    """Compute RMSNorm with a frozen weight; x receives the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return x / sqrt(mean(x^2) + eps) * weight.

        The quotient is rounded to the precision of the weight before they are multiplied.
        """
        width = x.shape[-1]
        rows = as_rows(x)
        output = torch.empty_like(rows)
        inverse_rms = rows.new_empty(len(rows), 1, dtype=torch.float32)
        for chunk in row_chunks(rows):
            values = float32_copy(rows[chunk])
            inverse = inverse_rms[chunk]
            torch.linalg.vector_norm(values, dim=-1, keepdim=True, out=inverse)
            inverse.square_().div_(width)
            inverse.add_(eps).rsqrt_()
            values.mul_(inverse)
            if weight.dtype == torch.float32:
                output[chunk] = values.mul_(weight)
            else:
                output[chunk].copy_(values).mul_(weight)
        ctx.save_for_backward(rows, weight, inverse_rms)
        return output.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return (g - u mean(g u)) / rms.

        g is the gradient times the weight, u the normalized input.
        """
        rows, weight, inverse_rms = ctx.saved_tensors
        width = rows.shape[-1]
        upstream = gradient.reshape(rows.shape)
        float32_weight = weight.float()
        x_gradient = torch.empty_like(rows)
        for chunk in row_chunks(rows):
            inverse = inverse_rms[chunk]
            unit = float32_copy(rows[chunk])
            unit.mul_(inverse)
            weighted = float32_copy(upstream[chunk])
            weighted.mul_(float32_weight)
            mean = torch.linalg.vecdot(weighted, unit).div_(width)
            weighted.addcmul_(unit, mean.unsqueeze(-1), value=-1)
            weighted.mul_(inverse)
            x_gradient[chunk] = weighted
        return x_gradient.view(gradient.shape), None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x (..., width) divided by its root mean square, times weight.

    Zhang & Sennrich 2019, arXiv:1910.07467. The result has the precision of x. The quotient is
    rounded to the weight's precision first: Llama's weights are as wide as x, and Gemma's float32.
    """
    return _RmsNorm.apply(x, weight, eps)  # type: ignore[no-any-return,no-untyped-call]
