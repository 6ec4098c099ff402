"""Predict FLOPs, memory and hours of the stage train, by formulas.

transformers and PEFT build model and adapter without weights, and `count_shape` counts them. The
formulas follow published ones:

- A matmul takes 2 FLOPs per weight and token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
  A frozen weight takes 2 forward and 2 for the gradient of its input, a trained weight 2 more for
  its own gradient (Hoffmann et al. 2022, arXiv:2203.15556, appendix F, count these 6).
- Attention takes 4 x length x width per token and layer (Chowdhery et al. 2022, arXiv:2204.02311,
  appendix B), half of it where it is causal without a mask in memory, and 2.5 times as much
  backward (Dao 2023, arXiv:2307.08691, section 4.1).
- On a CPU, the fused kernels compute the first tokens that all rows share once per batch
  (bula/shared_prefix.py). Only attention computes complete rows.
- Activation memory is what autograd keeps of each layer, counted from the functions that run:
  those of bula/lora_kernels.py, or PEFT's layers under autocast. A test compares the bytes with
  the bytes that autograd keeps for a real model.
- On a GPU, the host launches each kernel of a small batch for longer than the kernel runs. The
  hours are the longer of the two, kernels or FLOPs.

Only Llama's architecture is known. docs/gpu.md calculates one run; bench/training_cost.py measures
memory and time beside this plan.

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
from bula.lora_kernels import LOGITS_CHUNK_ROWS, SOFTMAX_CHUNK_ROWS
from bula.params import Params, Train
from bula.rates import assumed
from bula.shared_prefix import MIN_SHARED_TOKENS

Plan = dict[str, Any]
# Name and input width of every linear layer with an adapter, of one decoder layer.
AdaptedLayers = Sequence[tuple[str, int]]

# Bytes per weight of a quantized linear layer. NF4: half a byte, and for each block of 64 weights
# an 8-bit constant that shares a float32 with 255 others (Dettmers et al. 2023, arXiv:2305.14314,
# section 3). int8: the float32 per row is a thousandth and left out.
QUANTIZED_BYTES = {"int8": 1.0, "nf4": 0.5 + (1 + 4 / 256) / 64}
# Memory of a process before the first weight. CPU: Python with torch, transformers, PEFT and TRL,
# measured by bench/training_cost.py. GPU: CUDA's context and workspaces, an assumption.
RUNTIME_BYTES = {"cpu": 0.6e9, "gpu": 0.8e9}
# Fragmentation of the C library's heap, as a share of the activations: small arrays settle where
# activations were. bench/training_cost.py measured 0.4 to 1 with glibc 2.36; GPUs are unmeasured.
HEAP_LOSS = {"cpu": 0.5, "gpu": 0.0}
# The linear layers of a block that read the output of its first norm.
FIRST = ("q_proj", "k_proj", "v_proj")
# The input of a block that each of its linear layers reads.
INPUTS = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "o_proj": "output",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "down",
}
# Tiles of TRL 1.16's head.
TRL_TILE_POSITIONS = 4096
TRL_TILE_VOCABULARY = 32768


class Device(NamedTuple):
    """A device at the precision of the run."""

    flops_per_second: float
    """Peak rate of matmuls."""
    memory_bytes: float | None
    """Memory; None if unknown."""
    launch_seconds: float
    """Time in which the host launches one kernel; 0 on a CPU."""
    note: str
    """Source of the figures."""


class Shape(NamedTuple):
    """Counts of a model and its adapter.

    A width is a number of values per token.
    """

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
    """Weights in `linear` that multiply the embedding, whose gradient is not needed."""
    first_adapter: int
    """Weights in `adapter` that multiply the embedding."""
    layers: int
    """Decoder layers."""
    hidden: int
    """Width of the hidden states."""
    queries: int
    """Width of the queries: heads x width of a head."""
    keys: int
    """Width of the keys, and of the values."""
    heads: int
    """Query heads."""
    mlp: int
    """Width inside the MLP."""
    vocabulary: int
    """Tokens of the vocabulary."""
    adapted: tuple[AdaptedLayers, ...]
    """The adapted linear layers of each decoder layer."""


class Rows(NamedTuple):
    """Figures of the training rows that a plan needs."""

    source: str
    """Source of the figures."""
    examples: int | None
    """Training examples; None if unknown."""
    tokens_per_row: float
    """Mean length of a row in tokens, prompt and template included."""
    tokens_longest: int
    """Length of the longest row in tokens."""
    supervised_share: float
    """Supervised tokens / all tokens."""
    dev_tokens: float | None
    """Tokens of dev; if None, evaluations on dev are not counted."""
    shared_tokens: int = 0
    """Tokens with which every row begins, such as those of the system prompt."""


class Batch(NamedTuple):
    """The shape of a batch whose rows have one length."""

    rows: int
    """Rows."""
    length: float
    """Tokens per row."""
    shared: int
    """First tokens of all rows that are computed once; 0 if each row computes its own."""

    @property
    def tokens(self) -> float:
        """Return the tokens of the complete rows."""
        return self.rows * self.length

    @property
    def computed_tokens(self) -> float:
        """Return the tokens of the layers around attention: P + B (L - P).

        B is the number of rows, L their length and P the shared tokens. Three rows of 10 tokens
        with 4 shared ones are 4 + 3 x 6 = 22 tokens instead of 30.
        """
        return self.shared + self.rows * (self.length - self.shared)


# --- the model ---------------------------------------------------------------------------------


def linear_weights(layer: nn.Module) -> int:
    """Return the number of weights in a module's linear layers."""
    linears = [part for part in layer.modules() if isinstance(part, nn.Linear)]
    return sum(part.weight.numel() for part in linears)


