"""Write the report: header, conclusion, tables, notes, and answers side by side."""

from pathlib import Path

from bula.escaping import markdown
from bula.item_scores import ShownAnswer
from bula.params import Params, is_trained
from bula.stats import MIN_BOOTSTRAP, POWER
from bula.tables.controls import control_note
from bula.tables.differences import differences_table
from bula.tables.fidelity import fidelity_table
from bula.tables.figures import degenerate_share, read_metrics
from bula.tables.results import results_table
from stages.compare.conclusion import conclusion, read_facts
from stages.compare.contrast import contrast_section
from stages.compare.header import header
from stages.compare.inputs import Answers, PageAnswer
from stages.compare.judge import judge_section
from stages.compare.labels import labels_section
from stages.compare.loops import cut_loops, missing_text
from stages.compare.pairs import Results
from stages.compare.safety import safety_note, safety_table
from stages.compare.seeds import seed_note

ARROWS = "↓: lower is better; ↑: higher is better."


def opening(figures: Path, results: Results, params: Params) -> str:
    """Return the table of results with its warnings."""
    table = results_table(figures, params)
    shares = {variant: degenerate_share(figures, variant) for variant in params.variants}
    notes = [
        control_note(figures, params, results),
        degenerate_note(shares, params),
        precision_note(figures, params),
    ]
    return table + "".join(notes)


def report_text(
    figures: Path,
    table: str,
    results: Results,
    over_seeds: str,
    answers: Answers,
    params: Params,
    picture: str,
) -> str:
    """Return the report.

    `table` has the results of each variant, `over_seeds` their spread over training seeds, and
    `picture` the link to the figure.
    """
    coverage = percent(params.rouge.confidence)
    interval = f"± is a standard error, [ ] a {coverage} bootstrap interval"
    facts = read_facts(figures, results, params)
    parts = [
        f"# What tuning changed\n\n{header(figures, params)}",
        f"{conclusion(results, facts, params)}\n## Results\n\n{table}",
        f"{interval} over answers. {ARROWS}\n",
        picture,
        judge_section(figures, params),
        labels_section(figures, params),
        *_sections(figures, params),
        "## Paired differences\n",
        interval_note(results, params),
        seed_note(results),
        differences_table(results),
    ]
    if over_seeds:
        parts.append(f"## Over training seeds\n\n{over_seeds}")
    if is_trained(params):
        parts.append(fidelity_section(figures))
    parts.append(
        f"## Answers side by side\n\nNot medical advice.\n\n{side_by_side(answers, params)}"
    )
    return "\n".join(parts)


def fidelity_section(figures: Path) -> str:
    """Return the section about the forms of the trained model."""
    tokens = "Each row compares two models at every supervised token of the validation answers"
    title = "## From adapter to quantized file"
    return (
        f"{title}\n\n{tokens}, in float32 unless a row says otherwise.\n\n{fidelity_table(figures)}"
    )


def _sections(figures: Path, params: Params) -> list[str]:
    """Return the tables of contrast pairs and of safety questions."""
    sections = []
    contrast = contrast_section(figures, params)
    if contrast:
        sections.append(f"## Contrast pairs\n\n{contrast}")
    table = safety_table(figures, params)
    sections.append(f"## Safety\n\n{table}\n{safety_note(figures, params)}")
    return sections


def percent(share: float) -> str:
    """Return a share in percent, without trailing zeros."""
    return f"{share * 100:g}%"


def degenerate_note(shares: dict[str, float], params: Params) -> str:
    """Return a warning about variants with many degenerate answers.

    The note is empty if no variant exceeds `compare.max_degenerate_share`.
    """
    limit = params.compare.max_degenerate_share
    named = []
    for variant, share in shares.items():
        if share > limit:
            named.append(f"{variant} ({share * 100:.0f} % degenerate answers)")
    if not named:
        return ""
    return (
        "\n**ROUGE, chrF, BERTScore and the judge's scores mean nothing for "
        f"{', '.join(named)}.** "
        "A degenerate answer repeats itself or contains no word. "
        f"Where more than {percent(limit)} of a variant's answers are degenerate "
        "(`compare.max_degenerate_share`), the tables withhold these figures and all "
        "differences that depend on them.\n"
    )


def precision_note(figures: Path, params: Params) -> str:
    """Return a warning per stage that mixed two precisions.

    The note is empty if each stage used one precision.
    """
    notes = []
    for stage in ("likelihood", "generate", "benchmark"):
        dtypes = _compute_dtypes(figures, stage, params)
        if len(set(dtypes.values())) > 1:
            each = ", ".join(f"{variant} in {dtype}" for variant, dtype in dtypes.items())
            notes.append(
                f"\n**{stage} mixes two compute precisions** ({each}): "
                "its paired differences include rounding errors.\n"
            )
    return "".join(notes)


def _compute_dtypes(figures: Path, stage: str, params: Params) -> dict[str, str]:
    """Return the known precision of each variant in a stage.

    llama.cpp has its own arithmetic, and other backends of lm-eval write no precision.
    """
    dtypes = {}
    for variant in params.variants:
        settings = read_metrics(figures, stage, variant).get("settings")
        dtype = settings.get("compute_dtype") if isinstance(settings, dict) else None
        if dtype in ("bfloat16", "float32"):
            dtypes[variant] = str(dtype)
    return dtypes


def interval_note(results: Results, params: Params) -> str:
    """Return a note about the intervals and p-values of the differences."""
    primary = ", ".join(markdown(measure) for measure in params.compare.primary)
    grouped = any(row["groups"] < row["items"] for row in results.values())
    groups = "Items of one question group count together. " if grouped else ""
    coverage = percent(params.compare.confidence)
    return (
        "Each difference compares the same items under both variants. "
        f"{groups}p of the primary measures of a pair ({primary}) is corrected by Holm's method. "
        "All other measures are exploratory, and their p is not corrected. "
        f"≤ marks the smallest p-value that the test can return. The {coverage} interval "
        "covers its own comparison only, without correction for several tests, and there is none "
        f"below {MIN_BOOTSTRAP} groups. "
        "If the true difference were `smallest detectable` or more, the test would find it in at "
        f"least {percent(POWER)} of repetitions. Shares of items are taken to change in one "
        f"direction only; changes in both directions need a larger difference. {ARROWS}\n"
    )


def side_by_side(answers: Answers, params: Params) -> str:
    """Return the first question of each validation set with all answers."""
    firsts: dict[str, PageAnswer] = {}
    first = next(iter(params.variants))
    for row in answers[first].values():
        firsts.setdefault(row.split, row)
    parts = []
    for split in sorted(firsts)[: params.compare.examples]:
        row = firsts[split]
        questions = _questions(row)
        parts.append(f"### {split}: {markdown(questions[0])}\n")
        for turn, question in zip(row.history or [], questions[1:], strict=True):
            parts.append(f"**answer**: {markdown(turn.answer)}\n")
            parts.append(f"**question**: {markdown(question)}\n")
        parts.append(f"**reference**: {markdown(row.answer)}\n")
        for variant in params.variants:
            parts.append(_shown(variant, answers[variant][row.id]))
    return "\n".join(parts)


def _questions(row: ShownAnswer) -> list[str]:
    """Return the questions of a conversation, oldest first."""
    return [*(turn.question for turn in row.history or []), row.question]


def _shown(variant: str, row: ShownAnswer) -> str:
    """Return one generated answer as a paragraph."""
    notes = markdown(row.finish_reason)
    if row.degenerate:
        notes += ", degenerate"
    text = markdown(cut_loops(row.generated)) or missing_text(row)
    return f"**{variant}** ({notes}): {text}\n"
