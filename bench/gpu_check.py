"""Try Llama 3.2 1B's computations on a GPU, with random weights.

It needs no network, no data and no tokenizer, only packages as they are found there, such as torch,
transformers and PEFT. Each part runs in its own process, so one failure leaves the other parts:

- losses: three training steps of a model with two layers, on the device and on the CPU.
- fused, library, compiled: training steps with this project's kernels, with the layers of PEFT and
  transformers, and with those layers under torch.compile. Speed is in tokens per second and as a
  share of the matmul rate that is measured in the same process; memory stands beside `bula plan`.
- scoring: log-likelihoods, as the stage likelihood computes them.
- answering: greedy answers, as the stage generate computes them.
- merging: the merge of an adapter, with the limits of the stage merge.

    python -m bench.gpu_check [--device cpu] [--layers 16]
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from peft import get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from bench.llama import CONFIG
from bench.measuring import matmul_rate, peak_memory_bytes, reset_peak_memory, wait_for
from bench.summary import show
from bula import training_cost
from bula.divergence import score_examples
from bula.generation import generate_greedy
from bula.hardware import compute_dtype, prepare_device, seed_everything
from bula.lora import lora_config
from bula.merging import compare_logits, merge_weights
from bula.model_kernels import add_answer_head, use_kernels
from bula.params import Params, load_params
from bula.prompts import Encoded
from bula.scoring import Batch, pad_batch, unwrap_adapter
from stages.likelihood import score

ROOT = Path(__file__).resolve().parent.parent
PROFILE = ROOT / "profiles/llama-3.2-1b.yaml"
# The adapter that messages of the merge name; this check writes none.
ADAPTER = Path("models/adapter")
DEVICES = ("cpu", "cuda")
KERNELS = ("fused", "library", "compiled")
PARTS = ("losses", *KERNELS, "scoring", "answering", "merging")
# A part that takes longer is stopped, so that the check ends within ten minutes on a GPU.
PART_SECONDS = {"cpu": 1800, "cuda": 120}
# Layers of the smaller models, which the CPU computes too.
FEW_LAYERS = 2
# Training steps whose losses are compared, and whose time is measured after a first one.
COMPARED_STEPS = 3
TIMED_STEPS = 3
# Tokens of a row of the training batch; the first third is the prompt.
ROW_TOKENS = 300
SCORED_ROWS = 16
ANSWERS = 16
NEW_TOKENS = 32
MERGE_ROWS = 2
# Largest difference in nats between losses on the device and on the CPU in float32. Losses start
# near ln(128,256) = 11.8; bfloat16 has 8 bits.
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
# Smallest and largest ratio of the plan's memory to the memory that was seen.
MEMORY_GOAL = (0.8, 1.25)
Figures = dict[str, float]


class Setting(NamedTuple):
    """What the parts share."""

    device: str
    """Device, "cpu" or "cuda"."""
    layers: int
    """Layers of the model whose speed is measured."""
    params: Params
    """The GPU profile's parameters, without dropout."""


# --- the model ---------------------------------------------------------------------------------


def config_of(layers: int) -> dict[str, Any]:
    """Return the config.json of Llama 3.2 1B with this number of layers."""
    return CONFIG | {"num_hidden_layers": layers}


def make_base(setting: Setting, layers: int, dtype: str) -> Any:
    """Return the base model with random weights on the device.

    The weights are drawn on the CPU, so that each device has the same ones.
    """
    seed_everything(setting.params.seed)
    config = AutoConfig.for_model(**config_of(layers))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.to(getattr(torch, dtype)).to(setting.device)


def make_adapted(setting: Setting, layers: int, dtype: str, kernels: str) -> Any:
    """Return the base model with an adapter in float32, and the kernels."""
    base = make_base(setting, layers, dtype)
    model = get_peft_model(base, lora_config(setting.params.train.lora)).train()
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if kernels == "fused":
        use_kernels(model)
    add_answer_head(unwrap_adapter(model))
    if kernels == "compiled":
        model.compile()
    return model


