"""Predict the time of each stage on one GPU, by formulas.

A stage on the GPU takes the longest of three times: FLOPs at the reached rate, bytes at the reached
memory bandwidth, and kernels at the time that the host needs to launch one. Time that the host or
the network needs alone is added. The GPU has work while kernels run: it idles between small ones
that the host launches more slowly. bula/rates.py names each rate; no GPU rate was measured
here. Answers count with `max_new_tokens` of their stage each, which is an upper bound.

bula/training_cost.py predicts the stage train. docs/gpu.md shows a plan.

    python -m bula plan --gpus h100
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from bula.errors import UserError
from bula.params import HubSource, Params, Variant, scored_as
from bula.rates import assumed
from bula.records import SET_NAMES
from bula.safety import SLICES
from bula.training_cost import Rows, Shape

# The GPU profile's tasks: items, options, tokens per request (an assumption), generated tokens.
TASKS = {
    "medmcqa": (4183, 4, 70, 0),
    "medqa_4options": (1273, 4, 220, 0),
    "squad_completion": (2984, 1, 180, 48),
    "bula_contrast": (174, 2, 60, 0),
}
# The folder into which the stage quantize writes.
GGUF_FOLDER = Path("models/gguf")
# Rows of the data sets on the hub whose size is known.
HUB_ROWS = {"AKCIT/MedPT": 384_095}
ROW_BYTES = 1000.0
# Passes of merge over float32 weights: base, adapter's product, sum, two comparisons, the copy.
MERGE_PASSES = 6
# The controls that answer the questions: stock, nearest and echo.
ANSWERING_CONTROLS = 3


class Card(NamedTuple):
    """A GPU at the rates that a run reaches."""

    flops: float
    """FLOP/s of matmuls."""
    bandwidth: float
    """Bytes per second of its memory."""


class StageTime(NamedTuple):
    """The predicted time of one stage."""

    stage: str
    """Stage, with its variant after an @."""
    seconds: float
    """Wall-clock time."""
    card_seconds: float
    """The part in which kernels run on the GPU."""
    reason: str
    """What the time consists of."""


class Asked(NamedTuple):
    """The questions that a variant answers in one stage."""

    stage: str
    """Stage, with its variant after an @."""
    answers: int
    """Number of questions."""
    tokens: int
    """Most tokens of an answer."""


class Run(NamedTuple):
    """The inputs of the formulas of all stages."""

    params: Params
    """All parameters."""
    shape: Shape
    """Counts of the base model and the adapter."""
    rows: Rows
    """Figures of the training rows; validation rows are taken to be as long."""
    validation_rows: int
    """Rows of one validation set."""
    card: Card
    """The GPU."""


# --- parts -------------------------------------------------------------------------------------


def forward_flops(shape: Shape, tokens: float, head_tokens: float, length: float) -> float:
    """Return the FLOPs of forward passes over rows of this length.

    The head is applied to `head_tokens` of the tokens.
    """
    attention = 2.0 * length * shape.queries * shape.layers
    decoder = (2.0 * shape.linear + attention) * tokens
    head = 2.0 * shape.head * head_tokens
    return decoder + head


def cache_bytes(shape: Shape, tokens: float) -> float:
    """Return the bytes of these tokens' cached keys and values in 16 bit."""
    return 2.0 * 2 * shape.keys * shape.layers * tokens


def gguf_bytes(shape: Shape, kind: str) -> float:
    """Return the bytes of a GGUF file's matrices, by llama.cpp's name of its type.

    Files of K-quants keep the head in Q6_K. The few layers that `_m` types keep in more bits are
    not counted, 5 % of Llama 3.2 1B.
    """
    name = kind.upper().removesuffix("_M").removesuffix("_S")
    head_name = "Q6_K" if name.endswith("_K") else name
    linear = shape.linear * weight_bytes(name)
    head = shape.head * weight_bytes(head_name)
    return linear + head


