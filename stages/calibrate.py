"""Judge the gold answers once and measure how far the judge agrees with the scores their author fixed beforehand.

The author is no clinician, so the figure is called author_kappa; it bounds what judge's figures can be worth.

    python -m stages.calibrate
"""

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from bula.errors import UserError, run_stage
from bula.judging import problem, verdicts_or_error
from bula.params import Params, load_params
from bula.records import Row, read_rows, write_rows
from bula.reports import write_metrics
from bula.stats import bootstrap_kappa, standard_error, weighted_kappa


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
    """Return the first `limit` gold answers; UserError names the file and what a row lacks."""
    fix = "see data/demo/gold.jsonl for the form, and calibrate.gold for the name"
    if not path.exists():
        raise UserError(path, "this file does not exist", fix)
    try:
        rows = [Gold.model_validate(row).model_dump() for row in read_rows(path)][:limit]
    except ValidationError as error:
        raise UserError(
            path, f"it holds a row that is not a gold answer ({problem(error)})", fix
        ) from None
    if not rows:
        raise UserError(path, "it is empty", fix)
    if len({row["id"] for row in rows}) < len(rows):
        raise UserError(path, "two gold answers have the same id", fix)
    return [{**row, "split": row["area"]} for row in rows]


def summarise(
    gold: list[Row], verdicts: list[Row], params: Params
) -> dict[str, int | float | str | bool]:
    """Quadratic-weighted kappa with an interval, and the share of equal scores, for accuracy and style."""
    pairs = [(g, v) for g, v in zip(gold, verdicts, strict=True) if "failed" not in v]
    metrics: dict[str, int | float | str | bool] = {
        "judge": params.judge.model,
        "trustworthy": params.judge.trustworthy,
    }
    metrics |= {"items": len(gold), "scored": len(pairs), "failed": len(gold) - len(pairs)}
    for part in ("accuracy", "style"):
        author, judge = [g[part] for g, _ in pairs], [v[part] for _, v in pairs]
        equal = [float(a == b) for a, b in zip(author, judge, strict=True)]
        low, high = bootstrap_kappa(
            author,
            judge,
            params.calibrate.resamples,
            params.calibrate.confidence,
            params.sampling_seed,
        )
        metrics |= {
            f"author_kappa_{part}": weighted_kappa(author, judge),
            f"author_kappa_{part}_low": low,
            f"author_kappa_{part}_high": high,
        }
        metrics |= {
            f"{part}_equal_share": sum(equal) / len(equal),
            f"{part}_equal_stderr": standard_error(equal),
        }
    return metrics


def main(
    judge: Annotated[Path, typer.Option(help="Folder of a local judge.")] = Path("models/judge"),
    out: Annotated[Path, typer.Option(help="File for verdicts.")] = Path(
        "data/verdicts/gold.jsonl"
    ),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/calibrate.json"),
) -> None:
    """Judge the gold answers."""
    params = load_params()
    rows = read_gold(Path(params.calibrate.gold), params.calibrate.items)
    verdicts = verdicts_or_error(rows, params, judge)
    write_rows(out, verdicts)
    figures = summarise(rows, verdicts, params)
    write_metrics(metrics, figures)
    print(
        f"calibrate: author_kappa {figures['author_kappa_accuracy']:.2f} for accuracy, {figures['author_kappa_style']:.2f} for style"
    )


if __name__ == "__main__":
    run_stage(main)