def random_rows(count: int, seed: int) -> list[Encoded]:
    """Return rows of ROW_TOKENS random tokens; the first third is the prompt."""
    generator = torch.Generator().manual_seed(seed)
    # The ids below 128,000 are no special tokens.
    ids = torch.randint(1, 128_000, (count, ROW_TOKENS), generator=generator).tolist()
    prompt = ROW_TOKENS // 3
    return [Encoded(prompt=row[:prompt], completion=row[prompt:]) for row in ids]


def training_batch(setting: Setting) -> Batch:
    """Return the profile's batch of random rows on the device."""
    rows = random_rows(setting.params.train.batch_size, setting.params.seed)
    return {name: tensor.to(setting.device) for name, tensor in pad_batch(rows, 0).items()}


def stub_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that has only an end token and a template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<end>": 0, "<pad>": 1}, unk_token="<end>")),
        eos_token="<end>",
        pad_token="<pad>",
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}"
    return tokenizer


# --- the parts ---------------------------------------------------------------------------------


def train_step(
    model: Any, batch: Batch, optimizer: torch.optim.Optimizer, device: str
) -> torch.Tensor:
    """Run one training step, and return its loss in nats per supervised token.

    The loss stays on the device, because reading it would wait for the step.
    """
    autocast = unwrap_adapter(model).dtype == torch.bfloat16
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        total, _, count = model(**batch, answer_head=True)
    loss: torch.Tensor = total / count
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def losses_of(setting: Setting, dtype: str, kernels: str) -> list[float]:
    """Return the losses of a few steps of the small model."""
    model = make_adapted(setting, FEW_LAYERS, dtype, kernels)
    batch = training_batch(setting)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=setting.params.train.learning_rate)
    steps = range(COMPARED_STEPS)
    return [float(train_step(model, batch, optimizer, setting.device)) for _ in steps]


def check_losses(setting: Setting) -> Figures:
    """Return the largest differences from the losses of the CPU in float32."""
    on_cpu = setting._replace(device="cpu")
    reference = losses_of(on_cpu, "float32", "library")
    figures = {"first_loss_nats": reference[0]}
    for dtype, tolerance in LOSS_TOLERANCE.items():
        for kernels in ("fused", "library"):
            found = losses_of(setting, dtype, kernels)
            pairs = zip(found, reference, strict=True)
            difference = max(abs(loss - expected) for loss, expected in pairs)
            figures[f"{kernels}_{dtype}_loss_difference"] = difference
            if not difference <= tolerance:
                figures["failed"] = 1
    return figures


def largest_memory(setting: Setting) -> float:
    """Return the largest memory of the device since `start_memory`, in bytes."""
    if setting.device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return float(peak_memory_bytes())


def start_memory(setting: Setting) -> None:
    """Reset the largest memory, which float32 weights took before their cast."""
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak_memory()


