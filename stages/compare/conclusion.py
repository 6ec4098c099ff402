"""State in plain sentences what the figures show, in English and Portuguese.

Each pair starts with the shares of degenerate answers and with the controls that are not beaten.
Each primary measure of each pair gets one sentence. The sentence says what changed, by how much and
how sure that is. Exploratory measures are named, but they support no conclusion.
"""

from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Literal, NamedTuple

from bula.escaping import markdown
from bula.paired import Difference
from bula.params import Pair, Params
from bula.stats import ALPHA, POWER
from bula.tables.controls import Unbeaten, compared_variants, control_sentence, unbeaten_controls
from bula.tables.differences import LOWER_IS_BETTER, p_text
from bula.tables.figures import degenerate_share, missed_emergencies
from stages.compare.pairs import Results, borrowers, needs_answer, results_of
from stages.compare.portuguese import PORTUGUESE
from stages.compare.seeds import CPU_ROUGE_L
from stages.compare.sentences import ENGLISH, Language, Verdict

# The verdicts by which a pair shows nothing about a measure.
NO_MEANING = ("loops", "constant", "judge")
# From this share on, the conclusion says "nearly all".
NEARLY_ALL = 0.9


class Facts(NamedTuple):
    """Facts about the variants that a reader needs before any comparison."""

    degenerate: dict[str, float]
    """Share of degenerate answers of each variant."""
    unbeaten: dict[str, list[Unbeaten]]
    """The controls that each compared variant does not beat."""
    missed: dict[str, tuple[int, int]]
    """Emergencies that each compared variant missed, and emergencies that it answered."""


def read_facts(figures: Path, results: Results, params: Params) -> Facts:
    """Return the facts that open the conclusion."""
    shares = {variant: degenerate_share(figures, variant) for variant in params.variants}
    unbeaten = {}
    missed = {}
    for variant in compared_variants(params):
        unbeaten[variant] = unbeaten_controls(figures, variant, params, results)
        missed[variant] = missed_emergencies(figures, variant)
    return Facts(shares, unbeaten, missed)


def conclusion(results: Results, facts: Facts, params: Params) -> str:
    """Return the conclusion in both languages."""
    languages = (ENGLISH, PORTUGUESE)
    sections = []
    for language in languages:
        text = conclusion_in(language, results, facts, params)
        sections.append(f"## {language.title}\n\n{text}")
    return "\n".join(sections)


def conclusion_in(language: Language, results: Results, facts: Facts, params: Params) -> str:
    """Return the conclusion in one language, with a paragraph and a list per pair."""
    parts = []
    for pair in params.compare.pairs:
        rows = dict(results_of(pair, results))
        primary = {name: row for name, row in rows.items() if row["primary"]}
        others = {name: row for name, row in rows.items() if not row["primary"]}
        lines = [_sentence(language, name, primary, params) for name in primary]
        lines += _missing(language, pair, rows, params)
        lines += _remarks(language, primary, others)
        known = _facts(language, pair, facts, params)
        parts.append(_opening(language, pair, primary, known) + "\n")
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


def _facts(language: Language, pair: Pair, facts: Facts, params: Params) -> str:
    """Return the sentences about degenerate answers and controls of one pair."""
    shares = {name: facts.degenerate[name] for name in (pair.variant, pair.baseline)}
    sentences = []
    for name, share in shares.items():
        if share > params.compare.max_degenerate_share:
            how_many = language.nearly_all if share >= NEARLY_ALL else language.many
            text = _percent(language, share)
            sentences.append(language.unusable.format(how_many=how_many, variant=name, share=text))
    if len(sentences) < len(shares):
        levels = language.levels.format(
            baseline=pair.baseline,
            before=_percent(language, shares[pair.baseline]),
            variant=pair.variant,
            after=_percent(language, shares[pair.variant]),
        )
        sentences.append(levels)
    missed, emergencies = facts.missed.get(pair.variant, (0, 0))
    if missed:
        text = language.missed.format(missed=missed, count=emergencies, variant=pair.variant)
        sentences.append(text)
    for found in facts.unbeaten[pair.variant]:
        sentences.append(control_sentence(found, pair.variant, language.controls))
    return " ".join(sentences)


