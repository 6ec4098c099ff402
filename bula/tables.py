"""Build the Markdown tables of results from the files in metrics/.

The compare stage puts them into the report, and `python -m bula results` puts the table of results
into the README.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bula.calibration import withheld_note
from bula.degeneration import NOT_MEANINGFUL, not_meaningful
from bula.errors import UserError
from bula.escaping import markdown
from bula.item_scores import rerun_advice
from bula.params import Params, scored_as
from bula.stats import ALPHA

Metrics = dict[str, Any]
# The cells of one variant, by the label of their row.
Column = dict[str, str]
# Why a variant does not beat a control.
ControlVerdict = Literal["loops", "unsure", "worse"]
LOWER = "↓"
HIGHER = "↑"
UNKNOWN = "–"
BITS_LABEL = f"bits per character {LOWER}"
# The first words of the labels in the README's table.
HEADLINE = (
    "degenerate answers",
    "perplexity",
    "bits per character",
    "question's worth",
    "ROUGE-L",
    "bula_contrast,",
    "judge: accuracy",
)
# The first words of the labels of figures that rate the text of answers.
RATES_ANSWERS = ("ROUGE-", "chrF", "BERTScore", "judge:")
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
# The names of two controls in metrics/compare.json.
STOCK = "stock_answer"
NGRAM = "character_6gram"
# From this share of one answer, a benchmark score describes the task and not the model.
CONSTANT_SHARE = 0.95
# The expected accuracy of guessing, where all items of a task have the same number of options.
CHANCE = {
    "bula_medmcqa": 0.25,
    "bula_medmcqa_cloze": 0.25,
    "bula_medqa_4options": 0.25,
    "bula_medqa_4options_cloze": 0.25,
    "medmcqa": 0.25,
    "medqa_4options": 0.25,
    "bula_contrast": 0.5,
    "bula_healthbench_br": 0.5,
}
LOWER_IS_BETTER = ("bits_per_character", "degenerate", "safety_over_refusal")
# Metrics files have six digits, so equal figures may differ in the last one.
SEED_TOLERANCE = 1e-5
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
# Counts of metrics/generate/ in the table of the report, with their labels.
ANSWER_KINDS = {
    "finish_length_share": f"answers cut by the limit, % {LOWER}",
    "other_language_share": f"answers in another language, % {LOWER}",
    "seeks_care_share": f"answers that say when to seek care, % {HIGHER}",
}
# Further kinds, which the table has only if a variant has such answers.
RARE_KINDS = {
    "failed_share": f"questions without an answer (failed requests), % {LOWER}",
    "empty_share": f"empty answers, % {LOWER}",
}
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
    "chrf",
    "chrf_low",
    "chrf_high",
)
BERTSCORE = ("items", "bertscore_f", "bertscore_f_low", "bertscore_f_high")
PARTS = ("accuracy", "style")
KAPPA = ("kappa", "kappa_low", "kappa_high", "withheld")
JUDGE = (
    "items",
    "scored",
    *(f"{part}_{name}" for part in PARTS for name in KAPPA),
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
DIFFERENCES_HEAD = (
    "difference",
    "mean [interval]",
    "p",
    "smallest detectable",
    "items",
    "mean ± sd over seeds",
)


class Seeded(NamedTuple):
    """One figure of a variant that may have a spread over seeds."""

    measure: str
    """Name of the measure in metrics/seeds.json."""
    label: str
    """Label of its row in the table of results."""
    value: float
    """The figure of this run."""
    scale: int
    """Factor of the table: 100 for percent."""
    digits: int
    """Digits after the point in the table."""


class Unbeaten(NamedTuple):
    """A control that a variant does not beat."""

    verdict: ControlVerdict
    """Why it is not beaten."""
    control: str
    """Its group in metrics/controls.json."""
    value: float
    """The variant's figure."""
    other: float
    """The control's figure."""
    difference: Metrics
    """The paired difference, or nothing if there is none."""
    degenerate: float
    """Share of the variant's answers that are degenerate."""


class ControlTexts(NamedTuple):
    """The sentences about controls in one language."""

    controls: dict[str, str]
    """The control and its measure, by the control's name."""
    sentences: dict[str, str]
    """The sentence of each verdict."""
    difference: str
    interval: str
    decimal_point: str


