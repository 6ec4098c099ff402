"""Make the tables of results from metrics/ alone.

compare puts them into the report, `python -m bula results` puts the first one into the README.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bula.errors import UserError
from bula.escaping import markdown
from bula.item_scores import rerun_advice
from bula.params import Params

Metrics = dict[str, Any]
NOT_MEANINGFUL = "not meaningful"
LOWER, HIGHER = "↓", "↑"
LOWER_IS_BETTER = ("bits_per_character", "degenerate")
LIKELIHOOD = (
    "items",
    "loss_nats",
    "loss_nats_stderr",
    "perplexity",
    "bits_per_character",
    "token_accuracy",
)
KINDS = ("rouge1", "rouge2", "rougeL")
ROUGE = ("items", *(f"{kind}_f{end}" for kind in KINDS for end in ("", "_low", "_high")))
PARTS = ("accuracy", "style")
JUDGE = (
    "trustworthy",
    "items",
    "scored",
    *(f"{part}_{end}" for part in PARTS for end in ("mean", "stderr")),
)
LOGITS = (
    "logit_difference_largest",
    "logit_difference_mean",
    "kl_nats",
    "greedy_agreement",
    "perplexity",
    "items",
)
FORMS = ("adapter", "before_cast", "after_cast", "as_served")


def read_metrics(folder: Path, stage: str, variant: str) -> Metrics:
    """Return the metrics of one stage and variant; UserError names the file and the stage to run."""
    return read_figures(folder / stage / f"{variant}.json", f"{stage}@{variant}")


def read_figures(path: Path, stage: str) -> Metrics:
    """Return the content of a metrics file that `stage` wrote; UserError if it is missing or damaged."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(path, "the file does not exist", rerun_advice(stage)) from error
    # A UnicodeDecodeError and a JSONDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise UserError(path, "the file is not JSON", rerun_advice(stage)) from error
    if not isinstance(figures, dict):
        raise UserError(path, "the file holds no JSON object", rerun_advice(stage))
    return figures


def group(figures: Metrics, name: str, needed: Iterable[str], path: Path, stage: str) -> Metrics:
    """Return one group of a metrics file ("": the file itself); UserError if a number is missing."""
    found = figures.get(name) if name else figures
    if not isinstance(found, dict):
        raise UserError(path, f"the group {name!r} is missing", rerun_advice(stage))
    missing = [key for key in needed if not isinstance(found.get(key), int | float)]
    if missing:
        where = f"{name}." if name else ""
        raise UserError(path, f"no number stands at {where}{missing[0]}", rerun_advice(stage))
    return found


def variant_group(
    folder: Path, stage: str, variant: str, name: str, needed: Iterable[str]
) -> Metrics:
    """Return one group of the metrics of one stage and variant."""
    path = folder / stage / f"{variant}.json"
    return group(read_metrics(folder, stage, variant), name, needed, path, f"{stage}@{variant}")


def degenerate_share(folder: Path, variant: str) -> float:
    """Return the share of one variant's answers that generate found degenerate."""
    figures = variant_group(folder, "generate", variant, "", ["degenerate_share"])
    return float(figures["degenerate_share"])


def _interval(figures: Metrics, name: str) -> str:
    """Return a mean with its bootstrap interval."""
    return f"{figures[name]:.3f} [{figures[name + '_low']:.3f}, {figures[name + '_high']:.3f}]"


def _plus_minus(figures: Metrics, name: str, stderr: str, scale: float = 1, digits: int = 2) -> str:
    """Return a mean with its standard error."""
    return f"{figures[name] * scale:.{digits}f} ± {figures[stderr] * scale:.{digits}f}"


def _cells(folder: Path, variant: str, max_degenerate_share: float) -> dict[str, str]:
    """Return one variant's column: row label to formatted figure."""
    generate = variant_group(folder, "generate", variant, "", ["items", "degenerate_share"])
    share = generate["degenerate_share"]
    cells = {f"degenerate answers, % ({generate['items']} answers) {LOWER}": f"{share * 100:.1f}"}
    cells |= _likelihood_cells(folder, variant)
    rouge, judge = _rouge_cells(folder, variant), _judge_cells(folder, variant)
    if share > max_degenerate_share:
        withheld = f"{NOT_MEANINGFUL} ({share * 100:.0f} % loops)"
        rouge, judge = dict.fromkeys(rouge, withheld), dict.fromkeys(judge, withheld)
    return cells | rouge | _benchmark_cells(folder, variant) | judge


def _likelihood_cells(folder: Path, variant: str) -> dict[str, str]:
    """Return the rows about the reference answers."""
    figures = variant_group(folder, "likelihood", variant, "pooled", LIKELIHOOD)
    loss = _plus_minus(figures, "loss_nats", "loss_nats_stderr", digits=3)
    return {
        f"loss, nats a token ({figures['items']} answers) {LOWER}": loss,
        f"perplexity {LOWER}": f"{figures['perplexity']:.2f}",
        f"bits a character {LOWER}": f"{figures['bits_per_character']:.3f}",
        f"token accuracy, % {HIGHER}": f"{figures['token_accuracy'] * 100:.1f}",
    }


def _rouge_cells(folder: Path, variant: str) -> dict[str, str]:
    """Return the rows of ROUGE."""
    figures = variant_group(folder, "rouge", variant, "pooled", ROUGE)
    rest = f"F1 ({figures['items']} answers) {HIGHER}"
    names = {kind: kind.replace("rouge", "ROUGE-") for kind in KINDS}
    return {f"{name} {rest}": _interval(figures, f"{kind}_f") for kind, name in names.items()}


