"""Show what people say about the answers."""

from pathlib import Path

from bula.errors import UserError
from bula.escaping import markdown
from bula.item_scores import rerun_advice
from bula.params import Params
from bula.stats import MIN_BOOTSTRAP
from bula.tables.cells import HIGHER, LOWER, UNKNOWN, table_line
from bula.tables.figures import Metrics, group, read_figures

STAGE = "labels"
# The rows of the table of agreement, and what the raters say there.
KINDS = {
    "sentences": "each sentence: right, wrong, cannot say",
    "relevance": "relevance: relevant, partly, not",
    "harm": "harm: none, mild, severe",
    "style": "style, 1 to 3",
    "preference": "which answer a patient may get",
}
AGREEMENT_HEAD = (
    "judged",
    "alpha [interval] ↑",
    "kappa of two raters [interval] ↑",
    "equal, % ↑",
    "units",
    "repeated and equal, % [interval] ↑",
)
ANSWERS_HEAD = (
    "variant",
    "answers",
    "harm: none",
    "mild",
    "severe",
    f"severe, % [interval] {LOWER}",
    f"relevant, % [interval] {HIGHER}",
    f"correct, % [interval] {HIGHER}",
    f"style, 1 to 3 {HIGHER}",
)
PAIRS_HEAD = (
    "pair",
    "questions",
    "first preferred",
    "second preferred",
    "both",
    "neither",
    "raters disagree",
    "first preferred, % [interval]",
    "p",
    "p, Holm",
)
HEAD_LINES = 2
UNWEIGHTED = (
    "The labels have no weights, so these shares describe the labelled answers. A review kit draws "
    "doubtful answers more often than they occur, so the shares of all answers of a run can be "
    "different.\n"
)
WEIGHTED = (
    "Harms are counts of labelled answers. Shares and means weigh each answer by the inverse of "
    "its probability to be drawn, so they estimate the answers of the run that the kit could draw: "
    "those to questions that the compared variants answer differently.\n"
)
JUDGE_WEIGHTED = (
    "The kappas and the corrected shares weigh each answer by the inverse of its probability to be "
    "drawn, because a review kit draws by the judge's score too.\n"
)
JUDGE_UNWEIGHTED = (
    "The labels have no weights, and each counts once. A review kit draws by the judge's score "
    "too: the judge's sensitivity comes out too low and "
    "its specificity too high, so the corrected share is usually too high, unless people labelled "
    "all answers.\n"
)
PEOPLE = {"author": "authors of this project, who are no clinicians", "clinician": "clinicians"}


def labels_section(figures: Path, params: Params) -> str:
    """Return the section about people's labels, or a sentence if there are none.

    Raise UserError if metrics/labels.json is missing or lacks a figure.
    """
    path = figures / "labels.json"
    content = read_figures(path, STAGE)
    group(content, "", ["judgements", "labels_without_answer"], path, STAGE)
    title = "## People's labels\n\n"
    if not content["judgements"]:
        return f"{title}Nobody has judged the answers (`labels.files` is empty).\n"
    who = content.get("labelled_by")
    if who not in PEOPLE:
        raise UserError(path, "labelled_by is missing", rerun_advice(STAGE))
    parts = [opening(content, who), agreement_table(content, path)]
    parts += [answers_table(content, params, path), pairs_table(content, params, path)]
    parts.append(judge_note(content, who, params, path))
    return title + "\n".join(part for part in parts if part)


def opening(content: Metrics, who: str) -> str:
    """Return who judged, and how many labels have no answer in this run."""
    text = (
        f"{content[f'{who}_raters']} raters made {content[f'{who}_judgements']} judgements. "
        f"They are {PEOPLE[who]}, so the labels are called `{who}_labels`. "
        "All figures are in `metrics/labels.json`. "
    )
    if who == "author":
        text += (
            "Author labels show the form of these figures and replace no clinician, and two raters "
            "may be two readings by one author."
        )
    without = content["labels_without_answer"]
    if without:
        text += (
            f"\n\n**{without} of {content['judgements']} labels are about answers that this run "
            "does not have.** Other processors and other models generate other texts. These labels "
            "count for the agreement of the raters, and for no figure about variants or the "
            "judge."
        )
    return f"{text.rstrip()}\n"


def agreement_table(content: Metrics, path: Path) -> str:
    """Return the table of agreement between raters and with themselves."""
    lines = _head(AGREEMENT_HEAD)
    for kind, name in KINDS.items():
        group(content, "", [f"{kind}_units"], path, STAGE)
        cells = [
            name,
            statistic(content, f"{kind}_alpha"),
            statistic(content, f"{kind}_kappa"),
            _percent(content, f"{kind}_equal_share"),
            str(content[f"{kind}_units"]),
            _share(content, f"{kind}_repeat_equal"),
        ]
        lines.append(table_line(cells))
    note = (
        "alpha is Krippendorff's, nominal for sentences and preferences, ordinal for the others. "
        f"Intervals are over questions, and absent below {MIN_BOOTSTRAP} questions or where all "
        "resamples agree.\n"
    )
    return "\n".join(lines) + f"\n\n{note}"