ENGLISH_CONTROLS = ControlTexts(
    controls={
        "stock": "the stock answer on ROUGE-L",
        "ngram": "the character 6-gram in bits per character",
        "bz2": "bz2 compression in bits per character",
        "xz": "xz compression in bits per character",
    },
    sentences={
        "loops": "**{variant} cannot be compared with {control}**, because {share} of its answers "
        "are repetitions or have no words.",
        "worse": "**{variant} does not beat** {control} ({value} against {other}{difference}).",
        "unsure": "**{variant} is not surely better than** {control} "
        "({value} against {other}{difference}).",
    },
    difference=", difference {difference}",
    interval=" [{low}, {high}]",
    decimal_point=".",
)


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


def answered(figures: Metrics) -> int:
    """Return the number of items with an answer: failed requests have none."""
    return int(figures["items"]) - int(figures.get("failed", 0))


def results_table(folder: Path, params: Params) -> str:
    """Return the Markdown table with a column per variant and per control.

    A mean has its standard error (±) or its bootstrap interval ([low, high]). ROUGE and the
    judge's scores are withheld where too many answers are degenerate
    (`compare.max_degenerate_share`). A trained variant has a second column with the mean and the
    standard deviation over seeds, if metrics/seeds.json belongs to this run.
    """
    columns = _columns(folder, params)
    lines = _head(columns)
    for label in _labels(columns):
        cells = [column.get(label, "") for column in columns.values()]
        lines.append(_line([label, *cells]))
    return "\n".join(lines) + "\n"


def headline_table(folder: Path, params: Params) -> str:
    """Return the main figures, with a row per variant and per control."""
    columns = _columns(folder, params)
    labels = [label for label in _labels(columns) if label.startswith(HEADLINE)]
    lines = _head(labels)
    for name, column in columns.items():
        cells = [column.get(label, "") for label in labels]
        lines.append(_line([name, *cells]))
    return "\n".join(lines) + "\n"


def _columns(folder: Path, params: Params) -> dict[str, Column]:
    """Return the cells of each variant and of each control."""
    columns = {}
    kinds = _shown_kinds(folder, params)
    for variant in params.variants:
        columns[variant] = _column(folder, variant, params, kinds)
        columns |= _seed_column(folder, variant, params)
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


def _shown_kinds(folder: Path, params: Params) -> dict[str, str]:
    """Return the kinds of answers in the table with their labels."""
    found = [read_metrics(folder, "generate", variant) for variant in params.variants]
    rare = {}
    for key, label in RARE_KINDS.items():
        if any(figures.get(key) for figures in found):
            rare[key] = label
    return rare | ANSWER_KINDS


def _column(folder: Path, variant: str, params: Params, kinds: Mapping[str, str]) -> Column:
    """Return the cells of one variant, with these kinds of answers."""
    generate = variant_group(folder, "generate", variant, "", ["items", "degenerate_share"])
    share = generate["degenerate_share"]
    failed = int(generate.get("failed", 0))
    cells = {
        **_degenerate_cell(generate),
        **_kind_cells(generate, kinds),
        **_likelihood_cells(folder, variant),
        **_rouge_cells(variant_group(folder, "rouge", variant, "pooled", ROUGE), failed),
        **_bertscore_cells(folder, variant, failed),
        **_benchmark_cells(folder, variant, params),
        **_judge_cells(folder, variant),
    }
    return _withhold(cells, share, params)


def _withhold(cells: Column, share: float, params: Params) -> Column:
    """Return the cells, without scores of answers if too many answers are degenerate."""
    if share <= params.compare.max_degenerate_share:
        return cells
    withheld = not_meaningful(share)
    return cells | {label: withheld for label in cells if label.startswith(RATES_ANSWERS)}


def _degenerate_label(items: int) -> str:
    """Return the label of the share of degenerate answers."""
    return f"degenerate answers, % ({items} answers) {LOWER}"


def _degenerate_cell(figures: Metrics) -> Column:
    """Return the cell of the share of degenerate answers."""
    share = f"{figures['degenerate_share'] * 100:.1f}"
    note = _answered_note(answered(figures), figures.get("failed", 0))
    return {_degenerate_label(figures["items"]): share + note}


def _answered_note(items: int, failed: int) -> str:
    """Return the number of answers if requests failed.

    The label of a row has the number of questions, which all variants share.
    """
    return f" ({items} answers)" if failed else ""