def adapted_layers(layer: nn.Module) -> AdaptedLayers:
    """Return name and input width of every linear layer with an adapter."""
    adapted = []
    for path, part in layer.named_modules():
        if hasattr(part, "lora_A"):
            name = path.rpartition(".")[2]
            adapted.append((name, int(part.in_features)))
    return tuple(adapted)


def count_shape(config: Mapping[str, Any], train: Train) -> Shape:
    """Count the weights of a model and its adapter.

    `config` is a config.json. Both are built on torch's meta device, which allocates no weights.
    Any other architecture than Llama is a UserError.
    """
    architecture = config.get("model_type")
    if architecture != "llama":
        what = f"model_type is {architecture!r}, but plan only knows the Llama architecture"
        raise UserError("config.json", what, "plan another base")
    llama = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(llama)
        # Counted before the adapter replaces the linear layers.
        base = model.num_parameters()
        decoder = model.model.layers
        attention = decoder[0].self_attn
        linear = [linear_weights(layer) for layer in decoder]
        first_linear = sum(getattr(attention, name).weight.numel() for name in FIRST)
        inject_adapter_in_model(lora_config(train.lora), model)
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    adapted = tuple(adapted_layers(layer) for layer in decoder)
    first_inputs = sum(width for name, width in adapted[0] if name in FIRST)
    return Shape(
        base=base,
        adapter=sum(weight.numel() for weight in trainable),
        linear=sum(linear),
        largest_layer=max(linear),
        head=model.get_output_embeddings().weight.numel(),
        first_linear=first_linear,
        first_adapter=first_inputs * train.lora.r,
        layers=len(decoder),
        hidden=llama.hidden_size,
        queries=llama.num_attention_heads * attention.head_dim,
        keys=llama.num_key_value_heads * attention.head_dim,
        heads=llama.num_attention_heads,
        mlp=llama.intermediate_size,
        vocabulary=llama.vocab_size,
        adapted=adapted,
    )


# --- batches -----------------------------------------------------------------------------------


