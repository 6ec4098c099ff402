"""What each function of bula/lora_kernels.py brings beside what it replaces: forward and backward pass of the same inputs.

The library's way is transformers' module under PEFT's layers, as TRL runs it (with bfloat16 autocast unless the CPU computes in
float32); for the head, the logits of the supervised positions and torch's cross-entropy. One decoder layer of models/base, in
the precision and with the adapter and dropout of params.yaml, at the batch that a training step has. Each pair runs in turn;
dropout is off while their outputs and gradients are compared, and on while they are timed. Only without the rest of a step
beside it: bench/train.py times that.

    python -m bench.lora_kernels [--rows 8] [--length 305] [--rounds 20]
"""

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention, silu
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from bench.summary import show
from bula import lora_kernels
from bula.hardware import compute_dtype, seed_everything
from bula.lora import lora_config
from bula.models import load_model
from bula.params import Params, load_params
from bula.scoring import unwrap_adapter

ROOT = Path(__file__).resolve().parent.parent
# Largest difference of an output or a gradient, as a share of its own largest number: a few roundings to bfloat16's 8
# bits, or float32's through sums over thousands of numbers.
TOLERANCE = {"bfloat16": 2**-5, "float32": 1e-4}
# The gate makes silu a second time instead of keeping it, a third less for the backward pass: it may take so much longer.
GATE = 0.7
Call = Callable[..., Any]
Pair = tuple[Call, Call, list[Tensor]]


def layers_of(params: Params) -> tuple[LlamaDecoderLayer, LlamaDecoderLayer, Any]:
    """One layer with our functions and with the libraries', of equal weights, and the model that it is of."""
    settings = lora_config(params.train.lora)
    model = get_peft_model(load_model(ROOT / "models/base", params.dtype), settings).train()
    theirs = unwrap_adapter(model).model.layers[0]
    for name, weight in theirs.named_parameters():
        if "lora_B" in name:
            # Zeros at the start would hide every gradient of A.
            torch.nn.init.normal_(weight, std=0.02)
    ours = copy.deepcopy(theirs)
    lora_kernels.use_kernels(ours)
    return ours, theirs, unwrap_adapter(model)


