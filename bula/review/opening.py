"""Write the lines of a review that a reviewer reads first."""

from collections import Counter
from collections.abc import Callable

from bula.review.cells import CELL_BYTES, code, count, number, short
from bula.review.changes import NO_OUTPUT, base_of, profile_of
from bula.review.measures import machine, processor
from bula.review.report import Review
from bula.review.runs import Run
from bula.review.verdicts import NOISE, NOT_COMPARABLE, NOT_MEANINGFUL, UNCHANGED, Figure

MOST_NAMES = 6
MOST_REASONS = 3
MOST_PROBLEMS = 5


def title(review: Review) -> str:
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


def opening_lines(review: Review) -> list[str]:
    """Return the lines that a reviewer reads first."""
    before, after = review.before, review.after
    by_verdict: dict[str, list[Figure]] = {}
    for figure in review.figures:
        by_verdict.setdefault(figure.verdict, []).append(figure)
    noise = by_verdict.get(NOISE, [])
    unchanged = by_verdict.get(UNCHANGED, [])
    without = [*by_verdict.get(NOT_COMPARABLE, []), *by_verdict.get(NOT_MEANINGFUL, [])]
    return [
        f"- **Gate**: {_gate_line(review)}{_thresholds(review)}",
        f"- **Worse**: {_names(by_verdict.get('worse', []), _with_difference)}",
        f"- **Better**: {_names(by_verdict.get('better', []), _with_difference)}",
        f"- **No difference beyond noise**: {count(len(noise), 'figure')}. "
        f"**Unchanged**: {count(len(unchanged), 'figure')}. "
        f"**No comparison**: {_reasons(without)}",
        f"- **How**: {_how(review)}",
        f"- **Runs**: {_run(after)}, against {_run(before)}{_behind(review)}",
        f"- **dvc.lock**: {_lock(review.problems)}{_stale(review.after)}",
        f"- **Changed**: {_changed(review)}",
    ]


def equal_line(review: Review) -> str:
    """Return the two sentences that say that nothing differs."""
    before, answers = review.before, review.answers
    figures = count(len(review.figures), "figure")
    known = f"{count(answers.compared, 'answer')}" if answers.compared else ""
    named = ", ".join(filter(None, [figures, known, "the parameters", "the counts of data"]))
    unknown = "" if answers.compared else " The answers are unknown, because rows are missing."
    return (
        f"Nothing differs from {short(before.name, CELL_BYTES)} (`{before.commit}`): {named}. "
        f"Gate: {_gate_line(review)}.{unknown}"
    )


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
    if not parts:
        number = len(review.outcomes)
        parts.append(f"{number} of {number} {'figure passes' if number == 1 else 'figures pass'}")
    return "; ".join([*parts, *_caveats(review)])


def _caveats(review: Review) -> list[str]:
    """Return how many gates could not fail, and what follows from dvc.lock."""
    found = []
    passed = [outcome for outcome in review.outcomes if outcome.result == "pass"]
    idle = [code(outcome.gate.figure) for outcome in passed if not outcome.can_fail]
    if idle:
        gates = f"{count(len(idle), 'gate')} could not fail"
        found.append(f"{gates}, because every possible loss is allowed: {_list(idle)}")
    if review.problems:
        found.append(f"dvc.lock {review.lock}s")
    return found


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