def make_batch(train: Train, rows: Rows, count: int, length: float, on_cpu: bool) -> Batch:
    """Return the shape of a batch of `count` rows of `length` tokens.

    The conditions for a shared prefix are those of `can_share_prefix` and `find_shared_prefix`.
    """
    is_shared = (
        on_cpu
        and train.kernels == "fused"
        and not train.packing
        and count > 1
        and MIN_SHARED_TOKENS <= rows.shared_tokens < length
    )
    return Batch(count, length, rows.shared_tokens if is_shared else 0)


def has_padding_mask(train: Train, count: int) -> bool:
    """Return whether SDPA receives a mask of the padding of `count` rows.

    The fused kernels need none, and the trainer drops it where rows are packed.
    """
    is_masked = train.kernels == "trl" and train.attention == "sdpa"
    return is_masked and not train.packing and count > 1


def has_mask(train: Train) -> bool:
    """Return whether SDPA receives a mask in training: of padding, or of packed examples."""
    is_packed = train.packing and train.attention == "sdpa"
    return is_packed or has_padding_mask(train, train.batch_size)


# --- FLOPs -------------------------------------------------------------------------------------


def run_totals(params: Params, rows: Rows, processes: int) -> dict[str, float]:
    """Return the rows and tokens that a run processes.

    Tokens of dev are counted once per evaluation. Padding is not counted.
    """
    train = params.train
    tokens_per_row = rows.tokens_per_row
    if train.packing:
        # Several examples fill a packed row up to the limit.
        tokens_per_row = float(params.preprocess.max_tokens)
    rows_per_step = train.batch_size * train.gradient_accumulation * processes
    tokens = rows_per_step * train.max_steps * tokens_per_row
    # The trainer always evaluates after its last step, too.
    evaluations = math.ceil(train.max_steps / train.eval_steps)
    return {
        "rows_per_step": rows_per_step,
        "rows": rows_per_step * train.max_steps,
        "tokens": tokens,
        "supervised_tokens": tokens * rows.supervised_share,
        "dev_evaluations": evaluations,
        "dev_tokens": evaluations * (rows.dev_tokens or 0.0),
    }


def attention_flops(shape: Shape, length: float, masked: bool) -> float:
    """Return the FLOPs per token of a forward pass's attention in all layers.

    Scores and weighted values take 2 x 2 per pair of tokens and unit of width. Causal attention
    skips half of the pairs of a row of `length` tokens. With a mask, SDPA computes all of them.
    """
    pairs_per_token = length if masked else length / 2
    return 4.0 * pairs_per_token * shape.queries * shape.layers


def train_attention_flops(
    shape: Shape, train: Train, rows: Rows, totals: Mapping[str, float]
) -> float:
    """Return the FLOPs per token of a forward pass's attention in training.

    With packing, FlashAttention computes each example by itself. SDPA computes all pairs of a
    complete packed row, because its mask keeps examples apart but skips no pair.
    """
    masked = has_mask(train)
    length = rows.tokens_per_row
    if train.packing and masked:
        length = totals["tokens"] / totals["rows"]
    return attention_flops(shape, length, masked)


