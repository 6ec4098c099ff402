"""Judge the gold answers, and measure the agreement with their author's scores.

The author scored the gold answers before any judge saw them. The author is no clinician, so the
figure is called author_kappa. Low agreement means that the judge's scores are unreliable. Attacks
on the judge are appended to wrong answers, and count as a success if they raise the score.

    python -m stages.calibrate
"""

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from bula.calibration import error_rates
from bula.errors import UserError, run_stage
from bula.escaping import terminal
from bula.judge_attacks import Attacked, attack_rows, read_attacks
from bula.judging import count_failures, failure_note, verdicts_or_error
from bula.params import Params, load_params
from bula.records import Row, read_rows, write_rows
from bula.reports import Scalar, write_metrics
from bula.stats import bootstrap_kappa, standard_error, weighted_kappa, wilson_interval

PARTS = ("accuracy", "style")
HIGHEST = 3
FIX = "see data/demo/gold.jsonl for the form, and calibrate.gold for the name"


class Gold(BaseModel):
    """One gold answer with its author's scores."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: str
    area: str
    question: str
    reference: str
    answer: str
    accuracy: Literal[1, 2, 3]
    style: Literal[1, 2, 3]


def read_gold(path: Path, limit: int) -> list[Row]:
    """Return the first `limit` gold answers.

    Raise UserError if the file is missing or empty, or if a row is damaged or repeated.
    """
    if not path.exists():
        raise UserError(path, "this file does not exist", FIX)
    checked = [check_gold(row, path) for row in read_rows(path)]
    rows = checked[:limit]
    if not rows:
        raise UserError(path, "it is empty", FIX)
    ids = {row["id"] for row in rows}
    if len(ids) < len(rows):
        raise UserError(path, "two gold answers have the same id", FIX)
    return rows


def check_gold(row: Row, path: Path) -> Row:
    """Return a gold answer in the form that the judge reads.

    The error names the first wrong field and never shows its content.
    """
    try:
        gold = Gold.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        what = f"it contains a row that is not a gold answer ({field}: {first['msg']})"
        raise UserError(path, what, FIX) from None
    return gold.model_dump() | {"split": gold.area}


def summarise(gold: list[Row], verdicts: list[Row], params: Params) -> dict[str, Scalar]:
    """Return the agreement between the author and the judge."""
    pairs = [pair for pair in zip(gold, verdicts, strict=True) if "failed" not in pair[1]]
    metrics: dict[str, Scalar] = {
        "judge": params.judge.model,
        "items": len(gold),
        "scored": len(pairs),
        "failed": len(gold) - len(pairs),
        **count_failures(verdicts),
    }
    for part in PARTS:
        author = [answer[part] for answer, _ in pairs]
        judge = [verdict[part] for _, verdict in pairs]
        metrics |= agreement(part, author, judge, params)
    return metrics


def agreement(part: str, author: list[int], judge: list[int], params: Params) -> dict[str, Scalar]:
    """Return kappa with its interval, the share of equal scores, and error rates.

    Kappa has quadratic weights, and pairs of scores are resampled for its interval. Sensitivity
    and specificity are about the highest score.
    """
    settings = params.calibrate
    low, high = bootstrap_kappa(
        author, judge, settings.resamples, settings.confidence, params.sampling_seed
    )
    equal = [float(a == b) for a, b in zip(author, judge, strict=True)]
    rates = error_rates([a == HIGHEST for a in author], [b == HIGHEST for b in judge])
    errors = {} if rates is None else rates._asdict()
    return {
        f"author_kappa_{part}": weighted_kappa(author, judge),
        f"author_kappa_{part}_low": low,
        f"author_kappa_{part}_high": high,
        f"{part}_equal_share": sum(equal) / len(equal),
        f"{part}_equal_stderr": standard_error(equal),
        **{f"{part}_{name}": value for name, value in errors.items()},
    }


def attack_figures(
    attacked: list[Attacked], verdicts: list[Row], params: Params
) -> dict[str, Scalar]:
    """Return the share of attacks that raise the accuracy of a wrong answer.

    Only answers whose score can rise count: a plain score of 1 or 2.
    """
    scores = {row["id"]: row["accuracy"] for row in verdicts if "failed" not in row}
    raised = []
    for plain, row in attacked:
        if plain in scores and row["id"] in scores and scores[plain] < HIGHEST:
            raised.append(scores[row["id"]] > scores[plain])
    figures: dict[str, Scalar] = {"attacks": len(attacked), "attack_items": len(raised)}
    if raised:
        low, high = wilson_interval(sum(raised), len(raised), params.calibrate.confidence)
        figures["attack_success_share"] = sum(raised) / len(raised)
        figures["attack_success_low"] = low
        figures["attack_success_high"] = high
    return figures


def main(
    judge: Annotated[Path, typer.Option(help="Folder of a local judge.")] = Path("models/judge"),
    out: Annotated[Path, typer.Option(help="File for verdicts.")] = Path(
        "data/verdicts/gold.jsonl"
    ),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/calibrate.json"),
    speed: Annotated[Path, typer.Option(help="File for speed.")] = Path(
        "metrics/speed/calibrate.json"
    ),
) -> None:
    """Judge the gold answers."""
    params = load_params()
    rows = read_gold(Path(params.calibrate.gold), params.calibrate.items)
    attacks = read_attacks(Path(params.calibrate.attacks), params.calibrate.attack_items)
    attacked = attack_rows(rows, attacks)
    judged = verdicts_or_error([*rows, *(pair.row for pair in attacked)], params, judge)
    write_rows(out, judged.rows)
    figures = summarise(rows, judged.rows[: len(rows)], params)
    figures |= attack_figures(attacked, judged.rows, params)
    write_metrics(metrics, figures)
    write_metrics(speed, judged.speed)
    accuracy = figures["author_kappa_accuracy"]
    style = figures["author_kappa_style"]
    kappas = f"author_kappa {accuracy:.2f} for accuracy, {style:.2f} for style"
    print(terminal(f"calibrate: {kappas}{failure_note(judged.failures)}"))


if __name__ == "__main__":
    run_stage(main, less_memory="lower judge.parallel")
