"""Format the figures of one variant or control as labelled cells."""

from collections.abc import Mapping
from pathlib import Path

from bula.degeneration import not_meaningful
from bula.escaping import markdown
from bula.params import Params
from bula.tables.cells import HIGHER, LOWER, UNKNOWN, Column, interval_cell, plus_minus
from bula.tables.figures import (
    LIKELIHOOD,
    Metrics,
    answered,
    group,
    read_figures,
    read_metrics,
    variant_group,
)

BITS_LABEL = f"bits per character {LOWER}"
# The first words of the labels of figures that rate the text of answers.
RATES_ANSWERS = ("ROUGE-", "chrF", "BERTScore", "judge:")
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
BERTSCORE = ("items", "bertscore_f", "bertscore_f_low", "bertscore_f_high")


def withhold(cells: Column, share: float, params: Params) -> Column:
    """Return the cells, without scores of answers if too many answers are degenerate."""
    if share <= params.compare.max_degenerate_share:
        return cells
    withheld = not_meaningful(share)
    return cells | {label: withheld for label in cells if label.startswith(RATES_ANSWERS)}


def degenerate_label(items: int) -> str:
    """Return the label of the share of degenerate answers."""
    return f"degenerate answers, % ({items} answers) {LOWER}"


def degenerate_cell(figures: Metrics) -> Column:
    """Return the cell of the share of degenerate answers."""
    share = f"{figures['degenerate_share'] * 100:.1f}"
    note = _answered_note(answered(figures), figures.get("failed", 0))
    return {degenerate_label(figures["items"]): share + note}


def _answered_note(items: int, failed: int) -> str:
    """Return the number of answers if requests failed.

    The label of a row has the number of questions, which all variants share.
    """
    return f" ({items} answers)" if failed else ""


def shown_kinds(folder: Path, params: Params) -> dict[str, str]:
    """Return the kinds of answers in the table with their labels."""
    found = [read_metrics(folder, "generate", variant) for variant in params.variants]
    rare = {}
    for key, label in RARE_KINDS.items():
        if any(figures.get(key) for figures in found):
            rare[key] = label
    return rare | ANSWER_KINDS


def kind_cells(figures: Metrics, kinds: Mapping[str, str]) -> Column:
    """Return the cells of other kinds of answers, if they were counted."""
    return {label: f"{figures[key] * 100:.1f}" for key, label in kinds.items() if key in figures}


def likelihood_cells(folder: Path, variant: str) -> Column:
    """Return the cells about the references."""
    figures = variant_group(folder, "likelihood", variant, "pooled", LIKELIHOOD)
    items = figures["items"]
    percent = figures["token_accuracy"] * 100
    loss = plus_minus(figures["loss_nats"], figures["loss_nats_stderr"], digits=3)
    return {
        f"loss, nats per token ({items} answers) {LOWER}": loss,
        f"perplexity {LOWER}": f"{figures['perplexity']:.2f}",
        **bits_cell(figures),
        f"token accuracy, % {HIGHER}": f"{percent:.1f}",
        **_worth_cell(folder, variant, figures),
    }


def bits_cell(figures: Metrics) -> Column:
    """Return the cell of bits per character."""
    return {BITS_LABEL: f"{figures['bits_per_character']:.3f}"}


def worth_label(items: int) -> str:
    """Return the label of the question's worth."""
    return f"question's worth, bits per character ({items} answers) {HIGHER}"


def _worth_cell(folder: Path, variant: str, figures: Metrics) -> Column:
    """Return the cell of the question's worth, if it was measured."""
    items = figures.get("question_worth_items")
    if items is None:
        return {}
    worth = variant_group(folder, "likelihood", variant, "pooled", WORTH)
    return {worth_label(items): interval_cell(worth, "question_worth_bits")}


def rouge_label(kind: str, items: int) -> str:
    """Return the label of one type of ROUGE."""
    name = kind.replace("rouge", "ROUGE-")
    return f"{name} F1 ({items} answers) {HIGHER}"


def rouge_cells(figures: Metrics, failed: int = 0) -> Column:
    """Return the cells of ROUGE and chrF, where `failed` answers are missing."""
    items = figures["items"] + failed
    note = _answered_note(figures["items"], failed)
    cells = {rouge_label(kind, items): interval_cell(figures, f"{kind}_f") + note for kind in KINDS}
    cells[f"chrF ({items} answers) {HIGHER}"] = interval_cell(figures, "chrf") + note
    return cells


def bertscore_cells(folder: Path, variant: str, failed: int) -> Column:
    """Return the cell of BERTScore of one variant, where `failed` answers are missing."""
    path = folder / "bertscore" / f"{variant}.json"
    return _bertscore_cell(path, f"bertscore@{variant}", "pooled", failed)


def control_bertscore(folder: Path, control: str) -> Column:
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
    return {label: interval_cell(figures, "bertscore_f") + note}