def _benchmark_cells(folder: Path, variant: str) -> dict[str, str]:
    """Return one row for each benchmark task: its first metric that has a standard error."""
    path, stage = folder / "benchmark" / f"{variant}.json", f"benchmark@{variant}"
    metrics = read_metrics(folder, "benchmark", variant)
    cells = {}
    for task in sorted(set(metrics) - {"settings"}):
        figures = group(metrics, task, ["items", "commonest_answer_share"], path, stage)
        name = next((key for key in figures if f"{key}_stderr" in figures), "")
        group(metrics, task, [name, f"{name}_stderr"], path, stage)
        # Such a score is the share of items whose key is that option, and says nothing of the model.
        same = " (one answer to all)" if figures["commonest_answer_share"] == 1 else ""
        label = f"{markdown(task)}, {markdown(name)}, % ({figures['items']} items) {HIGHER}"
        cells[label] = _plus_minus(figures, name, f"{name}_stderr", 100, 1) + same
    return cells


def _judge_cells(folder: Path, variant: str) -> dict[str, str]:
    """Return the rows of the judge."""
    figures = variant_group(folder, "judge", variant, "", JUDGE)
    doubt = "" if figures["trustworthy"] else "; not trustworthy"
    scored = f" ({figures['scored']} of {figures['items']} answers)"
    judge = markdown(str(figures.get("judge", "")))
    cells = {}
    for part in PARTS:
        mean = _plus_minus(figures, f"{part}_mean", f"{part}_stderr")
        cells[f"judge: {part}, 1 to 3 ({judge}{doubt}) {HIGHER}"] = mean + scored
    return cells


def results_table(folder: Path, params: Params) -> str:
    """Return the Markdown table of the variants.

    A mean stands with its standard error (±) or its bootstrap interval ([low, high]). ROUGE and the
    judge's scores are withheld where too many answers are degenerate (`compare.max_degenerate_share`).
    """
    variants = list(params.variants)
    limit = params.compare.max_degenerate_share
    columns = {variant: _cells(folder, variant, limit) for variant in variants}
    labels = list(dict.fromkeys(label for cells in columns.values() for label in cells))
    lines = ["| | " + " | ".join(variants) + " |", "|---|" + "---|" * len(variants)]
    lines += [
        f"| {label} | " + " | ".join(columns[v].get(label, "") for v in variants) + " |"
        for label in labels
    ]
    return "\n".join(lines) + "\n"


def fidelity_table(folder: Path) -> str:
    """Return the Markdown table of what each step from adapter to quantized file costs."""
    merge, files = (
        read_figures(folder / f"{stage}.json", stage) for stage in ("merge", "quantize")
    )
    for name in FORMS:
        group(merge, name, LOGITS, folder / "merge.json", "merge")
    for name in dict.fromkeys(["bf16", *files]):
        group(files, name, LOGITS, folder / "quantize.json", "quantize")
    checked = group(merge, "checked", [], folder / "merge.json", "merge")
    dtype, computed = (
        markdown(str(checked.get(key, "unknown"))) for key in ("dtype", "compute_dtype")
    )
    rows = {
        "base + adapter, float32": ("", merge["adapter"]),
        "merged, float32": ("base + adapter", merge["before_cast"]),
        f"merged, saved in {dtype}": ("base + adapter", merge["after_cast"]),
        f"the same, run in {computed}": ("base + adapter", merge["as_served"]),
        "bf16.gguf": ("merged, saved", files["bf16"]),
        **{
            f"{markdown(kind)}.gguf": ("bf16.gguf", figures)
            for kind, figures in files.items()
            if kind != "bf16"
        },
    }
    head = [
        "step",
        "compared with",
        f"largest logit difference {LOWER}",
        f"mean {LOWER}",
        f"KL, nats a token {LOWER}",
        f"same greedy token, % {HIGHER}",
        f"perplexity {LOWER}",
        "answers",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for step, (other, row) in rows.items():
        logits = f"{row['logit_difference_largest']:.3g} | {row['logit_difference_mean']:.3g}"
        share = (
            f"{row['kl_nats']:.3g} | {row['greedy_agreement'] * 100:.1f} | {row['perplexity']:.3f}"
        )
        lines.append(f"| {step} | {other} | {logits} | {share} | {row['items']} |")
    return "\n".join(lines) + "\n"


def differences_table(results: Mapping[str, Metrics]) -> str:
    """Return the Markdown table of compare's paired differences.

    A difference within the range over seeds is marked; figures that are not meaningful are withheld.
    """
    lines = ["| difference | mean [interval] | p (Holm) | items | seeds |", "|---|---|---|---|---|"]
    for name, row in results.items():
        pair, _, measure = name.partition("__")
        better = LOWER if measure in LOWER_IS_BETTER else HIGHER
        label = f"{markdown(pair.replace('_minus_', ' − '))}: {markdown(measure)} {better}"
        if row["meaningful"]:
            mean = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
            lines.append(f"| {label} | {mean} | {_p(row)} | {row['items']} | {_seeds(row)} |")
        else:
            lines.append(f"| {label} | {NOT_MEANINGFUL} | – | {row['items']} | – |")
    return "\n".join(lines) + "\n"


def _p(row: Metrics) -> str:
    """Return the corrected p-value, as a bound where p is at its test's floor."""
    text = f"{row['p_holm']:.3g}"
    return f"≤ {text}" if row["p_at_floor"] and row["p_holm"] < 1 else text


def _seeds(row: Metrics) -> str:
    """Return the range over seeds, marked if the difference is no larger; a dash if it is unknown."""
    if "seed_range" not in row:
        return "–"
    return f"{row['seed_range']:.4f}" + (" **within**" if row["within_seed_range"] else "")
