"""Compare the predictions of `bula plan` with real training steps.

Each case runs in its own process: training steps of this project's kernels over rows of one length.
Memory is the largest resident memory since the first step. Every case also prints its utilisation,
the share of the matmul rate measured in the same minute. The models are models/base and the first
layers, or all layers, of Llama 3.2 1B with random weights: the real width and vocabulary, up to
8 GB, and more where a CPU computes in float32. The utilisation of one Llama case predicts the
seconds of the others. The utilisation of models/base grows with the batch because its layers are
narrow, so it predicts nothing.

    python -m bench.training_cost
"""

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import psutil
import torch
import typer
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from bench.llama import CONFIG
from bench.measuring import peak_memory_bytes, product_rate, reset_peak_memory
from bench.summary import show
from bula import training_cost
from bula.hardware import compute_dtype, seed_everything
from bula.lora import lora_config
from bula.model_kernels import add_answer_head, use_kernels
from bula.models import load_model
from bula.params import Params, load_params
from bula.scoring import unwrap_adapter

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "models/base"
# Steps per case. The first step fills caches; of the others the fastest counts, because other
# programs on the machine can only slow a step down.
STEPS = 5
# Largest relative error of a predicted figure.
GOAL = 0.15
# Parts of the plan that are allocated during training.
TRAINING_PARTS = ("gradients", "adamw_moments", "activations", "head_and_scratch")


class Case(NamedTuple):
    """A model and a batch."""

    layers: int
    """Layers of Llama 3.2 1B; 0 is models/base."""
    batch: int
    """Rows."""
    length: int
    """Tokens per row."""


class Prediction(NamedTuple):
    """The plan's figures for a case."""

    flops: float
    """FLOPs of a forward and backward pass."""
    memory: dict[str, float]
    """Bytes by part."""


# The case whose utilisation predicts the seconds of the other Llama cases.
CALIBRATION = Case(4, 4, 300)
CASES = [
    Case(0, 2, 200),
    Case(0, 4, 300),
    Case(0, 8, 300),
    Case(2, 4, 300),
    CALIBRATION,
    Case(4, 4, 150),
    Case(16, 4, 300),
]


def name_of(case: Case) -> str:
    """Return the name of a case in the figures."""
    model = f"llama_{case.layers}_layers" if case.layers else "smollm2"
    return f"{model}_{case.batch}x{case.length}"


def config_of(case: Case) -> dict[str, Any]:
    """Return the config.json of a case's model."""
    if case.layers:
        return CONFIG | {"num_hidden_layers": case.layers}
    config: dict[str, Any] = json.loads((BASE / "config.json").read_text(encoding="utf-8"))
    return config


def make_model(case: Case, params: Params) -> Any:
    """Return the model with its adapter, as the trainer makes it."""
    if case.layers:
        config = AutoConfig.for_model(**config_of(case))
        dtype = getattr(torch, compute_dtype(params.dtype))
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    else:
        model = load_model(BASE, params.dtype)
    adapted = get_peft_model(model, lora_config(params.train.lora)).train()
    use_kernels(adapted)
    add_answer_head(unwrap_adapter(adapted))
    return adapted


