"""Compare the train stage's speed with TRL's and with a plain loop.

All contenders train the same LoRA on the same rows. Each contender runs in its own process, in
turn, over one epoch of the first rows of the demo corpus, with batch size, accumulation and
precision of the profile, after one uncounted step of the longest rows. TRL runs with its defaults
and without checkpointing; the faster counts. Another run in float32, without dropout and in file
order, checks that this project's losses equal TRL's at every step.

A table is about one base and one batch size, that of the profile. The base is models/base, or with
`--gemma` a model with random weights and the shape of Gemma 3 270M, whose head is over half of it.

The bench prints the share of the matmul rate that each contender reaches. AMX speeds up matmuls
tenfold but not memory, so norms, masks and activations dominate, and the goal without AMX is
higher. The plain rate is measured in the model's precision. Where a CPU multiplies
faster in a wider precision (`matmul_dtype`), the share of the plain rate may exceed 1.

On a CPU without bfloat16 matmuls all contenders compute in float32 (bula/models.py). TRL's default
would be slow bfloat16, which is timed over a few rows there.

    python -m bench.train [--rows 48] [--rounds 1] [--gemma]
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

from bench.measuring import product_rates
from bench.summary import show
from bula.hardware import compute_dtype, seed_everything
from bula.lora import lora_config
from bula.models import load_model, load_tokenizer, save_model
from bula.params import Params, load_params
from bula.prompts import Encoded, encode
from bula.records import Example, example_id, read_rows
from bula.reports import peak_memory_gb
from bula.scoring import pad_batch
from stages.train.trainer import AnswerTrainer, configure, tokenise

ROOT = Path(__file__).resolve().parent.parent
# This environment variable tells the processes of the contenders which base they train.
BASE_VARIABLE = "BULA_BENCH_BASE"
# The sizes of Gemma 3 270M, from its config.json. Each sixth layer has no window.
GEMMA_LAYERS = 18
GEMMA_SHAPE: dict[str, Any] = {
    "vocab_size": 262_144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": GEMMA_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * (GEMMA_LAYERS // 6),
}
# TRL with its own precision, where the other contenders compute in float32.
TRL_IN_BFLOAT16 = "trl_in_bfloat16"
TRL_IN_BFLOAT16_ROWS = 8
TRL_CONTENDERS = ("trl_defaults", "trl_without_checkpointing")
CONTENDERS = ("bula", *TRL_CONTENDERS, "plain_loop")
# A setting of oneDNN: compute bfloat16 matmuls by vectors, not by AMX tiles.
WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
RATIO_TO_TRL_GOAL = 3.0
RATE_SHARE_GOAL = 0.25
RATE_SHARE_GOAL_WITHOUT_AMX = 0.6
LOSS_DIFFERENCE_GOAL = 1e-3
Run = dict[str, Any]


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Record the seconds of all steps and the loss of each."""

    def __init__(self) -> None:
        """Start with no step."""
        self.started = 0.0
        self.ended = 0.0
        self.losses: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the start of the first step."""
        self.started = self.started or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the end of the last step."""
        self.ended = time.perf_counter()

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record the loss."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def seconds(self) -> float:
        """Return the seconds from the first step to the last."""
        return self.ended - self.started


def load_rows(count: int) -> list[Example]:
    """Return the first training examples of the demo corpus."""
    examples = []
    for row in list(read_rows(ROOT / "data/demo/train.jsonl"))[:count]:
        question = row["question"]
        answer = row["answer"]
        example = Example(
            id=example_id("bench", question, answer),
            source="bench",
            license="l",
            split="train",
            question=question,
            answer=answer,
        )
        examples.append(example)
    return examples


def base_folder() -> Path:
    """Return the folder of the model that is trained."""
    return Path(os.environ.get(BASE_VARIABLE, ROOT / "models/base"))


def write_gemma(folder: Path) -> None:
    """Write a model of Gemma 3 270M's shape, with random weights.

    It has the tokenizer of models/base, whose ids are all in the larger vocabulary.
    """
    tokenizer = load_tokenizer(base_folder())
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = Gemma3TextConfig(**GEMMA_SHAPE, **special, tie_word_embeddings=True)
    save_model(Gemma3ForCausalLM(config).to(torch.bfloat16), tokenizer, folder)


def step_rows(params: Params) -> int:
    """Return the rows per optimizer step."""
    return params.train.batch_size * params.train.gradient_accumulation


