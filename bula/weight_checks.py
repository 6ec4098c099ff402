"""Check the weights of a loaded model or adapter.

transformers and PEFT only log most of these problems. bula/model_files.py checks the files before
they are loaded; the checks here need the loaded tensors.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from transformers import PreTrainedModel

from bula.errors import UserError
from bula.gguf_files import FETCH_AGAIN
from bula.model_files import Shapes

# The number of tensors that an error message names.
NAMED_TENSORS = 3


def refuse_incomplete(path: Path, report: dict[str, Any]) -> None:
    """Raise a UserError if tensors are missing, unexpected or of another shape.

    `report` is the loading info of from_pretrained. transformers fills missing tensors with random
    numbers, and only logs that it did.
    """
    mismatched = [name for name, *_ in report["mismatched_keys"]]
    problems = {
        "tensors are missing": report["missing_keys"],
        "tensors are of another model": report["unexpected_keys"],
        "tensors have another shape than config.json says": mismatched,
        "tensors cannot be converted": report["error_msgs"],
    }
    for what, names in problems.items():
        if names:
            raise UserError(path, f"{what} ({_summary(names)})", FETCH_AGAIN)


def refuse_broken(model: PreTrainedModel, path: Path) -> None:
    """Raise a UserError if weights are not finite or tied weights differ."""
    for name, weight in model.named_parameters():
        if not _is_finite(weight):
            what = f"{name} is not finite: it contains a NaN or an infinity"
            raise UserError(path, what, FETCH_AGAIN)
    if model.config.get_text_config().tie_word_embeddings and not _shares_head(model):
        what = "config.json ties the head to the embeddings, but the weights contain another head"
        raise UserError(path, what, "set tie_word_embeddings to false, or remove the head")


def _shares_head(model: PreTrainedModel) -> bool:
    """Return whether a head, if there is one, is the embeddings."""
    head = model.get_output_embeddings()
    if head is None:
        return True
    embeddings = model.get_input_embeddings()
    return bool(head.weight.data_ptr() == embeddings.weight.data_ptr())


def refuse_other_adapter(model: PreTrainedModel, adapter: Path, shapes: Shapes) -> None:
    """Raise a UserError unless an adapter fits its base and is finite.

    `model` is the base with the adapter. `shapes` are the shapes in the adapter's file.
    """
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    wanted = {name: tuple(weight.shape) for name, weight in weights.items()}
    shared = wanted.keys() & shapes.keys()
    problems = {
        "matrices are missing": wanted.keys() - shapes.keys(),
        "matrices belong to no layer": shapes.keys() - wanted.keys(),
        "matrices have another shape": [name for name in shared if shapes[name] != wanted[name]],
        "matrices contain a NaN or an infinity": [
            name for name, weight in weights.items() if not _is_finite(weight)
        ],
    }
    for what, names in problems.items():
        if names:
            fix = "train it again with `dvc repro train`, or name the base that it was trained on"
            raise UserError(adapter, f"{what} ({_summary(names)})", fix)


def _is_finite(weight: torch.Tensor) -> bool:
    """Return whether all numbers of a tensor are finite.

    aminmax takes 8 ms for 64 million bfloat16 numbers on a CPU, and isfinite takes 630 ms. A NaN
    anywhere in the tensor makes both of aminmax's values NaN.
    """
    if not weight.is_floating_point():
        return True
    smallest, largest = weight.detach().aminmax()
    return bool(smallest.isfinite() and largest.isfinite())


def _summary(names: Collection[str]) -> str:
    """Return how many names there are, and the first of them."""
    first = ", ".join(sorted(names)[:NAMED_TENSORS])
    return f"{len(names)}, such as {first}"
