"""Run Llama 3.2 1B through the GPU profile on a CPU.

The architecture and the tokenizer are real, the weights are random. In a temporary clone the bench
writes the base model, takes profiles/llama-3.2-1b.yaml with the edits that this machine needs
(printed), and runs models, dry_run, ingest, preprocess, three steps of train, merge, quantize and
generate by the commands of dvc.yaml. Each stage runs in its own process, whose time and memory are
measured. Parameter counts, file sizes, memory and time are real. Scores are not: the model guesses,
so the loss is about ln(128,256) = 11.8 nats and the answers are noise.

The formulas of `bula plan` also predict time and memory of train, at the FLOP/s that train reaches
with four layers on batches of the same size. The minutes include this calibration.

    python -m bench.llama_dry_run
"""

import json
import os
import shutil
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import typer
from peft import LoraConfig, get_peft_model
from ruamel.yaml import YAML

from bench.clones import clone_tree, edit_params
from bench.llama import CONFIG, outline, save_config, save_tokenizer, save_weights
from bench.preprocess import run
from bench.summary import show
from bench.training_cost import GOAL
from bula import training_cost
from bula.commands import plan as plan_command
from bula.gguf_files import read_gguf
from bula.models import load_tokenizer
from bula.params import load_params
from bula.prompts import encode
from bula.records import read_examples, read_rows
from stages.train.trainer import EpochSampler

ROOT = Path(__file__).resolve().parent.parent
PROFILE = "profiles/llama-3.2-1b.yaml"
STAGES = (
    "models",
    "dry_run",
    "ingest",
    "preprocess",
    "train",
    "merge",
    "quantize",
    "generate",
)
VARIANT = "tuned"
STEPS = 3
DEV_ROWS = 1
# Layers of the smaller model whose training measures this machine's FLOP/s.
CALIBRATION_LAYERS = 4
# Parameters of the base and of two adapters, and bytes of the 4-bit file, from the reference work.
PARAMETERS = 1_235_814_400
TRAINABLE = 11_272_192
TRAINABLE_Q_V = 851_968
Q4_K_M_BYTES = 807_693_952
# Goals.
MEMORY_GB = 16
MINUTES = 30
Q4_TOLERANCE = 0.01
# Float32's rounding; without Llama 3's scaling of the frequencies random weights reach 0.002.
SAME_KL_NATS = 1e-6
Steps = list[list[int]]


class Planned(NamedTuple):
    """The plan's prediction for train."""

    flops_per_step: float
    memory_bytes: float
    """Memory at the longest row."""


# --- the clone ---------------------------------------------------------------------------------


