"""The table of results, from metrics/ alone: compare puts it into the report, `python -m bula results` into the README."""

import json
from pathlib import Path
from typing import Any

Metrics = dict[str, Any]


def read_metrics(folder: Path, stage: str, variant: str) -> Metrics:
    """Metrics of one stage and variant; FileNotFoundError names the missing file."""
    metrics: Metrics = json.loads((folder / stage / f"{variant}.json").read_text(encoding="utf-8"))
    return metrics


def _interval(figures: Metrics, name: str) -> str:
    """Mean with its bootstrap interval."""
    return f"{figures[name]:.3f} [{figures[name + '_low']:.3f}, {figures[name + '_high']:.3f}]"


def _plus_minus(figures: Metrics, name: str, stderr: str, scale: float = 1, digits: int = 2) -> str:
    """Mean with its standard error."""
    return f"{figures[name] * scale:.{digits}f} ± {figures[stderr] * scale:.{digits}f}"


def _cells(folder: Path, variant: str) -> dict[str, str]:
    """One variant's column: row label to formatted figure."""
    likelihood = read_metrics(folder, "likelihood", variant)["pooled"]
    rouge = read_metrics(folder, "rouge", variant)["pooled"]
    benchmark = read_metrics(folder, "benchmark", variant)
    judge = read_metrics(folder, "judge", variant)
    cells = {
        f"loss, nats a token ({likelihood['items']} answers)": _plus_minus(likelihood, "loss_nats", "loss_nats_stderr", digits=3),
        "perplexity": f"{likelihood['perplexity']:.2f}",
        "bits a character": f"{likelihood['bits_per_character']:.3f}",
        "token accuracy, %": f"{likelihood['token_accuracy'] * 100:.1f}",
    }
    for kind in ("rouge1", "rouge2", "rougeL"):
        cells[f"{kind.replace('rouge', 'ROUGE-')} F1 ({rouge['items']} answers)"] = _interval(rouge, f"{kind}_f")
    for task in sorted(set(benchmark) - {"settings"}):
        name = next(key for key in benchmark[task] if f"{key}_stderr" in benchmark[task])
        figures = _plus_minus(benchmark[task], name, f"{name}_stderr", 100, 1)
        # Such a score is the share of items whose key is that option, and says nothing of the model.
        same = " (one answer to all)" if benchmark[task]["commonest_answer_share"] == 1 else ""
        cells[f"{task}, {name}, % ({benchmark[task]['items']} items)"] = figures + same
    doubt = "" if judge["trustworthy"] else "; not trustworthy"
    for part in ("accuracy", "style"):
        scored = f" ({judge['scored']} of {judge['items']} answers)"
        cells[f"judge: {part}, 1 to 3 ({judge['judge']}{doubt})"] = _plus_minus(judge, f"{part}_mean", f"{part}_stderr") + scored
    return cells


def results_table(folder: Path, variants: list[str]) -> str:
    """Markdown table of the variants: means with standard errors (±) or bootstrap intervals ([low, high])."""
    columns = {variant: _cells(folder, variant) for variant in variants}
    labels = list(dict.fromkeys(label for cells in columns.values() for label in cells))
    lines = ["| | " + " | ".join(variants) + " |", "|---|" + "---|" * len(variants)]
    lines += [f"| {label} | " + " | ".join(columns[v].get(label, "") for v in variants) + " |" for label in labels]
    return "\n".join(lines) + "\n"


def fidelity_table(folder: Path) -> str:
    """Markdown table of what each step from adapter to quantized file costs, from merge's and quantize's metrics."""
    merge, files = (json.loads((folder / f"{stage}.json").read_text(encoding="utf-8")) for stage in ("merge", "quantize"))
    dtype, computed = merge["checked"]["dtype"], merge["checked"]["compute_dtype"]
    rows = {
        "base + adapter, float32": ("", merge["adapter"]),
        "merged, float32": ("base + adapter", merge["before_cast"]),
        f"merged, saved in {dtype}": ("base + adapter", merge["after_cast"]),
        f"the same, run in {computed}": ("base + adapter", merge["as_served"]),
        "bf16.gguf": ("merged, saved", files["bf16"]),
        **{f"{kind}.gguf": ("bf16.gguf", figures) for kind, figures in files.items() if kind != "bf16"},
    }
    head = [
        "step",
        "compared with",
        "largest logit difference",
        "mean",
        "KL, nats a token",
        "same greedy token, %",
        "perplexity",
        "answers",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for step, (other, row) in rows.items():
        logits = f"{row['logit_difference_largest']:.3g} | {row['logit_difference_mean']:.3g}"
        share = f"{row['kl_nats']:.3g} | {row['greedy_agreement'] * 100:.1f} | {row['perplexity']:.3f}"
        lines.append(f"| {step} | {other} | {logits} | {share} | {row['items']} |")
    return "\n".join(lines) + "\n"


def differences_table(file: Path) -> str:
    """Markdown table of the paired differences that compare wrote to `file`; those within the range over seeds are marked."""
    figures: dict[str, Metrics] = json.loads(file.read_text(encoding="utf-8"))
    lines = ["| difference | mean [interval] | p (Holm) | items | seeds |", "|---|---|---|---|---|"]
    for name, row in figures.items():
        label = name.replace("_minus_", " − ").replace("__", ": ")
        mean = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        lines.append(f"| {label} | {mean} | {row['p_holm']:.3g} | {row['items']} | {_seeds(row)} |")
    return "\n".join(lines) + "\n"


def _seeds(row: Metrics) -> str:
    """The range over seeds, with a mark if the difference is no larger; a dash where it was not measured."""
    if "seed_range" not in row:
        return "–"
    return f"{row['seed_range']:.4f}" + (" **within**" if row["within_seed_range"] else "")