def _opening(language: Language, pair: Pair, rows: Results, facts: str) -> str:
    """Return the facts, and the numbers of better, worse, open and meaningless measures."""
    counts: Counter[str] = Counter()
    for measure, row in rows.items():
        found = verdict(measure, row)
        if found in NO_MEANING:
            counts["none"] += 1
        else:
            counts[found if found in ("better", "worse") else "open"] += 1
    texts = [text.format(n=counts[name]) for name, text in language.counts.items()]
    names = {"variant": pair.variant, "baseline": pair.baseline}
    known = f" {facts} {_gains(language, rows)}"
    return language.pair.format(counts=", ".join(texts), facts=known, **names)


def _gains(language: Language, rows: Results) -> str:
    """Return which primary measures became better and worse, in words for everybody."""
    found: dict[str, list[str]] = {}
    for measure, row in rows.items():
        words = language.gains.get(measure, _name(language, measure))
        found.setdefault(verdict(measure, row), []).append(words)
    sentences = [language.no_gain]
    if "better" in found:
        sentences = [language.improved.format(found="; ".join(found["better"]))]
    if "worse" in found:
        sentences.append(language.worsened.format(found="; ".join(found["worse"])))
    return " ".join(sentences)


def _sentence(language: Language, measure: str, rows: Results, params: Params) -> str:
    """Return the sentence about one primary measure."""
    row = rows[measure]
    amount = language.amount.format(
        name=_name(language, measure),
        before=_level(language, row, row["before"]),
        after=_level(language, row, row["after"]),
        change=_change(language, row, row["difference"], sign="+"),
        items=row["items"],
        sure=_sureness(language, rows, row, params),
    )
    return language.verdict[verdict(measure, row)].format(
        name=_name(language, measure),
        amount=amount,
        reach=_reach(language, row),
        seed_range=_change(language, row, row.get("seed_range", 0.0)),
        machine=_number(language, CPU_ROUGE_L),
        limit=f"{params.compare.max_degenerate_share * 100:.0f} %",
    )


def _reach(language: Language, row: Difference) -> str:
    """Return the sentence about the smallest detectable change, if there is one."""
    if "detectable" not in row:
        return ""
    is_exact = row["binary"] and row["groups"] == row["items"]
    return language.reach.format(
        direction=language.directions[_direction(row)],
        detectable=_change(language, row, row["detectable"]),
        one_way=language.one_way if is_exact else "",
        power=f"{POWER * 100:.0f} %",
    )


def _direction(row: Difference) -> Literal["any", "fall", "rise"]:
    """Return in which direction the smallest detectable change is possible.

    A share of 97 % can rise by 3 percentage points only.
    """
    if row["binary"] and row["detectable"] > 1 - row["before"]:
        return "fall"
    return "rise" if row["binary"] and row["detectable"] > row["before"] else "any"


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
            confidence=f"{params.compare.confidence * 100:g} %",
            low=_change(language, row, row["low"], sign="+"),
            high=_change(language, row, row["high"], sign="+"),
        )
    return text


def _missing(language: Language, pair: Pair, rows: Results, params: Params) -> list[str]:
    """Return the sentences about measures that a pair lacks.

    The judge or a server may have failed on so many items that no item has a value under both
    variants.
    """
    lines = []
    for measure in params.compare.primary:
        if needs_answer(measure) and measure not in rows:
            lines.append(language.unpaired.format(name=_name(language, measure)))
    for variant, other in borrowers(pair, params).items():
        lines.append(language.borrowed.format(variant=variant, other=other))
    return lines


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


def _level(language: Language, row: Difference, value: float) -> str:
    """Return a variant's mean, in percent if it is a share."""
    if row["binary"]:
        return _percent(language, value)
    return f"{value:.3f}".replace(".", language.decimal_point)


def _change(language: Language, row: Difference, value: float, sign: str = "") -> str:
    """Return a difference, in percentage points if it is about shares of items."""
    if not row["binary"]:
        return _number(language, value, sign)
    points = f"{value * 100:{sign}z.1f}".replace(".", language.decimal_point)
    return f"{points} {language.points}"


def _percent(language: Language, share: float) -> str:
    """Return a share in percent with one digit after the point."""
    return f"{share * 100:.1f} %".replace(".", language.decimal_point)


def _digits(value: float, sign: str = "") -> str:
    """Return three significant digits, without an exponent and without a negative zero."""
    return f"{Decimal(f'{value:z.3g}'):{sign}f}"


def _number(language: Language, value: float, sign: str = "") -> str:
    """Return a number with three significant digits."""
    return _digits(value, sign).replace(".", language.decimal_point)
