"""Write a review as Markdown for a pull request, or as JSON.

The first lines carry the verdict. The rest is folded, and lines that would exceed the limit are
left out and counted.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from bula.escaping import markdown
from bula.review.answers import STATED, Answers, Changed
from bula.review.changes import NO_OUTPUT, Change, base_of, profile_of
from bula.review.gate import Outcome
from bula.review.measures import machine, processor
from bula.review.runs import Run
from bula.review.verdicts import NOISE, NOT_COMPARABLE, NOT_MEANINGFUL, Figure
from bula.tables import HIGHER, LOWER

# GitHub refuses comments above 65,536 characters, and a reader refuses more than this.
MOST_BYTES = 19_500
MOST_NAMES = 6
MOST_REASONS = 3
MOST_PROBLEMS = 5
# Bytes of one cell after escaping.
CELL_BYTES = 120
TEXT_BYTES = 700
# Names, paths and numbers that Markdown shows as they are between backticks.
PLAIN = re.compile(r"[\w.\[\]@/+-]+", re.ASCII)
LEFT_OUT = "{others} more lines: `python -m bula review --json` prints all of them."
MARKS = {"committed figures": "\\*"}
LEGEND = (
    "≈ no difference beyond noise, = no changed item, \\* from committed figures (unpaired), "
    "† on shared items only, ‡ within the range over training seeds (metrics/seeds.json), so that "
    "another seed may explain it, – no such figure."
)


class Review(NamedTuple):
    """Everything that a review says."""

    before: Run
    after: Run
    behind: int
    """Commits of the other run's branch that this one lacks."""
    problems: list[str]
    """Differences between dvc.lock and the workspace."""
    figures: list[Figure]
    outcomes: list[Outcome]
    params: list[Change]
    counts: list[Change]
    headline: list[Change]
    answers: Answers
    alpha: float
    lock: Literal["fail", "warn"]
    """What follows if dvc.lock does not match."""
    differing: list[str]
    """Thresholds of the other run, which apply, that this run has with another value."""

    @property
    def passed(self) -> bool:
        """Return whether no gate fails, and dvc.lock matches or need not."""
        return not self.failed and not (self.problems and self.lock == "fail")

    @property
    def failed(self) -> list[Outcome]:
        """Return the gates that fail."""
        return [outcome for outcome in self.outcomes if outcome.result == "fail"]

    @property
    def warned(self) -> list[Outcome]:
        """Return the gates that warn."""
        return [outcome for outcome in self.outcomes if outcome.result == "warn"]


class Section(NamedTuple):
    """A part of the report whose rows may be left out."""

    head: str
    rows: list[str]
    tail: str = ""


# JSON


def as_object(review: Review) -> dict[str, Any]:
    """Return a review as a JSON object."""
    return {
        "passed": review.passed,
        "base": _run_object(review.before),
        "run": _run_object(review.after),
        "commits_behind": review.behind,
        "lock_matches": not review.problems,
        "lock_problems": review.problems,
        "alpha": review.alpha,
        "thresholds_that_differ": review.differing,
        "gates": [_outcome_object(outcome) for outcome in review.outcomes],
        "figures": [_figure_object(figure) for figure in review.figures],
        "parameters": [change._asdict() for change in review.params],
        "counts": [change._asdict() for change in review.counts],
        "headline": [change._asdict() for change in review.headline],
        "answers": {
            "compared": review.answers.compared,
            "changed": review.answers.changed,
            "hidden": review.answers.hidden,
            "distance": STATED,
            "shown": [changed._asdict() for changed in review.answers.shown],
        },
    }


def _run_object(run: Run) -> dict[str, Any]:
    """Return what identifies a run."""
    return {
        "name": run.name,
        "commit": run.commit,
        "uncommitted_changes": run.is_changed,
        "machine": machine(run),
        "processor": processor(run),
        "profile": profile_of(run),
        "base_model": base_of(run),
        "missing_rows": dict(run.missing),
        "stale_rows": list(run.stale),
    }