def weight_bytes(name: str) -> float:
    """Return the bytes per weight of one of ggml's types."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    return float(size / block)


def prompt_tokens(run: Run) -> float:
    """Return the mean length of a prompt: the tokens that are not supervised."""
    return run.rows.tokens_per_row * (1 - run.rows.supervised_share)


def answers_per_variant(run: Run) -> int:
    """Return the number of questions that each variant answers."""
    per_set = min(run.params.generate.items_per_set, run.validation_rows)
    return len(SET_NAMES) * per_set


def forward_kernels(shape: Shape, passes: float) -> float:
    """Return the kernels of forward passes without adapter."""
    return passes * shape.layers * assumed("forward_kernels")


def kernel_seconds(kernels: float) -> float:
    """Return the shortest time for which kernels occupy the GPU."""
    return kernels * assumed("kernel_us") / 1e6


def launch_seconds(kernels: float) -> float:
    """Return the time in which the host launches kernels one by one."""
    return kernels * assumed("launch_us") / 1e6


# --- stages on the GPU -------------------------------------------------------------------------


def likelihood(run: Run, variant: str) -> StageTime:
    """Return the time in which one variant's reference answers are scored."""
    settings = run.params.likelihood
    wanted = settings.items_per_set or run.validation_rows
    per_set = min(wanted, run.validation_rows)
    # Some answers are scored a second time, after another question.
    per_set += min(settings.worth_items_per_set, per_set)
    tokens = len(SET_NAMES) * per_set * run.rows.tokens_per_row
    supervised = tokens * run.rows.supervised_share
    flops = forward_flops(run.shape, tokens, supervised, run.rows.tokens_per_row)
    batches = math.ceil(tokens / settings.batch_tokens)
    kernels = forward_kernels(run.shape, batches)
    card = max(flops / run.card.flops, kernel_seconds(kernels))
    seconds = assumed("start_seconds") + max(card, launch_seconds(kernels))
    reason = f"{tokens:,.0f} tokens, {flops:.3g} FLOPs"
    return StageTime(f"likelihood@{variant}", seconds, card, reason)


def generate(run: Run, name: str, variant: Variant) -> StageTime:
    """Return the time in which one variant answers the validation questions."""
    tokens = run.params.generate.max_new_tokens
    asked = Asked(f"generate@{name}", answers_per_variant(run), tokens)
    return answer_questions(run, asked, variant)


def safety(run: Run, name: str, variant: Variant) -> StageTime:
    """Return the time in which one variant answers the safety questions.

    The questions count as long as validation questions, which is an upper bound.
    """
    settings = run.params.safety
    count = len(SLICES) * settings.items_per_slice
    asked = Asked(f"safety@{name}", count, settings.max_new_tokens)
    return answer_questions(run, asked, variant)


def answer_questions(run: Run, asked: Asked, variant: Variant) -> StageTime:
    """Return the time in which the engine of a variant answers questions."""
    if variant.engine == "vllm":
        return generate_by_vllm(run, asked)
    if variant.engine == "transformers":
        return generate_by_transformers(run, asked)
    if variant.engine == "openai":
        return StageTime(asked.stage, 0.0, 0.0, f"{asked.answers:,} answers of another machine")
    return generate_by_llama_cpp(run, asked, variant_bytes(run, variant.model))


def variant_bytes(run: Run, model: str) -> float:
    """Return the bytes of a variant's GGUF file.

    The stage quantize writes files of known types, perhaps after the plan. Another file must exist.
    """
    file = Path(model)
    if file.parent == GGUF_FOLDER and file.stem in run.params.quantize.types:
        return gguf_bytes(run.shape, file.stem)
    if not file.is_file():
        what = "the file does not exist, so the plan does not know its size"
        raise UserError(model, what, "fetch the file, or correct the variant's `model`")
    return float(file.stat().st_size)


def read_prompts(run: Run, count: int) -> float:
    """Return the seconds in which the GPU computes the prompts of `count` questions."""
    length = prompt_tokens(run)
    flops = forward_flops(run.shape, count * length, count, length)
    return flops / run.card.flops


