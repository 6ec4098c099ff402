"""What training by params.yaml will take, before it starts: parameters, tokens, FLOPs, memory by part, hours on each GPU.

transformers and PEFT build model and adapter without weights, and what they built is counted. The rest follows by formula:

- FLOPs of a matrix product: 2 a weight and token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). A frozen weight takes 2
  forward and 2 for the gradient of its input, a trained one 2 more for its own (Hoffmann et al. 2022, arXiv:2203.15556,
  appendix F, count these 6). Attention: 4 x length x width a token and layer (Chowdhery et al. 2022, arXiv:2204.02311,
  appendix B), half of it under the causal mask, and 2.5 times as much backward (Dao 2023, arXiv:2307.08691, section 4.1).
- Memory: what autograd keeps of each layer, counted from the functions that run (bula/lora_kernels.py, or PEFT's layers
  under autocast); a test compares the bytes with what a model really keeps.

docs/gpu.md works one run out; bench/training_cost.py measures memory and time beside this plan. Only for Llama's architecture.

    python -m bula plan --gpus h100,l4
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from peft import inject_adapter_in_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from bula.errors import UserError
from bula.hardware import compute_dtype, matmul_dtype
from bula.lora import lora_config
from bula.lora_kernels import PART, ROWS
from bula.params import Params, Train

Plan = dict[str, Any]

# Bytes a weight of a quantized linear layer. NF4: half a byte, and for each block of 64 an 8-bit constant that shares a float32
# with 255 others (Dettmers et al. 2023, arXiv:2305.14314, section 3). 8 bit: the float32 a row is a thousandth and left out.
QUANTIZED = {"int8": 1.0, "nf4": 0.5 + (1 + 4 / 256) / 64}
# What a process holds before the first weight. CPU: Python with torch, transformers, PEFT and TRL, measured by bench/training_cost.py.
# GPU: CUDA's context and the libraries' workspaces; an assumption, since no GPU has run this.
RUNTIME_BYTES = {"cpu": 0.6e9, "gpu": 0.8e9}
# What the C library's heap loses, as a share of the activations: gradients and other small arrays settle in the holes that one
# step's activations leave, and the next step's no longer fit there. glibc 2.36; bench/training_cost.py measures it anew, from 0.4 to 1.
# GPUs have an allocator of torch's own, of which nothing was measured.
HEAP_LOSS = {"cpu": 0.5, "gpu": 0.0}
# The linear layers of a block that read what its first norm gives.
FIRST = ("q_proj", "k_proj", "v_proj")
# Which input of a block its linear layers read.
INPUTS = dict.fromkeys(FIRST, "attention") | {
    "o_proj": "output",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "down",
}
# Tiles of TRL 1.16's head: positions and vocabulary.
TRL_TILE = (4096, 32768)
# What is said of a CPU with train.kernels "trl": TRL 1.16 scores supervised tokens alone only where Triton runs.
ALL_TOKENS = "too little: here TRL's head takes every token, not the supervised ones alone"


class Gpu(NamedTuple):
    """A device, by its vendor's data sheet: dense rates, without sparsity."""

    bfloat16: float
    """FLOP/s of bfloat16 matrix products under float32 sums."""
    float32: float
    """FLOP/s in float32, which torch does not run on tensor cores unless told to."""
    memory: float
    """Bytes."""
    note: str = ""
    """What to know about it."""


GPUS = {
    "h100": Gpu(989e12, 67e12, 80e9, "SXM"),
    "a100-80gb": Gpu(312e12, 19.5e12, 80e9),
    "a100-40gb": Gpu(312e12, 19.5e12, 40e9),
    "l4": Gpu(121e12, 30.3e12, 24e9),
    "rtx-4090": Gpu(165e12, 82.6e12, 24e9),
    "t4": Gpu(65e12, 8.1e12, 16e9, "no bfloat16: the rate is that of float16"),
}


class Shape(NamedTuple):
    """What is counted on the model and its adapter. Widths are numbers of values a token."""

    base: int
    """Parameters of the base model."""
    adapter: int
    """Parameters of the adapter."""
    linear: int
    """Weights of the decoder's linear layers: the base without embeddings, norms and head."""
    largest_layer: int
    """Weights of one decoder layer."""
    head: int
    """Weights of the head, tied or not."""
    first_linear: int
    """Of `linear`, what multiplies the embedding: nobody asks for its gradient."""
    first_adapter: int
    """Of `adapter`, the same."""
    layers: int
    hidden: int
    queries: int
    """Width of the queries: heads x width of a head."""
    keys: int
    """Width of the keys, and of the values."""
    heads: int
    mlp: int
    vocabulary: int
    adapted: tuple[tuple[tuple[str, int], ...], ...]
    """For each layer, name and input width of every linear layer with an adapter."""