def _outcome_object(outcome: Outcome) -> dict[str, Any]:
    """Return one gate with its outcome."""
    return {**outcome.gate.model_dump(), "result": outcome.result, "reason": outcome.reason}


def _figure_object(figure: Figure) -> dict[str, Any]:
    """Return one figure with its name and direction."""
    content = figure._asdict()
    lower = content.pop("lower_is_better")
    return {"figure": figure.name, "direction": "lower" if lower else "higher", **content}


# Markdown


def as_markdown(review: Review) -> str:
    """Return a review as GitHub Markdown of less than 20 KB."""
    sections = [
        Section("\n".join([_title(review), "", *_opening(review)]) + "\n\n", []),
        _gate_section(review),
        _matrix(review.figures),
        _fold("All figures", _FIGURE_HEAD, map(_figure_row, review.figures)),
        _changes("Parameters", review.params),
        _changes("Counts of data and of personal data", review.counts),
        _answers(review.answers),
        _changes("Headline figures (metrics/summary.json)", review.headline),
        _missing(review),
    ]
    kept = [section for section in sections if section.rows or not section.tail]
    return _fit(kept, MOST_BYTES)


def _fit(sections: Sequence[Section], most: int) -> str:
    """Return the sections in at most `most` bytes, and count rows left out."""
    note = len(LEFT_OUT) + 10
    frames = [len(f"{part.head}{part.tail}".encode()) + note for part in sections]
    left = most - sum(frames)
    written = []
    for section in sections:
        rows = []
        for row in section.rows:
            size = len(row.encode()) + 1
            if size > left:
                break
            left -= size
            rows.append(row + "\n")
        others = len(section.rows) - len(rows)
        more = f"\n{LEFT_OUT.format(others=others)}\n" if others else ""
        written.append(section.head + "".join(rows) + more + section.tail)
    return "".join(written)


def _title(review: Review) -> str:
    """Return the verdict as a heading."""
    if review.problems:
        result = "" if review.passed else "the gate fails: "
        return f"# Review: {result}dvc.lock does not match, the figures belong to other code"
    if review.failed:
        return "# Review: the gate fails"
    if not review.outcomes:
        return "# Review: params.yaml sets no gate"
    warnings = len(review.warned)
    figures = [outcome.figure for outcome in review.warned]
    without = [f for f in figures if f and f.verdict in (NOT_COMPARABLE, NOT_MEANINGFUL)]
    if len(without) == len(review.outcomes):
        return "# Review: the gate could compare none of its figures"
    return f"# Review: the gate passes{', with ' + count(warnings, 'warning') if warnings else ''}"


def _opening(review: Review) -> list[str]:
    """Return the lines that a reviewer reads first."""
    before, after = review.before, review.after
    by_verdict: dict[str, list[Figure]] = {}
    for figure in review.figures:
        by_verdict.setdefault(figure.verdict, []).append(figure)
    same = by_verdict.get(NOISE, [])
    unchanged = sum(figure.p is None for figure in same)
    without = [*by_verdict.get(NOT_COMPARABLE, []), *by_verdict.get(NOT_MEANINGFUL, [])]
    return [
        f"- **Gate**: {_gate_line(review)}{_thresholds(review)}",
        f"- **Worse**: {_names(by_verdict.get('worse', []), _with_difference)}",
        f"- **Better**: {_names(by_verdict.get('better', []), _with_difference)}",
        f"- **No difference beyond noise**: {count(len(same), 'figure')}, "
        f"{unchanged} of them without a changed item. "
        f"**No comparison**: {_reasons(without)}",
        f"- **How**: {_how(review)}",
        f"- **Runs**: {_run(after)}, against {_run(before)}{_behind(review)}",
        f"- **dvc.lock**: {_lock(review.problems)}{_stale(review.after)}",
        f"- **Changed**: {_changed(review)}",
    ]