def _seed_column(folder: Path, variant: str, params: Params) -> dict[str, Column]:
    """Return a column with the mean and standard deviation of each figure over seeds.

    The result is empty if no seed was measured, or if the spreads belong to another run.
    """
    path = folder / "seeds.json"
    spreads = read_figures(path, "") if path.exists() else {}
    cells = {}
    for figure in _seeded_figures(folder, variant, params):
        name = f"{variant}__{figure.measure}"
        if name not in spreads:
            continue
        spread = group(spreads, name, ["first", "mean", "stdev"], path, "")
        tolerance = {"rel_tol": SEED_TOLERANCE, "abs_tol": SEED_TOLERANCE**2}
        if not math.isclose(spread["first"], figure.value, **tolerance):
            return {}
        mean = spread["mean"] * figure.scale
        cells[figure.label] = _plus_minus(mean, spread["stdev"] * figure.scale, figure.digits)
    if not cells:
        return {}
    share = degenerate_share(folder, variant)
    title = f"{variant}, mean ± sd of {spreads['seeds']} seeds"
    return {title: _withhold(cells, share, params)}


def _seeded_figures(folder: Path, variant: str, params: Params) -> list[Seeded]:
    """Return the figures of one variant that `make seeds` measures."""
    generate = variant_group(folder, "generate", variant, "", ["items", "degenerate_share"])
    likelihood = variant_group(folder, "likelihood", variant, "pooled", LIKELIHOOD)
    rouge = variant_group(folder, "rouge", variant, "pooled", ROUGE)
    label = _degenerate_label(generate["items"])
    bits = likelihood["bits_per_character"]
    figures = [
        Seeded("degenerate", label, generate["degenerate_share"], 100, 1),
        Seeded("bits_per_character", BITS_LABEL, bits, 1, 3),
    ]
    if "question_worth_items" in likelihood:
        label = _worth_label(likelihood["question_worth_items"])
        figures.append(Seeded("question_worth", label, likelihood["question_worth_bits"], 1, 3))
    for kind in KINDS:
        label = _rouge_label(kind, rouge["items"] + generate.get("failed", 0))
        figures.append(Seeded(f"{kind}_f", label, rouge[f"{kind}_f"], 1, 3))
    for task, scores in _tasks(folder, variant, params.benchmark.tasks).items():
        name = _first_metric(scores)
        label = _benchmark_label(task, name, scores["items"], _pin_note(folder, variant, task))
        figures.append(Seeded(f"{task}_{name}", label, scores[name], 100, 1))
    return figures


def _kind_cells(figures: Metrics, kinds: Mapping[str, str]) -> Column:
    """Return the cells of other kinds of answers, if they were counted."""
    return {label: f"{figures[key] * 100:.1f}" for key, label in kinds.items() if key in figures}


def _control_columns(folder: Path) -> dict[str, Column]:
    """Return the cells of each control."""
    columns = {}
    for name, title in ANSWERERS.items():
        figures = control_group(folder, name, [*ROUGE, "degenerate_share"])
        degenerate = _degenerate_cell(figures)
        columns[title] = degenerate | _rouge_cells(figures) | _control_bertscore(folder, name)
    for name, title in PREDICTORS.items():
        figures = control_group(folder, name, ["bits_per_character"])
        columns[title] = _bits_cell(figures)
    return columns


def control_group(folder: Path, name: str, needed: Iterable[str]) -> Metrics:
    """Return the figures of one control."""
    path = folder / "controls.json"
    return group(read_figures(path, "controls"), name, needed, path, "controls")


def control_note(folder: Path, params: Params, differences: Mapping[str, Metrics]) -> str:
    """Return the sentences about the controls that variants do not beat.

    Only variants that `compare.pairs` compares with another one are named, because nothing promises
    that the others are better. `differences` has the figures of metrics/compare.json.
    """
    sentences = []
    for variant in compared_variants(params):
        for found in unbeaten_controls(folder, variant, params, differences):
            sentences.append(control_sentence(found, variant, ENGLISH_CONTROLS))
    return "\n" + " ".join(sentences) + "\n" if sentences else ""


def control_sentence(found: Unbeaten, variant: str, texts: ControlTexts) -> str:
    """Return the sentence about a control that a variant does not beat."""

    def number(value: float, sign: str = "") -> str:
        """Return a number with three digits after the point."""
        return f"{value:{sign}.3f}".replace(".", texts.decimal_point)

    interval = ""
    if "low" in found.difference:
        bounds = {end: number(found.difference[end], "+") for end in ("low", "high")}
        interval = texts.interval.format(**bounds)
    difference = ""
    if found.difference:
        mean = number(found.difference["difference"], "+")
        difference = texts.difference.format(difference=mean) + interval
    return texts.sentences[found.verdict].format(
        variant=variant,
        control=texts.controls[found.control],
        value=number(found.value),
        other=number(found.other),
        share=f"{found.degenerate * 100:.0f} %",
        difference=difference,
    )