class Rows(NamedTuple):
    """The training rows, as far as a plan needs to know them."""

    source: str
    """Where the figures come from."""
    examples: int | None
    """Training rows; None if not known."""
    tokens_per_row: float
    """Mean length of a row in tokens, prompt and template included."""
    tokens_longest: int
    """The longest row."""
    supervised_share: float
    """Supervised tokens / all tokens."""
    dev_tokens: float | None
    """Tokens of dev; None if not known, and then dev is not counted."""


def count(config: Mapping[str, Any], train: Train) -> Shape:
    """Build model and adapter on torch's meta device, which holds no weights, and count; UserError if it is no Llama."""
    if config.get("model_type") != "llama":
        what = f"model_type is {config.get('model_type')!r}, and plan knows the Llama architecture alone"
        raise UserError("config.json", what, "plan another base")
    found, lora = AutoConfig.for_model(**config), train.lora
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(found)
        decoder, base, head = (
            model.model.layers,
            model.num_parameters(),
            model.get_output_embeddings().weight.numel(),
        )
        linear = [
            sum(part.weight.numel() for part in layer.modules() if isinstance(part, nn.Linear))
            for layer in decoder
        ]
        first = sum(getattr(decoder[0].self_attn, name).weight.numel() for name in FIRST)
        inject_adapter_in_model(lora_config(lora), model)
    adapted = [
        [(name, part) for name, part in layer.named_modules() if hasattr(part, "lora_A")]
        for layer in decoder
    ]
    attention = decoder[0].self_attn
    return Shape(
        base=base,
        adapter=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        linear=sum(linear),
        largest_layer=max(linear),
        head=head,
        first_linear=first,
        first_adapter=sum(
            part.in_features * lora.r
            for name, part in adapted[0]
            if name.rpartition(".")[2] in FIRST
        ),
        layers=len(decoder),
        hidden=found.hidden_size,
        queries=found.num_attention_heads * attention.head_dim,
        keys=found.num_key_value_heads * attention.head_dim,
        heads=found.num_attention_heads,
        mlp=found.intermediate_size,
        vocabulary=found.vocab_size,
        adapted=tuple(
            tuple((name.rpartition(".")[2], part.in_features) for name, part in layer)
            for layer in adapted
        ),
    )


def work(params: Params, rows: Rows, processes: int) -> dict[str, float]:
    """What is gone through: rows and tokens of a step, of the run, and of all evaluations on dev, padding left out."""
    train = params.train
    # A packed row is filled up to the limit with several examples.
    tokens = float(params.preprocess.max_tokens) if train.packing else rows.tokens_per_row
    step_rows = train.batch_size * train.gradient_accumulation * processes
    # The trainer evaluates after its last step too, whatever that is.
    evaluations = math.ceil(train.max_steps / train.eval_steps)
    seen = {
        "rows_per_step": step_rows,
        "rows": step_rows * train.max_steps,
        "tokens": step_rows * train.max_steps * tokens,
    }
    dev = {"dev_evaluations": evaluations, "dev_tokens": evaluations * (rows.dev_tokens or 0.0)}
    return seen | {"supervised_tokens": seen["tokens"] * rows.supervised_share} | dev


def flops(shape: Shape, train: Train, rows: Rows, done: Mapping[str, float]) -> dict[str, float]:
    """Floating-point operations by part. TRL's head makes its logits a second time for the gradient; on a GPU, as here, both
    kinds of kernels apply it to supervised tokens alone. On a CPU TRL's takes every token (ALL_TOKENS).
    """
    tokens, supervised = done["tokens"], done["supervised_tokens"]
    # Scores and weighted values: 2 x 2 a pair, half of the pairs masked.
    attention = 2.0 * rows.tokens_per_row * shape.queries * shape.layers
    forward = 2.0 * (shape.linear + shape.adapter) + attention
    parts = {
        "base": (4.0 * shape.linear - 2.0 * shape.first_linear) * tokens,
        "adapter": (6.0 * shape.adapter - 2.0 * shape.first_adapter) * tokens,
        "attention": 3.5 * attention * tokens,
        "head": (4.0 if train.kernels == "fused" else 6.0) * shape.head * supervised,
        "recomputed": forward * tokens if train.gradient_checkpointing else 0.0,
        "dev": (forward + 2.0 * shape.head * rows.supervised_share) * done["dev_tokens"],
    }
    return parts | {"total": sum(parts.values())}