def _gate_line(review: Review) -> str:
    """Return which gates fail and which warn."""
    if not review.outcomes:
        return "none; `review.gates` in params.yaml sets them"
    parts = []
    for word, found in (("fail", review.failed), ("warn", review.warned)):
        texts = [f"{code(o.gate.figure)} ({short(_brief(o.reason), CELL_BYTES)})" for o in found]
        if found:
            verb = word if len(found) > 1 else f"{word}s"
            parts.append(f"{len(found)} of {len(review.outcomes)} {verb}: {_list(texts)}")
    return "; ".join(parts) or f"{len(review.outcomes)} of {len(review.outcomes)} pass"


def _thresholds(review: Review) -> str:
    """Return the thresholds of this run that the other run has with another value."""
    if not review.differing:
        return ""
    texts = [short(text, CELL_BYTES) for text in review.differing]
    base = short(review.before.name, CELL_BYTES)
    return f". **Thresholds differ from {base}**, whose apply: {_list(texts)}"


def _names(figures: list[Figure], text: Callable[[Figure], str]) -> str:
    """Return the names of figures in one line."""
    return _list([text(figure) for figure in figures]) if figures else "nothing"


def _list(texts: list[str]) -> str:
    """Return the first texts, and how many others there are."""
    shown = ", ".join(texts[:MOST_NAMES])
    others = len(texts) - MOST_NAMES
    return f"{shown} and {others} more" if others > 0 else shown


def _with_difference(figure: Figure) -> str:
    """Return the name of a figure with its difference."""
    within = f" (within the range of {count(figure.seeds, 'seed')})" if figure.seeds else ""
    return f"{code(figure.name)} {number(figure.difference, '+')}{within}"


def _reasons(figures: list[Figure]) -> str:
    """Return how many figures are without comparison, with the most frequent reasons."""
    if not figures:
        return "0 figures"
    # Numbers in brackets would make each reason another one.
    counts = Counter(f"{figure.verdict}: {_brief(figure.reason)}" for figure in figures)
    shown = [f"{times} {short(text, CELL_BYTES)}" for text, times in counts.most_common()]
    others = len(shown) - MOST_REASONS
    more = f"; {count(others, 'more reason')}" if others > 0 else ""
    return f"{count(len(figures), 'figure')} ({'; '.join(shown[:MOST_REASONS])}{more})"


def _brief(reason: str) -> str:
    """Return a reason without its numbers in brackets."""
    return reason.partition(" (")[0]


def _how(review: Review) -> str:
    """Return how the figures were compared."""
    sources = Counter(figure.source for figure in review.figures)
    by_items = f"{count(sources['items'], 'figure')} by pairs, item by item"
    level = (
        f"Holm's correction at {review.alpha:g} over the gated figures with a changed item, "
        "and over the others, "
        f"{100 * (1 - review.alpha):g} % intervals"
    )
    committed = sources["committed figures"]
    if not committed:
        return f"{by_items}; {level}"
    return f"{by_items}; {committed} from committed figures, because rows are missing; {level}"


def _run(run: Run) -> str:
    """Return what identifies a run."""
    changed = " with uncommitted changes" if run.is_changed else ""
    parts = [machine(run), processor(run), f"profile {profile_of(run)}", f"base {base_of(run)}"]
    named = ", ".join(short(part, CELL_BYTES) for part in parts if part)
    return f"{short(run.name, CELL_BYTES)} (`{run.commit}`{changed}; {named})"


def _behind(review: Review) -> str:
    """Return how many commits this branch lacks."""
    if not review.behind:
        return ""
    commits = count(review.behind, "commit")
    return f"; this branch lacks {commits} of it, so their effects show here too"


def _lock(problems: list[str]) -> str:
    """Return whether dvc.lock matches the code."""
    if not problems:
        return "matches the code, the parameters and the data"
    shown = "; ".join(map(_problem, problems[:MOST_PROBLEMS]))
    others = len(problems) - MOST_PROBLEMS
    more = f"; {others} more" if others > 0 else ""
    return f"**does not match**: {shown}{more}. Run `dvc repro`"