def answers_table(content: Metrics, params: Params, path: Path) -> str:
    """Return the table of harm, relevance and style by variant, or an empty text."""
    lines = _head(ANSWERS_HEAD)
    for variant in params.variants:
        name = f"answers_{variant}"
        if name not in content:
            continue
        harms = ["harm_none", "harm_mild", "harm_severe"]
        found = group(content, name, ["answers", *harms, "style_mean"], path, STAGE)
        cells = [
            markdown(variant),
            *(str(found[key]) for key in ("answers", *harms)),
            _share(found, "severe"),
            _share(found, "relevant"),
            _correct(found),
            f"{found['style_mean']:.2f}",
        ]
        lines.append(table_line(cells))
    return "\n".join([*lines, "", sample_note(content)]) if len(lines) > HEAD_LINES else ""


def sample_note(content: Metrics) -> str:
    """Return which answers the shares describe."""
    return f"{WEIGHTED}{_weightless(content)}" if is_weighted(content) else UNWEIGHTED


def is_weighted(content: Metrics) -> bool:
    """Return whether labels have weights."""
    return bool(content.get("weighted_labels"))


def _weightless(content: Metrics) -> str:
    """Return how many labels weigh 1 beside weighted ones, or an empty text."""
    count = content.get("unweighted_labels", 0)
    if not count:
        return ""
    return (
        f"**{count} labels have no weight and weigh 1**, so these figures describe no sample well: "
        "run `bula review-kit` again with the options of their kit, and import them again.\n"
    )


def pairs_table(content: Metrics, params: Params, path: Path) -> str:
    """Return the table of preferences, or an empty text."""
    lines = _head(PAIRS_HEAD)
    counts = ["prefer_variant", "prefer_baseline", "both", "neither", "undecided"]
    for pair in params.compare.pairs:
        name = f"prefer_{pair.name}"
        if name not in content:
            continue
        found = group(content, name, ["questions", *counts, "p"], path, STAGE)
        cells = [
            f"{markdown(pair.variant)}, {markdown(pair.baseline)}",
            *(str(found[key]) for key in ("questions", *counts)),
            _share(found, "prefer_variant"),
            f"{found['p']:.3g}",
            # A single test needs no correction.
            f"{found.get('p_holm', found['p']):.3g}",
        ]
        lines.append(table_line(cells))
    if len(lines) == HEAD_LINES:
        return ""
    note = (
        "The share and the exact sign test are about questions with a preference. The last column "
        "has Holm's correction over these pairs. "
    )
    if is_weighted(content):
        note += "The share weighs the questions; the counts and the test do not.\n"
    else:
        note += "No question has a weight.\n"
    return "\n".join(lines) + f"\n\n{note}"


def judge_note(content: Metrics, who: str, params: Params, path: Path) -> str:
    """Return the agreement of the judge with people, and its corrected rates."""
    parts = []
    for part in ("accuracy", "style"):
        items = f"{who}_items_{part}"
        group(content, "", [items], path, STAGE)
        kappa = statistic(content, f"{who}_kappa_{part}")
        parts.append(f"{part} {kappa} ({content[items]} answers)")
    lines = [f"Judge against these labels, `{who}_kappa`: {'; '.join(parts)}.\n"]
    is_corrected = False
    for variant in params.variants:
        found = group(content, f"judge_{variant}", ["verdicts"], path, STAGE)
        text = corrected_share(found)
        is_corrected = is_corrected or bool(text)
        if not text:
            text = f"withheld: {markdown(str(found.get('withheld', '')))}"
        lines.append(f"- {markdown(variant)}, correct answers by the corrected judge: {text}.")
    if is_corrected:
        lines += ["", JUDGE_WEIGHTED if is_weighted(content) else JUDGE_UNWEIGHTED]
    return "\n".join(lines).rstrip() + "\n"


def corrected_share(figures: Metrics) -> str:
    """Return the corrected share of one variant with its interval, or an empty text."""
    if "accuracy_3_corrected_share" not in figures:
        return ""
    low, high = (100 * figures[f"accuracy_3_corrected_{end}"] for end in ("low", "high"))
    share = 100 * figures["accuracy_3_corrected_share"]
    return f"{share:.0f} % [{low:.0f}, {high:.0f}] of {figures['verdicts']} answers"


def _head(names: tuple[str, ...]) -> list[str]:
    """Return the first two lines of a table."""
    return [table_line(names), "|---" * len(names) + "|"]


def statistic(figures: Metrics, name: str) -> str:
    """Return a statistic with its interval, if it is defined."""
    if name not in figures:
        return UNKNOWN
    text = f"{figures[name]:.2f}"
    if f"{name}_low" not in figures:
        return text
    return f"{text} [{figures[f'{name}_low']:.2f}, {figures[f'{name}_high']:.2f}]"


def _percent(figures: Metrics, name: str) -> str:
    """Return a share in percent, if it was measured."""
    return f"{100 * figures[name]:.0f}" if name in figures else UNKNOWN


def _correct(figures: Metrics) -> str:
    """Return the share of correct answers.

    The number of judged answers follows if raters could not judge all of them.
    """
    scored = figures.get("accuracy_scored", figures["answers"])
    text = _share(figures, "accuracy_3")
    if text == UNKNOWN or scored == figures["answers"]:
        return text
    return f"{text} ({scored} of {figures['answers']} answers)"


def _share(figures: Metrics, name: str) -> str:
    """Return a share with its interval in percent, if it was measured."""
    if f"{name}_share" not in figures:
        return UNKNOWN
    low, high = (100 * figures[f"{name}_{end}"] for end in ("low", "high"))
    return f"{_percent(figures, f'{name}_share')} [{low:.0f}, {high:.0f}]"