def pairs_of(
    ours: LlamaDecoderLayer, theirs: LlamaDecoderLayer, model: Any, rows: int, length: int
) -> dict[str, Pair]:
    """By name: our way, the library's, and inputs of one batch."""
    config, dtype = model.config, theirs.input_layernorm.weight.dtype
    heads, width, keys = (
        config.num_attention_heads,
        config.hidden_size // config.num_attention_heads,
        config.num_key_value_heads,
    )
    # What a block reads: queries and keys of other numbers would attend to one place alone.
    x = theirs.input_layernorm(
        model.get_input_embeddings()(torch.randint(0, config.vocab_size, (rows, length)))
    ).detach()
    up = torch.randn(rows, length, config.intermediate_size, dtype=dtype)
    q = torch.randn(rows, length, heads, width, dtype=dtype)
    k, v = torch.randn(2, rows, keys, length, width, dtype=dtype)
    place = model.model.rotary_emb(x, torch.arange(length)[None])
    head, targets = (
        model.get_output_embeddings().weight,
        torch.randint(0, config.vocab_size, (rows * length * 2 // 3,)),
    )

    def attention(one: Tensor, two: Tensor, three: Tensor) -> Tensor:
        return scaled_dot_product_attention(
            one.transpose(1, 2), two, three, is_causal=True, enable_gqa=True
        )

    def flash(one: Tensor, two: Tensor, three: Tensor) -> Any:
        return lora_kernels._Attention.apply(one.transpose(1, 2), two, three, width**-0.5)  # type: ignore[no-untyped-call]

    return {
        "attention_block": (
            lambda h: ours.self_attn(h, place, None)[0],
            lambda h: theirs.self_attn(h, place, None)[0],
            [x],
        ),
        "mlp_block": (ours.mlp, theirs.mlp, [x]),
        "norm": (ours.input_layernorm, theirs.input_layernorm, [x]),
        "down_projection": (ours.mlp.down_proj, theirs.mlp.down_proj, [up]),
        "attention": (flash, attention, [q, k, v]),
        "rotation": (
            lambda h: lora_kernels.rotated(h, *place),
            lambda h: apply_rotary_pos_emb(h, h, *place, unsqueeze_dim=2)[0],
            [q],
        ),
        "gate": (lora_kernels.gated, lambda gate, other: silu(gate) * other, [up, up.flip(0)]),
        "head_and_loss": (
            lambda h: lora_kernels.answer_loss(h, head, targets)[0],
            lambda h: cross_entropy(linear(h, head).float(), targets, reduction="sum"),
            [x.flatten(0, 1)[: len(targets)]],
        ),
    }


def run(
    call: Call, inputs: list[Tensor], autocast: bool, layer: LlamaDecoderLayer
) -> tuple[float, list[Tensor]]:
    """Seconds of a forward and backward pass; the output, and the gradients of the inputs and of the layer's adapters."""
    layer.zero_grad()
    leaves = [one.detach().clone().requires_grad_() for one in inputs]
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        made = call(*leaves)
    made.backward(torch.ones_like(made))
    seconds = time.perf_counter() - started
    return seconds, [
        made.detach(),
        *(leaf.grad for leaf in (*leaves, *layer.parameters()) if leaf.grad is not None),
    ]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference of any output or gradient, as a share of the largest number there."""
    return max(
        float((a.float() - b.float()).abs().max() / b.float().abs().max())
        for a, b in zip(ours, theirs, strict=True)
    )


def measure(
    name: str,
    pair: Pair,
    layers: tuple[LlamaDecoderLayer, LlamaDecoderLayer],
    rounds: int,
    dtype: str,
) -> dict[str, float]:
    """Difference, median milliseconds of both, and their ratio; SystemExit if the numbers are not the library's."""
    (ours, library, inputs), autocast, tolerance = pair, dtype == "bfloat16", TOLERANCE[dtype]
    for layer in layers:
        layer.eval()
    apart = difference(
        run(ours, inputs, False, layers[0])[1], run(library, inputs, autocast, layers[1])[1]
    )
    if not apart <= tolerance:
        raise SystemExit(
            f"{name}: output differs from the reference by {apart:.2g} of the largest (tolerance {tolerance:g})"
        )
    for layer in layers:
        layer.train()
    times = [
        (run(ours, inputs, False, layers[0])[0], run(library, inputs, autocast, layers[1])[0])
        for _ in range(rounds)
    ]
    mine, theirs = (statistics.median(way) * 1e3 for way in zip(*times, strict=True))
    figures = {
        "difference": apart,
        "milliseconds": mine,
        "library_milliseconds": theirs,
        "ratio": theirs / mine,
    }
    return {f"{name}_{figure}": value for figure, value in figures.items()}


def main(
    rows: Annotated[int, typer.Option(help="Rows of the batch.")] = 8,
    length: Annotated[int, typer.Option(help="Tokens of each row.")] = 305,
    rounds: Annotated[int, typer.Option(help="Times that each way runs.")] = 20,
) -> None:
    """Compare and time each pair."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    seed_everything(params.seed)
    ours, theirs, model = layers_of(params)
    figures: dict[str, float] = {}
    dtype = compute_dtype(params.dtype)
    pairs = pairs_of(ours, theirs, model, rows, length)
    if dtype == "float32":
        # Training takes it in bfloat16 alone.
        del pairs["attention"]
    for name, pair in pairs.items():
        figures |= measure(name, pair, (ours, theirs), rounds, dtype)
    goals = {
        name: GATE if name == "gate_ratio" else 1.0 for name in figures if name.endswith("_ratio")
    }
    show("kernels", figures, goals, all(figures[name] >= goal for name, goal in goals.items()))


if __name__ == "__main__":
    typer.run(main)
