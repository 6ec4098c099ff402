"""How fast the train stage's trainer is beside TRL's own and beside a plain loop: the same LoRA on the same rows.

Each contender runs in a process of its own, in turn, over one epoch of the first rows of the demo corpus, with the batch
size, accumulation and precision of params.yaml, after one step of the longest rows that is not counted. TRL runs by its
defaults and without checkpointing; the faster one counts. A second pass in float32, without dropout and in file order,
checks that this project's losses are TRL's, step by step.

Of the rate of matrix products a share is reached, which is compared with a goal without AMX: those tiles make products ten
times faster and memory not at all, and then norms, masks and activations are what a step waits for. Both are printed. The goal
is stated in the plain rate, that of torch's products in the precision of the model; where a CPU is faster at them in a wider
one, as this project's trainer makes them there (`product_dtype`), that rate is printed beside it, with everybody's share of it;
the share of the plain rate may then pass 1.
A CPU without bfloat16 products computes the same weights in float32 (bula/models.py): there all contenders do, and the rate of
products is float32's. TRL unasked would take torch's slow bfloat16 all the same; over a few rows it is timed that way, too.

    python -m bench.train [--rows 48] [--rounds 1]
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from bench.summary import show
from bula import training_cost
from bula.hardware import compute_dtype, matmul_dtype, seed_everything
from bula.lora import lora_config
from bula.models import load_model, load_tokenizer
from bula.params import Params, load_params
from bula.prompts import encode
from bula.records import Example, example_id, read_rows
from bula.reports import peak_memory_gb
from stages.train.trainer import AnswerTrainer, configure, tokenise

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "models/base"
# TRL as it comes, where the others compute in float32.
SLOW, SLOW_ROWS = "trl_in_bfloat16", 8
CONTENDERS = ("bula", "trl_defaults", "trl_without_checkpointing", "plain_loop")
# oneDNN's own switch: bfloat16 products by vectors, not by tiles.
WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds from the first step's begin to the last step's end, and each step's loss."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.started = self.ended = 0.0
        self.losses: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock once."""
        self.started = self.started or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the end."""
        self.ended = time.perf_counter()

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the loss."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def load_rows(count: int) -> list[Example]:
    """The first training pairs of the demo corpus."""
    rows = list(read_rows(ROOT / "data/demo/train.jsonl"))[:count]
    pairs = [(row["question"], row["answer"]) for row in rows]
    return [
        Example(
            id=example_id("bench", q, a),
            source="bench",
            license="l",
            split="train",
            question=q,
            answer=a,
        )
        for q, a in pairs
    ]


def settings(params: Params, rows: int, precision: str) -> Params:
    """params.yaml for one epoch; in float32 without dropout, so that two trainers can be compared number by number."""
    train = params.train.model_copy(
        update={"max_steps": rows // (params.train.batch_size * params.train.gradient_accumulation)}
    )
    if precision == "float32":
        train = train.model_copy(update={"lora": train.lora.model_copy(update={"dropout": 0.0})})
    return params.model_copy(update={"dtype": precision, "train": train})


def given(config: SFTConfig) -> dict[str, Any]:
    """The settings of a configuration, as its own constructor takes them."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.init
    }


def lora_of(params: Params) -> LoraConfig:
    """The adapter of params.yaml, on every linear layer."""
    return lora_config(params.train.lora)


