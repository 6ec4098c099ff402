"""Whether `python -m bula plan` tells memory and time right: its formulas beside real training steps on the CPU.

Each case runs in a process of its own: training steps of this project's functions over rows of one length. Memory is the
largest resident memory from the first step on. Time: every case prints its utilisation, the share of the rate of products
as train makes them, in the same minute. Besides models/base there are the first layers of Llama 3.2 1B, and all of them, with
random weights: the real width, the real vocabulary, up to 8 GB, and more where a CPU computes in float32. Of Llama one case's
utilisation must tell the others' seconds. That of so narrow a model as models/base grows with the batch, and is printed alone.

    python -m bench.training_cost
"""

import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import psutil
import torch
import typer
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from bench.llama import CONFIG
from bench.summary import show
from bench.train import product_rate
from bula import training_cost
from bula.hardware import compute_dtype, seed_everything
from bula.lora import lora_config
from bula.lora_kernels import add_answer_head, use_kernels
from bula.models import load_model
from bula.params import Params, load_params
from bula.scoring import unwrap_adapter

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "models/base"
# Steps of a case. The first one fills caches; of the others the fastest counts, since other work on the machine only adds.
STEPS = 5
GOAL = 0.15


class Case(NamedTuple):
    """A model and a batch."""

    layers: int
    """Layers of Llama 3.2 1B; 0 is models/base."""
    batch: int
    """Rows."""
    length: int
    """Tokens of each row."""


CASES = [Case(0, 2, 200), Case(0, 4, 300), Case(0, 8, 300)]
# The one whose utilisation tells the seconds of Llama's others.
CALIBRATION = Case(4, 4, 300)
CASES += [Case(2, 4, 300), CALIBRATION, Case(4, 4, 150), Case(16, 4, 300)]


def name_of(case: Case) -> str:
    """What a case is called in the figures."""
    return (
        f"{f'llama_{case.layers}_layers' if case.layers else 'smollm2'}_{case.batch}x{case.length}"
    )


def config_of(case: Case) -> dict[str, Any]:
    """The config.json of a case's model."""
    if case.layers:
        return CONFIG | {"num_hidden_layers": case.layers}
    config: dict[str, Any] = json.loads((BASE / "config.json").read_text(encoding="utf-8"))
    return config


def make_model(case: Case, params: Params) -> Any:
    """The model with its adapter, as the trainer makes it."""
    if case.layers:
        config = AutoConfig.for_model(**config_of(case))
        model = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, compute_dtype(params.dtype)), attn_implementation="sdpa"
        )
    else:
        model = load_model(BASE, params.dtype)
    lora = params.train.lora
    settings = lora_config(lora)
    adapted = get_peft_model(model, settings).train()
    use_kernels(adapted)
    add_answer_head(unwrap_adapter(adapted))
    return adapted


def batch_of(case: Case, vocabulary: int) -> dict[str, torch.Tensor]:
    """Random tokens, the first third of each row a prompt."""
    ids = torch.randint(0, vocabulary, (case.batch, case.length))
    labels = ids.clone()
    labels[:, : case.length // 3] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def peak_since_reset(reset: bool = False) -> int:
    """Largest resident memory of this process in bytes since it was last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    line = next(
        line
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def measure(case: Case, params: Params) -> dict[str, float]:
    """Seconds of a training step, FLOP/s of products as train makes them before and after, and bytes resident: before the model,
    with it, and at most while training.
    """
    seed_everything(params.seed)
    process = psutil.Process()
    runtime = process.memory_info().rss
    model = make_model(case, params)
    batch = batch_of(case, model.config.vocab_size)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    # safetensors maps its file: a weight becomes resident when it is first read.
    assert all(torch.isfinite(parameter.sum()) for parameter in model.parameters())
    gc.collect()
    loaded, seconds, rates = process.memory_info().rss, [], [product_rate(params.dtype)]
    peak_since_reset(reset=True)
    for _ in range(STEPS):
        started = time.perf_counter()
        total, _, count = model(**batch, answer_head=True)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    peak = peak_since_reset() - loaded
    rates.append(product_rate(params.dtype))
    taken = {"seconds": min(seconds[1:]), "rate": max(rates)}
    return {"runtime": runtime, "loaded": loaded - runtime, "peak": peak} | taken


def predict(case: Case, params: Params) -> tuple[float, dict[str, float]]:
    """FLOPs of a forward and backward pass, and bytes by part, by the plan."""
    train = params.train.model_copy(update={"batch_size": case.batch, "kernels": "fused"})
    told = params.model_copy(update={"train": train})
    shape = training_cost.count(config_of(case), train)
    share = (case.length - max(1, case.length // 3)) / case.length
    rows = training_cost.Rows("bench", None, case.length, case.length, share, None)
    tokens = float(case.batch * case.length)
    done = {"tokens": tokens, "supervised_tokens": tokens * share, "dev_tokens": 0.0}
    launch = {"distributed_type": "NO", "num_processes": 1}
    return training_cost.flops(shape, train, rows, done)["total"], training_cost.memory(
        shape, told, rows, launch, on_cpu=True
    )


def child(index: int) -> dict[str, float]:
    """One case in a process of its own."""
    command = [sys.executable, "-m", "bench.training_cost", "--only", str(index)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{name_of(CASES[index])} failed:\n{result.stderr[-2000:]}")
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def compare(params: Params, rounds: int) -> dict[str, float]:
    """Figures of all cases: measured, predicted, and their ratio."""
    runs = [[child(index) for index in range(len(CASES))] for _ in range(rounds)]
    found = [
        (case, {key: statistics.median(run[i][key] for run in runs) for key in runs[0][i]})
        for i, case in enumerate(CASES)
    ]
    reached = {
        case: predict(case, params)[0] / measured["seconds"] / measured["rate"]
        for case, measured in found
    }
    figures = {"runtime_gb": statistics.median(measured["runtime"] for _, measured in found) / 1e9}
    for case, measured in found:
        name, (work, parts) = name_of(case), predict(case, params)
        total = measured["runtime"] + measured["loaded"] + measured["peak"]
        figures |= {f"{name}_gb": total / 1e9, f"{name}_gb_ratio": parts["total"] / total}
        # What is resident beyond the arrays that the plan knows.
        known = sum(
            parts[part]
            for part in ("gradients", "adamw_moments", "activations", "head_and_scratch")
        )
        figures[f"{name}_heap_share"] = (measured["peak"] - known) / parts["activations"]
        figures |= {
            f"{name}_seconds": measured["seconds"],
            f"{name}_product_gflops": measured["rate"] / 1e9,
        }
        figures[f"{name}_utilisation"] = reached[case]
        if case.layers and case != CALIBRATION:
            figures[f"{name}_seconds_ratio"] = (
                work / (reached[CALIBRATION] * measured["rate"]) / measured["seconds"]
            )
    return figures


def main(
    rounds: Annotated[int, typer.Option(help="Times that each case runs.")] = 1,
    only: Annotated[
        int, typer.Option(help="Measure the case of this number in this process.")
    ] = -1,
) -> None:
    """Measure each case, and print the plan's figures over the measured ones."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    if only >= 0:
        print(json.dumps(measure(CASES[only], params)))
        return
    figures = compare(params, rounds)
    met = all(abs(value - 1) <= GOAL for name, value in figures.items() if name.endswith("_ratio"))
    show("plan", figures, {"every ratio of plan to measurement": [1 - GOAL, 1 + GOAL]}, met)


if __name__ == "__main__":
    typer.run(main)
