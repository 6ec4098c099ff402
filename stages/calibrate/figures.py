"""Compute the agreement of judges with people and with each other."""

from collections.abc import Sequence

from bula.calibration import Labeller, error_rates
from bula.judge_attacks import Attacked
from bula.judge_outcomes import count_failures
from bula.params import Judge, Params
from bula.records import Row
from bula.reports import Scalar
from bula.stats import standard_error, wilson_interval
from stages.calibrate.estimates import Estimate, estimate, kappa, rank_correlation
from stages.calibrate.gold import Questions

PARTS = ("accuracy", "style")
LABELLERS: tuple[Labeller, ...] = ("author", "clinician")
HIGHEST = 3

Figures = dict[str, Scalar]
# Verdict rows of one judge by id.
Verdicts = dict[str, Row]


def judge_figures(
    questions: Questions, verdicts: Verdicts, judge: Judge, params: Params
) -> Figures:
    """Return all figures of one judge.

    Gold answers without text are counted only, because they get their scores without the judge.
    """
    gold = judged_rows(questions.gold, verdicts)
    failures = count_failures([verdicts[row["id"]] for row in gold])
    failed = sum(failures.values())
    figures: Figures = {
        "judge": judge.model,
        "judge_kind": judge.kind,
        "items": len(questions.gold),
        "empty": len(questions.gold) - len(gold),
        "scored": len(gold) - failed,
        "failed": failed,
        **failures,
        **kappas(gold, verdicts, params),
    }
    labelled_by = trusted_labeller(gold)
    figures["labelled_by"] = labelled_by
    labelled = rows_of(labelled_by, gold)
    for part in PARTS:
        figures |= part_figures(part, labelled, verdicts, params)
    figures |= flip_figures(questions, verdicts, params)
    return figures | attack_figures(questions.attacked, verdicts, params)


def judged_rows(gold: Sequence[Row], verdicts: Verdicts) -> list[Row]:
    """Return the gold answers that the judge was asked about: those with a text."""
    return [row for row in gold if "empty" not in verdicts[row["id"]]]


def trusted_labeller(gold: Sequence[Row]) -> Labeller:
    """Return the labeller whose kappa decides: a clinician if there is one."""
    return "clinician" if rows_of("clinician", gold) else "author"


def rows_of(labeller: Labeller, gold: Sequence[Row]) -> list[Row]:
    """Return the gold answers that a labeller scored."""
    return [row for row in gold if row["labelled_by"] == labeller]


def kappas(gold: Sequence[Row], verdicts: Verdicts, params: Params) -> Figures:
    """Return the number of answers and the kappa of each kind of labeller."""
    figures: Figures = {}
    for labeller in LABELLERS:
        labelled = rows_of(labeller, gold)
        if not labelled:
            continue
        figures[f"{labeller}_items"] = len(labelled)
        for part in PARTS:
            scored = scored_rows(part, labelled, verdicts)
            people = [row[part] for row in scored]
            judged = [verdicts[row["id"]][part] for row in scored]
            name = f"{labeller}_kappa_{part}"
            figures |= named(name, estimate(kappa, people, judged, params))
    return figures


def scored_rows(part: str, gold: Sequence[Row], verdicts: Verdicts) -> list[Row]:
    """Return the gold answers that got a score, without failures and abstentions."""
    return [row for row in gold if verdicts[row["id"]].get(part) is not None]


def named(name: str, found: Estimate) -> Figures:
    """Return an estimate as figures."""
    return {
        name: found.value,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_interval": found.interval,
    }


def part_figures(part: str, labelled: Sequence[Row], verdicts: Verdicts, params: Params) -> Figures:
    """Return abstentions, equal scores, error rates and length bias of one part.

    Sensitivity and specificity are about the highest score.
    """
    answered = sum("failed" not in verdicts[row["id"]] for row in labelled)
    scored = scored_rows(part, labelled, verdicts)
    people = [row[part] for row in scored]
    judged = [verdicts[row["id"]][part] for row in scored]
    abstained = answered - len(scored)
    figures: Figures = {f"{part}_scored": len(scored), f"{part}_abstained": abstained}
    if answered:
        figures[f"{part}_abstained_share"] = abstained / answered
    figures |= equal_figures(part, people, judged)
    rates = error_rates([a == HIGHEST for a in people], [b == HIGHEST for b in judged])
    errors = {} if rates is None else rates._asdict()
    figures |= {f"{part}_{name}": value for name, value in errors.items()}
    excess = [b - a for a, b in zip(people, judged, strict=True)]
    lengths = [len(row["answer"].split()) for row in scored]
    bias = estimate(rank_correlation, excess, lengths, params)
    return figures | named(f"{part}_length_bias", bias)


def equal_figures(part: str, first: Sequence[int], second: Sequence[int]) -> Figures:
    """Return the share of equal scores with its standard error, if there are scores."""
    if not first:
        return {}
    equal = [float(a == b) for a, b in zip(first, second, strict=True)]
    return {
        f"{part}_equal_share": sum(equal) / len(equal),
        f"{part}_equal_stderr": standard_error(equal),
    }


def flip_figures(questions: Questions, verdicts: Verdicts, params: Params) -> Figures:
    """Return the share of repeated answers whose score changes.

    An abstention counts as another score here. Answers with a failed call do not count.
    """
    groups = []
    for item, copies in questions.repeated.items():
        group = [verdicts[item], *(verdicts[row["id"]] for row in copies)]
        if not any("failed" in row for row in group):
            groups.append(group)
    figures: Figures = {"repeats": params.calibrate.repeats, "flip_items": len(groups)}
    for part in PARTS if groups else ():
        changed = [len({row[part] for row in group}) > 1 for group in groups]
        figures |= share_figures(f"{part}_flip", changed, params)
    return figures


def share_figures(name: str, found: Sequence[bool], params: Params) -> Figures:
    """Return a share with Wilson's interval."""
    low, high = wilson_interval(sum(found), len(found), params.calibrate.confidence)
    return {f"{name}_share": sum(found) / len(found), f"{name}_low": low, f"{name}_high": high}


def attack_figures(attacked: Sequence[Attacked], verdicts: Verdicts, params: Params) -> Figures:
    """Return the share of attacks that raise the accuracy of a wrong answer.

    Only answers whose score can rise count: a plain score of 1 or 2 by the judge.
    """
    raised = []
    for plain, row in attacked:
        before = verdicts[plain].get("accuracy")
        after = verdicts[row["id"]].get("accuracy")
        if before is not None and after is not None and before < HIGHEST:
            raised.append(after > before)
    figures: Figures = {"attacks": len(attacked), "attack_items": len(raised)}
    if raised:
        figures |= share_figures("attack_success", raised, params)
    return figures


def judges_agreement(
    gold: Sequence[Row], first: Verdicts, second: Verdicts, params: Params
) -> Figures:
    """Return how far two judges agree on the answers that both scored."""
    gold = judged_rows(gold, first)
    figures: Figures = {}
    for part in PARTS:
        scored = scored_rows(part, scored_rows(part, gold, first), second)
        ids = [row["id"] for row in scored]
        one = [first[item][part] for item in ids]
        other = [second[item][part] for item in ids]
        figures[f"{part}_items"] = len(ids)
        figures |= named(f"{part}_kappa", estimate(kappa, one, other, params))
        figures |= equal_figures(part, one, other)
    return figures
