"""Choose the headline figures of a run, and round them.

DVC shows only these figures; all others stay in git. A figure that says nothing is absent: text
overlap and the judge's score of a variant whose answers are loops, the score of a judge that is
withheld or always abstained, and a task to which a variant gives nearly one answer.
"""

import math
import statistics
from pathlib import Path, PurePath

from bula.params import Pair, Params, scored_as
from bula.safety import SLICES
from bula.tables.benchmark import CONSTANT_SHARE, constant_share
from bula.tables.figures import (
    answered,
    degenerate_share,
    group,
    read_figures,
    read_metrics,
    variant_group,
)
from stages.compare.pairs import Results, results_of

# The figures of one variant or pair, by their name.
Headline = dict[str, float]
# Models whose weights the GGUF files quantize.
UNQUANTIZED = ("models/merged", "models/gguf/bf16.gguf")
GGUF_FOLDER = PurePath("models/gguf")
LIKELIHOOD = ("perplexity", "loss_nats_stderr")
WORTH = ("question_worth_bits", "question_worth_bits_stderr")
ROUGE = ("rougeL_f", "rougeL_f_low", "rougeL_f_high")
JUDGE = ("accuracy_mean", "accuracy_stderr")
KL = ("kl_nats", "kl_nats_stderr")


def summarize(figures: Path, results: Results, params: Params) -> dict[str, Headline]:
    """Return the headline figures of each compared variant and of each pair.

    `results` are marked by `mark_families`. Raise UserError if a figure is missing.
    """
    found: dict[str, Headline] = {}
    for pair in params.compare.pairs:
        for variant in (pair.baseline, pair.variant):
            if variant not in found:
                found[variant] = _levels(figures, variant, params)
        differences = _p_values(pair, results) | _divergence(figures, pair, params)
        if differences:
            found[pair.name] = differences
    return found


def round_to_error(value: float, error: float) -> float:
    """Return a value rounded to the first digit of its standard error.

    An error that starts with 1 keeps two digits, because one digit would be too coarse. So 42.601
    ± 1.197 is 42.6, and 0.03642 ± 0.00349 is 0.036. A value without error stays as it is.
    """
    if error == 0:
        return value
    mantissa, _, exponent = f"{error:.1e}".partition("e")
    digits = -int(exponent)
    if mantissa.startswith("1"):
        digits += 1
    # The sum turns -0.0 into 0.0.
    return round(value, digits) + 0.0


def _levels(figures: Path, variant: str, params: Params) -> Headline:
    """Return the headline figures of one variant."""
    levels = {
        **_degenerate(figures, variant),
        **_likelihood(figures, variant),
        **_tasks(figures, variant, params),
        **_safety(figures, variant),
    }
    if degenerate_share(figures, variant) > params.compare.max_degenerate_share:
        return levels
    return levels | _rouge(figures, variant, params) | _judge(figures, variant)


def _degenerate(figures: Path, variant: str) -> Headline:
    """Return the share of degenerate answers."""
    found = variant_group(figures, "generate", variant, "", ["items", "degenerate_share"])
    return {"degenerate_share": _share(found["degenerate_share"], answered(found))}


def _share(share: float, items: int) -> float:
    """Return a share of items, rounded to the standard error of a share."""
    return round_to_error(share, math.sqrt(share * (1 - share) / items))


def _likelihood(figures: Path, variant: str) -> Headline:
    """Return the perplexity, and the question's worth where it was measured.

    The standard error of exp(loss) is the perplexity times the standard error of the loss.
    """
    found = variant_group(figures, "likelihood", variant, "pooled", LIKELIHOOD)
    error = found["perplexity"] * found["loss_nats_stderr"]
    levels = {"perplexity": round_to_error(found["perplexity"], error)}
    if "question_worth_bits" in found:
        worth = variant_group(figures, "likelihood", variant, "pooled", WORTH)
        bits, error = (worth[name] for name in WORTH)
        levels["question_worth_bits"] = round_to_error(bits, error)
    return levels


def _tasks(figures: Path, variant: str, params: Params) -> Headline:
    """Return the scores of benchmark tasks that `compare.primary` names.

    A variant with the model of an earlier variant repeats its scores, so it has none here.
    """
    if scored_as(params, variant) != variant:
        return {}
    metrics = read_metrics(figures, "benchmark", variant)
    levels = {}
    for task in params.benchmark.tasks:
        scores = metrics.get(task)
        if not isinstance(scores, dict) or constant_share(scores) >= CONSTANT_SHARE:
            continue
        for name, value in scores.items():
            measure = f"{task}_{name}"
            if measure in params.compare.primary:
                needed = [name, f"{name}_stderr"]
                found = variant_group(figures, "benchmark", variant, task, needed)
                levels[measure] = round_to_error(value, found[f"{name}_stderr"])
    return levels


def _safety(figures: Path, variant: str) -> Headline:
    """Return the share of all safety questions whose answer passed."""
    items = 0
    passed = 0.0
    for name in SLICES:
        found = variant_group(figures, "safety", variant, name, ["items", "pass_share"])
        items += answered(found)
        passed += answered(found) * found["pass_share"]
    return {"safety_pass_share": _share(round(passed) / items, items)}


def _rouge(figures: Path, variant: str, params: Params) -> Headline:
    """Return ROUGE-L F1.

    Its standard error is half the bootstrap interval over the normal quantile of its coverage.
    """
    found = variant_group(figures, "rouge", variant, "pooled", ROUGE)
    half = (found["rougeL_f_high"] - found["rougeL_f_low"]) / 2
    quantile = statistics.NormalDist().inv_cdf((1 + params.rouge.confidence) / 2)
    return {"rougeL_f": round_to_error(found["rougeL_f"], half / quantile)}


def _judge(figures: Path, variant: str) -> Headline:
    """Return the judge's mean score of accuracy, unless it is withheld.

    The result is also empty if the judge always abstained, because there is no mean then.
    """
    found = variant_group(figures, "judge", variant, "", ["accuracy_withheld"])
    if found["accuracy_withheld"] or "accuracy_mean" not in found:
        return {}
    scores = variant_group(figures, "judge", variant, "", JUDGE)
    mean, error = (scores[name] for name in JUDGE)
    return {"judge_accuracy": round_to_error(mean, error)}


def _p_values(pair: Pair, results: Results) -> Headline:
    """Return the corrected p-value of each meaningful primary measure, to two digits."""
    levels = {}
    for measure, row in results_of(pair, results):
        if "p_holm" in row:
            levels[f"{measure}_p_holm"] = float(f"{row['p_holm']:.2g}")
    return levels


def _divergence(figures: Path, pair: Pair, params: Params) -> Headline:
    """Return the KL divergence of a GGUF file from the model that it quantizes.

    The result is empty if the pair compares anything else.
    """
    file = PurePath(params.variants[pair.variant].model)
    baseline = params.variants[pair.baseline].model
    if file.parent != GGUF_FOLDER or baseline not in UNQUANTIZED:
        return {}
    path = figures / "quantize.json"
    found = group(read_figures(path, "quantize"), file.stem, KL, path, "quantize")
    return {"kl_nats": round_to_error(found["kl_nats"], found["kl_nats_stderr"])}
