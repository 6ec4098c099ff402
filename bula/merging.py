"""Merge an adapter into its base model and measure the change.

The change is measured in weights and logits. The merge runs in float32 on the unquantized base. The
merged model is cast to `dtype`, saved, and read back. No model is written whose merged weights
differ from base + scale * B @ A, computed in float64, by more than WEIGHT_TOLERANCE, or whose
logits differ from the logits of base and adapter by more than LOGIT_TOLERANCE of the largest logit.
The stages merge and prefer share this code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bula.divergence import (
    LOGIT_TOLERANCE,
    Scored,
    divergence_metrics,
    sample_validation,
    score_examples,
)
from bula.errors import UserError
from bula.hardware import compute_dtype, precision_settings
from bula.model_cards import Documents
from bula.models import load_adapted, load_model, load_tokenizer, save_model
from bula.params import Params
from bula.prompts import Encoded
from bula.records import REMAKE

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

# The spacing of float32 numbers is 1e-6 at 16 and 8e-6 at 128.
WEIGHT_TOLERANCE = 1e-5
Figures = dict[str, float | int]
# All figures of a merge, by group, as docs/metrics.md defines them.
MergeFigures = dict[str, Mapping[str, float | int | str]]
# Return the documents of the merged model for the figures before its cast.
WriteDocuments = Callable[[Figures], Documents]
# The parts of one merged matrix: base weight (out, in), A (rank, in), B (out, rank), and the scale.
Terms: TypeAlias = "tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]"


def adapted(model: PreTrainedModel) -> dict[str, Terms]:
    """Return the parts of each adapted matrix, by weight name."""
    from bula.scoring import unwrap_adapter

    terms = {}
    for name, layer in unwrap_adapter(model).named_modules():
        for key, a in getattr(layer, "lora_A", {}).items():
            # detach() keeps the base weight, since a safe merge assigns a new tensor to the layer.
            base = layer.get_base_layer().weight.detach()
            b = layer.lora_B[key]
            scale = layer.scaling[key]
            terms[f"{name}.weight"] = (base, a.weight, b.weight, scale)
    return terms


def weight_difference(terms: dict[str, Terms], merged: PreTrainedModel) -> float:
    """Return the largest absolute error of a merged weight.

    The exact weight is base + scale * B @ A in float64.
    """
    import torch

    differences = [0.0]
    with torch.inference_mode():
        for name, (base, a, b, scale) in terms.items():
            exact = base.double() + scale * (b.double() @ a.double())
            # Look up the module, because only one of two tied weights is a named parameter.
            module = merged.get_submodule(name.removesuffix(".weight"))
            error = (module.weight - exact).abs().max()
            differences.append(float(error))
    # torch's max returns NaN where Python's max would skip it.
    return float(torch.tensor(differences, dtype=torch.float64).max())


def merge_weights(model: PeftModel, adapter: Path) -> tuple[PreTrainedModel, Figures]:
    """Return the merged model in float32 and the error of its weights.

    `adapter` is the folder that messages name. Raise UserError if a weight differs by more than
    WEIGHT_TOLERANCE.
    """
    terms = adapted(model)
    merged = model.merge_and_unload(safe_merge=True)
    difference = weight_difference(terms, merged)
    if not difference <= WEIGHT_TOLERANCE:
        error = f"a merged weight differs from base + adapter by {difference:.1e}"
        what = f"{error} (tolerance {WEIGHT_TOLERANCE:g})"
        raise UserError(adapter, what, REMAKE)
    return merged, {"matrices": len(terms), "difference_largest": difference}


def compare_logits(
    merged: PreTrainedModel,
    reference: list[Scored],
    encoded: list[Encoded],
    pad_id: int,
    adapter: Path,
) -> Figures:
    """Return the divergence of the merged model, before the cast.

    `reference` contains the logits of base and adapter, and messages name the folder `adapter`.
    Raise UserError if a logit differs by more than LOGIT_TOLERANCE of the largest.
    """
    figures = divergence_metrics(reference, score_examples(merged, encoded, pad_id))
    relative = figures["logit_difference_relative"]
    if not relative <= LOGIT_TOLERANCE:
        error = f"merged logits differ from base + adapter by {relative:.1e} of the largest"
        what = f"{error} (tolerance {LOGIT_TOLERANCE:g})"
        raise UserError(adapter, what, REMAKE)
    return figures


def measure_saved(
    merged: Path, dtype: str, reference: list[Scored], encoded: list[Encoded], pad_id: int
) -> dict[str, Figures]:
    """Return the divergence of the saved model, after the cast.

    The model is read back, because a cast in memory also rounds the rotary frequencies, which no
    file stores. `as_served` adds the rounding of the precision that this machine computes in.
    """

    def compare(precision: str) -> Figures:
        model = load_model(merged, precision)
        return divergence_metrics(reference, score_examples(model, encoded, pad_id))

    after = compare("float32")
    served = after if compute_dtype(dtype) == "float32" else compare(dtype)
    return {"after_cast": after, "as_served": served}


def cast(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """Return the model with its weights rounded to `dtype`."""
    import torch

    return model.to(getattr(torch, dtype))


def merge_adapter(
    params: Params,
    base: Path,
    adapter: Path,
    clean: Path,
    merged: Path,
    write_documents: WriteDocuments,
) -> MergeFigures:
    """Write a checked merged model and return its figures.

    The saved model is read back and checked too. `clean` is the folder of validation/. Raise
    UserError if the merge is not exact.
    """
    tokenizer = load_tokenizer(base)
    pad_id = tokenizer.pad_token_id
    encoded = sample_validation(clean, tokenizer, params.merge.check_items)
    model = load_adapted(base, adapter, "float32")
    # These logits stay in memory: tokens x vocabulary x 4 bytes.
    reference = list(score_examples(model, encoded, pad_id))
    model, weights = merge_weights(model, adapter)
    before = compare_logits(model, reference, encoded, pad_id, adapter)
    unmerged = divergence_metrics(reference, reference)
    save_model(cast(model, params.dtype), tokenizer, merged, write_documents(before))
    saved = measure_saved(merged, params.dtype, reference, encoded, pad_id)
    return {
        "checked": precision_settings(params.dtype),
        "weights": weights,
        "adapter": unmerged,
        "before_cast": before,
        **saved,
    }
