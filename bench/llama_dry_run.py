"""Llama 3.2 1B through the GPU profile's own code, as far as a machine without a GPU goes: the real architecture, the real tokenizer.

In a temporary clone it writes a base with random weights, takes profiles/llama-3.2-1b.yaml with the edits that this machine
forces (printed), and runs ingest, preprocess, three steps of train, merge, quantize and generate by the commands of dvc.yaml,
each in its own process, watched for time and memory. Counts of parameters, sizes of files, memory and time are real. What the
model says is not: random weights guess, so that the loss is about ln(128,256) = 11.8 nats and the answers are noise.

What train takes is also told by `bula plan`'s formulas, at the FLOP/s that train reaches with four of the layers on batches of
the same size, and set beside what it took. The minutes are those of the whole command, this calibration among them.

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
from typing import Any

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
STAGES = ("ingest", "preprocess", "train", "merge", "quantize", "generate")
VARIANT = "tuned"
STEPS, DEV_ROWS = 3, 1
# Layers whose training tells the plan how fast this machine is.
CALIBRATION_LAYERS = 4
# What the architecture must give, by hand and from the reference work.
PARAMETERS, TRAINABLE, TRAINABLE_Q_V, Q4_K_M_BYTES = 1_235_814_400, 11_272_192, 851_968, 807_693_952
MEMORY_GB, MINUTES, Q4_TOLERANCE = 16, 30, 0.01
# Float32's rounding; frequencies without Llama 3's scaling cost 0.002 even where the weights are random.
SAME_KL_NATS = 1e-6


def edits(base: Path) -> dict[str, Any]:
    """The least that must differ from the profile, by dotted key: no hub, no GPU, and an hour less of work."""
    demo = YAML(typ="safe").load((ROOT / "profiles/smollm2-135m.yaml").read_text(encoding="utf-8"))[
        "ingest"
    ]
    return {
        "ingest.base": {"kind": "directory", "path": str(base), "license": "llama3.2"},
        "ingest.sources": demo["sources"],
        "ingest.benchmarks": demo["benchmarks"],
        "train.launch": "cpu",
        "train.kernels": "fused",
        "train.max_steps": STEPS,
        # One batch a step: on two cores with AVX2 alone a batch takes 100 s, and the half hour has no room for six.
        "train.gradient_accumulation": 1,
        "train.eval_steps": STEPS,
        "train.save_steps": STEPS,
        "train.log_steps": 1,
        "merge.check_items": 1,
        "quantize.check_items": 1,
        "generate.items_per_set": 1,
        "generate.max_new_tokens": 16,
        "judge.items_per_set": 1,
    }


def prepare(folder: Path, clone: Path) -> int:
    """Base model and clone, ready to run; gives the number of parameters written and prints every edit."""
    base = folder / "llama"
    save_tokenizer(base)
    save_config(base)
    clone.mkdir()
    clone_tree(clone)
    (clone / "params.yaml").write_text(
        (ROOT / PROFILE).read_text(encoding="utf-8"), encoding="utf-8"
    )

    def edit(params: dict[str, Any]) -> None:
        for key, value in edits(base).items():
            *path, last = key.split(".")
            section = params
            for part in path:
                section = section[part]
            print(
                f"edit of {PROFILE}: {key}: {textwrap.shorten(str(section[last]), 90)} -> {textwrap.shorten(str(value), 90)}"
            )
            section[last] = value

    edit_params(clone / "params.yaml", edit)
    dev = clone / "data/demo/dev.jsonl"
    lines = dev.read_text(encoding="utf-8").splitlines(keepends=True)
    print(f"edit of data/demo/dev.jsonl: {len(lines)} rows -> {DEV_ROWS}", flush=True)
    dev.write_text("".join(lines[:DEV_ROWS]), encoding="utf-8")
    return save_weights(base, seed=load_params(clone / "params.yaml").seed)


def command(clone: Path, stage: str) -> list[str]:
    """Return the stage's command, for the one variant."""
    entry = YAML(typ="safe").load((clone / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    key = [VARIANT] if "foreach" in entry else []
    return [sys.executable, "-m", f"stages.{stage}", *key]


def trainable(base: Path, r: int, targets: str | list[str]) -> int:
    """Parameters of an adapter, counted on the model without its weights."""
    model = get_peft_model(
        outline(base), LoraConfig(r=r, target_modules=targets, task_type="CAUSAL_LM")
    )
    return int(model.get_nb_trainable_parameters()[0])


def step_lengths(clone: Path) -> list[list[int]]:
    """Tokens of each row of each training step, prompts included, padding not: the rows in the order that the trainer takes them."""
    params = load_params(clone / "params.yaml")
    tokenizer, size = (
        load_tokenizer(clone / "models/base"),
        params.train.batch_size * params.train.gradient_accumulation,
    )
    lengths = [
        len(encode(tokenizer, example).input_ids)
        for example in read_examples(clone / "data/clean/train.jsonl")
    ]
    sampler = EpochSampler(size, lengths, params.seed)
    sampler.set_epoch(0)
    order = list(sampler)
    return [
        [lengths[i] for i in order[step * size : (step + 1) * size]]
        for step in range(params.train.max_steps)
    ]


def planned(clone: Path, steps: list[list[int]], layers: int) -> tuple[float, float]:
    """What `bula plan` says of train with so many layers: FLOPs of a step, and bytes of memory at the longest row."""
    params = load_params(clone / "params.yaml")
    share = json.loads((clone / "metrics/template.json").read_text(encoding="utf-8"))[
        "supervised_share"
    ]
    lengths = [length for step in steps for length in step]
    rows = training_cost.Rows(
        "the steps", None, sum(lengths) / len(lengths), max(lengths), share, None
    )
    shape, tokens = (
        training_cost.count(CONFIG | {"num_hidden_layers": layers}, params.train),
        float(sum(lengths)),
    )
    done = {"tokens": tokens, "supervised_tokens": tokens * share, "dev_tokens": 0.0}
    memory = training_cost.memory(
        shape, params, rows, plan_command.find_launch(params, clone), on_cpu=True
    )["total"]
    return training_cost.flops(shape, params.train, rows, done)["total"] / len(steps), memory


def seconds_per_step(clone: Path, steps: list[list[int]]) -> float:
    """What train took for a step, by the rate that it wrote."""
    rate = json.loads((clone / "metrics/speed/train.json").read_text(encoding="utf-8"))[
        "tokens_per_second"
    ]
    return float(sum(map(sum, steps)) / len(steps) / rate)


def calibrate(clone: Path, small: Path) -> float:
    """FLOP/s that train reaches on this machine with the first layers of the model, in a clone of its own.

    As many steps on the same rows, since train's rate is their median, and the first one, which is slower, must not count.
    """
    shutil.copytree(clone, small, ignore=shutil.ignore_patterns("model*.safetensors*", "gguf"))
    save_config(small / "models/base", num_hidden_layers=CALIBRATION_LAYERS)
    save_weights(small / "models/base", seed=load_params(small / "params.yaml").seed)
    steps = step_lengths(small)
    print(f"\ncalibration: train with {CALIBRATION_LAYERS} layers", flush=True)
    run(small, command(small, "train"))
    rate = planned(small, steps, CALIBRATION_LAYERS)[0] / seconds_per_step(small, steps)
    shutil.rmtree(small)
    return rate


def collect(clone: Path, steps: list[list[int]]) -> dict[str, float]:
    """Figures that the stages wrote, and the sizes of what they made."""
    metrics = {
        name: json.loads((clone / f"metrics/{name}.json").read_text())
        for name in ("train", "template", "merge", "quantize", "speed/train")
    }
    train, answers = metrics["train"], list(read_rows(clone / f"data/answers/{VARIANT}.jsonl"))
    tokens, seconds = sum(map(sum, steps)), seconds_per_step(clone, steps)
    figures = {
        "parameters": train["parameters"]["total"] - train["parameters"]["trainable"],
        "trainable_r16_all_linear": train["parameters"]["trainable"],
        "dev_loss_nats": train["dev"]["loss_nats"],
        "tokens_per_step": tokens / STEPS,
        "tokens_per_second": tokens / STEPS / seconds,
        "seconds_per_step": seconds,
        "train_process_memory_gb": metrics["speed/train"]["peak_memory_gb"],
        "bos_tokens_at_start": metrics["template"]["bos_tokens_at_start"],
        "rows_truncated": metrics["template"]["rows_truncated"],
        "merge_before_cast_logit_difference_largest": metrics["merge"]["before_cast"][
            "logit_difference_largest"
        ],
        "merge_after_cast_logit_difference_largest": metrics["merge"]["after_cast"][
            "logit_difference_largest"
        ],
        "adapter_bytes": (clone / "models/adapter/adapter_model.safetensors").stat().st_size,
        "answers": len(answers),
        "answer_tokens": sum(answer["completion_tokens"] for answer in answers),
    }
    for kind, group in metrics["quantize"].items():
        figures |= {f"gguf_{kind}_bytes": group["bytes"], f"gguf_{kind}_kl_nats": group["kl_nats"]}
    return figures | {"gguf_q4_k_m_bytes_ratio": figures["gguf_q4_k_m_bytes"] / Q4_K_M_BYTES}


def check(figures: dict[str, float], clone: Path) -> None:
    """SystemExit with every count that is not what the architecture gives, and where the GGUF files say something else than the model."""
    wanted = {
        "parameters_written": PARAMETERS,
        "parameters": PARAMETERS,
        "trainable_r16_all_linear": TRAINABLE,
        "trainable_r8_q_v": TRAINABLE_Q_V,
        "bos_tokens_at_start": 1,
        "rows_truncated": 0,
    }
    wrong = [
        f"{name} is {figures[name]}, must be {value}"
        for name, value in wanted.items()
        if figures[name] != value
    ]
    # The same weights in another file: what differs is how the file was written or read, rotary frequencies for one.
    if figures["gguf_bf16_kl_nats"] > SAME_KL_NATS:
        wrong.append(
            f"the 16-bit GGUF file differs from the merged model by {figures['gguf_bf16_kl_nats']} nats, must be 0"
        )
    # llama.cpp's converter knows tokenizers by the ids of a test text.
    splitting = read_gguf(clone / "models/gguf/bf16.gguf").fields["tokenizer.ggml.pre"].contents()
    if splitting != "llama-bpe":
        wrong.append(f"the GGUF file names the tokenizer {splitting}, must be llama-bpe")
    if wrong:
        raise SystemExit("\n".join(wrong))


def summarise(figures: dict[str, float]) -> None:
    """Compare with the goals, and print."""
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
        and all(abs(figures[f"plan_{what}_ratio"] - 1) <= GOAL for what in ("memory", "time"))
    )
    print()
    show("llama_dry_run", figures, goals, met)


def main() -> None:
    """Run the stages, and print what they took."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="bula-llama.") as name:
        folder = Path(name)
        clone = folder / "bula"
        figures: dict[str, float] = {"parameters_written": prepare(folder, clone)}
        figures |= {"trainable_r8_q_v": trainable(folder / "llama", 8, ["q_proj", "v_proj"])}
        for stage in STAGES:
            print(f"\n{stage}: {' '.join(command(clone, stage)[1:])}", flush=True)
            figures[f"{stage}_seconds"], figures[f"{stage}_peak_memory_gb"] = run(
                clone, command(clone, stage)
            )
            if stage == "train":
                # In the same minutes: a machine's speed varies over an hour.
                rate = calibrate(clone, folder / "small")
        steps = step_lengths(clone)
        flops, memory = planned(clone, steps, CONFIG["num_hidden_layers"])
        figures |= collect(clone, steps) | {
            "plan_memory_gb": memory / 1e9,
            "plan_seconds_per_step": flops / rate,
        }
        check(figures, clone)
    summarise(figures)


if __name__ == "__main__":
    typer.run(main)