def precision(params: Params, on_cpu: bool) -> int:
    """Bytes of one number in the precision that the model is computed in."""
    return 2 if compute_dtype(params.dtype, "cpu" if on_cpu else "cuda") == "bfloat16" else 4


def kept_per_token(
    shape: Shape, params: Params, adapted: Sequence[tuple[str, int]], length: float, on_cpu: bool
) -> float:
    """Bytes a token that autograd keeps of one layer, whose linear layers with an adapter are `adapted`, in rows of `length`.

    Both norms keep their input and its inverse root mean square; attention its queries, keys, values, output and the logarithms
    of its sums; SwiGLU gate and up, and the activated gate, which `fused` makes again. With `fused` the adapters of one input
    keep it once after dropout, with the mask, in the model's precision; PEFT's keep a copy each. Every adapter keeps its
    low-rank product.
    """
    train, size = params.train, precision(params, on_cpu)
    ours, dropout = train.kernels == "fused", train.lora.dropout > 0
    fused, autocast = ours and train.base_weights == "full", not ours and size == 2
    # With a mask of padding, which `fused` does without, keys and values are repeated for every query head, and the mask is kept.
    masked = not ours and train.attention == "sdpa" and train.batch_size > 1
    keys, mask = (shape.queries, length * size) if masked else (shape.keys, 0.0)
    norms = 2 * (shape.hidden * (size if ours else 4) + 4)
    layer = (
        norms
        + mask
        + (2 * shape.queries + 2 * keys + (2 if ours else 3) * shape.mlp) * size
        + 4 * shape.heads
    )
    inputs = {INPUTS[name]: width for name, width in adapted}
    each, low = sum(width for _, width in adapted), len(adapted) * train.lora.r
    # Attention keeps its output itself.
    once = sum(width for name, width in inputs.items() if name != "output")
    if fused:
        return layer + size * (low + (2 * sum(inputs.values()) if dropout else once))
    # PEFT works in its adapters' float32 where no autocast tells it otherwise; its dropout's mask is of booleans on a GPU.
    wide = size if autocast else 4
    return (
        layer
        + wide * (low + (each if dropout or autocast or size == 2 else once))
        + (each * (4 if on_cpu else 1) if dropout else 0)
    )


def activations(shape: Shape, params: Params, length: int, on_cpu: bool) -> float:
    """Bytes kept for the backward pass of one batch of rows of `length`; of one layer and all layers' inputs under checkpointing."""
    train, size = params.train, precision(params, on_cpu)
    layers = [kept_per_token(shape, params, adapted, length, on_cpu) for adapted in shape.adapted]
    if train.gradient_checkpointing:
        kept = max(layers) + size * shape.hidden * shape.layers
    elif train.activation_offload:
        # The layer at work and the one on its way.
        kept = 2 * max(layers)
    else:
        kept = sum(layers)
    casts = size * shape.adapter if train.kernels == "trl" and size == 2 else 0
    return kept * train.batch_size * length + casts


def passing(shape: Shape, params: Params, tokens: int, supervised: float, on_cpu: bool) -> float:
    """Bytes of what comes and goes at the peak: the head's slices, or the gradients inside the last layer's MLP.

    Those inside its attention come when what its MLP kept is gone, and are fewer.
    """
    size, mlp = precision(params, on_cpu), 0
    if params.train.kernels == "fused":
        # The slice, a part of it in float32; hidden states, and the supervised ones with their gradient.
        wide = matmul_dtype(
            torch.bfloat16 if size == 2 else torch.float32, "cpu" if on_cpu else "cuda"
        ).itemsize
        logits = (
            wide * min(ROWS, supervised) + (4 * min(PART, supervised) if wide == 2 else 0)
        ) * shape.vocabulary
        head = logits + (tokens + 2 * supervised) * shape.hidden * size
        if wide > size:
            # Copies for the products: the head; gradients of gate and up, their input and its gradient, and one of their weights.
            head += wide * shape.head
            adapted = {name for layer in shape.adapted for name, _ in layer}
            if params.train.base_weights == "full" and {"gate_proj", "up_proj"} & adapted:
                mlp = wide * (2 * tokens * (shape.mlp + shape.hidden) + shape.mlp * shape.hidden)
    else:
        tile = min(supervised, TRL_TILE[0]) * min(shape.vocabulary, TRL_TILE[1])
        head = (
            tile * (size + 8 if on_cpu else size)
            + (tokens * size + supervised * (size + 4)) * shape.hidden
        )
    return max(head, tokens * size * (3 * shape.mlp + shape.hidden) + mlp)