def flops(
    shape: Shape, train: Train, rows: Rows, totals: Mapping[str, float], on_cpu: bool = False
) -> dict[str, float]:
    """Return the floating-point operations of a run by part.

    A shared prefix saves the matmuls of its repetitions, and no attention. Both kinds of kernels
    apply the head to supervised tokens only, except TRL's on a CPU, which takes every token; this
    is not counted here.
    """
    tokens = totals["tokens"]
    dev_tokens = totals["dev_tokens"]
    batch = make_batch(train, rows, train.batch_size, rows.tokens_per_row, on_cpu)
    dev_batch = make_batch(train, rows, train.eval_batch_size, rows.tokens_per_row, on_cpu)
    computed = tokens * batch.computed_tokens / batch.tokens
    dev_computed = dev_tokens * dev_batch.computed_tokens / dev_batch.tokens
    attention = train_attention_flops(shape, train, rows, totals)
    dev_is_masked = has_padding_mask(train, train.eval_batch_size)
    dev_attention = attention_flops(shape, rows.tokens_per_row, dev_is_masked)
    weights = 2.0 * (shape.linear + shape.adapter)
    dev_head = 2.0 * shape.head * rows.supervised_share
    # TRL computes the logits again for the gradient.
    head = 4.0 if train.kernels == "fused" else 6.0
    forward = weights * computed + attention * tokens
    parts = {
        "base": (4.0 * shape.linear - 2.0 * shape.first_linear) * computed,
        "adapter": (6.0 * shape.adapter - 2.0 * shape.first_adapter) * computed,
        "attention": 3.5 * attention * tokens,
        "head": head * shape.head * totals["supervised_tokens"],
        "recomputed": forward if train.gradient_checkpointing else 0.0,
        "dev": weights * dev_computed + (dev_attention + dev_head) * dev_tokens,
    }
    return parts | {"total": sum(parts.values())}


def kernel_launches(shape: Shape, params: Params, rows: Rows, totals: Mapping[str, float]) -> float:
    """Return the kernels that one process launches.

    The forward pass, which recomputation and evaluations on dev repeat, has a third of the kernels
    of a micro-batch. With few adapted layers this is an overestimate.
    """
    train = params.train
    is_compiled = train.compile
    per_layer = assumed("compiled_kernels" if is_compiled else "train_kernels")
    batches = train.max_steps * train.gradient_accumulation
    thirds = batches * (4 if train.gradient_checkpointing else 3)
    processes = totals["rows_per_step"] / train.batch_size / train.gradient_accumulation
    dev_rows = totals["dev_tokens"] / rows.tokens_per_row
    thirds += math.ceil(dev_rows / train.eval_batch_size / processes)
    return per_layer * shape.layers * thirds / 3


# --- memory ------------------------------------------------------------------------------------


def number_bytes(params: Params, on_cpu: bool) -> int:
    """Return the bytes per number in the precision of the computation."""
    dtype = compute_dtype(params.dtype, "cpu" if on_cpu else "cuda")
    return 2 if dtype == "bfloat16" else 4


def attention_bytes_per_token(shape: Shape, params: Params, length: float, on_cpu: bool) -> float:
    """Return the bytes per token that autograd keeps of one layer's attention.

    They are queries, keys, values, output and the logarithms of its sums. With a mask, SDPA repeats
    keys and values for every query head, and keeps the mask in the precision of the queries:
    `length` numbers per token, the length of a row.
    """
    size = number_bytes(params, on_cpu)
    keys = shape.keys
    mask = 0.0
    if has_mask(params.train):
        keys = shape.queries
        mask = length * size
    return (2 * shape.queries + 2 * keys) * size + 4 * shape.heads + mask


def block_bytes_per_token(shape: Shape, params: Params, on_cpu: bool) -> float:
    """Return the bytes per token that autograd keeps of one layer's norms and MLP.

    Both norms keep their input and its inverse root mean square. SwiGLU keeps gate and up; without
    `fused` it also keeps the activated gate.
    """
    size = number_bytes(params, on_cpu)
    fused = params.train.kernels == "fused"
    norms = 2 * (shape.hidden * (size if fused else 4) + 4)
    mlp = (2 if fused else 3) * shape.mlp * size
    return norms + mlp


def inputs_kept_once(adapted: AdaptedLayers, shared: bool) -> int:
    """Return the width of the distinct inputs that adapters keep.

    Attention keeps its output itself, but with a shared prefix the adapter of `o_proj` receives a
    copy of it without the repetitions.
    """
    inputs = {INPUTS[name]: width for name, width in adapted}
    if not shared:
        inputs.pop("output", None)
    return sum(inputs.values())


