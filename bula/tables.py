"""Build the Markdown tables of results from the files in metrics/.

The compare stage puts them into the report, and `python -m bula results` puts the table of results
into the README.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bula.errors import UserError
from bula.escaping import markdown
from bula.item_scores import rerun_advice
from bula.params import Params

Metrics = dict[str, Any]
# The cells of one variant, by the label of their row.
Column = dict[str, str]
NOT_MEANINGFUL = "not meaningful"
LOWER = "↓"
HIGHER = "↑"
UNKNOWN = "–"
# The first words of the labels in the README's table.
HEADLINE = (
    "degenerate answers",
    "perplexity",
    "bits per character",
    "question's worth",
    "ROUGE-L",
    "judge: accuracy",
)
# The groups of metrics/controls.json in the tables. No variant's name contains a space.
ANSWERERS = {
    "stock": "stock answer",
    "nearest": "nearest answer",
    "echo": "echo of the question",
}
PREDICTORS = {
    "ngram": "character 6-gram",
    "bz2": "bz2 compression",
    "xz": "xz compression",
}
LOWER_IS_BETTER = ("bits_per_character", "degenerate")
LIKELIHOOD = (
    "items",
    "loss_nats",
    "loss_nats_stderr",
    "perplexity",
    "bits_per_character",
    "token_accuracy",
)
WORTH = (
    "question_worth_items",
    "question_worth_bits",
    "question_worth_bits_low",
    "question_worth_bits_high",
)
KINDS = ("rouge1", "rouge2", "rougeL")
ROUGE = (
    "items",
    "rouge1_f",
    "rouge1_f_low",
    "rouge1_f_high",
    "rouge2_f",
    "rouge2_f_low",
    "rouge2_f_high",
    "rougeL_f",
    "rougeL_f_low",
    "rougeL_f_high",
)
PARTS = ("accuracy", "style")
JUDGE = (
    "trustworthy",
    "items",
    "scored",
    "accuracy_mean",
    "accuracy_stderr",
    "style_mean",
    "style_stderr",
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
FIDELITY_HEAD = (
    "step",
    "compared with",
    f"largest logit difference {LOWER}",
    f"mean {LOWER}",
    f"KL, nats per token {LOWER}",
    f"same greedy token, % {HIGHER}",
    f"perplexity {LOWER}",
    "answers",
)
DIFFERENCES_HEAD = ("difference", "mean [interval]", "p (Holm)", "items", "seeds")


def read_metrics(folder: Path, stage: str, variant: str) -> Metrics:
    """Return the metrics of one stage and variant.

    Raise UserError with the file and the stage to run if the file is missing or damaged.
    """
    return read_figures(folder / stage / f"{variant}.json", f"{stage}@{variant}")


def read_figures(path: Path, stage: str) -> Metrics:
    """Return the content of a metrics file that `stage` wrote.

    Raise UserError if the file is missing or damaged.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(path, "the file does not exist", rerun_advice(stage)) from error
    # A UnicodeDecodeError and a JSONDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise UserError(path, "the file is not JSON", rerun_advice(stage)) from error
    if not isinstance(figures, dict):
        raise UserError(path, "the file contains no JSON object", rerun_advice(stage))
    return figures


def group(figures: Metrics, name: str, needed: Iterable[str], path: Path, stage: str) -> Metrics:
    """Return one group of a metrics file.

    An empty name stands for the complete file. Raise UserError if a needed number is missing.
    """
    found = figures.get(name) if name else figures
    if not isinstance(found, dict):
        raise UserError(path, f"the group {name!r} is missing", rerun_advice(stage))
    for key in needed:
        if not isinstance(found.get(key), int | float):
            where = f"{name}.{key}" if name else key
            raise UserError(path, f"the number {where} is missing", rerun_advice(stage))
    return found


def variant_group(
    folder: Path, stage: str, variant: str, name: str, needed: Iterable[str]
) -> Metrics:
    """Return one group of the metrics of one stage and variant."""
    path = folder / stage / f"{variant}.json"
    figures = read_metrics(folder, stage, variant)
    return group(figures, name, needed, path, f"{stage}@{variant}")


def degenerate_share(folder: Path, variant: str) -> float:
    """Return the share of degenerate answers of one variant."""
    figures = variant_group(folder, "generate", variant, "", ["degenerate_share"])
    return float(figures["degenerate_share"])


