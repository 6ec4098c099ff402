"""Choose the kernels that compute a model's layers, and its loss.

`use_kernels` replaces the forward functions of LoRA layers of any model, and of the attention, MLP
and norms of Llama and Gemma 3. A layer of any other class keeps its own, because a class with the
same attributes may still compute something else. `add_answer_head` computes the loss of the
supervised positions only. `kernel_difference` compares both with transformers' own functions.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.activations import GELUTanh, SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3Attention,
    Gemma3MLP,
    Gemma3RMSNorm,
    Gemma3TextModel,
)
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
)

from bula.lora_kernels import (
    GELU_TANH,
    LOGITS_CHUNK_ROWS,
    SILU,
    apply_rotary,
    causal_attention,
    fused_linear_cross_entropy,
    gated_unit,
    is_plain_lora,
    lora_linear,
    project,
    rms_norm,
)
from bula.scoring import (
    UNSUPERVISED,
    Batch,
    check_head,
    find_decoder,
    head_logits,
    replaced_forward,
    supervised_hidden,
    unwrap_adapter,
)
from bula.shared_prefix import SharedPrefix, find_shared_prefix, shared_hidden

# The values of train.attention; transformers' eager attention is not in its table of functions.
ATTENTION_IMPLEMENTATIONS = ("sdpa", "flash_attention_2")
# Rows and largest number of the probe of a head: integers up to 256 are exact in bfloat16.
PROBE_ROWS = 2
PROBE_LARGEST = 100
# Standard deviation of the adapters' B in a comparison; they start as zeros.
ADAPTER_STD = 0.05

# --- attention ---------------------------------------------------------------------------------


def attend(
    layer: LlamaAttention | Gemma3Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_mask: Tensor | None,
    shared_prefix: SharedPrefix | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Return the output of a layer's attention, and its weights if it has any.

    q, k and v have the shape (batch, tokens, heads, width), the output (batch, tokens, width of
    all heads). Without a mask, attention is causal. With a shared prefix, the batch is one packed
    row, and attention is causal within each complete row.
    """
    if shared_prefix is not None:
        q, k, v = (shared_prefix.unpack(tensor) for tensor in (q, k, v))
        attention_mask = None
    queries, keys, values = (tensor.transpose(1, 2) for tensor in (q, k, v))
    implementation = layer.config._attn_implementation
    on_cpu_in_bfloat16 = q.device.type == "cpu" and q.dtype == torch.bfloat16
    weights = None
    if implementation == "sdpa" and attention_mask is None and on_cpu_in_bfloat16:
        output = causal_attention(queries, keys, values, layer.scaling)
        output = output.transpose(1, 2)
    else:
        attention_function = ALL_ATTENTION_FUNCTIONS[implementation]
        output, weights = attention_function(
            layer,
            queries,
            keys,
            values,
            attention_mask,
            dropout=0.0,
            scaling=layer.scaling,
            **kwargs,
        )
    joined_heads = output.flatten(2)
    if shared_prefix is not None:
        joined_heads = shared_prefix.pack(joined_heads)
    return layer.o_proj(joined_heads), weights


def split_heads(layer: LlamaAttention | Gemma3Attention, hidden_states: Tensor) -> list[Tensor]:
    """Return queries, keys and values (batch, tokens, heads, width)."""
    head_shape = (*hidden_states.shape[:-1], -1, layer.head_dim)
    projections = project([layer.q_proj, layer.k_proj, layer.v_proj], hidden_states)
    return [projection.view(head_shape) for projection in projections]