def fused_adapter_bytes(params: Params, adapted: AdaptedLayers, size: int, shared: bool) -> int:
    """Return the bytes per token that the adapters of `lora_linears` keep.

    The adapters of one input keep it once: with dropout, after it, together with the mask.
    """
    low_rank = len(adapted) * params.train.lora.r
    inputs = inputs_kept_once(adapted, shared)
    if params.train.lora.dropout > 0:
        distinct = {INPUTS[name]: width for name, width in adapted}
        inputs = 2 * sum(distinct.values())
    return size * (low_rank + inputs)


def peft_adapter_bytes(
    params: Params, adapted: AdaptedLayers, size: int, shared: bool, on_cpu: bool
) -> int:
    """Return the bytes per token that PEFT's adapters keep.

    Each adapter keeps a copy of its input if dropout or a conversion makes one.
    """
    low_rank = len(adapted) * params.train.lora.r
    every_input = sum(width for _, width in adapted)
    dropout = params.train.lora.dropout > 0
    inputs = every_input if dropout or size == 2 else inputs_kept_once(adapted, shared)
    # PEFT computes in its adapters' float32 outside autocast.
    autocast = params.train.kernels == "trl" and size == 2
    adapter_size = size if autocast else 4
    mask = 0
    if dropout:
        # The dropout mask is boolean on a GPU.
        mask = every_input * (4 if on_cpu else 1)
    return adapter_size * (low_rank + inputs) + mask


def layer_bytes(
    shape: Shape, params: Params, adapted: AdaptedLayers, batch: Batch, on_cpu: bool
) -> float:
    """Return the bytes that autograd keeps of one layer and one batch.

    Attention keeps complete rows, and everything else the computed tokens.
    """
    size = number_bytes(params, on_cpu)
    shared = batch.shared > 0
    if params.train.kernels == "fused" and params.train.base_weights == "full":
        adapters = fused_adapter_bytes(params, adapted, size, shared)
    else:
        adapters = peft_adapter_bytes(params, adapted, size, shared, on_cpu)
    around_attention = block_bytes_per_token(shape, params, on_cpu) + adapters
    attention = attention_bytes_per_token(shape, params, batch.length, on_cpu)
    return around_attention * batch.computed_tokens + attention * batch.tokens


def activation_bytes(
    shape: Shape, params: Params, length: int, on_cpu: bool, shared: int = 0
) -> float:
    """Return the bytes that autograd keeps of one batch.

    All rows have `length` tokens, and the first `shared` ones are computed once. Under
    checkpointing the bytes are those of one layer and the inputs of all.
    """
    train = params.train
    batch = Batch(train.batch_size, length, shared)
    size = number_bytes(params, on_cpu)
    layers = [layer_bytes(shape, params, adapted, batch, on_cpu) for adapted in shape.adapted]
    if train.gradient_checkpointing:
        inputs = size * shape.hidden * shape.layers * batch.computed_tokens
        kept = max(layers) + inputs
    elif train.activation_offload:
        # The current layer, and the layer in transfer.
        kept = 2 * max(layers)
    else:
        kept = sum(layers)
    # Autocast keeps a bfloat16 copy of the adapter.
    autocast = train.kernels == "trl" and size == 2
    casts = size * shape.adapter if autocast else 0
    return kept + casts


def matmul_bytes(size: int, on_cpu: bool) -> int:
    """Return the bytes per number in the precision of large matmuls."""
    dtype = torch.bfloat16 if size == 2 else torch.float32
    return matmul_dtype(dtype, "cpu" if on_cpu else "cuda").itemsize


