"""Time each function of bula/lora_kernels.py against the library version.

A round is one forward and one backward pass over the same inputs. The library's way is
transformers' module under PEFT's layers, as TRL runs it, with bfloat16 autocast unless the CPU
computes in float32; for the head it is the logits of the supervised positions and torch's
cross-entropy. The model is one decoder layer of models/base, with precision, adapter and dropout of
the profile and the batch of a training step. Dropout is off while outputs and gradients are
compared, and on while they are timed. bench/train.py times a complete training step.

    python -m bench.lora_kernels [--rows 8] [--length 305] [--rounds 20]
"""

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from peft import get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention, silu
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from bench.summary import show
from bula import lora_kernels, model_kernels
from bula.hardware import compute_dtype, seed_everything
from bula.lora import lora_config
from bula.models import load_model
from bula.params import Params, load_params
from bula.scoring import unwrap_adapter

ROOT = Path(__file__).resolve().parent.parent
# Largest difference of an output or a gradient, as a share of its largest number: a few roundings
# to bfloat16's 8 bits, or float32's through sums over thousands of numbers.
TOLERANCE = {"bfloat16": 2**-5, "float32": 1e-4}
# gated_unit computes silu twice to save a third of the backward pass's memory.
SWIGLU_GOAL = 0.7
Function = Callable[..., Any]


class Layers(NamedTuple):
    """One decoder layer twice, with equal weights, and its model."""

    ours: LlamaDecoderLayer
    """The layer with the functions of bula/lora_kernels.py."""
    library: LlamaDecoderLayer
    """The layer with the functions of the libraries."""
    model: Any
    """The transformers model that contains the library's layer."""


class Pair(NamedTuple):
    """Two functions that compute the same values."""

    ours: Function
    library: Function
    inputs: list[Tensor]


class Inputs(NamedTuple):
    """Inputs of one batch."""

    hidden: Tensor
    """Hidden states (rows, length, width)."""
    intermediate: Tensor
    """Values inside the MLP (rows, length, intermediate width)."""
    queries: Tensor
    """Queries (rows, length, heads, width of a head)."""
    keys: Tensor
    """Keys (rows, key heads, length, width of a head)."""
    values: Tensor
    """Values in the shape of the keys."""
    targets: Tensor
    """Supervised token ids (n,)."""


def make_layers(params: Params) -> Layers:
    """Return the two layers of models/base and its model."""
    settings = lora_config(params.train.lora)
    model = get_peft_model(load_model(ROOT / "models/base", params.dtype), settings).train()
    library = unwrap_adapter(model).model.layers[0]
    for name, weight in library.named_parameters():
        if "lora_B" in name:
            # With zeros, as at the start of training, every gradient of A would be zero.
            torch.nn.init.normal_(weight, std=0.02)
    ours = copy.deepcopy(library)
    model_kernels.use_kernels(ours)
    return Layers(ours, library, unwrap_adapter(model))