def edits(base: Path) -> dict[str, Any]:
    """Return the least edits of the profile, by dotted key.

    They avoid the hub and the GPU, and save an hour of work.
    """
    demo = read_yaml(ROOT / "profiles/smollm2-135m.yaml")["ingest"]
    variants = read_yaml(ROOT / PROFILE)["variants"].items()
    served = [name for name, variant in variants if variant["engine"] == "vllm"]
    return {
        "ingest.base": {"kind": "directory", "path": str(base), "license": "llama3.2"},
        "ingest.sources": demo["sources"],
        "ingest.benchmarks": demo["benchmarks"],
        "bertscore.encoder": {"kind": "base"},
        "device": "cpu",
        "train.launch": "cpu",
        "train.kernels": "fused",
        "train.max_steps": STEPS,
        # A batch takes 100 s on two cores with AVX2, so half an hour is too short for six.
        "train.gradient_accumulation": 1,
        "train.eval_steps": STEPS,
        "train.save_steps": STEPS,
        "train.log_steps": 1,
        "merge.check_items": 1,
        "quantize.check_items": 1,
        "quantize.types": ["bf16", "q8_0", "q4_k_m"],
        "generate.items_per_set": 1,
        "generate.max_new_tokens": 16,
        "generate.gpu_layers": 0,
        "judge.items_per_set": 1,
        **{f"variants.{name}.engine": "transformers" for name in served},
    }


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def apply_edits(params: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set each dotted key, and print old and new value."""
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = params
        for name in sections:
            section = section[name]
        before = textwrap.shorten(str(section[last]), 90)
        after = textwrap.shorten(str(value), 90)
        print(f"edit of {PROFILE}: {key}: {before} -> {after}")
        section[last] = value


def shorten_dev(clone: Path) -> None:
    """Keep the first rows of the demo corpus's dev file."""
    dev = clone / "data/demo/dev.jsonl"
    lines = dev.read_text(encoding="utf-8").splitlines(keepends=True)
    print(f"edit of data/demo/dev.jsonl: {len(lines)} rows -> {DEV_ROWS}", flush=True)
    dev.write_text("".join(lines[:DEV_ROWS]), encoding="utf-8")


def prepare(folder: Path, clone: Path) -> int:
    """Write base model and clone, and return the number of parameters."""
    base = folder / "llama"
    save_tokenizer(base)
    save_config(base)
    clone.mkdir()
    clone_tree(clone)
    file = clone / "params.yaml"
    file.write_text((ROOT / PROFILE).read_text(encoding="utf-8"), encoding="utf-8")
    changes = edits(base)
    edit_params(file, lambda params: apply_edits(params, changes))
    shorten_dev(clone)
    return save_weights(base, seed=load_params(file).seed)


def command(clone: Path, stage: str) -> list[str]:
    """Return the stage's command for one variant."""
    entry = read_yaml(clone / "dvc.yaml")["stages"][stage]
    key = [VARIANT] if "foreach" in entry else []
    return [sys.executable, "-m", f"stages.{stage}", *key]


# --- figures -----------------------------------------------------------------------------------


def read_metrics(clone: Path, name: str) -> Any:
    """Return the content of a metrics file."""
    return json.loads((clone / f"metrics/{name}.json").read_text(encoding="utf-8"))


def count_trainable(base: Path, r: int, targets: str | list[str]) -> int:
    """Return an adapter's parameters, counted on the model without weights."""
    settings = LoraConfig(r=r, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(outline(base), settings)
    return int(model.get_nb_trainable_parameters()[0])


def step_lengths(clone: Path) -> Steps:
    """Return the tokens of each row of each training step.

    Rows are in the order of the trainer. Prompts are counted, padding is not.
    """
    params = load_params(clone / "params.yaml")
    tokenizer = load_tokenizer(clone / "models/base")
    size = params.train.batch_size * params.train.gradient_accumulation
    examples = read_examples(clone / "data/clean/train.jsonl")
    lengths = [len(encode(tokenizer, example).input_ids) for example in examples]
    sampler = EpochSampler(size, lengths, params.seed)
    sampler.set_epoch(0)
    ordered = [lengths[index] for index in sampler]
    starts = [step * size for step in range(params.train.max_steps)]
    return [ordered[start : start + size] for start in starts]


def predict(clone: Path, steps: Steps, layers: int) -> Planned:
    """Return the plan's prediction for train with some layers."""
    params = load_params(clone / "params.yaml")
    template = read_metrics(clone, "template")
    share = template["supervised_share"]
    lengths = [length for step in steps for length in step]
    tokens = float(sum(lengths))
    rows = training_cost.Rows(
        source="the steps",
        examples=None,
        tokens_per_row=sum(lengths) / len(lengths),
        tokens_longest=max(lengths),
        supervised_share=share,
        dev_tokens=None,
        shared_tokens=template["shared_tokens"],
    )
    totals = {"tokens": tokens, "supervised_tokens": tokens * share, "dev_tokens": 0.0}
    shape = training_cost.count_shape(CONFIG | {"num_hidden_layers": layers}, params.train)
    flops = training_cost.flops(shape, params.train, rows, totals, on_cpu=True)
    launch = plan_command.find_launch(params, clone)
    memory = training_cost.memory(shape, params, rows, launch, on_cpu=True)
    return Planned(flops["total"] / len(steps), memory["total"])


def seconds_per_step(clone: Path, steps: Steps) -> float:
    """Return the seconds per step, from the rate that train wrote."""
    rate = read_metrics(clone, "speed/train")["tokens_per_second"]
    tokens = sum(sum(step) for step in steps)
    return float(tokens / len(steps) / rate)


def calibrate(clone: Path, small: Path) -> float:
    """Return the FLOP/s that train reaches with the model's first layers.

    The smaller model runs in its own clone, for as many steps on the same rows, because the rate of
    train is their median, which excludes the slower first step.
    """
    shutil.copytree(clone, small, ignore=shutil.ignore_patterns("model*.safetensors*", "gguf"))
    save_config(small / "models/base", num_hidden_layers=CALIBRATION_LAYERS)
    save_weights(small / "models/base", seed=load_params(small / "params.yaml").seed)
    steps = step_lengths(small)
    print(f"\ncalibration: train with {CALIBRATION_LAYERS} layers", flush=True)
    run(small, command(small, "train"))
    flops = predict(small, steps, CALIBRATION_LAYERS).flops_per_step
    rate = flops / seconds_per_step(small, steps)
    shutil.rmtree(small)
    return rate


def train_figures(clone: Path, steps: Steps) -> dict[str, float]:
    """Return the figures that train wrote."""
    train = read_metrics(clone, "train")
    parameters = train["parameters"]
    template = read_metrics(clone, "template")
    tokens = sum(sum(step) for step in steps)
    seconds = seconds_per_step(clone, steps)
    return {
        "parameters": parameters["total"] - parameters["trainable"],
        "trainable_r16_all_linear": parameters["trainable"],
        "dev_loss_nats": train["dev"]["loss_nats"],
        "tokens_per_step": tokens / STEPS,
        "tokens_per_second": tokens / STEPS / seconds,
        "seconds_per_step": seconds,
        "train_process_memory_gb": read_metrics(clone, "speed/train")["peak_memory_gb"],
        "bos_tokens_at_start": template["bos_tokens_at_start"],
        "rows_truncated": template["rows_truncated"],
    }


def merge_figures(clone: Path) -> dict[str, float]:
    """Return the figures that merge wrote."""
    merge = read_metrics(clone, "merge")
    key = "logit_difference_largest"
    return {f"merge_{when}_{key}": merge[when][key] for when in ("before_cast", "after_cast")}


def gguf_figures(clone: Path) -> dict[str, float]:
    """Return size and divergence of each GGUF file."""
    figures = {}
    for kind, group in read_metrics(clone, "quantize").items():
        figures[f"gguf_{kind}_bytes"] = group["bytes"]
        figures[f"gguf_{kind}_kl_nats"] = group["kl_nats"]
    figures["gguf_q4_k_m_bytes_ratio"] = figures["gguf_q4_k_m_bytes"] / Q4_K_M_BYTES
    return figures


def collect(clone: Path, steps: Steps) -> dict[str, float]:
    """Return the stages' figures and the sizes of their outputs."""
    figures = train_figures(clone, steps) | merge_figures(clone)
    adapter = clone / "models/adapter/adapter_model.safetensors"
    answers = list(read_rows(clone / f"data/answers/{VARIANT}.jsonl"))
    figures["adapter_bytes"] = adapter.stat().st_size
    figures["answers"] = len(answers)
    figures["answer_tokens"] = sum(answer["completion_tokens"] for answer in answers)
    return figures | gguf_figures(clone)


# --- checks ------------------------------------------------------------------------------------


def wrong_figures(figures: dict[str, float]) -> list[str]:
    """Return a sentence for each figure that the architecture contradicts."""
    expected = {
        "parameters_written": PARAMETERS,
        "parameters": PARAMETERS,
        "trainable_r16_all_linear": TRAINABLE,
        "trainable_r8_q_v": TRAINABLE_Q_V,
        "bos_tokens_at_start": 1,
        "rows_truncated": 0,
    }
    wrong = []
    for name, value in expected.items():
        if figures[name] != value:
            wrong.append(f"{name} is {figures[name]}, must be {value}")
    # The 16-bit file has the same weights, so a difference is an error of writing or reading.
    divergence = figures["gguf_bf16_kl_nats"]
    if divergence > SAME_KL_NATS:
        wrong.append(
            f"the 16-bit GGUF file differs from the merged model by {divergence} nats, must be 0"
        )
    return wrong


def check(figures: dict[str, float], clone: Path) -> None:
    """Exit with every figure or GGUF field that is wrong."""
    wrong = wrong_figures(figures)
    # llama.cpp's converter recognizes tokenizers by the ids of a test text.
    file = clone / "models/gguf/bf16.gguf"
    tokenizer = read_gguf(file).fields["tokenizer.ggml.pre"].contents()
    if tokenizer != "llama-bpe":
        wrong.append(f"the GGUF file names the tokenizer {tokenizer}, must be llama-bpe")
    if wrong:
        raise SystemExit("\n".join(wrong))


def summarise(figures: dict[str, float]) -> None:
    """Compare the figures with the goals, and print them."""
    figures["plan_memory_ratio"] = figures["plan_memory_gb"] / figures["train_process_memory_gb"]
    figures["plan_time_ratio"] = figures["plan_seconds_per_step"] / figures["seconds_per_step"]
    figures["stages_minutes"] = sum(figures[f"{stage}_seconds"] for stage in STAGES) / 60
    figures["minutes"] = (time.time() - psutil.Process().create_time()) / 60
    figures["peak_memory_gb"] = max(figures[f"{stage}_peak_memory_gb"] for stage in STAGES)
    goals = {
        "peak_memory_gb": MEMORY_GB,
        "minutes": MINUTES,
        "gguf_q4_k_m_bytes_ratio_from_1": Q4_TOLERANCE,
        "plan_ratios_from_1": GOAL,
    }
    met = (
        figures["peak_memory_gb"] <= MEMORY_GB
        and figures["minutes"] <= MINUTES
        and abs(figures["gguf_q4_k_m_bytes_ratio"] - 1) <= Q4_TOLERANCE
        and abs(figures["plan_memory_ratio"] - 1) <= GOAL
        and abs(figures["plan_time_ratio"] - 1) <= GOAL
    )
    print()
    show("llama_dry_run", figures, goals, met)


def main() -> None:
    """Run the stages, and print their time, memory and figures."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="bula-llama.") as name:
        folder = Path(name)
        clone = folder / "bula"
        figures: dict[str, float] = {"parameters_written": prepare(folder, clone)}
        figures["trainable_r8_q_v"] = count_trainable(folder / "llama", 8, ["q_proj", "v_proj"])
        for stage in STAGES:
            arguments = command(clone, stage)
            print(f"\n{stage}: {' '.join(arguments[1:])}", flush=True)
            seconds, memory = run(clone, arguments)
            figures[f"{stage}_seconds"] = seconds
            figures[f"{stage}_peak_memory_gb"] = memory
            if stage == "train":
                # Directly after train, because a machine's speed varies over an hour.
                rate = calibrate(clone, folder / "small")
        steps = step_lengths(clone)
        planned = predict(clone, steps, CONFIG["num_hidden_layers"])
        figures |= collect(clone, steps)
        figures["plan_memory_gb"] = planned.memory_bytes / 1e9
        figures["plan_seconds_per_step"] = planned.flops_per_step / rate
        check(figures, clone)
    summarise(figures)


if __name__ == "__main__":
    typer.run(main)