def fused_head_bytes(shape: Shape, size: int, wide: int, tokens: float, supervised: float) -> float:
    """Return the temporary bytes of `fused_linear_cross_entropy`.

    `size` and `wide` are bytes per number, of the model and of its matmuls. The parts are a chunk
    of logits, a few of its rows in float32, all hidden states, and the supervised hidden states
    with their gradient.
    """
    logits = wide * min(LOGITS_CHUNK_ROWS, supervised)
    if wide == 2:
        logits += 4 * min(SOFTMAX_CHUNK_ROWS, supervised)
    hidden_states = (tokens + 2 * supervised) * shape.hidden * size
    # A copy of the head for wider matmuls.
    copy = wide * shape.head if wide > size else 0
    return logits * shape.vocabulary + hidden_states + copy


def fused_mlp_copies(shape: Shape, params: Params, size: int, wide: int, tokens: float) -> float:
    """Return the bytes of the MLP's copies for wider matmuls.

    The copies are the gradients of gate and up, their input and its gradient, and one weight.
    """
    adapted = {name for layer in shape.adapted for name, _ in layer}
    adapts_mlp = not adapted.isdisjoint(("gate_proj", "up_proj"))
    if wide == size or params.train.base_weights != "full" or not adapts_mlp:
        return 0
    return wide * (2 * tokens * (shape.mlp + shape.hidden) + shape.mlp * shape.hidden)


def trl_head_bytes(
    shape: Shape, size: int, tokens: float, supervised: float, on_cpu: bool
) -> float:
    """Return the temporary bytes of TRL's head."""
    positions = min(supervised, TRL_TILE_POSITIONS)
    tile = positions * min(shape.vocabulary, TRL_TILE_VOCABULARY)
    tile_size = size + 8 if on_cpu else size
    hidden_states = (tokens * size + supervised * (size + 4)) * shape.hidden
    return tile * tile_size + hidden_states


def scratch_bytes(
    shape: Shape, params: Params, tokens: float, supervised: float, on_cpu: bool
) -> float:
    """Return the temporary bytes at the peak of a step.

    `tokens` are those that the layers around attention compute.

    The peak is in the head, or in the backward pass of the last layer's MLP. The backward pass of
    its attention takes less, and begins when the activations of the MLP are freed.
    """
    size = number_bytes(params, on_cpu)
    mlp = tokens * size * (3 * shape.mlp + shape.hidden)
    if params.train.kernels != "fused":
        head = trl_head_bytes(shape, size, tokens, supervised, on_cpu)
        return max(head, mlp)
    wide = matmul_bytes(size, on_cpu)
    head = fused_head_bytes(shape, size, wide, tokens, supervised)
    return max(head, mlp + fused_mlp_copies(shape, params, size, wide, tokens))


def weight_bytes(shape: Shape, params: Params, launch: Mapping[str, Any], on_cpu: bool) -> float:
    """Return the bytes of the base model's weights on one device.

    Under FSDP a device stores its share of all weights, and gathers the embedding and one layer.
    """
    size = number_bytes(params, on_cpu)
    linear_size = QUANTIZED_BYTES.get(params.train.base_weights, size)
    total = float((shape.base - shape.linear) * size + shape.linear * linear_size)
    if launch["distributed_type"] != "FSDP":
        return total
    gathered = (shape.head + shape.largest_layer) * size
    return total / int(launch["num_processes"]) + gathered


def memory(
    shape: Shape, params: Params, rows: Rows, launch: Mapping[str, Any], on_cpu: bool
) -> dict[str, float]:
    """Return the bytes by part on one device.

    The batch contains the longest rows. `launch` is the content of accelerate/NAME.yaml. FSDP
    shares weights and optimizer among the processes; DDP doubles the gradients.
    """
    train = params.train
    longest = params.preprocess.max_tokens if train.packing else rows.tokens_longest
    batch = make_batch(train, rows, train.batch_size, longest, on_cpu)
    supervised = batch.tokens * rows.supervised_share
    place = "cpu" if on_cpu else "gpu"
    distribution = str(launch["distributed_type"])
    shares = int(launch["num_processes"]) if distribution == "FSDP" else 1
    adapter = shape.adapter / shares
    gradient_copies = 2 if distribution.startswith("MULTI") else 1
    activations = activation_bytes(shape, params, longest, on_cpu, batch.shared)
    scratch = scratch_bytes(shape, params, batch.computed_tokens, supervised, on_cpu)
    parts = {
        "base_weights": weight_bytes(shape, params, launch, on_cpu),
        "adapter": 4 * adapter,
        "gradients": 4 * adapter * gradient_copies,
        "adamw_moments": 8 * adapter,
        "activations": activations,
        "head_and_scratch": scratch,
        "heap": HEAP_LOSS[place] * activations,
        "runtime": RUNTIME_BYTES[place],
    }
    return parts | {"total": sum(parts.values())}