def config_of(name: str, params: Params, folder: str) -> SFTConfig:
    """What a contender trains by: the train stage's settings, and for TRL its own in what it would do unasked."""
    arguments = given(configure(params, Path(folder)))
    if name != "bula":
        arguments["bf16"] = name == SLOW or compute_dtype(params.dtype) == "bfloat16"
        defaults = given(SFTConfig(output_dir=folder, use_cpu=True, bf16=False))
        arguments |= {
            key: defaults[key]
            for key in ("max_length", "activation_checkpointing", "gradient_checkpointing")
        }
        if name in ("trl_without_checkpointing", SLOW):
            arguments |= {"activation_checkpointing": False, "gradient_checkpointing": False}
    quiet = {
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    return SFTConfig(**arguments | quiet)


class InOrder(SequentialSampler):
    """The rows as they are, in every epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Nothing: this project's trainer tells its sampler the epoch."""


def ordered(own: Any) -> Any:
    """The trainer class `own`, which takes the rows as they are while `told` is true."""

    class Ordered(own):  # type: ignore[misc]
        told = True

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if not self.told:
                return super()._get_train_sampler(train_dataset)
            self.sampler = InOrder(self.train_dataset)
            return self.sampler

    return Ordered


def run_trainer(
    name: str, params: Params, examples: list[Example], in_order: bool
) -> tuple[float, list[float]]:
    """One epoch by this project's trainer or TRL's; seconds of its steps, and their losses."""
    tokenizer, clock = load_tokenizer(BASE), Clock()
    rows = tokenise(tokenizer, examples)
    if not in_order:
        rows = rows.select(sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"])))
    model = load_model(BASE, params.dtype)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ordered(AnswerTrainer if name == "bula" else SFTTrainer)(
            model=model.to(torch.bfloat16) if name == SLOW else model,
            args=config_of(name, params, folder),
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=lora_of(params),
            callbacks=[clock],
            **({"kernels": "fused"} if name == "bula" else {}),
        )
        if not in_order:
            # One step of the longest rows before the clock starts: a long run pays once for memory and for libraries' first calls.
            trainer.args.max_steps = 1
            trainer.train()
            clock.started, trainer.args.max_steps, trainer.told = 0.0, params.train.max_steps, False
        trainer.train()
    return clock.ended - clock.started, clock.losses


def run_plain(params: Params, examples: list[Example]) -> tuple[float, list[float]]:
    """One epoch by a loop that anybody would write: batches of like length, padded, loss over all positions' logits."""
    tokenizer, train = load_tokenizer(BASE), params.train
    model = get_peft_model(load_model(BASE, params.dtype), lora_of(params)).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=train.learning_rate
    )
    encoded = sorted((encode(tokenizer, e) for e in examples), key=lambda e: len(e.input_ids))
    size, started = train.batch_size * train.gradient_accumulation, 0.0
    losses: list[float] = []
    # The longest batch once more before the clock starts, as above.
    for first in [len(encoded) - size, *range(0, len(encoded), size)]:
        started = started or (time.perf_counter() if losses else 0.0)
        batch = encoded[first : first + size]
        longest = max(len(e.input_ids) for e in batch)
        ids = torch.tensor(
            [e.input_ids + [tokenizer.pad_token_id] * (longest - len(e.input_ids)) for e in batch]
        )
        mask = torch.tensor(
            [[1] * len(e.input_ids) + [0] * (longest - len(e.input_ids)) for e in batch]
        )
        labels = torch.tensor([e.labels + [-100] * (longest - len(e.labels)) for e in batch])
        with torch.autocast(
            "cpu", torch.bfloat16, enabled=compute_dtype(params.dtype) == "bfloat16"
        ):
            logits = model(input_ids=ids, attention_mask=mask).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return time.perf_counter() - started, losses


def product_rate(dtype: str, plain: bool = False) -> float:
    """Measured rate of matrix products for `dtype` on this CPU, in FLOP/s: 1,024 x 2,048 by 2,048 x 2,048, for two seconds.

    In the precision that is fastest here for the one that `dtype` is computed in, or (`plain`) in that one itself.
    """
    kind = getattr(torch, compute_dtype(dtype))
    a, b = (
        torch.randn(n, 2048, dtype=kind if plain else matmul_dtype(kind, "cpu"))
        for n in (1024, 2048)
    )
    for _ in range(3):
        a @ b
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 2:
        a @ b
        count += 1
    return count * 2 * 1024 * 2048 * 2048 / (time.perf_counter() - started)


def work(params: Params, examples: list[Example]) -> tuple[int, int, float]:
    """Supervised tokens, all tokens, and the FLOPs that they need: 4 a parameter and token, the head on supervised ones alone.

    The adapter's parameters are among them; attention's products and the 2 FLOPs more that a trained weight takes are not.
    """
    tokenizer, model = load_tokenizer(BASE), load_model(BASE, "bfloat16")
    encoded = [encode(tokenizer, example) for example in examples]
    supervised, tokens = (
        sum(len(e.completion) for e in encoded),
        sum(len(e.input_ids) for e in encoded),
    )
    head = model.get_output_embeddings().weight.numel()
    body = (
        sum(p.numel() for p in model.model.layers.parameters())
        + training_cost.count(model.config.to_dict(), params.train).adapter
    )
    return supervised, tokens, 4.0 * (body * tokens + head * supervised)


def child(
    name: str, rows: int, precision: str = "bfloat16", in_order: bool = False, **environment: str
) -> dict[str, Any]:
    """One contender in a process of its own, with the rate of products in that process."""
    command = [
        sys.executable,
        "-m",
        "bench.train",
        "--only",
        name,
        "--rows",
        str(rows),
        "--precision",
        precision,
    ]
    command += ["--in-order"] if in_order else []
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"{name} failed:\n{result.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def losses_agree(params: Params) -> float:
    """Largest difference between the losses of this project's trainer and TRL's on the same batches, in float32."""
    rows = 3 * params.train.batch_size * params.train.gradient_accumulation
    ours, theirs = (
        child(name, rows, "float32", in_order=True)["losses"]
        for name in ("bula", "trl_without_checkpointing")
    )
    return float(max(abs(a - b) for a, b in zip(ours, theirs, strict=True)))


def main(
    rows: Annotated[int, typer.Option(help="Rows of the epoch.")] = 48,
    rounds: Annotated[int, typer.Option(help="Times that each contender runs.")] = 1,
    only: Annotated[
        str, typer.Option(help="Run one contender in this process and print what it took.")
    ] = "",
    precision: Annotated[str, typer.Option(help="Precision of that one.")] = "bfloat16",
    in_order: Annotated[bool, typer.Option(help="Rows in file order.")] = False,
) -> None:
    """Train with each contender in turn."""
    params = settings(load_params(ROOT / "profiles/smollm2-135m.yaml"), rows, precision)
    seed_everything(params.seed)
    examples = load_rows(rows)
    if only:
        plain = only == "plain_loop"
        seconds, losses = (
            run_plain(params, examples) if plain else run_trainer(only, params, examples, in_order)
        )
        kind = getattr(torch, compute_dtype(params.dtype))
        plain_rate = product_rate(params.dtype, plain=True)
        fastest = plain_rate if matmul_dtype(kind, "cpu") == kind else product_rate(params.dtype)
        rates = {"product_rate": fastest, "plain_product_rate": plain_rate}
        found = {"seconds": seconds, "losses": losses, "peak_memory_gb": peak_memory_gb(), **rates}
        print(json.dumps(found))
        return
    report(params, examples, rounds)


def report(params: Params, examples: list[Example], rounds: int) -> None:
    """All contenders in turn, `rounds` times; a table, and one JSON line last."""
    supervised, tokens, flops = work(params, examples)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            runs[name].append(child(name, len(examples)))
    median = {
        name: statistics.median(run["seconds"] for run in found) for name, found in runs.items()
    }
    memory = {name: max(run["peak_memory_gb"] for run in found) for name, found in runs.items()}
    trl = min(("trl_defaults", "trl_without_checkpointing"), key=lambda name: median[name])
    rate, plain = (
        max(run[key] for found in runs.values() for run in found)
        for key in ("product_rate", "plain_product_rate")
    )
    figures: dict[str, float] = {"product_gflops": rate / 1e9, "plain_product_gflops": plain / 1e9}
    figures["loss_difference_float32"] = losses_agree(params)
    environment = WITHOUT_AMX if torch.cpu._is_amx_tile_supported() else {}
    alone = [child("bula", len(examples), "bfloat16", False, **environment) for _ in range(rounds)]
    without = max(run["plain_product_rate"] for run in alone)
    share = flops / statistics.median(run["seconds"] for run in alone) / without
    figures |= {
        "without_amx_plain_product_gflops": without / 1e9,
        "without_amx_bula_share_of_plain_product_rate": share,
    }
    for name in CONTENDERS:
        figures |= {
            f"{name}_supervised_tokens_per_second": supervised / median[name],
            f"{name}_tokens_per_second": tokens / median[name],
        }
        figures |= {
            f"{name}_share_of_product_rate": flops / median[name] / rate,
            f"{name}_peak_memory_gb": memory[name],
        }
    figures |= {
        "ratio_to_trl": median[trl] / median["bula"],
        "ratio_to_plain_loop": median["plain_loop"] / median["bula"],
    }
    if compute_dtype(params.dtype) == "float32":
        ours, theirs = (child(name, SLOW_ROWS)["seconds"] for name in ("bula", SLOW))
        figures |= {
            f"{SLOW}_tokens_per_second": work(params, examples[:SLOW_ROWS])[1] / theirs,
            f"ratio_to_{SLOW}": theirs / ours,
        }
    goals = {
        "ratio_to_trl": 2.5,
        "without_amx_share_of_plain_product_rate": 0.6,
        "loss_difference_float32": 1e-3,
        "memory_not_above": trl,
    }
    met = figures["ratio_to_trl"] >= 2.5 and share >= 0.6 and memory["bula"] <= memory[trl]
    show("train", figures, goals, met and figures["loss_difference_float32"] <= 1e-3)


if __name__ == "__main__":
    typer.run(main)