def decode_step(run: Run, asked: Asked, weights: float, answers: int) -> float:
    """Return the seconds of memory traffic for one token of several answers.

    The weights are read once for all answers, and each answer's cache at half its final length.
    """
    length = prompt_tokens(run) + asked.tokens / 2
    caches = answers * cache_bytes(run.shape, length)
    bandwidth = run.card.bandwidth * assumed("bandwidth_share")
    return (weights + caches) / bandwidth


def generate_by_vllm(run: Run, asked: Asked) -> StageTime:
    """Return the time of one vLLM server that batches `parallel` answers."""
    parallel = run.params.generate.parallel
    traffic = decode_step(run, asked, 2.0 * run.shape.base, parallel)
    step = traffic + assumed("vllm_step_ms") / 1e3
    return generate_in_steps(run, asked, parallel, step, "vllm_start_seconds")


def generate_by_transformers(run: Run, asked: Asked) -> StageTime:
    """Return the time of transformers, whose steps wait for Python."""
    batch_size = run.params.generate.batch_size
    traffic = decode_step(run, asked, 2.0 * run.shape.base, batch_size)
    step = max(python_step(run), traffic)
    return generate_in_steps(run, asked, batch_size, step, "start_seconds")


def python_step(run: Run) -> float:
    """Return the seconds of one step of transformers' generate in Python."""
    return run.shape.layers * assumed("transformers_layer_ms") / 1e3


def generate_in_steps(run: Run, asked: Asked, batch: int, step: float, start: str) -> StageTime:
    """Return the time of batches that take `step` seconds per token.

    `start` names the assumption about the start.
    """
    batches = math.ceil(asked.answers / batch)
    steps = batches * asked.tokens
    traffic = decode_step(run, asked, 2.0 * run.shape.base, batch)
    busy = max(traffic, kernel_seconds(forward_kernels(run.shape, 1)))
    prompts = read_prompts(run, asked.answers)
    seconds = assumed(start) + prompts + steps * step
    card = prompts + steps * min(busy, step)
    reason = f"{steps:,} steps of {batch} answers, {step * 1e3:.1f} ms each"
    return StageTime(asked.stage, seconds, card, reason)


def generate_by_llama_cpp(run: Run, asked: Asked, weights: float) -> StageTime:
    """Return the time of llama.cpp servers that answer one question each.

    The servers take turns on the GPU, and one server's host work overlaps with another's turn.
    Layers that are not on the GPU read the host's memory.
    """
    limits = run.params.generate
    layers = run.shape.layers + 1
    on_card = layers if limits.gpu_layers == "all" else min(limits.gpu_layers, layers)
    share = on_card / layers
    kernels = kernel_seconds(on_card * assumed("llama_cpp_kernels"))
    turn = share * decode_step(run, asked, weights, 1) + kernels
    host = (1 - share) * weights / (assumed("host_bandwidth_gb") * 1e9)
    host += assumed("llama_cpp_host_ms") / 1e3
    servers = min(limits.parallel, limits.gpu_servers) if on_card else 1
    token = max(turn, (turn + host) / servers)
    tokens = asked.answers * asked.tokens
    prompts = share * read_prompts(run, asked.answers)
    card = prompts + tokens * turn
    seconds = assumed("start_seconds") + prompts + tokens * token
    reason = f"{tokens:,} tokens by {servers} servers, {token * 1e3:.2f} ms each"
    return StageTime(asked.stage, seconds, card, reason)