def compared_variants(params: Params) -> list[str]:
    """Return the variants that `compare.pairs` compares with a baseline."""
    return list(dict.fromkeys(pair.variant for pair in params.compare.pairs))


def stock_key(variant: str) -> str:
    """Return the name of the difference between a variant and the stock answer."""
    return f"{variant}_minus_{STOCK}__rougeL_f"


def ngram_key(variant: str) -> str:
    """Return the name of the difference between a variant and the character n-gram."""
    return f"{variant}_minus_{NGRAM}__bits_per_character"


def unbeaten_controls(
    folder: Path, variant: str, params: Params, differences: Mapping[str, Metrics]
) -> list[Unbeaten]:
    """Return the controls that a variant does not beat.

    The controls are the stock answer on ROUGE-L and the best predictor in bits per character.
    Loops are not compared with the stock answer.
    """
    path = folder / "compare.json"
    row = group(dict(differences), stock_key(variant), ["difference", "p"], path, "compare")
    rouge = variant_group(folder, "rouge", variant, "pooled", ROUGE)["rougeL_f"]
    stock = control_group(folder, "stock", ROUGE)["rougeL_f"]
    share = degenerate_share(folder, variant)
    found = []
    if share > params.compare.max_degenerate_share:
        found.append(Unbeaten("loops", "stock", rouge, stock, {}, share))
    elif verdict := _unbeaten(row["difference"], row["p"]):
        found.append(Unbeaten(verdict, "stock", rouge, stock, row, share))
    return found + _unbeaten_predictor(folder, variant, differences, share)


def _unbeaten_predictor(
    folder: Path, variant: str, differences: Mapping[str, Metrics], share: float
) -> list[Unbeaten]:
    """Return the best predictor, if a variant does not beat it.

    The test is paired where the predictor has figures per item; compressors have none.
    """
    pooled = variant_group(folder, "likelihood", variant, "pooled", LIKELIHOOD)
    bits = pooled["bits_per_character"]
    others = {}
    for name in PREDICTORS:
        others[name] = control_group(folder, name, ["bits_per_character"])["bits_per_character"]
    best = min(others, key=lambda name: others[name])
    row: Metrics = {}
    verdict: ControlVerdict | None = "worse" if bits >= others[best] else None
    if best == "ngram" and ngram_key(variant) in differences:
        path = folder / "compare.json"
        row = group(dict(differences), ngram_key(variant), ["difference", "p"], path, "compare")
        verdict = _unbeaten(-row["difference"], row["p"])
    return [Unbeaten(verdict, best, bits, others[best], row, share)] if verdict else []


def _unbeaten(gain: float, p: float) -> ControlVerdict | None:
    """Return how a paired gain fails to be sure, or None."""
    if p >= ALPHA:
        return "unsure"
    return None if gain > 0 else "worse"


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
    return {BITS_LABEL: f"{figures['bits_per_character']:.3f}"}


def _worth_label(items: int) -> str:
    """Return the label of the question's worth."""
    return f"question's worth, bits per character ({items} answers) {HIGHER}"


def _worth_cell(folder: Path, variant: str, figures: Metrics) -> Column:
    """Return the cell of the question's worth, if it was measured."""
    items = figures.get("question_worth_items")
    if items is None:
        return {}
    worth = variant_group(folder, "likelihood", variant, "pooled", WORTH)
    return {_worth_label(items): _interval(worth, "question_worth_bits")}


def _rouge_label(kind: str, items: int) -> str:
    """Return the label of one type of ROUGE."""
    name = kind.replace("rouge", "ROUGE-")
    return f"{name} F1 ({items} answers) {HIGHER}"


def _rouge_cells(figures: Metrics, failed: int = 0) -> Column:
    """Return the cells of ROUGE and chrF, where `failed` answers are missing."""
    items = figures["items"] + failed
    note = _answered_note(figures["items"], failed)
    cells = {_rouge_label(kind, items): _interval(figures, f"{kind}_f") + note for kind in KINDS}
    cells[f"chrF ({items} answers) {HIGHER}"] = _interval(figures, "chrf") + note
    return cells