def _stale(run: Run) -> str:
    """Return which rows of this folder belong to another commit."""
    if not run.stale:
        return ""
    files = f"{count(len(run.stale), 'file')} of rows in this folder ({code(run.stale[0])})"
    reason = "without the hash of dvc.lock, so the review used DVC's rows or committed figures"
    return f"; {files} {reason}. Run `dvc checkout` or `python -m bula pull`"


def _problem(text: str) -> str:
    """Return a problem of dvc.lock, which starts with a path."""
    path, _, rest = text.partition(" ")
    return f"{code(path)} {short(rest, CELL_BYTES)}"


def _changed(review: Review) -> str:
    """Return how many parameters, counts and answers changed."""
    answers = review.answers
    idle = [change for change in review.params if change.key.startswith(NO_OUTPUT)]
    parameters = count(len(review.params) - len(idle), "parameter")
    if idle:
        parameters += f" (and {len(idle)} that change no output)"
    texts = [
        parameters,
        f"{count(len(review.counts), 'count')} of data and privacy",
    ]
    if answers.compared:
        texts.append(f"{answers.changed} of {answers.compared} answers")
    else:
        texts.append("answers unknown, because rows are missing")
    return ", ".join(texts)


def _gate_section(review: Review) -> Section:
    """Return the table of the gates."""
    head = (
        "| gate | allowed loss | floor | before → after | difference | p (Holm) | result |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return Section(head, [_gate_row(outcome) for outcome in review.outcomes], "\n")


def _gate_row(outcome: Outcome) -> str:
    """Return the row of one gate."""
    gate, figure = outcome.gate, outcome.figure
    result = outcome.result if outcome.result == "pass" else f"**{outcome.result}**"
    cells = [f"{code(gate.figure)} {LOWER if gate.direction == 'lower' else HIGHER}"]
    cells += [f"{gate.max_drop:g}", "–" if gate.floor is None else f"{gate.floor:g}"]
    cells += ["–", "–", "–"] if figure is None else _measured(figure)
    return row([*cells, f"{result}: {short(outcome.reason, CELL_BYTES)}"])


def _measured(figure: Figure) -> list[str]:
    """Return the cells of levels, difference and p-value."""
    interval = ""
    if figure.low is not None:
        interval = f" [{number(figure.low, '+')}, {number(figure.high, '+')}]"
    p_value = "–"
    if figure.p_holm is not None:
        p_value = f"{'≤ ' if figure.p_at_floor and figure.p_holm < 1 else ''}{figure.p_holm:.2g}"
    return [
        f"{number(figure.before)} → {number(figure.after)}",
        f"{number(figure.difference, '+')}{interval}",
        p_value,
    ]


def _matrix(figures: list[Figure]) -> Section:
    """Return the table of the verdicts by measure and variant."""
    variants = list(dict.fromkeys(figure.variant for figure in figures))
    cells: dict[str, dict[str, str]] = {}
    for figure in figures:
        arrow = LOWER if figure.lower_is_better else HIGHER
        cells.setdefault(f"{code(figure.measure)} {arrow}", {})[figure.variant] = _cell(figure)
    head = row(["figure", *map(code, variants)]) + "\n|" + "---|" * (len(variants) + 1) + "\n"
    rows = [row([name, *(found.get(v, "–") for v in variants)]) for name, found in cells.items()]
    return Section(head, rows, f"\n{LEGEND}\n\n")


def _cell(figure: Figure) -> str:
    """Return the verdict on a figure in a few words."""
    if figure.before is None or figure.after is None:
        return "new" if figure.before is None else "**missing**"
    if figure.verdict in (NOT_COMPARABLE, NOT_MEANINGFUL):
        return figure.verdict
    mark = MARKS.get(figure.source, " †" if figure.reason.startswith("on shared") else "")
    mark += " ‡" if figure.seeds else ""
    if figure.verdict != NOISE:
        return f"**{figure.verdict}** {number(figure.difference, '+')}{mark}"
    if figure.p is None:
        return f"={mark}"
    return f"≈ {number(figure.difference, '+')}{mark}"


_FIGURE_HEAD = (
    "figure",
    "before → after",
    "difference [interval]",
    "p (Holm)",
    "items",
    "compared by",
    "verdict",
)


def _figure_row(figure: Figure) -> str:
    """Return the row of one figure with all its numbers."""
    arrow = LOWER if figure.lower_is_better else HIGHER
    reason = f": {short(figure.reason, CELL_BYTES)}" if figure.reason else ""
    source = figure.source if figure.source != "none" else "–"
    items = str(figure.items) if figure.items else "–"
    cells = [f"{code(figure.name)} {arrow}", *_measured(figure), items, source]
    return row([*cells, f"{figure.verdict}{reason}"])


def _fold(title: str, head: Iterable[str], rows: Iterable[str]) -> Section:
    """Return a table that the reader must unfold."""
    cells = list(head)
    found = list(rows)
    opening = f"<details><summary>{title} ({len(found)})</summary>\n\n"
    table = row(cells) + "\n|" + "---|" * len(cells) + "\n"
    return Section(opening + table, found, "\n</details>\n\n")


def _changes(title: str, changes: list[Change]) -> Section:
    """Return the table of changed values."""
    rows = [row([code(key), value(before), value(after)]) for key, before, after in changes]
    return _fold(f"{title} that changed", ("key", "before", "after"), rows)


def _answers(answers: Answers) -> Section:
    """Return the answers that changed most."""
    hidden = ""
    if answers.hidden:
        hidden = (
            f"{answers.hidden} changed answers are not shown, because their source does not allow "
            "redistribution. "
        )
    section = _fold("Answers that changed most", _ANSWER_HEAD, map(_answer_row, answers.shown))
    tail = f"\n{hidden}{STATED}.\n{section.tail}"
    if not answers.shown and hidden:
        return Section(f"{hidden}\n\n", [])
    return section._replace(tail=tail)


_ANSWER_HEAD = ("variant, distance", "question", "before", "after")


def _answer_row(changed: Changed) -> str:
    """Return the row of one answer."""
    texts = (changed.question, changed.before, changed.after)
    cells = [short(text, TEXT_BYTES) or "(empty)" for text in texts]
    return row([f"{code(changed.variant)}, {changed.distance:.2f}", *cells])


def _missing(review: Review) -> Section:
    """Return the files of rows that are missing, with the reason."""
    rows = []
    for run in (review.before, review.after):
        for path, reason in run.missing.items():
            rows.append(row([short(run.name, CELL_BYTES), code(path), short(reason, CELL_BYTES)]))
    return _fold("Rows that are missing", ("run", "file", "why"), rows)


# Cells


def row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def code(text: str) -> str:
    """Return a name between backticks, or escaped if it has other signs."""
    is_plain = len(text) <= CELL_BYTES and PLAIN.fullmatch(text)
    return f"`{text}`" if is_plain else short(text, CELL_BYTES)


def count(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def number(figure: float | None, sign: str = "") -> str:
    """Return a number with four significant digits, or a signed one with three."""
    digits = 3 if sign else 4
    return "–" if figure is None else f"{figure:{sign}.{digits}g}"


def value(content: Any) -> str:
    """Return a value of a file as one cell."""
    text = content if isinstance(content, str) else json.dumps(content, default=str)
    return code(text) or "(empty)"


def short(text: str, most: int) -> str:
    """Return the start of a text, escaped, in at most `most` bytes."""
    cut = text[:most]
    escaped = markdown(cut)
    while len(escaped.encode()) > most:
        cut = cut[: len(cut) * 9 // 10]
        escaped = markdown(cut)
    return escaped if cut == text else f"{escaped} …"