def planned(setting: Setting, kernels: str) -> tuple[float, float]:
    """Return the plan's FLOPs of a step, and its bytes of memory."""
    on_cpu = setting.device == "cpu"
    names = {"kernels": "fused" if kernels == "fused" else "trl", "compile": kernels == "compiled"}
    train = setting.params.train.model_copy(update=names)
    params = setting.params.model_copy(update={"train": train})
    shape = training_cost.count_shape(config_of(setting.layers), train)
    share = 1 - (ROW_TOKENS // 3) / ROW_TOKENS
    rows = training_cost.Rows("check", None, ROW_TOKENS, ROW_TOKENS, share, None)
    tokens = float(train.batch_size * ROW_TOKENS)
    totals = {"tokens": tokens, "supervised_tokens": tokens * share, "dev_tokens": 0.0}
    totals["rows"] = train.batch_size
    launch = {"distributed_type": "NO", "num_processes": 1}
    flops = training_cost.flops(shape, train, rows, totals, on_cpu)["total"]
    memory = training_cost.memory(shape, params, rows, launch, on_cpu)
    # torch does not count CUDA's own memory.
    runtime = 0.0 if on_cpu else memory["runtime"]
    return flops, memory["total"] - runtime


def check_training(setting: Setting, kernels: str) -> Figures:
    """Return speed and memory of training steps, beside the plan."""
    dtype = compute_dtype(setting.params.dtype)
    rate = matmul_rate(getattr(torch, dtype), setting.device)
    model = make_adapted(setting, setting.layers, dtype, kernels)
    batch = training_batch(setting)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=setting.params.train.learning_rate)
    start_memory(setting)
    train_step(model, batch, optimizer, setting.device)
    wait_for(setting.device)
    started = time.perf_counter()
    for _ in range(TIMED_STEPS):
        loss = train_step(model, batch, optimizer, setting.device)
    wait_for(setting.device)
    seconds = (time.perf_counter() - started) / TIMED_STEPS
    memory = largest_memory(setting)
    flops, planned_memory = planned(setting, kernels)
    figures = {
        "tokens_per_second": batch["input_ids"].numel() / seconds,
        "matmul_tflops": rate / 1e12,
        "share_of_matmul_rate": flops / seconds / rate,
        "memory_gb": memory / 1e9,
        "planned_memory_ratio": planned_memory / memory,
        "last_loss_nats": float(loss),
    }
    low, high = MEMORY_GOAL
    fits_plan = low <= figures["planned_memory_ratio"] <= high
    if not (fits_plan and math.isfinite(figures["last_loss_nats"])):
        figures["failed"] = 1
    return figures


def check_scoring(setting: Setting) -> Figures:
    """Return the speed of scoring, and the difference from the CPU's scores."""
    rows = random_rows(SCORED_ROWS, setting.params.seed)
    dtype = compute_dtype(setting.params.dtype)
    model = make_base(setting, setting.layers, dtype).eval()
    limit = setting.params.likelihood.batch_tokens
    score(model, rows[:2], limit, 0)
    wait_for(setting.device)
    started = time.perf_counter()
    score(model, rows, limit, 0)
    wait_for(setting.device)
    seconds = time.perf_counter() - started
    few = rows[:2]
    small = make_base(setting, FEW_LAYERS, "float32").eval()
    found = score(small, few, limit, 0)
    expected = score(small.cpu(), few, limit, 0)
    per_token = [
        abs(one.nats - other.nats) / len(row.completion)
        for one, other, row in zip(found, expected, few, strict=True)
    ]
    figures = {
        "tokens_per_second": SCORED_ROWS * ROW_TOKENS / seconds,
        "float32_loss_difference": max(per_token),
    }
    if not figures["float32_loss_difference"] <= LOSS_TOLERANCE["float32"]:
        figures["failed"] = 1
    return figures


def check_answering(setting: Setting) -> Figures:
    """Return the speed of answering, and whether the device answers as the CPU does."""
    prompts = [row.prompt for row in random_rows(ANSWERS, setting.params.seed)]
    tokenizer = stub_tokenizer()
    dtype = compute_dtype(setting.params.dtype)
    model = make_base(setting, setting.layers, dtype).eval()
    generate_greedy(model, tokenizer, prompts, 2)
    wait_for(setting.device)
    started = time.perf_counter()
    answers = generate_greedy(model, tokenizer, prompts, NEW_TOKENS)
    wait_for(setting.device)
    seconds = time.perf_counter() - started
    small = make_base(setting, FEW_LAYERS, "float32").eval()
    found = generate_greedy(small, tokenizer, prompts[:2], NEW_TOKENS)
    expected = generate_greedy(small.cpu(), tokenizer, prompts[:2], NEW_TOKENS)
    pairs = [
        one == other
        for ids, expected_ids in zip(found, expected, strict=True)
        for one, other in zip(ids, expected_ids, strict=False)
    ]
    figures = {
        "new_tokens_per_second": sum(map(len, answers)) / seconds,
        "float32_same_tokens": sum(pairs) / len(pairs),
    }
    # Random weights have near ties, after which two devices may go on differently.
    if figures["float32_same_tokens"] < 0.5:
        figures["failed"] = 1
    return figures