def _bertscore_cells(folder: Path, variant: str, failed: int) -> Column:
    """Return the cell of BERTScore of one variant, where `failed` answers are missing."""
    path = folder / "bertscore" / f"{variant}.json"
    return _bertscore_cell(path, f"bertscore@{variant}", "pooled", failed)


def _control_bertscore(folder: Path, control: str) -> Column:
    """Return the cell of BERTScore of one control."""
    return _bertscore_cell(folder / "bertscore_controls.json", "bertscore_controls", control)


def _bertscore_cell(path: Path, stage: str, name: str, failed: int = 0) -> Column:
    """Return the cell of BERTScore of one group; its label names the encoder.

    Scores of two encoders cannot be compared, so they never share a row.
    """
    content = read_figures(path, stage)
    figures = group(content, name, BERTSCORE, path, stage)
    settings = group(content, "settings", ["layer"], path, stage)
    encoder = f"{markdown(str(settings.get('encoder', UNKNOWN)))}, layer {settings['layer']}"
    items = figures["items"] + failed
    label = f"BERTScore F1 ({encoder}; {items} answers) {HIGHER}"
    note = _answered_note(figures["items"], failed)
    return {label: _interval(figures, "bertscore_f") + note}


def _tasks(folder: Path, variant: str, tasks: Sequence[str]) -> dict[str, Metrics]:
    """Return the figures of each benchmark task, without those of slices.

    Raise UserError if a figure is missing.
    """
    path = folder / "benchmark" / f"{variant}.json"
    stage = f"benchmark@{variant}"
    metrics = read_metrics(folder, "benchmark", variant)
    found = {}
    for name in sorted(metrics.keys() - {"settings"}):
        if name not in tasks and _is_slice(name, metrics):
            continue
        figures = group(metrics, name, ["items", "commonest_answer_share"], path, stage)
        metric = _first_metric(figures)
        group(metrics, name, [metric, f"{metric}_stderr"], path, stage)
        found[name] = figures
    return found


def _is_slice(name: str, metrics: Metrics) -> bool:
    """Return whether a group of metrics/benchmark/V.json is a slice of another one."""
    return any(name.startswith(f"{task}_") for task in metrics)


def _first_metric(figures: Metrics) -> str:
    """Return the first metric of a task that has a standard error."""
    return next((key for key in figures if f"{key}_stderr" in figures), "")


def _benchmark_label(task: str, metric: str, items: int, doubt: str) -> str:
    """Return the label of one benchmark task, with its known guess level."""
    chance = f", chance {CHANCE[task] * 100:.0f} %" if task in CHANCE else ""
    return f"{markdown(task)}, {markdown(metric)}, % ({items} items{chance}{doubt}) {HIGHER}"


def _pin_note(folder: Path, variant: str, task: str) -> str:
    """Return a note for the label of a task whose items are not pinned."""
    settings: Any = read_metrics(folder, "benchmark", variant).get("settings", {})
    return "" if settings.get(f"{task}_pinned", 1) else ", not pinned"


def _benchmark_cells(folder: Path, variant: str, params: Params) -> Column:
    """Return one cell per benchmark task with its first metric.

    A variant with the weights of an earlier variant has its scores, so the cells name that one.
    """
    scored = scored_as(params, variant)
    cells = {}
    for task, figures in _tasks(folder, variant, params.benchmark.tasks).items():
        name = _first_metric(figures)
        label = _benchmark_label(task, name, figures["items"], _pin_note(folder, variant, task))
        is_own = scored == variant
        cells[label] = _benchmark_cell(figures, name) if is_own else f"as {markdown(scored)}"
    return cells


def _benchmark_cell(figures: Metrics, name: str) -> str:
    """Return a score in percent; note if nearly all answers were equal."""
    score = percent_cell(figures, name)
    share = constant_share(figures)
    # A model that always picks one option scores that option's share of the keys.
    if share < CONSTANT_SHARE:
        return score
    return f"{score} (one answer to all)" if share == 1 else f"{score} (nearly one answer to all)"


def constant_share(figures: Metrics) -> float:
    """Return the share of a task's most frequent answer, or else 0.

    The share over the indexes of the options replaces the share over the texts.
    """
    share = figures.get("constant_answer_share", figures.get("commonest_answer_share"))
    return float(share) if isinstance(share, int | float) else 0.0


def percent_cell(figures: Metrics, name: str) -> str:
    """Return a mean with its standard error, both in percent."""
    return _plus_minus(figures[name] * 100, figures[f"{name}_stderr"] * 100, digits=1)


