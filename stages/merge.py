"""Merge the adapter into the unquantized base in float32, cast, and measure what merging and casting change.

No model is written whose merged weights are not base + scale * B @ A, worked out in float64, to TOLERANCE, or whose logits are
not those of base and adapter, to LOGIT_TOLERANCE of the largest.

    python -m stages.merge
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from peft import PeftModel
from transformers import PreTrainedModel

from bula.divergence import Scored, divergence_metrics, sample_validation, score_examples
from bula.errors import UserError, run_stage
from bula.hardware import compute_dtype, precision_settings, seed_everything
from bula.models import load_adapted, load_model, load_tokenizer, save_model
from bula.params import load_params
from bula.prompts import Encoded
from bula.records import REMAKE
from bula.reports import write_metrics
from bula.scoring import unwrap_adapter

# Largest difference of a weight; a float32 of 16 is only known to 1e-6, one of 128 to 8e-6.
TOLERANCE = 1e-5
# Float32's rounding through all layers stays below 1e-5. An adapter on embeddings, which no weight here is checked for, does not.
LOGIT_TOLERANCE = 1e-4
Figures = dict[str, float | int]
# What one merged matrix is made of: base weight (out, in), A (r, in), B (out, r), and the scale of their product.
Terms = tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]


def adapted(model: PreTrainedModel) -> dict[str, Terms]:
    """The terms of each adapted matrix before it is merged, by its name in the merged model."""
    found = {}
    for name, layer in unwrap_adapter(model).named_modules():
        for key, a in getattr(layer, "lora_A", {}).items():
            # detach() keeps the base weight, since a safe merge gives the layer a new tensor.
            found[f"{name}.weight"] = (
                layer.get_base_layer().weight.detach(),
                a.weight,
                layer.lora_B[key].weight,
                layer.scaling[key],
            )
    return found


@torch.inference_mode()
def weight_difference(terms: dict[str, Terms], merged: PreTrainedModel) -> float:
    """Largest absolute difference between a merged weight and base + scale * B @ A in float64."""
    differences = [0.0]
    for name, (base, a, b, scale) in terms.items():
        exact = base.double() + scale * (b.double() @ a.double())
        # By its module: of tied weights only one has a parameter's name.
        differences.append(
            float((merged.get_submodule(name.removesuffix(".weight")).weight - exact).abs().max())
        )
    # Python's max would pass over a NaN.
    return float(torch.tensor(differences, dtype=torch.float64).max())


def merge(
    model: PeftModel, reference: list[Scored], encoded: list[Encoded], pad_id: int
) -> tuple[PreTrainedModel, Figures, Figures]:
    """The merged model in float32, and how far its weights and logits are from base and adapter; UserError if too far."""
    terms = adapted(model)
    merged = model.merge_and_unload(safe_merge=True)
    matrices, difference = len(terms), weight_difference(terms, merged)
    # They hold the base's weights beside the merged ones.
    del terms
    if not difference <= TOLERANCE:
        what = f"a merged weight differs from base + adapter by {difference:.1e} (tolerance {TOLERANCE:g})"
        raise UserError("models/adapter", what, REMAKE)
    before = divergence_metrics(reference, score_examples(merged, encoded, pad_id))
    relative = before["logit_difference_relative"]
    if not relative <= LOGIT_TOLERANCE:
        what = f"merged logits differ from base + adapter by {relative:.1e} of the largest"
        raise UserError("models/adapter", f"{what} (tolerance {LOGIT_TOLERANCE:g})", REMAKE)
    return merged, {"matrices": matrices, "difference_largest": difference}, before


def main(
    base: Annotated[Path, typer.Option(help="Base model.")] = Path("models/base"),
    adapter: Annotated[Path, typer.Option(help="Adapter.")] = Path("models/adapter"),
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    merged: Annotated[Path, typer.Option(help="Folder for the merged model.")] = Path(
        "models/merged"
    ),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/merge.json"),
) -> None:
    """Merge, check, cast, check again, save."""
    params = load_params()
    seed_everything(params.sampling_seed)
    tokenizer = load_tokenizer(base)
    encoded = sample_validation(clean, tokenizer, params.merge.check_items)
    model = load_adapted(base, adapter, "float32")
    # The one set of logits that is held: tokens x vocabulary x 4 bytes.
    reference = list(score_examples(model, encoded, tokenizer.pad_token_id))
    model, weights, before = merge(model, reference, encoded, tokenizer.pad_token_id)
    save_model(model.to(getattr(torch, params.dtype)), tokenizer, merged)
    # Read back, since a cast in memory also rounds the rotary frequencies, which no file holds and no user sees; and run in
    # float32, so that the difference is that of the weights alone. In the precision it is served in, rounding comes on top.
    after = served = divergence_metrics(
        reference, score_examples(load_model(merged, "float32"), encoded, tokenizer.pad_token_id)
    )
    if compute_dtype(params.dtype) != "float32":
        served = divergence_metrics(
            reference,
            score_examples(load_model(merged, params.dtype), encoded, tokenizer.pad_token_id),
        )
    figures = {
        "adapter": divergence_metrics(reference, reference),
        "before_cast": before,
        "after_cast": after,
        "as_served": served,
    }
    write_metrics(
        metrics, {"checked": precision_settings(params.dtype), "weights": weights, **figures}
    )
    print(
        f"merge: greedy agreement {before['greedy_agreement']:.2%} before the cast, {after['greedy_agreement']:.2%} after, in {merged}"
    )


if __name__ == "__main__":
    run_stage(main)