def check_merging(setting: Setting) -> Figures:
    """Return the differences of a merge; the stage's own limits raise a UserError."""
    model = make_adapted(setting, FEW_LAYERS, "float32", "library").eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.01)
    rows = random_rows(MERGE_ROWS, setting.params.seed)
    reference = list(score_examples(model, rows, 0))
    merged, weights = merge_weights(model, ADAPTER)
    logits = compare_logits(merged, reference, rows, 0, ADAPTER)
    return {
        "matrices": float(weights["matrices"]),
        "weight_difference": float(weights["difference_largest"]),
        "relative_logit_difference": float(logits["logit_difference_relative"]),
    }


# --- the report --------------------------------------------------------------------------------


def run_part(name: str, setting: Setting) -> Figures:
    """Run one part in this process."""
    other: dict[str, Callable[[Setting], Figures]] = {
        "losses": check_losses,
        "scoring": check_scoring,
        "answering": check_answering,
        "merging": check_merging,
    }
    if name in KERNELS:
        return check_training(setting, name)
    return other[name](setting)


def child(name: str, device: str, layers: int) -> Figures:
    """Run one part in its own process, and return its figures.

    A part that fails has the figure `failed`, and the end of its message is printed.
    """
    command = [sys.executable, "-m", "bench.gpu_check", "--only", name]
    command += ["--device", device, "--layers", str(layers)]
    limit = PART_SECONDS[device]
    started = time.perf_counter()
    try:
        result = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        print(f"{name}: stopped after {limit} s", flush=True)
        return {"failed": 1}
    seconds = time.perf_counter() - started
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        print(f"{name}: {lines[-1] if lines else 'no message'}", flush=True)
        return {"failed": 1, "seconds": seconds}
    figures: Figures = json.loads(result.stdout.splitlines()[-1])
    print(f"{name}: done in {seconds:.0f} s", flush=True)
    return figures | {"seconds": seconds}


def describe(device: str) -> str:
    """Return the device's name."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def profile() -> Params:
    """Return the GPU profile's parameters without dropout, whose draws differ by device."""
    params = load_params(PROFILE)
    lora = params.train.lora.model_copy(update={"dropout": 0.0})
    train = params.train.model_copy(update={"lora": lora})
    return params.model_copy(update={"train": train})


def report(device: str, layers: int) -> None:
    """Run all parts, and print a table and one JSON line last."""
    figures: dict[str, float] = {}
    failed = []
    for name in PARTS:
        found = child(name, device, layers)
        if found.pop("failed", 0):
            failed.append(name)
        figures |= {f"{name}_{key}": value for key, value in found.items()}
    if failed:
        print(f"not as it should be: {', '.join(failed)}")
    goals = {"loss_difference": LOSS_TOLERANCE, "planned_memory_ratio": MEMORY_GOAL}
    show(f"gpu_check on {describe(device)}", figures, goals, not failed)
    if failed:
        raise SystemExit(1)


def main(
    device: Annotated[str, typer.Option(help="Device: cuda or cpu.")] = "cuda",
    layers: Annotated[int, typer.Option(help="Layers of the timed model.")] = 16,
    only: Annotated[str, typer.Option(help="Run this part in this process.")] = "",
) -> None:
    """Check that each computation runs on the device, and how fast."""
    if device not in DEVICES or (only and only not in PARTS):
        raise typer.BadParameter(f"devices are {DEVICES}, parts are {PARTS}")
    params = profile()
    prepare_device(device, params.dtype)
    if only:
        print(json.dumps(run_part(only, Setting(device, layers, params))))
    else:
        report(device, layers)


if __name__ == "__main__":
    typer.run(main)
