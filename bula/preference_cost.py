"""Predict FLOPs and memory of the stage prefer, by formulas.

DPO runs both answers of each pair forward and backward through the adapter, and forward through the
frozen reference. The formulas are those of bula/training_cost.py for PEFT's layers and TRL's head,
with two rows per pair. A row counts as long as a training row, and one of the longest pair has
preprocess.max_tokens. Autocast is off, so PEFT's adapters keep their inputs in float32.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from bula.errors import UserError
from bula.params import Params, Prefer
from bula.training_cost import Rows, Shape, attention_flops, flops, memory, number_bytes, run_totals

ONE_PROCESS = {"distributed_type": "NO", "num_processes": 1}


class PairCount(NamedTuple):
    """The pairs of a file."""

    pairs: int
    prompts: int
    """Number of different prompts."""


def count_pairs(path: Path) -> PairCount:
    """Count the rows of a file of pairs.

    Raise a UserError if a row is no JSON object with a prompt. The stage prefer checks all else.
    """
    prompts = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            prompts.append(json.dumps(json.loads(line)["prompt"]))
        except (ValueError, TypeError, KeyError) as error:
            what = "the row is no JSON object with a prompt"
            raise UserError(f"{path}:{number}", what, "correct or remove the row") from error
    return PairCount(len(prompts), len(set(prompts)))


def count_steps(pairs: int, entry: Prefer) -> int:
    """Return the optimizer steps on a file of pairs, with one pair per question."""
    training = pairs - math.ceil(entry.held_out_share * pairs)
    batches = math.ceil(training / entry.batch_size)
    return math.ceil(batches / entry.gradient_accumulation) * entry.epochs


def as_training(params: Params, entry: Prefer, steps: int) -> Params:
    """Return parameters of training with the rows of a DPO run."""
    changes = {
        "max_steps": max(steps, 1),
        "batch_size": 2 * entry.batch_size,
        "gradient_accumulation": entry.gradient_accumulation,
        "gradient_checkpointing": entry.gradient_checkpointing,
        "kernels": "trl",
        "attention": "sdpa",
        "base_weights": "full",
        "packing": False,
        "compile": False,
        "activation_offload": False,
    }
    return params.model_copy(update={"train": params.train.model_copy(update=changes)})


def preference_flops(
    shape: Shape, params: Params, entry: Prefer, rows: Rows, pairs: int
) -> dict[str, float]:
    """Return the floating-point operations of a run by part.

    `held_out` are the forward passes of both adapters over the held-out pairs.
    """
    steps = count_steps(pairs, entry)
    settings = as_training(params, entry, steps)
    plain = rows._replace(dev_tokens=None)
    totals = run_totals(settings, plain, 1)
    attention = attention_flops(shape, rows.tokens_per_row, masked=True)
    head = 2.0 * shape.head * rows.supervised_share
    forward = 2.0 * (shape.linear + shape.adapter) + attention + head
    held_out = 2 * 2 * math.ceil(entry.held_out_share * pairs) * rows.tokens_per_row
    parts = flops(shape, settings.train, plain, totals)
    del parts["dev"], parts["total"]
    parts |= {"reference": forward * totals["tokens"], "held_out": forward * held_out}
    return parts | {"total": sum(parts.values())}


def preference_memory(
    shape: Shape, params: Params, entry: Prefer, rows: Rows, on_cpu: bool
) -> dict[str, float]:
    """Return the bytes by part at the longest pairs that preprocess.max_tokens allows."""
    settings = as_training(params, entry, 1)
    length = params.preprocess.max_tokens
    longest = rows._replace(tokens_longest=length)
    parts: dict[str, float] = memory(shape, settings, longest, ONE_PROCESS, on_cpu)
    del parts["total"]
    per_token = [
        params.train.lora.r * len(adapted) + sum(width for _, width in adapted)
        for adapted in shape.adapted
    ]
    kept = max(per_token) if entry.gradient_checkpointing else sum(per_token)
    wider = 4 - number_bytes(settings, on_cpu)
    parts["float32_inputs"] = wider * kept * settings.train.batch_size * length
    parts["reference"] = 4.0 * shape.adapter
    return parts | {"total": sum(parts.values())}


def plan_preferences(params: Params, shape: Shape, rows: Rows, root: Path) -> dict[str, Any]:
    """Return the part of a plan about each entry of prefer.

    Without its file of pairs, an entry has a memory, and no steps and FLOPs.
    """
    found = {}
    for name, entry in params.prefer.items():
        file = root / entry.pairs
        pairs = count_pairs(file).pairs if file.is_file() else None
        found[name] = {
            "pairs": pairs,
            "steps": None if pairs is None else count_steps(pairs, entry),
            "flops": pairs and preference_flops(shape, params, entry, rows, pairs),
            "memory_bytes": {
                kind: preference_memory(shape, params, entry, rows, kind == "cpu")
                for kind in ("cpu", "gpu")
            },
        }
    return found