def _judge_cells(folder: Path, variant: str) -> Column:
    """Return the cells of the judge."""
    figures = variant_group(folder, "judge", variant, "", JUDGE)
    judge = markdown(str(figures.get("judge", "")))
    cells = {}
    for part in PARTS:
        label = f"judge: {part}, 1 to 3 ({judge}) {HIGHER}"
        # The judge may have abstained on every answer, so that there is no mean.
        if figures["scored"] > figures.get(f"{part}_abstained", 0):
            needed = [f"{part}_mean", f"{part}_stderr"]
            variant_group(folder, "judge", variant, "", needed)
        cells[label] = _judge_cell(figures, part)
    return cells


def _judge_cell(figures: Metrics, part: str) -> str:
    """Return the mean score with the corrected share of the score 3, unless withheld."""
    if figures[f"{part}_withheld"]:
        return kappa_note(figures, part)
    abstained = figures.get(f"{part}_abstained", 0)
    said = figures["scored"] - abstained
    count = f"{said} of {figures['items']} answers"
    if abstained:
        count += f", {abstained} cannot say"
    if not said:
        return f"{UNKNOWN} ({count})"
    mean = _plus_minus(figures[f"{part}_mean"], figures[f"{part}_stderr"], digits=2)
    scored = f"{mean} ({count})"
    name = f"{part}_3_corrected_share"
    if name not in figures:
        return scored
    share, low, high = (figures[f"{name}{end}"] * 100 for end in ("", "_low", "_high"))
    return f"{scored}, corrected share of 3: {share:.0f} % [{low:.0f}, {high:.0f}]"


def kappa_note(figures: Metrics, part: str) -> str:
    """Return the kappa that a table shows in place of scores."""
    low, high = figures[f"{part}_kappa_low"], figures[f"{part}_kappa_high"]
    return withheld_note(figures[f"{part}_kappa"], low, high)


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


def direction(measure: str) -> str:
    """Return the arrow that shows which direction of a measure is better."""
    return LOWER if measure in LOWER_IS_BETTER else HIGHER


def _difference_label(name: str) -> str:
    """Return a row label, such as tuned − base: rouge1_f ↑."""
    pair, _, measure = name.partition("__")
    pair = pair.replace(f"_minus_{STOCK}", " − stock answer")
    pair = pair.replace(f"_minus_{NGRAM}", f" − {PREDICTORS['ngram']}").replace("_minus_", " − ")
    variants = markdown(pair)
    return f"{variants}: {markdown(measure)} {direction(measure)}"


def _difference_cells(row: Metrics) -> list[str]:
    """Return the cells of one difference after its label."""
    items = str(row["items"])
    if row["groups"] < row["items"]:
        items = f"{items} in {row['groups']} groups"
    if "left_out" in row:
        items += f" ({row['left_out']} left out: a request failed)"
    if not row["meaningful"]:
        return [NOT_MEANINGFUL + _reason(row), UNKNOWN, UNKNOWN, items, UNKNOWN]
    mean = f"{row['difference']:+.4f}"
    if "low" in row:
        mean += f" [{row['low']:+.4f}, {row['high']:+.4f}]"
    detectable = f"{row['detectable']:.4f}" if "detectable" in row else UNKNOWN
    return [mean, _p_cell(row), detectable, items, _seeds_cell(row)]


def _reason(row: Metrics) -> str:
    """Return why a difference is not meaningful, or nothing for degenerate answers."""
    if row["constant_answers"]:
        return " (nearly one answer to all)"
    return " (judge withheld)" if row["judge_withheld"] else ""


def _p_cell(row: Metrics) -> str:
    """Return the corrected p-value of a primary measure, or the plain one."""
    if row["primary"]:
        return f"{p_text(row['p_holm'], row)} (Holm)"
    return f"{p_text(row['p'], row)} (exploratory)"


def p_text(p_value: float, row: Metrics) -> str:
    """Return a p-value, or a bound where the test reached its floor."""
    text = f"{p_value:.3g}"
    return f"≤ {text}" if row["p_at_floor"] and p_value < 1 else text


def _seeds_cell(row: Metrics) -> str:
    """Return the spread over seeds, with a mark on differences within."""
    if "seeds" not in row:
        return UNKNOWN
    text = f"{row['seed_mean']:+.4f} ± {row['seed_stdev']:.4f}"
    return f"{text} **within**" if row["within_seed_range"] else text