def llama_attention(
    layer: LlamaAttention,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute LlamaAttention's forward pass for hidden_states (batch, tokens, width).

    With a cache of keys and values, as in generation, the layer's own forward runs.
    """
    if past_key_values is not None:
        return LlamaAttention.forward(  # type: ignore[no-any-return]
            layer, hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
        )
    q, k, v = split_heads(layer, hidden_states)
    q = apply_rotary(q, *position_embeddings)
    k = apply_rotary(k, *position_embeddings)
    return attend(layer, q, k, v, attention_mask, **kwargs)


def gemma3_attention(
    layer: Gemma3Attention,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute Gemma3Attention's forward pass for hidden_states (batch, tokens, width).

    transformers makes a mask only if rows are longer than the layer's window. With a cache of keys
    and values, as in generation, the layer's own forward runs.
    """
    if past_key_values is not None:
        return Gemma3Attention.forward(  # type: ignore[no-any-return]
            layer, hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
        )
    q, k, v = split_heads(layer, hidden_states)
    q = apply_rotary(layer.q_norm(q), *position_embeddings)
    k = apply_rotary(layer.k_norm(k), *position_embeddings)
    window = layer.sliding_window
    return attend(layer, q, k, v, attention_mask, sliding_window=window, **kwargs)


def supports_attention(layer: LlamaAttention | Gemma3Attention) -> bool:
    """Return whether the functions above can compute this layer."""
    implementation = layer.config._attn_implementation
    return (
        layer.is_causal
        and not layer.attention_dropout
        and implementation in ATTENTION_IMPLEMENTATIONS
    )


# --- MLP and norm ------------------------------------------------------------------------------


def llama_mlp(layer: LlamaMLP, x: Tensor) -> Tensor:
    """Compute LlamaMLP's forward pass for x (..., width)."""
    gate, up = project([layer.gate_proj, layer.up_proj], x)
    output: Tensor = layer.down_proj(gated_unit(gate, up, SILU))
    return output


def gemma3_mlp(layer: Gemma3MLP, x: Tensor) -> Tensor:
    """Compute Gemma3MLP's forward pass for x (..., width)."""
    gate, up = project([layer.gate_proj, layer.up_proj], x)
    output: Tensor = layer.down_proj(gated_unit(gate, up, GELU_TANH))
    return output


def has_silu(layer: LlamaMLP) -> bool:
    """Return whether an MLP's activation is SiLU."""
    return isinstance(layer.act_fn, nn.SiLU | SiLUActivation)


def has_tanh_gelu(layer: Gemma3MLP) -> bool:
    """Return whether an MLP's activation is torch's GELU in the tanh approximation."""
    function = getattr(layer.act_fn, "act", None)
    is_torch = isinstance(function, functools.partial) and function.func is nn.functional.gelu
    return type(layer.act_fn) is GELUTanh and is_torch


def has_frozen_weight(layer: LlamaRMSNorm | Gemma3RMSNorm) -> bool:
    """Return whether a norm's weight is not trained."""
    return not layer.weight.requires_grad


def llama_norm(layer: LlamaRMSNorm, x: Tensor) -> Tensor:
    """Compute LlamaRMSNorm's forward pass for x (..., width)."""
    return rms_norm(x, layer.weight, layer.variance_epsilon)


def gemma3_norm(layer: Gemma3RMSNorm, x: Tensor) -> Tensor:
    """Compute Gemma3RMSNorm's forward pass for x (..., width)."""
    return rms_norm(x, 1.0 + layer.weight.float(), layer.eps)


# --- models ------------------------------------------------------------------------------------


class LayerKernel(NamedTuple):
    """A kernel for the layers of one class."""

    forward: Callable[..., Any]
    """The function that replaces the layer's forward function."""
    supports: Callable[[Any], bool]
    """Return whether the kernel can compute a layer of this class."""


# A subclass may compute something else, so a layer's class must be exactly one of these.
LAYER_KERNELS: dict[type[nn.Module], LayerKernel] = {
    LlamaAttention: LayerKernel(llama_attention, supports_attention),
    LlamaMLP: LayerKernel(llama_mlp, has_silu),
    LlamaRMSNorm: LayerKernel(llama_norm, has_frozen_weight),
    Gemma3Attention: LayerKernel(gemma3_attention, supports_attention),
    Gemma3MLP: LayerKernel(gemma3_mlp, has_tanh_gelu),
    Gemma3RMSNorm: LayerKernel(gemma3_norm, has_frozen_weight),
}


def find_kernel(layer: nn.Module) -> Callable[..., Any] | None:
    """Return the function that can replace a layer's forward, or None."""
    if is_plain_lora(layer):
        return lora_linear
    kernel = LAYER_KERNELS.get(type(layer))
    if kernel is None or not kernel.supports(layer):
        return None
    return kernel.forward


def use_kernels(model: PeftModel) -> None:
    """Replace the forward of every layer that a function here computes.

    Other layers keep theirs: 4-bit weights, DoRA, a bias, other norms, other activations.
    """
    for layer in model.modules():
        kernel = find_kernel(layer)
        if kernel is not None:
            layer.forward = functools.partial(kernel, layer)


def can_share_prefix(decoder: PreTrainedModel, tokens: int) -> bool:
    """Return whether a decoder's kernels can compute a shared prefix of rows.

    The layers around attention must compute each token by itself, and rows must fit into the window
    of each layer. On a GPU, reading the length of the prefix would wait for all work in progress.
    """
    if type(decoder) not in (LlamaModel, Gemma3TextModel) or decoder.device.type != "cpu":
        return False
    for decoder_layer in decoder.layers:
        attention = decoder_layer.self_attn
        window = getattr(attention, "sliding_window", None)
        has_kernel = isinstance(vars(attention).get("forward"), functools.partial)
        if not has_kernel or (window is not None and tokens > window):
            return False
    return True


# --- head and loss -----------------------------------------------------------------------------


def has_plain_head(model: PreTrainedModel) -> bool:
    """Return whether a model's logits are hidden states times a frozen matrix.

    The model's own forward function runs with a decoder and a head that return given numbers, and
    must pass both on unchanged. A scale, a softcap or a slice of the logits would change them.
    """
    head = unwrap_adapter(model).get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return False
    hidden = _integers(head.in_features).to(model.device)
    logits = _integers(head.out_features).to(model.device)
    received = []

    def return_logits(values: Tensor) -> Tensor:
        received.append(values)
        return logits.unsqueeze(0)

    with replaced_forward(head, return_logits):
        found = head_logits(model, hidden)
    if len(received) != 1 or found.shape != logits.shape:
        return False
    return torch.equal(received[0][0], hidden) and torch.equal(found.float(), logits)


def _integers(width: int) -> Tensor:
    """Return a few rows of integers between -PROBE_LARGEST and PROBE_LARGEST."""
    numbers = torch.arange(PROBE_ROWS * width) % (2 * PROBE_LARGEST + 1) - PROBE_LARGEST
    return numbers.view(PROBE_ROWS, width).float()


def own_head_loss(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss and the number of correct predictions of any head.

    Shapes: hidden (n, width), targets (n,). The backward pass computes the logits again, so that
    memory contains those of one chunk of rows.
    """
    # The sum of no rows is 0, and has a gradient if hidden has one.
    loss = hidden[:0].float().sum()
    correct = targets.new_zeros(())
    for start in range(0, len(targets), LOGITS_CHUNK_ROWS):
        rows = slice(start, start + LOGITS_CHUNK_ROWS)
        chunk_loss, chunk_correct = checkpoint(
            _chunk_loss,
            model,
            hidden[rows],
            targets[rows],
            use_reentrant=False,
            preserve_rng_state=False,
        )
        loss = loss + chunk_loss
        correct += chunk_correct
    return loss, correct


def _chunk_loss(model: PreTrainedModel, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss and the number of correct predictions of a few rows."""
    logits = head_logits(model, hidden).float()
    correct = (logits.detach().argmax(-1) == targets).sum()
    return cross_entropy(logits, targets, reduction="sum"), correct


def hidden_and_targets(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return supervised hidden states and targets, with a shared prefix if possible."""
    decoder = find_decoder(model)
    if can_share_prefix(decoder, batch["input_ids"].shape[1]):
        layout = find_shared_prefix(batch)
        if layout is not None:
            return shared_hidden(decoder, batch, layout)
    return supervised_hidden(model, batch)


def add_answer_head(model: PreTrainedModel) -> None:
    """Add the argument `answer_head` to the model's forward.

    `model(..., labels=labels, answer_head=True)` returns the summed loss, the number of correct
    predictions and the number of supervised tokens. The loss is computed inside forward because DDP
    and FSDP gather parameters and gradients around that call. Raise UserError if the head cannot be
    applied to some positions alone.
    """
    own_forward = model.forward
    plain = has_plain_head(model)
    if not plain:
        check_head(model)

    @functools.wraps(type(model).forward)
    def forward(*arguments: Any, answer_head: bool = False, **inputs: Any) -> Any:
        if not answer_head:
            return own_forward(*arguments, **inputs)
        hidden, targets = hidden_and_targets(model, inputs)
        if plain:
            weight = model.get_output_embeddings().weight
            loss, correct = fused_linear_cross_entropy(hidden, weight, targets)
        else:
            loss, correct = own_head_loss(model, hidden, targets)
        return loss, correct, targets.new_tensor(len(targets))

    model.forward = forward


# --- comparison --------------------------------------------------------------------------------


def kernel_difference(model: PeftModel, input_ids: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the relative differences of loss and gradients from transformers' own.

    `model` has an adapter and its own forward functions, which stay as they are. Two copies in
    float32, without dropout and with random adapters, run one forward and backward pass. The
    difference of the gradients is the norm over all adapters. Labels are -100 where unsupervised.
    """
    own = _prepare_copy(model)
    fused = copy.deepcopy(own)
    use_kernels(fused)
    add_answer_head(unwrap_adapter(fused))
    logits = own(input_ids=input_ids, use_cache=False).logits
    predictions = logits[:, :-1].flatten(0, 1).float()
    targets = labels[:, 1:].flatten()
    own_loss = cross_entropy(predictions, targets, ignore_index=UNSUPERVISED, reduction="sum")
    own_loss.backward()  # type: ignore[no-untyped-call]
    batch = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
    }
    fused_loss, _, _ = fused(**batch, answer_head=True)
    fused_loss.backward()
    own_gradients = _joined_gradients(own)
    apart = (_joined_gradients(fused) - own_gradients).norm()
    loss_apart = (fused_loss - own_loss).detach().abs() / own_loss.detach()
    return float(loss_apart), float(apart / own_gradients.norm())


def _prepare_copy(model: PeftModel) -> PeftModel:
    """Return a float32 copy for `kernel_difference`, with random adapters."""
    prepared = copy.deepcopy(model).float().eval()
    generator = torch.Generator().manual_seed(0)
    for name, weight in prepared.named_parameters():
        if "lora_B" in name:
            values = torch.randn(weight.shape, generator=generator) * ADAPTER_STD
            weight.data.copy_(values)
    return prepared


def _joined_gradients(model: PeftModel) -> Tensor:
    """Return the gradients of all trained weights as one float64 vector."""
    gradients = []
    for weight in model.parameters():
        if weight.requires_grad:
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            gradients.append(gradient.double().flatten())
    return torch.cat(gradients)