def batch_of(case: Case, vocabulary: int) -> dict[str, torch.Tensor]:
    """Return random tokens; the first third of each row is the prompt."""
    ids = torch.randint(0, vocabulary, (case.batch, case.length))
    labels = ids.clone()
    labels[:, : case.length // 3] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def train_step(
    model: Any, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> float:
    """Run one training step, and return its seconds."""
    started = time.perf_counter()
    loss, _, count = model(**batch, answer_head=True)
    (loss / count).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


def read_all_weights(model: torch.nn.Module) -> None:
    """Make all weights resident, because safetensors maps its file."""
    assert all(torch.isfinite(parameter.sum()) for parameter in model.parameters())


def measure(case: Case, params: Params) -> dict[str, float]:
    """Measure seconds, matmul rate and resident bytes of a case.

    `runtime` is the memory before the model, `loaded` that of the model, `peak` that of training.
    """
    seed_everything(params.seed)
    process = psutil.Process()
    runtime = process.memory_info().rss
    model = make_model(case, params)
    batch = batch_of(case, model.config.vocab_size)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    read_all_weights(model)
    gc.collect()
    loaded = process.memory_info().rss
    rate_before = product_rate(params.dtype)
    reset_peak_memory()
    seconds = [train_step(model, batch, optimizer) for _ in range(STEPS)]
    peak = peak_memory_bytes() - loaded
    rate_after = product_rate(params.dtype)
    return {
        "runtime": runtime,
        "loaded": loaded - runtime,
        "peak": peak,
        "seconds": min(seconds[1:]),
        "rate": max(rate_before, rate_after),
    }


def predict(case: Case, params: Params) -> Prediction:
    """Return the plan's figures for a case."""
    train = params.train.model_copy(update={"batch_size": case.batch, "kernels": "fused"})
    changed = params.model_copy(update={"train": train})
    shape = training_cost.count_shape(config_of(case), train)
    share = (case.length - max(1, case.length // 3)) / case.length
    rows = training_cost.Rows(
        source="bench",
        examples=None,
        tokens_per_row=case.length,
        tokens_longest=case.length,
        supervised_share=share,
        dev_tokens=None,
    )
    tokens = float(case.batch * case.length)
    totals = {"tokens": tokens, "supervised_tokens": tokens * share, "dev_tokens": 0.0}
    launch = {"distributed_type": "NO", "num_processes": 1}
    flops = training_cost.flops(shape, train, rows, totals, on_cpu=True)
    memory = training_cost.memory(shape, changed, rows, launch, on_cpu=True)
    return Prediction(flops["total"], memory)


def child(index: int) -> dict[str, float]:
    """Measure one case in its own process."""
    command = [sys.executable, "-m", "bench.training_cost", "--only", str(index)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{name_of(CASES[index])} failed:\n{result.stderr[-2000:]}")
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def measure_all(rounds: int) -> dict[Case, dict[str, float]]:
    """Return the medians of all cases over the rounds."""
    runs = [[child(index) for index in range(len(CASES))] for _ in range(rounds)]
    medians = {}
    for index, case in enumerate(CASES):
        measured = [run[index] for run in runs]
        medians[case] = {
            key: statistics.median(one[key] for one in measured) for key in measured[0]
        }
    return medians


def memory_figures(measured: Mapping[str, float], parts: Mapping[str, float]) -> dict[str, float]:
    """Return a case's figures about memory."""
    total = measured["runtime"] + measured["loaded"] + measured["peak"]
    known = sum(parts[part] for part in TRAINING_PARTS)
    # Resident memory beyond the tensors that the plan knows.
    heap = measured["peak"] - known
    return {
        "gb": total / 1e9,
        "gb_ratio": parts["total"] / total,
        "heap_share": heap / parts["activations"],
    }


def utilisation(measured: Mapping[str, float], prediction: Prediction) -> float:
    """Return the share of the matmul rate that a case reached."""
    return prediction.flops / measured["seconds"] / measured["rate"]


def compare(params: Params, rounds: int) -> dict[str, float]:
    """Return measurements, predictions and their ratios for all cases."""
    medians = measure_all(rounds)
    predictions = {case: predict(case, params) for case in CASES}
    calibrated = utilisation(medians[CALIBRATION], predictions[CALIBRATION])
    runtime = statistics.median(measured["runtime"] for measured in medians.values())
    figures = {"runtime_gb": runtime / 1e9}
    for case, measured in medians.items():
        prediction = predictions[case]
        case_figures = memory_figures(measured, prediction.memory)
        case_figures |= {
            "seconds": measured["seconds"],
            "product_gflops": measured["rate"] / 1e9,
            "utilisation": utilisation(measured, prediction),
        }
        if case.layers and case != CALIBRATION:
            predicted_seconds = prediction.flops / (calibrated * measured["rate"])
            case_figures["seconds_ratio"] = predicted_seconds / measured["seconds"]
        for name, value in case_figures.items():
            figures[f"{name_of(case)}_{name}"] = value
    return figures


def main(
    rounds: Annotated[int, typer.Option(help="Runs per case.")] = 1,
    only: Annotated[int, typer.Option(help="Measure this case in this process, by number.")] = -1,
) -> None:
    """Measure each case, and compare it with the plan."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    if only >= 0:
        print(json.dumps(measure(CASES[only], params)))
        return
    figures = compare(params, rounds)
    ratios = [value for name, value in figures.items() if name.endswith("_ratio")]
    met = all(abs(ratio - 1) <= GOAL for ratio in ratios)
    show("plan", figures, {"every ratio of plan to measurement": [1 - GOAL, 1 + GOAL]}, met)


if __name__ == "__main__":
    typer.run(main)
