"""Plan memory, context and disk of the stages that are not finished."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bula.commands.plan import (
    find_config,
    find_launch,
    read_template_figures,
    rows_of_metrics,
    rows_of_options,
)
from bula.commands.preflight_done import MODEL_STAGES
from bula.errors import UserError
from bula.params import HubModel, Params
from bula.preflight.checks import Check, NotCheckedError
from bula.preflight.machine import (
    compare_disk,
    compare_memory,
    free_gpu_memory,
    free_memory,
)

# These modules import torch, and a run without training must not wait for that.
if TYPE_CHECKING:
    from bula.training_cost import Rows, Shape

# DVC keeps a copy of each output in its cache.
COPIES = 2
# Rows before and after preprocess, and their scores.
ROW_COPIES = 3


def plan_checks(params: Params, done: set[str], root: Path) -> list[Check]:
    """Return the checks of memory, context and disk."""
    checks = []
    for name in params.prefer:
        key = f"prefer.{name}"
        memory = partial(check_preference_memory, params, name, root)
        checks.append(Check(key, "memory by `bula plan`", memory))
        checks.append(Check(key, "number of pairs", partial(check_pairs, params, name, root)))
    limits = {
        "generate.max_new_tokens": params.generate.max_new_tokens,
        "safety.max_new_tokens": params.safety.max_new_tokens,
    }
    for key, tokens in limits.items():
        run = partial(check_context, params, key, tokens, root)
        checks.append(Check(key, "context of the base model", run))
    return [
        *checks,
        Check("train", "memory by `bula plan`", partial(check_memory, params, done, root)),
        Check("quantize.types", "disk by `bula plan`", partial(check_disk, params, done, root)),
    ]


def check_memory(params: Params, done: set[str], root: Path) -> str:
    """Compare the memory of train with this machine's, unless train is done."""
    if "train" in done:
        return "train is up to date"
    config = _known_config(params, root)
    from bula.training_cost import count_shape, memory

    launch = find_launch(params, root)
    on_cpu = params.device == "cpu"
    shape = count_shape(config, params.train)
    needed = memory(shape, params, _longest_rows(params, root), launch, on_cpu)["total"]
    if on_cpu:
        return compare_memory(needed, free_memory(), "memory")
    return compare_memory(needed, free_gpu_memory(), "GPU memory")


def check_preference_memory(params: Params, name: str, root: Path) -> str:
    """Compare the memory of a DPO run with this machine's."""
    config = _known_config(params, root)
    from bula.preference_cost import preference_memory
    from bula.training_cost import count_shape

    on_cpu = params.device == "cpu"
    shape = count_shape(config, params.train)
    rows = _longest_rows(params, root)
    needed = preference_memory(shape, params, params.prefer[name], rows, on_cpu)["total"]
    if on_cpu:
        return compare_memory(needed, free_memory(), "memory")
    return compare_memory(needed, free_gpu_memory(), "GPU memory")


def check_pairs(params: Params, name: str, root: Path) -> str:
    """Count the pairs of an entry of prefer.

    Raise UserError unless there are two prompts, since one is held out.
    """
    path = Path(params.prefer[name].pairs)
    if not (root / path).is_file():
        raise NotCheckedError("the file is not here")
    from bula.preference_cost import count_pairs

    found = count_pairs(root / path)
    if found.prompts < 2:
        what = f"it has {found.pairs} pairs of {found.prompts} questions, and at least 2 are needed"
        raise UserError(path, what, "add pairs of other questions")
    return f"{found.pairs} pairs of {found.prompts} questions"


def check_context(params: Params, key: str, tokens: int, root: Path) -> str:
    """Compare the longest answer in tokens with the context of the base model.

    Before the questions are known, only an answer that leaves them no token is a fault.
    """
    config = _known_config(params, root)
    context = config.get("text_config", config).get("max_position_embeddings")
    if context is None:
        return "config.json states no limit"
    if tokens >= context:
        what = f"an answer may have {tokens} tokens, and question and answer together {context}"
        raise UserError(key, what, f"lower {key} in params.yaml")
    return f"{tokens} of {context} tokens"


def check_disk(params: Params, done: set[str], root: Path) -> str:
    """Compare the bytes of all outputs that are not done with the free disk."""
    if done >= MODEL_STAGES.keys():
        return "the models are up to date"
    config = _known_config(params, root)
    from bula.training_cost import count_shape

    shape = count_shape(config, params.train)
    return compare_disk(output_bytes(params, shape, done), root)


def _known_config(params: Params, root: Path) -> Mapping[str, Any]:
    """Return the base model's config.json; before it is fetched, there is no plan."""
    try:
        return find_config(params, root, None)[1]
    except UserError as error:
        raise NotCheckedError("the base model is not here yet, so nothing is planned") from error


def _longest_rows(params: Params, root: Path) -> "Rows":
    """Return the figures of the training rows, or rows of preprocess.max_tokens."""
    try:
        return rows_of_metrics(params, root, None, None)
    except UserError:
        share = read_template_figures(root).get("supervised_share")
        return rows_of_options(params, params.preprocess.max_tokens, share, None, None)


def output_bytes(params: Params, shape: "Shape", done: set[str]) -> float:
    """Return the bytes that the stages write which are not done, DVC's copies included."""
    from bula.run_cost import ROW_BYTES, gguf_bytes, hub_rows

    weights = shape.base * (2.0 if params.dtype == "bfloat16" else 4.0)
    kept = params.quantize.types
    files = {
        "models": weights,
        "ingest": ROW_COPIES * ROW_BYTES * hub_rows(params),
        "merge": weights,
        "quantize": sum(gguf_bytes(shape, kind) for kind in kept),
    }
    written = COPIES * sum(size for stage, size in files.items() if stage not in done)
    if isinstance(params.ingest.base, HubModel) and "models" not in done:
        # The hub's client keeps its own copy.
        written += 2.0 * shape.base
    if "quantize" not in done and "bf16" not in kept:
        # The stage deletes its 16-bit file at the end.
        written += gguf_bytes(shape, "bf16")
    return written