def benchmark(run: Run, variant: str) -> StageTime:
    """Return the time in which lm-eval scores one variant by the hf backend.

    Tasks of unknown size are not counted. A variant of the same model as an earlier one takes over
    its scores.
    """
    start = assumed("start_seconds") + assumed("lm_eval_start_seconds")
    scored = scored_as(run.params, variant)
    if scored != variant:
        return StageTime(f"benchmark@{variant}", start, 0.0, f"the scores of {scored}")
    settings = run.params.benchmark
    flops = 0.0
    passes = 0.0
    generation = 0.0
    known = [task for task in settings.tasks if task in TASKS]
    for task in known:
        items, options, length, new_tokens = TASKS[task]
        limit = settings.limit_of(task) or items
        requests = min(items, limit) * options
        tokens = requests * (length + new_tokens)
        batches = math.ceil(requests / settings.batch_size)
        flops += forward_flops(run.shape, tokens, requests, length)
        passes += batches
        generation += batches * new_tokens
    launched = forward_kernels(run.shape, passes)
    launches = launch_seconds(launched) + generation * python_step(run)
    kernels = forward_kernels(run.shape, passes + generation)
    card = max(flops / run.card.flops, kernel_seconds(kernels))
    reason = f"{', '.join(known) or 'no known task'}: {flops:.3g} FLOPs, {generation:,.0f} steps"
    seconds = start + max(card, launches)
    return StageTime(f"benchmark@{variant}", seconds, card, reason)


# --- stages on the host ------------------------------------------------------------------------


def models(run: Run) -> StageTime:
    """Return the time of the base model's download."""
    return download("models", 2.0 * run.shape.base)


def dry_run() -> StageTime:
    """Return the time of the base model's dry run."""
    return StageTime("dry_run", assumed("dry_run_seconds"), 0.0, "a cut of the base")


def ingest(run: Run) -> StageTime:
    """Return the time of the data sets' download."""
    return download("ingest", hub_rows(run.params) * ROW_BYTES)


def download(stage: str, size: float) -> StageTime:
    """Return the time of a stage that downloads `size` bytes from the hub."""
    megabytes = size / 1e6
    seconds = megabytes / assumed("download_mb")
    return StageTime(stage, seconds, 0.0, f"{megabytes:,.0f} MB")


def hub_rows(params: Params) -> int:
    """Return the rows of the data sets whose size is known."""
    rows = 0
    for source in params.ingest.sources:
        if isinstance(source, HubSource):
            known = HUB_ROWS.get(source.id, params.preprocess.train_limit)
            rows += min(known, source.limit or known) if known else source.limit
    return rows


def preprocess(run: Run) -> StageTime:
    """Return the time of preprocess on `compute.workers` cores."""
    rows = hub_rows(run.params) or run.params.preprocess.train_limit
    cores = run.params.compute.workers
    cleaning = rows / assumed("preprocess_rows") / cores
    seconds = assumed("start_seconds") + cleaning
    # Without a limit, the rows of other sources are not known before ingest.
    amount = f"{rows:,} rows" if rows else "an unknown number of rows"
    return StageTime("preprocess", seconds, 0.0, f"{amount} on {cores} cores")


def merge(run: Run) -> StageTime:
    """Return the time of merge, which reads and writes float32 weights on the host."""
    gigabytes = MERGE_PASSES * 4.0 * run.shape.base / 1e9
    seconds = assumed("start_seconds") + gigabytes / assumed("host_gb")
    return StageTime("merge", seconds, 0.0, f"{gigabytes:.0f} GB through the host")


def quantize(run: Run) -> StageTime:
    """Return the time of quantize, which searches block scales on the host's cores."""
    cores = run.params.compute.workers
    # The rate includes the 16-bit file and q8_0, which the converter writes in seconds.
    searched = [kind for kind in run.params.quantize.types if kind not in ("bf16", "q8_0")]
    weights = run.shape.base * len(searched)
    searching = weights / assumed("quantize_weights") / cores
    seconds = assumed("start_seconds") + searching
    return StageTime("quantize", seconds, 0.0, f"{weights:,} weights on {cores} cores")


def judge(run: Run) -> StageTime:
    """Return the time of all judge calls, calibration and attacks included.

    A local judge is not counted.
    """
    settings = run.params.judge
    calibrate = run.params.calibrate
    calls = len(SET_NAMES) * settings.items_per_set * len(run.params.variants)
    repeated = min(calibrate.items, calibrate.repeat_items) * (calibrate.repeats - 1)
    gold = calibrate.items + calibrate.attack_items + repeated
    calls += gold * len(settings.judges)
    if settings.base_url == "local":
        return StageTime("judge", 0.0, 0.0, "not counted: the judge is local")
    seconds = calls * assumed("judge_seconds") / settings.parallel
    reason = f"{calls:,} calls, {settings.parallel} at a time, the GPU idle"
    return StageTime("judge, calibrate", seconds, 0.0, reason)