def settings(params: Params, rows: int, precision: str) -> Params:
    """Return the parameters for one epoch in a precision.

    In float32 there is no dropout, so that two trainers' losses can be compared.
    """
    train = params.train.model_copy(update={"max_steps": rows // step_rows(params)})
    if precision == "float32":
        lora = train.lora.model_copy(update={"dropout": 0.0})
        train = train.model_copy(update={"lora": lora})
    return params.model_copy(update={"dtype": precision, "train": train})


# --- contenders --------------------------------------------------------------------------------


def constructor_arguments(config: SFTConfig) -> dict[str, Any]:
    """Return the arguments that construct an equal configuration."""
    fields = [field.name for field in dataclasses.fields(config) if field.init]
    return {name: getattr(config, name) for name in fields}


def trl_arguments(name: str, params: Params, folder: str) -> dict[str, Any]:
    """Return the arguments in which TRL differs from the train stage."""
    defaults = constructor_arguments(SFTConfig(output_dir=folder, use_cpu=True, bf16=False))
    own = ("max_length", "activation_checkpointing", "gradient_checkpointing")
    arguments = {key: defaults[key] for key in own}
    arguments["bf16"] = name == TRL_IN_BFLOAT16 or compute_dtype(params.dtype) == "bfloat16"
    if name != "trl_defaults":
        arguments["activation_checkpointing"] = False
        arguments["gradient_checkpointing"] = False
    return arguments


def trainer_config(name: str, params: Params, folder: str) -> SFTConfig:
    """Return a contender's configuration, without evaluations and files."""
    arguments = constructor_arguments(configure(params, Path(folder)))
    if name != "bula":
        arguments |= trl_arguments(name, params, folder)
    arguments |= {
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    return SFTConfig(**arguments)


class FileOrderSampler(SequentialSampler):
    """Yield the rows in file order in every epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Accept the epoch, which this project's trainer sets."""


def with_file_order(trainer_class: Any) -> Any:
    """Return a subclass that can keep the order of the rows."""

    class FileOrderTrainer(trainer_class):  # type: ignore[misc]
        file_order = True

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if not self.file_order:
                return super()._get_train_sampler(train_dataset)
            self.sampler = FileOrderSampler(self.train_dataset)
            return self.sampler

    return FileOrderTrainer


def make_trainer(
    name: str, params: Params, rows: Any, clock: StepClock, tokenizer: Any, folder: str
) -> Any:
    """Return a contender's trainer, which keeps the order of the rows."""
    model = load_model(base_folder(), params.dtype)
    if name == TRL_IN_BFLOAT16:
        model = model.to(torch.bfloat16)
    arguments = {
        "model": model,
        "args": trainer_config(name, params, folder),
        "train_dataset": rows,
        "processing_class": tokenizer,
        "peft_config": lora_config(params.train.lora),
        "callbacks": [clock],
    }
    if name == "bula":
        return with_file_order(AnswerTrainer)(**arguments, kernels="fused")
    return with_file_order(SFTTrainer)(**arguments)


def run_trainer(
    name: str, params: Params, examples: list[Example], in_order: bool
) -> tuple[float, list[float]]:
    """Train one epoch by this project's trainer or TRL's.

    Return the seconds of its steps and their losses. Unless the rows are in file order, the first
    loss is that of an uncounted step.
    """
    tokenizer = load_tokenizer(base_folder())
    clock = StepClock()
    rows = tokenise(tokenizer, examples)
    if not in_order:
        lengths = [len(row["input_ids"]) for row in rows]
        longest_first = sorted(range(len(rows)), key=lambda index: -lengths[index])
        rows = rows.select(longest_first)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(name, params, rows, clock, tokenizer, folder)
        if not in_order:
            # The longest rows allocate memory and warm up the libraries before the clock starts.
            trainer.args.max_steps = 1
            trainer.train()
            clock.started = 0.0
            trainer.args.max_steps = params.train.max_steps
            trainer.file_order = False
        trainer.train()
    return clock.seconds(), clock.losses


def plain_step(model: Any, batch: list[Encoded], pad_id: int, dtype: str) -> torch.Tensor:
    """Compute loss and gradients of a padded batch, and return the loss."""
    inputs = pad_batch(batch, pad_id)
    labels = inputs.pop("labels")
    with torch.autocast("cpu", torch.bfloat16, enabled=compute_dtype(dtype) == "bfloat16"):
        logits = model(**inputs).logits
    predictions = logits[:, :-1].flatten(0, 1).float()
    loss = cross_entropy(predictions, labels[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def run_plain(params: Params, examples: list[Example]) -> tuple[float, list[float]]:
    """Train one epoch by a loop without any optimization.

    Batches contain rows of similar length, and the loss reads the logits of all positions. Return
    the seconds of the steps and their losses, of which the first is that of an uncounted step.
    """
    tokenizer = load_tokenizer(base_folder())
    adapter = lora_config(params.train.lora)
    model = get_peft_model(load_model(base_folder(), params.dtype), adapter).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data = weight.data.float()
    optimizer = torch.optim.AdamW(trained, lr=params.train.learning_rate)
    encoded = [encode(tokenizer, example) for example in examples]
    encoded.sort(key=lambda one: len(one.input_ids))
    size = step_rows(params)
    started = 0.0
    losses: list[float] = []
    # The longest batch runs once before the clock starts, as in run_trainer.
    for first in [len(encoded) - size, *range(0, len(encoded), size)]:
        if len(losses) == 1:
            started = time.perf_counter()
        batch = encoded[first : first + size]
        loss = plain_step(model, batch, tokenizer.pad_token_id, params.dtype)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return time.perf_counter() - started, losses


# --- work ----------------------------------------------------------------------------------------


def work(params: Params, examples: list[Example]) -> tuple[int, int, float]:
    """Return supervised tokens, all tokens and the FLOPs that they need.

    The FLOPs are 4 per parameter and token, adapter included; the head counts for supervised tokens
    only. Attention's matmuls and the 2 FLOPs more of a trained weight are left out.
    """
    tokenizer = load_tokenizer(base_folder())
    model = load_model(base_folder(), "bfloat16")
    head = model.get_output_embeddings().weight.numel()
    decoder = sum(weight.numel() for weight in model.model.layers.parameters())
    adapter, _ = get_peft_model(model, lora_config(params.train.lora)).get_nb_trainable_parameters()
    encoded = [encode(tokenizer, example) for example in examples]
    supervised = sum(len(one.completion) for one in encoded)
    tokens = sum(len(one.input_ids) for one in encoded)
    return supervised, tokens, 4.0 * ((decoder + adapter) * tokens + head * supervised)


# --- the report --------------------------------------------------------------------------------


def child(
    name: str,
    rows: int,
    precision: str = "bfloat16",
    in_order: bool = False,
    environment: dict[str, str] | None = None,
) -> Run:
    """Run one contender in its own process, and return its figures.

    `environment` adds variables to those of this process.
    """
    command = [sys.executable, "-m", "bench.train", "--only", name]
    command += ["--rows", str(rows), "--precision", precision]
    if in_order:
        command.append("--in-order")
    variables = os.environ | (environment or {})
    result = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"{name} failed:\n{result.stderr[-2000:]}")
    found: Run = json.loads(result.stdout.splitlines()[-1])
    return found


def loss_difference(params: Params) -> float:
    """Return the largest difference between this project's losses and TRL's.

    Both train three steps on the same batches in float32.
    """
    rows = 3 * step_rows(params)
    ours = child("bula", rows, "float32", in_order=True)["losses"]
    theirs = child("trl_without_checkpointing", rows, "float32", in_order=True)["losses"]
    pairs = zip(ours, theirs, strict=True)
    return float(max(abs(our_loss - trl_loss) for our_loss, trl_loss in pairs))


def median_seconds(runs: Sequence[Run]) -> float:
    """Return the median seconds of some runs."""
    return float(statistics.median(run["seconds"] for run in runs))


def largest(runs: Sequence[Run], key: str) -> float:
    """Return the largest value of a key in some runs."""
    return float(max(run[key] for run in runs))


def figures_without_amx(rows: int, rounds: int, flops: float) -> dict[str, float]:
    """Return this project's share of the plain matmul rate without AMX."""
    environment = WITHOUT_AMX if torch.cpu._is_amx_tile_supported() else {}
    runs = [child("bula", rows, environment=environment) for _ in range(rounds)]
    rate = largest(runs, "plain_product_rate")
    share = flops / median_seconds(runs) / rate
    return {
        "without_amx_plain_product_gflops": rate / 1e9,
        "without_amx_bula_share_of_plain_product_rate": share,
    }


def trl_in_bfloat16_figures(params: Params, examples: list[Example]) -> dict[str, float]:
    """Return TRL's speed in bfloat16, over a few rows."""
    few = examples[:TRL_IN_BFLOAT16_ROWS]
    ours = child("bula", TRL_IN_BFLOAT16_ROWS)["seconds"]
    theirs = child(TRL_IN_BFLOAT16, TRL_IN_BFLOAT16_ROWS)["seconds"]
    _, tokens, _ = work(params, few)
    return {
        f"{TRL_IN_BFLOAT16}_tokens_per_second": tokens / theirs,
        f"ratio_to_{TRL_IN_BFLOAT16}": theirs / ours,
    }


def is_met(figures: Mapping[str, float], faster_trl: str) -> bool:
    """Return whether all goals are met."""
    memory = figures["bula_peak_memory_gb"]
    return (
        figures["ratio_to_trl"] >= RATIO_TO_TRL_GOAL
        and figures["bula_share_of_product_rate"] >= RATE_SHARE_GOAL
        and figures["without_amx_bula_share_of_plain_product_rate"] >= RATE_SHARE_GOAL_WITHOUT_AMX
        and memory <= figures[f"{faster_trl}_peak_memory_gb"]
        and figures["loss_difference_float32"] <= LOSS_DIFFERENCE_GOAL
    )


def run_contenders(rows: int, rounds: int) -> dict[str, list[Run]]:
    """Run all contenders in turn, `rounds` times."""
    runs: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            runs[name].append(child(name, rows))
    return runs


def report(name: str, params: Params, examples: list[Example], rounds: int) -> None:
    """Run all contenders, and print a table and one JSON line last."""
    supervised, tokens, flops = work(params, examples)
    runs = run_contenders(len(examples), rounds)
    all_runs = [run for found in runs.values() for run in found]
    rate = largest(all_runs, "product_rate")
    plain_rate = largest(all_runs, "plain_product_rate")
    seconds = {name: median_seconds(found) for name, found in runs.items()}
    faster_trl = min(TRL_CONTENDERS, key=lambda name: seconds[name])
    figures: dict[str, float] = {
        "rows_per_step": step_rows(params),
        "product_gflops": rate / 1e9,
        "plain_product_gflops": plain_rate / 1e9,
        "loss_difference_float32": loss_difference(params),
    }
    figures |= figures_without_amx(len(examples), rounds, flops)
    for contender in CONTENDERS:
        figures |= {
            f"{contender}_supervised_tokens_per_second": supervised / seconds[contender],
            f"{contender}_tokens_per_second": tokens / seconds[contender],
            f"{contender}_share_of_product_rate": flops / seconds[contender] / rate,
            f"{contender}_peak_memory_gb": largest(runs[contender], "peak_memory_gb"),
        }
    figures["ratio_to_trl"] = seconds[faster_trl] / seconds["bula"]
    figures["ratio_to_plain_loop"] = seconds["plain_loop"] / seconds["bula"]
    if compute_dtype(params.dtype) == "float32":
        figures |= trl_in_bfloat16_figures(params, examples)
    goals = {
        "ratio_to_trl": RATIO_TO_TRL_GOAL,
        "bula_share_of_product_rate": RATE_SHARE_GOAL,
        "without_amx_share_of_plain_product_rate": RATE_SHARE_GOAL_WITHOUT_AMX,
        "loss_difference_float32": LOSS_DIFFERENCE_GOAL,
        "memory_not_above": faster_trl,
    }
    show(name, figures, goals, is_met(figures, faster_trl))


def report_gemma(params: Params, examples: list[Example], rounds: int) -> None:
    """Report on a model of Gemma 3 270M's shape."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "gemma"
        write_gemma(folder)
        os.environ[BASE_VARIABLE] = str(folder)
        report("train_gemma", params, examples, rounds)


def run_one(name: str, params: Params, examples: list[Example], in_order: bool) -> Run:
    """Run one contender in this process, and measure the matmul rates."""
    if name == "plain_loop":
        seconds, losses = run_plain(params, examples)
    else:
        seconds, losses = run_trainer(name, params, examples, in_order)
    rates = product_rates(params.dtype)
    return {"seconds": seconds, "losses": losses, "peak_memory_gb": peak_memory_gb(), **rates}


def main(
    rows: Annotated[int, typer.Option(help="Rows of the epoch.")] = 48,
    rounds: Annotated[int, typer.Option(help="Runs per contender.")] = 1,
    only: Annotated[
        str, typer.Option(help="Run this contender in this process and print its figures.")
    ] = "",
    precision: Annotated[str, typer.Option(help="Precision of --only.")] = "bfloat16",
    in_order: Annotated[bool, typer.Option(help="Train --only on the rows in file order.")] = False,
    gemma: Annotated[bool, typer.Option(help="Train a model of Gemma 3 270M's shape.")] = False,
) -> None:
    """Train with each contender in turn."""
    params = settings(load_params(ROOT / "profiles/smollm2-135m.yaml"), rows, precision)
    seed_everything(params.seed)
    examples = load_rows(rows)
    if only:
        print(json.dumps(run_one(only, params, examples, in_order)))
    elif gemma:
        report_gemma(params, examples, rounds)
    else:
        report("train", params, examples, rounds)


if __name__ == "__main__":
    typer.run(main)
