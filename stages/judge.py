"""Score the answers of one variant with an LLM judge.

Accuracy and style get 1 to 3 each, with a written reason. Calls that fail are counted and never
scored, and so are scores of a judge that cannot say. Verdicts are appended to .bula/ledger.jsonl as
they arrive, and found again in there and in data/verdicts, so that no verdict is paid twice.

    python -m stages.judge base
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.calibration import Agreement, correct_rate, read_agreement
from bula.errors import UserError, run_stage
from bula.escaping import terminal
from bula.item_scores import AnswerRow, read_checked
from bula.judge_outcomes import count_failures, failure_note
from bula.judging import verdicts_or_error
from bula.params import Judge, Params, load_params, variant_of
from bula.records import SET_NAMES, Row, write_rows
from bula.reports import Scalar, write_metrics, write_plot
from bula.stats import standard_error

PARTS = ("accuracy", "style")
SCORES = (1, 2, 3)
CALIBRATION = Path("metrics/calibrate.json")


def first_of_each_set(rows: list[AnswerRow], count: int) -> list[AnswerRow]:
    """Return the answers to the first `count` questions of each validation set.

    A question whose request failed has no answer. Raise UserError if there is no answer at all.
    """
    chosen = []
    for name in SET_NAMES:
        in_set = [row for row in rows if row.split == name]
        chosen += [row for row in in_set[:count] if row.has_answer]
    if not chosen:
        what = "no question that it selects has an answer"
        raise UserError("judge.items_per_set", what, "raise it, or run the stage generate again")
    return chosen


def to_judge(row: AnswerRow) -> Row:
    """Return one row in the form that the judge reads."""
    return {
        "id": row.id,
        "split": row.split,
        "history": [turn.model_dump() for turn in row.history or []],
        "question": row.question,
        "reference": row.answer,
        "answer": row.generated,
    }


def summarise(verdicts: list[Row], settings: Judge) -> dict[str, Scalar]:
    """Return the figures of the verdicts: counts, means and shares.

    Only successful calls have scores. A part in which the judge always abstained has no mean.
    """
    scored = [row for row in verdicts if "failed" not in row]
    metrics: dict[str, Scalar] = {
        "judge": settings.model,
        "items": len(verdicts),
        "scored": len(scored),
        "empty": sum("empty" in row for row in verdicts),
        "attack_like": sum("attack_like" in row for row in verdicts),
        "failed": len(verdicts) - len(scored),
        **count_failures(verdicts),
    }
    for part in PARTS:
        scores = scores_of(scored, part)
        abstained = len(scored) - len(scores)
        metrics[f"{part}_abstained"] = abstained
        metrics[f"{part}_abstained_share"] = abstained / len(scored)
        if scores:
            metrics[f"{part}_mean"] = sum(scores) / len(scores)
            metrics[f"{part}_stderr"] = standard_error(scores)
        for score in SCORES:
            metrics[f"{part}_{score}_share"] = scores.count(score) / max(1, len(scores))
    return metrics


def scores_of(verdicts: list[Row], part: str) -> list[int]:
    """Return the scores of one part, without failed calls and abstentions."""
    return [row[part] for row in verdicts if row.get(part) is not None]


def calibrated(
    verdicts: list[Row], part: str, agreement: Agreement, params: Params
) -> dict[str, Scalar]:
    """Return what calibration says about the scores of one part.

    They are withheld from tables if the lower bound of kappa is below `judge.min_kappa`.
    """
    return {
        "labelled_by": agreement.labelled_by,
        f"{part}_kappa": agreement.kappa,
        f"{part}_kappa_low": agreement.low,
        f"{part}_kappa_high": agreement.high,
        f"{part}_withheld": agreement.low < params.judge.min_kappa,
        **corrected_share(verdicts, part, agreement, params),
    }


def corrected_share(
    verdicts: list[Row], part: str, agreement: Agreement, params: Params
) -> dict[str, Scalar]:
    """Return the share of the highest score, corrected by the judge's errors.

    Empty answers get their score without the judge, so its errors are not about them: the share of
    the others is corrected, and none of the empty answers deserves the highest score. The result is
    empty without error rates or scores, and where `correct_rate` has no estimate.
    """
    judged = scores_of([row for row in verdicts if "empty" not in row], part)
    if agreement.rates is None or not judged:
        return {}
    best = judged.count(SCORES[-1])
    confidence = params.calibrate.confidence
    corrected = correct_rate(best, len(judged), agreement.rates, confidence)
    if corrected is None:
        return {}
    judged_share = len(judged) / len(scores_of(verdicts, part))
    name = f"{part}_{SCORES[-1]}_corrected_share"
    return {
        name: corrected.rate * judged_share,
        f"{name}_low": corrected.low * judged_share,
        f"{name}_high": corrected.high * judged_share,
    }


def shares(figures: dict[str, Scalar]) -> list[dict[str, Scalar]]:
    """Return the rows of the plot: the share of each score."""
    rows: list[dict[str, Scalar]] = []
    for part in PARTS:
        for score in SCORES:
            share = figures[f"{part}_{score}_share"]
            rows.append({"group": part, "score": score, "share": share})
    return rows


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    answers: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("data/answers"),
    judge: Annotated[Path, typer.Option(help="Folder of a local judge.")] = Path("models/judge"),
    out: Annotated[Path, typer.Option(help="Folder for verdicts.")] = Path("data/verdicts"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/judge"),
    speed: Annotated[Path, typer.Option(help="Folder for speed.")] = Path("metrics/speed/judge"),
    calibration: Annotated[Path, typer.Option(help="Metrics of calibrate.")] = CALIBRATION,
    plots: Annotated[Path, typer.Option(help="Folder for plots.")] = Path("plots/judge"),
) -> None:
    """Judge the answers of one variant."""
    params = load_params()
    variant_of(params, variant)
    agreements = {part: read_agreement(calibration, part, params.judge) for part in PARTS}
    read = read_checked(answers / f"{variant}.jsonl", f"generate@{variant}", AnswerRow)
    chosen = first_of_each_set(read, params.judge.items_per_set)
    judged = verdicts_or_error([to_judge(row) for row in chosen], params, judge)
    figures = summarise(judged.rows, params.judge)
    for part, agreement in agreements.items():
        figures |= calibrated(judged.rows, part, agreement, params)
    write_rows(out / f"{variant}.jsonl", judged.rows)
    write_metrics(metrics / f"{variant}.json", figures)
    write_metrics(speed / f"{variant}.json", judged.speed)
    write_plot(plots / f"{variant}.json", shares(figures))
    counts = f"{figures['scored']} verdicts on {variant}, {figures['failed']} calls failed"
    print(terminal(f"judge: {counts}, in {out / variant}.jsonl{failure_note(judged.failures)}"))


if __name__ == "__main__":
    run_stage(main, less_memory="lower judge.parallel")