def make_inputs(layers: Layers, rows: int, length: int) -> Inputs:
    """Return random inputs of one batch."""
    config = layers.model.config
    norm = layers.library.input_layernorm
    dtype = norm.weight.dtype
    head_width = config.hidden_size // config.num_attention_heads
    ids = torch.randint(0, config.vocab_size, (rows, length))
    embedded = layers.model.get_input_embeddings()(ids)
    intermediate = torch.randn(rows, length, config.intermediate_size, dtype=dtype)
    queries = torch.randn(rows, length, config.num_attention_heads, head_width, dtype=dtype)
    keys, values = torch.randn(2, rows, config.num_key_value_heads, length, head_width, dtype=dtype)
    return Inputs(
        # Inputs on another scale would make attention look at one position only.
        hidden=norm(embedded).detach(),
        intermediate=intermediate,
        queries=queries,
        keys=keys,
        values=values,
        targets=torch.randint(0, config.vocab_size, (rows * length * 2 // 3,)),
    )


def module_pairs(
    layers: Layers, inputs: Inputs, positions: tuple[Tensor, Tensor]
) -> dict[str, Pair]:
    """Return the pairs that are complete modules of the layer."""
    ours = layers.ours
    library = layers.library

    def our_attention(hidden: Tensor) -> Any:
        return ours.self_attn(hidden, positions, None)[0]

    def library_attention(hidden: Tensor) -> Any:
        return library.self_attn(hidden, positions, None)[0]

    hidden = [inputs.hidden]
    return {
        "attention_block": Pair(our_attention, library_attention, hidden),
        "mlp_block": Pair(ours.mlp, library.mlp, hidden),
        "norm": Pair(ours.input_layernorm, library.input_layernorm, hidden),
        "down_projection": Pair(ours.mlp.down_proj, library.mlp.down_proj, [inputs.intermediate]),
    }


def attention_pair(inputs: Inputs) -> Pair:
    """Return causal attention on its own."""
    scale = inputs.queries.shape[-1] ** -0.5

    def ours(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return lora_kernels.causal_attention(queries.transpose(1, 2), keys, values, scale)

    def library(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return scaled_dot_product_attention(
            queries.transpose(1, 2), keys, values, is_causal=True, enable_gqa=True
        )

    return Pair(ours, library, [inputs.queries, inputs.keys, inputs.values])


def rotary_pair(inputs: Inputs, positions: tuple[Tensor, Tensor]) -> Pair:
    """Return the rotary position embedding of the queries."""

    def ours(queries: Tensor) -> Tensor:
        return lora_kernels.apply_rotary(queries, *positions)

    def library(queries: Tensor) -> Any:
        return apply_rotary_pos_emb(queries, queries, *positions, unsqueeze_dim=2)[0]

    return Pair(ours, library, [inputs.queries])


def swiglu_pair(inputs: Inputs) -> Pair:
    """Return SwiGLU of random gates."""

    def library(gate: Tensor, up: Tensor) -> Tensor:
        return silu(gate) * up

    def ours(gate: Tensor, up: Tensor) -> Tensor:
        return lora_kernels.gated_unit(gate, up, lora_kernels.SILU)

    gate = inputs.intermediate
    return Pair(ours, library, [gate, gate.flip(0)])


def loss_pair(layers: Layers, inputs: Inputs) -> Pair:
    """Return head and loss over the supervised positions."""
    head = layers.model.get_output_embeddings().weight
    targets = inputs.targets

    def ours(hidden: Tensor) -> Tensor:
        return lora_kernels.fused_linear_cross_entropy(hidden, head, targets)[0]

    def library(hidden: Tensor) -> Tensor:
        logits = linear(hidden, head).float()
        return cross_entropy(logits, targets, reduction="sum")

    supervised = inputs.hidden.flatten(0, 1)[: len(targets)]
    return Pair(ours, library, [supervised])


def make_pairs(layers: Layers, rows: int, length: int, dtype: str) -> dict[str, Pair]:
    """Return all pairs by name, for one batch."""
    inputs = make_inputs(layers, rows, length)
    positions = layers.model.model.rotary_emb(inputs.hidden, torch.arange(length)[None])
    pairs = module_pairs(layers, inputs, positions)
    if dtype == "bfloat16":
        # Training does not use this function in float32.
        pairs["attention"] = attention_pair(inputs)
    pairs["rotation"] = rotary_pair(inputs, positions)
    pairs["gate"] = swiglu_pair(inputs)
    pairs["head_and_loss"] = loss_pair(layers, inputs)
    return pairs


def run(
    function: Function, inputs: list[Tensor], autocast: bool, layer: LlamaDecoderLayer
) -> tuple[float, list[Tensor]]:
    """Return the seconds of a forward and backward pass, and the results.

    The results are the output and the gradients of the inputs and of the layer's adapters.
    """
    layer.zero_grad()
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = function(*leaves)
    output.backward(torch.ones_like(output))
    seconds = time.perf_counter() - started
    gradients = [leaf.grad for leaf in (*leaves, *layer.parameters()) if leaf.grad is not None]
    return seconds, [output.detach(), *gradients]


def difference(ours: list[Tensor], library: list[Tensor]) -> float:
    """Return the largest difference, as a share of the tensor's largest number."""
    shares = []
    for our_tensor, library_tensor in zip(ours, library, strict=True):
        reference = library_tensor.float()
        apart = (our_tensor.float() - reference).abs().max()
        shares.append(float(apart / reference.abs().max()))
    return max(shares)


def compare(name: str, pair: Pair, layers: Layers, dtype: str) -> float:
    """Return the difference of a pair's results without dropout.

    Raise SystemExit if it is above the tolerance.
    """
    layers.ours.eval()
    layers.library.eval()
    _, ours = run(pair.ours, pair.inputs, False, layers.ours)
    _, library = run(pair.library, pair.inputs, dtype == "bfloat16", layers.library)
    apart = difference(ours, library)
    tolerance = TOLERANCE[dtype]
    # The negation refuses NaN, too.
    if not apart <= tolerance:
        raise SystemExit(
            f"{name}: output differs from the reference by {apart:.2g} of the largest "
            f"(tolerance {tolerance:g})"
        )
    return apart


def measure(name: str, pair: Pair, layers: Layers, rounds: int, dtype: str) -> dict[str, float]:
    """Return a pair's difference, median milliseconds and their ratio."""
    apart = compare(name, pair, layers, dtype)
    layers.ours.train()
    layers.library.train()
    our_seconds = []
    library_seconds = []
    for _ in range(rounds):
        our_seconds.append(run(pair.ours, pair.inputs, False, layers.ours)[0])
        autocast = dtype == "bfloat16"
        library_seconds.append(run(pair.library, pair.inputs, autocast, layers.library)[0])
    ours = statistics.median(our_seconds) * 1e3
    library = statistics.median(library_seconds) * 1e3
    return {
        f"{name}_difference": apart,
        f"{name}_milliseconds": ours,
        f"{name}_library_milliseconds": library,
        f"{name}_ratio": library / ours,
    }


def main(
    rows: Annotated[int, typer.Option(help="Rows of the batch.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens per row.")] = 305,
    rounds: Annotated[int, typer.Option(help="Rounds per function.")] = 20,
) -> None:
    """Compare and time each function."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    seed_everything(params.seed)
    dtype = compute_dtype(params.dtype)
    layers = make_layers(params)
    figures: dict[str, float] = {}
    for name, pair in make_pairs(layers, rows, length, dtype).items():
        figures |= measure(name, pair, layers, rounds, dtype)
    goals = {name: 1.0 for name in figures if name.endswith("_ratio")}
    goals["gate_ratio"] = SWIGLU_GOAL
    met = all(figures[name] >= goal for name, goal in goals.items())
    show("kernels", figures, goals, met)


if __name__ == "__main__":
    typer.run(main)