def memory(
    shape: Shape, params: Params, rows: Rows, launch: Mapping[str, Any], on_cpu: bool
) -> dict[str, float]:
    """Bytes by part on one device, at the batch of the longest rows. FSDP shares weights and optimizer, DDP doubles gradients.

    Launch configurations: accelerate/NAME.yaml. What FSDP gathers at once is the embedding and one layer.
    """
    train, size = params.train, precision(params, on_cpu)
    longest = params.preprocess.max_tokens if train.packing else rows.tokens_longest
    tokens = train.batch_size * longest
    kind = str(launch["distributed_type"])
    parts_of = launch["num_processes"] if kind == "FSDP" else 1
    whole = (shape.base - shape.linear) * size + shape.linear * QUANTIZED.get(
        train.base_weights, size
    )
    gathered = (shape.head + shape.largest_layer) * size if kind == "FSDP" else 0
    kept, place = activations(shape, params, longest, on_cpu), "cpu" if on_cpu else "gpu"
    parts = {
        "base_weights": whole / parts_of + gathered,
        "adapter": 4 * shape.adapter / parts_of,
        "gradients": 4 * shape.adapter / parts_of * (2 if kind.startswith("MULTI") else 1),
        "adamw_moments": 8 * shape.adapter / parts_of,
        "activations": kept,
        "head_and_scratch": passing(shape, params, tokens, tokens * rows.supervised_share, on_cpu),
        "heap": HEAP_LOSS[place] * kept,
        "runtime": RUNTIME_BYTES[place],
    }
    return parts | {"total": sum(parts.values())}


def chosen(
    names: Sequence[str], rate: float | None, dtype: str
) -> dict[str, tuple[float, float | None, str]]:
    """FLOP/s, memory in bytes and note of each device asked for; UserError lists the known ones. `rate` is the CPU's, in GFLOP/s."""
    unknown = [name for name in names if name not in (*GPUS, "cpu")]
    if unknown or not names:
        what = f"no GPU called {', '.join(unknown) or 'nothing'} is known"
        raise UserError("--gpus", what, f"name some of {', '.join(GPUS)} and cpu")
    if "cpu" in names and not rate:
        fix = (
            "pass this machine's GFLOP/s of matrix products, which `python -m bench.train` prints as "
            "product_gflops (with train.kernels trl, as plain_product_gflops)"
        )
        raise UserError("--rate", "the device cpu needs it", fix)
    found: dict[str, tuple[float, float | None, str]] = {}
    for name in names:
        if name == "cpu":
            found[name] = ((rate or 0) * 1e9, None, "by --rate")
        else:
            gpu = GPUS[name]
            found[name] = (
                gpu.bfloat16 if dtype == "bfloat16" else gpu.float32,
                gpu.memory,
                gpu.note if dtype == "bfloat16" else "",
            )
    return found


def make_plan(
    params: Params,
    config: tuple[str, Mapping[str, Any]],
    rows: Rows,
    launch: Mapping[str, Any],
    gpus: Sequence[str],
    utilisation: float,
    rate: float | None,
) -> Plan:
    """The whole plan as plain data. Hours = FLOPs / (devices x FLOP/s x utilisation), the share of its rate that a device reaches."""
    if not 0 < utilisation <= 1:
        fix = "pass a share of the device's rate: above 0, at most 1"
        raise UserError("--utilisation", f"{utilisation} is no share", fix)
    devices = chosen(gpus, rate, params.dtype)
    shape, processes = count(config[1], params.train), int(launch["num_processes"])
    done = work(params, rows, processes)
    parts = flops(shape, params.train, rows, done)
    kinds = {
        kind: memory(shape, params, rows, launch, kind == "cpu")
        for kind in dict.fromkeys("cpu" if n == "cpu" else "gpu" for n in gpus)
    }
    table: dict[str, Any] = {}
    for name, (speed, held, note) in devices.items():
        if name == "cpu" and params.train.kernels == "trl":
            note = f"{note}, {ALL_TOKENS}"
        needed = kinds["cpu" if name == "cpu" else "gpu"]["total"]
        table[name] = {
            "count": processes,
            "flops_per_second": speed,
            "hours": parts["total"] / (processes * speed * utilisation) / 3600,
        }
        table[name] |= {
            "memory_bytes": held,
            "memory_share": needed / held if held else None,
            "fits": needed <= held if held else None,
        }
        table[name] |= {"note": note}
    return {
        "model": {
            "source": config[0],
            "base": shape.base,
            "trainable": shape.adapter,
            "trainable_share": shape.adapter / (shape.base + shape.adapter),
        },
        "rows": rows._asdict(),
        "run": {"steps": params.train.max_steps, "processes": processes, **done},
        "flops": parts,
        "memory_bytes": kinds,
        "utilisation": utilisation,
        "devices": table,
    }