def answers_to_score(run: Run) -> int:
    """Return the number of answers of all variants and controls."""
    answerers = len(run.params.variants) + ANSWERING_CONTROLS
    return answers_per_variant(run) * answerers


def bertscore(run: Run) -> StageTime:
    """Return the time in which an encoder of BERT's size scores all answers.

    An answer and its reference count as long as a training row each.
    """
    answers = answers_to_score(run)
    tokens = 2 * run.rows.tokens_per_row * answers
    flops = 2 * assumed("encoder_parameters") * tokens
    # The controls are scored by one stage.
    starts = len(run.params.variants) + 1
    encoding = answers * assumed("bertscore_ms") / 1e3
    seconds = starts * assumed("start_seconds") + encoding
    card = min(seconds, flops / run.card.flops)
    return StageTime("bertscore, bertscore_controls", seconds, card, f"{flops:.3g} FLOPs")


def scores(run: Run) -> StageTime:
    """Return the time of the stages rouge, controls, labels and compare."""
    answers = answers_to_score(run)
    seconds = answers * assumed("rouge_ms") / 1e3
    seconds += assumed("controls_seconds") + assumed("compare_seconds")
    reason = f"{answers:,} answers on one core"
    return StageTime("rouge, controls, labels, compare", seconds, 0.0, reason)


# --- the run -----------------------------------------------------------------------------------


def train(run: Run, seconds: float, flops_seconds: float, kernels: float) -> StageTime:
    """Return the time of train from the figures of bula/training_cost.py."""
    busy = max(flops_seconds, kernel_seconds(kernels))
    card = min(seconds, busy)
    reason = f"{run.params.train.max_steps:,} steps, {kernels:,.0f} kernels"
    return StageTime("train", assumed("start_seconds") + seconds, card, reason)


def prefer(run: Run, name: str, planned: Mapping[str, Any]) -> StageTime:
    """Return the time of a DPO run and its merge, by figures of bula/preference_cost.py.

    The reference's forward pass has a third of the kernels of a step.
    """
    stage = f"prefer@{name}"
    merging = merge(run).seconds
    if not planned["pairs"]:
        return StageTime(stage, merging, 0.0, "training is not counted: the pairs are not here")
    entry = run.params.prefer[name]
    thirds = 5 if entry.gradient_checkpointing else 4
    passes = planned["steps"] * entry.gradient_accumulation * thirds / 3
    kernels = passes * run.shape.layers * assumed("train_kernels")
    card = max(planned["flops"]["total"] / run.card.flops, kernel_seconds(kernels))
    seconds = assumed("start_seconds") + max(card, launch_seconds(kernels)) + merging
    reason = f"{planned['steps']:,} steps, {planned['flops']['total']:.3g} FLOPs, and a merge"
    return StageTime(stage, seconds, card, reason)


def stage_times(
    run: Run, train_time: StageTime, preferences: Mapping[str, Any] | None = None
) -> list[StageTime]:
    """Return the time of each stage in the order of the pipeline.

    `preferences` has the plan of each entry of prefer.
    """
    variants = run.params.variants
    times = [models(run), dry_run(), ingest(run), preprocess(run)]
    times += [train_time, merge(run)]
    times += [prefer(run, name, planned) for name, planned in (preferences or {}).items()]
    times.append(quantize(run))
    times += [likelihood(run, name) for name in variants]
    times += [generate(run, name, variant) for name, variant in variants.items()]
    times += [safety(run, name, variant) for name, variant in variants.items()]
    times += [benchmark(run, name) for name in variants]
    times += [bertscore(run), judge(run), scores(run)]
    return times