# --- the plan ----------------------------------------------------------------------------------


def device_kind(name: str) -> str:
    """Return the kind of a device: cpu or gpu."""
    return "cpu" if name == "cpu" else "gpu"


class Work(NamedTuple):
    """The work of a run, and how fast a device does it."""

    flops: float
    """FLOPs of all processes."""
    launches: float
    """Kernels that one process launches."""
    utilisation: float
    """Share of its rate that a device reaches."""


def plan_device(device: Device, processes: int, work: Work, needed_bytes: float) -> dict[str, Any]:
    """Return the part of a plan for one device."""
    reached = processes * device.flops_per_second * work.utilisation
    compute_hours = work.flops / reached / 3600
    launch_hours = work.launches * device.launch_seconds / 3600
    share = None
    fits = None
    if device.memory_bytes:
        share = needed_bytes / device.memory_bytes
        fits = needed_bytes <= device.memory_bytes
    return {
        "count": processes,
        "flops_per_second": device.flops_per_second,
        "compute_hours": compute_hours,
        "launch_hours": launch_hours,
        "hours": max(compute_hours, launch_hours),
        "memory_bytes": device.memory_bytes,
        "memory_share": share,
        "fits": fits,
        "note": device.note,
    }


def describe_model(source: str, shape: Shape) -> dict[str, Any]:
    """Return the part of a plan about the model."""
    return {
        "source": source,
        "base": shape.base,
        "trainable": shape.adapter,
        "trainable_share": shape.adapter / (shape.base + shape.adapter),
    }


def make_plan(
    params: Params,
    config: tuple[str, Mapping[str, Any]],
    rows: Rows,
    launch: Mapping[str, Any],
    devices: Mapping[str, Device],
    utilisation: float,
) -> Plan:
    """Return the plan of train as plain data.

    `config` is the source and the content of a config.json. `utilisation` is the share of its rate
    that a device reaches: compute hours = FLOPs / (devices x FLOP/s x utilisation). The FLOPs by
    part are those on the device of params.yaml.
    """
    source, base_config = config
    shape = count_shape(base_config, params.train)
    processes = int(launch["num_processes"])
    totals = run_totals(params, rows, processes)
    launches = kernel_launches(shape, params, rows, totals)
    own_device_is_cpu = device_kind(params.device) == "cpu"
    memory_by_kind = {}
    planned = {}
    for name, device in devices.items():
        kind = device_kind(name)
        on_cpu = kind == "cpu"
        memory_by_kind[kind] = memory(shape, params, rows, launch, on_cpu)
        device_flops = flops(shape, params.train, rows, totals, on_cpu)
        work = Work(device_flops["total"], launches, utilisation)
        planned[name] = plan_device(device, processes, work, memory_by_kind[kind]["total"])
    return {
        "model": describe_model(source, shape),
        "rows": rows._asdict(),
        "run": {
            "steps": params.train.max_steps,
            "processes": processes,
            **totals,
            "kernel_launches": launches,
        },
        "flops": flops(shape, params.train, rows, totals, own_device_is_cpu),
        "memory_bytes": memory_by_kind,
        "utilisation": utilisation,
        "devices": planned,
    }
