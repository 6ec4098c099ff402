"""State in plain sentences what the figures show, in English and Portuguese.

Each primary measure of each pair gets one sentence. The sentence says what changed, by how much and
how sure that is. Exploratory measures are named, but they support no conclusion.
"""

from collections import Counter
from typing import Literal

from bula.escaping import markdown
from bula.params import Pair, Params
from bula.stats import ALPHA, POWER
from bula.tables import LOWER_IS_BETTER, p_text
from stages.compare.pairs import Difference, Results, results_of
from stages.compare.portuguese import PORTUGUESE
from stages.compare.seeds import CPU_ROUGE_L
from stages.compare.sentences import ENGLISH, Language, Verdict

# The verdicts by which a pair shows nothing about a measure.
NO_MEANING = ("loops", "constant", "judge")


def conclusion(results: Results, params: Params) -> str:
    """Return the conclusion in both languages."""
    return "\n".join(_section(language, results, params) for language in (ENGLISH, PORTUGUESE))


def _section(language: Language, results: Results, params: Params) -> str:
    """Return the conclusion in one language, with a paragraph and a list per pair."""
    parts = [f"## {language.title}\n"]
    for pair in params.compare.pairs:
        rows = dict(results_of(pair, results))
        primary = {name: row for name, row in rows.items() if row["primary"]}
        others = {name: row for name, row in rows.items() if not row["primary"]}
        lines = [_sentence(language, name, primary, params) for name in primary]
        lines += _remarks(language, primary, others)
        parts.append(_opening(language, pair, primary) + "\n")
        parts.append("\n".join(f"- {line}" for line in lines) + "\n")
    return "\n".join(parts)


def verdict(measure: str, row: Difference) -> Verdict:
    """Return what one difference shows."""
    if not row["meaningful"]:
        return _doubt(row)
    if row.get("p_holm", row["p"]) >= ALPHA:
        return "unsure"
    if row.get("within_seed_range"):
        return "seeds"
    if measure == "rougeL_f" and abs(row["difference"]) <= CPU_ROUGE_L:
        return "machine"
    return _side(measure, row)


def _doubt(row: Difference) -> Literal["constant", "judge", "loops"]:
    """Return why a difference is not meaningful."""
    if row["constant_answers"]:
        return "constant"
    return "judge" if row["judge_withheld"] else "loops"


def _side(measure: str, row: Difference) -> Literal["better", "worse"]:
    """Return whether the variant has the better or the worse mean."""
    sign = -1 if measure in LOWER_IS_BETTER else 1
    return "better" if sign * row["difference"] > 0 else "worse"


def _opening(language: Language, pair: Pair, rows: Results) -> str:
    """Return the numbers of measures that are better, worse, open and not meaningful."""
    counts: Counter[str] = Counter()
    for measure, row in rows.items():
        found = verdict(measure, row)
        if found in NO_MEANING:
            counts["none"] += 1
        else:
            counts[found if found in ("better", "worse") else "open"] += 1
    texts = [text.format(n=counts[name]) for name, text in language.counts.items()]
    names = {"variant": pair.variant, "baseline": pair.baseline}
    return language.pair.format(counts=", ".join(texts), **names)


def _sentence(language: Language, measure: str, rows: Results, params: Params) -> str:
    """Return the sentence about one primary measure."""
    row = rows[measure]
    reach = ""
    if "detectable" in row:
        detectable = _number(language, row["detectable"])
        reach = language.reach.format(detectable=detectable, power=f"{POWER:.0%}")
    return language.verdict[verdict(measure, row)].format(
        name=_name(language, measure),
        change=_number(language, row["difference"], sign="+"),
        items=row["items"],
        sure=_sureness(language, rows, row, params),
        reach=reach,
        seed_range=_number(language, row.get("seed_range", 0.0)),
        machine=_number(language, CPU_ROUGE_L),
        limit=f"{params.compare.max_degenerate_share:.0%}",
    )


def _sureness(language: Language, rows: Results, row: Difference, params: Params) -> str:
    """Return the corrected p-value and the interval of a difference, where it has them."""
    if "p_holm" not in row:
        return ""
    p_value = p_text(row["p_holm"], row).replace(".", language.decimal_point)
    if not p_value.startswith("≤"):
        p_value = f"= {p_value}"
    tests = sum("p_holm" in other for other in rows.values())
    text = language.holm.format(p=p_value, tests=tests)
    if "low" in row:
        text += language.interval.format(
            confidence=f"{params.compare.confidence:.0%}",
            low=_number(language, row["low"], sign="+"),
            high=_number(language, row["high"], sign="+"),
        )
    return text


def _remarks(language: Language, primary: Results, others: Results) -> list[str]:
    """Return the sentences about seeds and about exploratory measures."""
    remarks = []
    if not any("seeds" in row for row in primary.values()):
        remarks.append(language.no_seeds)
    hints = []
    unsaid = []
    for measure, row in others.items():
        name = _name(language, measure)
        if not row["meaningful"]:
            unsaid.append(name)
        elif row["p"] < ALPHA:
            form = language.better if _side(measure, row) == "better" else language.worse
            hints.append(form.format(name=name))
    alpha = _number(language, ALPHA)
    found = ", ".join(hints) or language.nothing
    remarks.append(language.exploratory.format(alpha=alpha, found=found))
    if unsaid:
        remarks.append(language.unsaid.format(found=", ".join(unsaid)))
    return remarks


def _name(language: Language, measure: str) -> str:
    """Return the name of a measure in a sentence."""
    return language.measures.get(measure, markdown(measure))


def _number(language: Language, value: float, sign: str = "") -> str:
    """Return a number with three significant digits."""
    return f"{value:{sign}.3g}".replace(".", language.decimal_point)