def results_table(folder: Path, params: Params) -> str:
    """Return the Markdown table with a column per variant and per control.

    A mean has its standard error (±) or its bootstrap interval ([low, high]). ROUGE and the
    judge's scores are withheld where too many answers are degenerate
    (`compare.max_degenerate_share`).
    """
    columns = _columns(folder, params)
    lines = _head(columns)
    for label in _labels(columns):
        cells = [column.get(label, "") for column in columns.values()]
        lines.append(_line([label, *cells]))
    return "\n".join(lines) + "\n"


def headline_table(folder: Path, params: Params) -> str:
    """Return the figures that a reader needs first, with a row per variant and per control."""
    columns = _columns(folder, params)
    labels = [label for label in _labels(columns) if label.startswith(HEADLINE)]
    lines = _head(labels)
    for name, column in columns.items():
        cells = [column.get(label, "") for label in labels]
        lines.append(_line([name, *cells]))
    return "\n".join(lines) + "\n"


def _columns(folder: Path, params: Params) -> dict[str, Column]:
    """Return the cells of each variant and of each control."""
    limit = params.compare.max_degenerate_share
    columns = {variant: _column(folder, variant, limit) for variant in params.variants}
    return columns | _control_columns(folder)


def _labels(columns: Mapping[str, Column]) -> list[str]:
    """Return the labels of all columns, in order."""
    labels: dict[str, None] = {}
    for column in columns.values():
        labels |= dict.fromkeys(column)
    return list(labels)


def _head(names: Iterable[str]) -> list[str]:
    """Return the first two lines of a table whose first column has no name."""
    names = list(names)
    return ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]


def _line(cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _column(folder: Path, variant: str, max_degenerate_share: float) -> Column:
    """Return the cells of one variant."""
    generate = variant_group(folder, "generate", variant, "", ["items", "degenerate_share"])
    share = generate["degenerate_share"]
    items = generate["items"]
    degenerate = _degenerate_cell(share, items)
    likelihood = _likelihood_cells(folder, variant)
    rouge = _rouge_cells(variant_group(folder, "rouge", variant, "pooled", ROUGE))
    judge = _judge_cells(folder, variant)
    if share > max_degenerate_share:
        withheld = f"{NOT_MEANINGFUL} ({share * 100:.0f} % loops)"
        rouge = dict.fromkeys(rouge, withheld)
        judge = dict.fromkeys(judge, withheld)
    benchmark = _benchmark_cells(folder, variant)
    return {**degenerate, **likelihood, **rouge, **benchmark, **judge}


def _degenerate_cell(share: float, items: int) -> Column:
    """Return the cell of the share of degenerate answers."""
    return {f"degenerate answers, % ({items} answers) {LOWER}": f"{share * 100:.1f}"}


def _control_columns(folder: Path) -> dict[str, Column]:
    """Return the cells of each control."""
    columns = {}
    for name, title in ANSWERERS.items():
        figures = control_group(folder, name, [*ROUGE, "degenerate_share"])
        degenerate = _degenerate_cell(figures["degenerate_share"], figures["items"])
        columns[title] = degenerate | _rouge_cells(figures)
    for name, title in PREDICTORS.items():
        figures = control_group(folder, name, ["bits_per_character"])
        columns[title] = _bits_cell(figures)
    return columns


def control_group(folder: Path, name: str, needed: Iterable[str]) -> Metrics:
    """Return the figures of one control."""
    path = folder / "controls.json"
    return group(read_figures(path, "controls"), name, needed, path, "controls")


def control_note(folder: Path, params: Params) -> str:
    """Return a sentence per variant that does not beat a control.

    The baseline is not compared, because no training promises that it is better. Answers whose
    ROUGE is withheld beat nothing.
    """
    sentences = []
    for variant in params.variants:
        unbeaten = [
            *_unbeaten_stock(folder, variant, params.compare.max_degenerate_share),
            *_unbeaten_ngram(folder, variant),
        ]
        if unbeaten and variant != params.compare.baseline:
            sentences.append(f"**{variant} does not beat** {' or '.join(unbeaten)}.")
    return "\n" + " ".join(sentences) + "\n" if sentences else ""


def _unbeaten_stock(folder: Path, variant: str, max_degenerate_share: float) -> list[str]:
    """Return the comparison with the stock answer, if the variant is not better."""
    found = variant_group(folder, "rouge", variant, "pooled", ROUGE)["rougeL_f"]
    stock = control_group(folder, "stock", ROUGE)["rougeL_f"]
    withheld = degenerate_share(folder, variant) > max_degenerate_share
    if found > stock and not withheld:
        return []
    shown = NOT_MEANINGFUL if withheld else f"{found:.3f}"
    return [f"the stock answer on ROUGE-L ({shown} against {stock:.3f})"]


def _unbeaten_ngram(folder: Path, variant: str) -> list[str]:
    """Return the comparison with the character n-gram, if the variant is not better."""
    found = variant_group(folder, "likelihood", variant, "pooled", LIKELIHOOD)
    bits = found["bits_per_character"]
    ngram = control_group(folder, "ngram", ["bits_per_character"])["bits_per_character"]
    if bits < ngram:
        return []
    return [f"the {PREDICTORS['ngram']} in bits per character ({bits:.3f} against {ngram:.3f})"]


def _interval(figures: Metrics, name: str) -> str:
    """Return a mean with its bootstrap interval."""
    low = figures[f"{name}_low"]
    high = figures[f"{name}_high"]
    return f"{figures[name]:.3f} [{low:.3f}, {high:.3f}]"


def _plus_minus(mean: float, error: float, digits: int) -> str:
    """Return a mean with its standard error."""
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def _likelihood_cells(folder: Path, variant: str) -> Column:
    """Return the cells about the references."""
    figures = variant_group(folder, "likelihood", variant, "pooled", LIKELIHOOD)
    items = figures["items"]
    percent = figures["token_accuracy"] * 100
    loss = _plus_minus(figures["loss_nats"], figures["loss_nats_stderr"], digits=3)
    return {
        f"loss, nats per token ({items} answers) {LOWER}": loss,
        f"perplexity {LOWER}": f"{figures['perplexity']:.2f}",
        **_bits_cell(figures),
        f"token accuracy, % {HIGHER}": f"{percent:.1f}",
        **_worth_cell(folder, variant, figures),
    }


def _bits_cell(figures: Metrics) -> Column:
    """Return the cell of bits per character."""
    return {f"bits per character {LOWER}": f"{figures['bits_per_character']:.3f}"}


def _worth_cell(folder: Path, variant: str, figures: Metrics) -> Column:
    """Return the cell of the question's worth, if it was measured."""
    items = figures.get("question_worth_items")
    if items is None:
        return {}
    worth = variant_group(folder, "likelihood", variant, "pooled", WORTH)
    label = f"question's worth, bits per character ({items} answers) {HIGHER}"
    return {label: _interval(worth, "question_worth_bits")}


def _rouge_cells(figures: Metrics) -> Column:
    """Return the cells of ROUGE."""
    items = figures["items"]
    cells = {}
    for kind in KINDS:
        name = kind.replace("rouge", "ROUGE-")
        label = f"{name} F1 ({items} answers) {HIGHER}"
        cells[label] = _interval(figures, f"{kind}_f")
    return cells


def _benchmark_cells(folder: Path, variant: str) -> Column:
    """Return one cell per benchmark task.

    The cell shows the first metric that has a standard error.
    """
    path = folder / "benchmark" / f"{variant}.json"
    stage = f"benchmark@{variant}"
    metrics = read_metrics(folder, "benchmark", variant)
    settings: Any = metrics.get("settings", {})
    cells = {}
    tasks = set(metrics) - {"settings"}
    for task in sorted(tasks):
        figures = group(metrics, task, ["items", "commonest_answer_share"], path, stage)
        name = next((key for key in figures if f"{key}_stderr" in figures), "")
        group(metrics, task, [name, f"{name}_stderr"], path, stage)
        items = figures["items"]
        doubt = "" if settings.get(f"{task}_pinned", 1) else ", not pinned"
        label = f"{markdown(task)}, {markdown(name)}, % ({items} items{doubt}) {HIGHER}"
        cells[label] = _benchmark_cell(figures, name)
    return cells


def _benchmark_cell(figures: Metrics, name: str) -> str:
    """Return a score in percent; note if all answers were equal."""
    percent = figures[name] * 100
    error = figures[f"{name}_stderr"] * 100
    score = _plus_minus(percent, error, digits=1)
    # A model that always picks one option scores that option's share of the keys.
    same = figures["commonest_answer_share"] == 1
    return f"{score} (one answer to all)" if same else score


def _judge_cells(folder: Path, variant: str) -> Column:
    """Return the cells of the judge."""
    figures = variant_group(folder, "judge", variant, "", JUDGE)
    doubt = "" if figures["trustworthy"] else "; not trustworthy"
    scored = f"({figures['scored']} of {figures['items']} answers)"
    judge = markdown(str(figures.get("judge", "")))
    cells = {}
    for part in PARTS:
        mean = _plus_minus(figures[f"{part}_mean"], figures[f"{part}_stderr"], digits=2)
        label = f"judge: {part}, 1 to 3 ({judge}{doubt}) {HIGHER}"
        cells[label] = f"{mean} {scored}"
    return cells


def fidelity_table(folder: Path) -> str:
    """Return the Markdown table of the errors from adapter to GGUF."""
    merge = read_figures(folder / "merge.json", "merge")
    files = read_figures(folder / "quantize.json", "quantize")
    for name in FORMS:
        group(merge, name, LOGITS, folder / "merge.json", "merge")
    for name in ("bf16", *files):
        group(files, name, LOGITS, folder / "quantize.json", "quantize")
    checked = group(merge, "checked", [], folder / "merge.json", "merge")
    lines = [_line(FIDELITY_HEAD), "|---" * len(FIDELITY_HEAD) + "|"]
    lines += _merge_lines(merge, checked)
    lines += _quantize_lines(files)
    return "\n".join(lines) + "\n"


def _merge_lines(merge: Metrics, checked: Metrics) -> list[str]:
    """Return the lines from the adapter to the saved model."""
    dtype = markdown(str(checked.get("dtype", "unknown")))
    computed = markdown(str(checked.get("compute_dtype", "unknown")))
    other = "base + adapter"
    return [
        _fidelity_line("base + adapter, float32", "", merge["adapter"]),
        _fidelity_line("merged, float32", other, merge["before_cast"]),
        _fidelity_line(f"merged, saved in {dtype}", other, merge["after_cast"]),
        _fidelity_line(f"the same, run in {computed}", other, merge["as_served"]),
    ]


def _quantize_lines(files: Metrics) -> list[str]:
    """Return one line per GGUF file, the 16-bit file first."""
    lines = [_fidelity_line("bf16.gguf", "merged, saved", files["bf16"])]
    for kind, figures in files.items():
        if kind != "bf16":
            lines.append(_fidelity_line(f"{markdown(kind)}.gguf", "bf16.gguf", figures))
    return lines


def _fidelity_line(step: str, other: str, figures: Metrics) -> str:
    """Return the line that compares a step with another."""
    percent = figures["greedy_agreement"] * 100
    cells = [
        step,
        other,
        f"{figures['logit_difference_largest']:.3g}",
        f"{figures['logit_difference_mean']:.3g}",
        f"{figures['kl_nats']:.3g}",
        f"{percent:.1f}",
        f"{figures['perplexity']:.3f}",
        str(figures["items"]),
    ]
    return _line(cells)


def differences_table(results: Mapping[str, Metrics]) -> str:
    """Return the Markdown table of the paired differences.

    A difference within the range over seeds is marked. Figures that are not meaningful are
    withheld.
    """
    lines = [_line(DIFFERENCES_HEAD), "|---" * len(DIFFERENCES_HEAD) + "|"]
    for name, row in results.items():
        cells = _difference_cells(row)
        lines.append(_line([_difference_label(name), *cells]))
    return "\n".join(lines) + "\n"


def _difference_label(name: str) -> str:
    """Return a row label, such as tuned − base: rouge1_f ↑."""
    pair, _, measure = name.partition("__")
    variants = markdown(pair.replace("_minus_", " − "))
    direction = LOWER if measure in LOWER_IS_BETTER else HIGHER
    return f"{variants}: {markdown(measure)} {direction}"


def _difference_cells(row: Metrics) -> list[str]:
    """Return mean, p-value, items and range over seeds of one difference."""
    items = str(row["items"])
    if not row["meaningful"]:
        return [NOT_MEANINGFUL, UNKNOWN, items, UNKNOWN]
    mean = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
    return [mean, _p_value(row), items, _seed_range(row)]


def _p_value(row: Metrics) -> str:
    """Return the corrected p-value, or a bound at the test's floor."""
    text = f"{row['p_holm']:.3g}"
    if row["p_at_floor"] and row["p_holm"] < 1:
        return f"≤ {text}"
    return text


def _seed_range(row: Metrics) -> str:
    """Return the range over seeds, with a mark on differences within."""
    if "seed_range" not in row:
        return UNKNOWN
    text = f"{row['seed_range']:.4f}"
    return f"{text} **within**" if row["within_seed_range"] else text
