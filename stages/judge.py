"""Let an LLM judge the answers of one variant: medical accuracy and style, 1 to 3 each, with a written reason.

A call that fails is counted and never scored. Verdicts are kept in .bula/ledger.jsonl as they arrive, so that a killed
run pays for nothing twice.

    python -m stages.judge base
"""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from bula.errors import UserError, run_stage
from bula.escaping import terminal
from bula.judging import problem, verdicts_or_error
from bula.params import Judge, load_params
from bula.records import SET_NAMES, Row, read_rows, write_rows
from bula.reports import write_metrics, write_plot
from bula.stats import standard_error


class Answer(BaseModel):
    """The part of an answer row that is judged."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: str
    split: str
    question: str
    answer: str
    generated: str


def summarise(verdicts: list[Row], settings: Judge) -> dict[str, int | float | str | bool]:
    """Mean, standard error and shares of each score, over the calls that succeeded; who judged, and whether to believe it."""
    good = [row for row in verdicts if "failed" not in row]
    metrics: dict[str, int | float | str | bool] = {
        "judge": settings.model,
        "trustworthy": settings.trustworthy,
    }
    metrics |= {"items": len(verdicts), "scored": len(good), "failed": len(verdicts) - len(good)}
    for part in ("accuracy", "style"):
        scores = [row[part] for row in good]
        metrics |= {
            f"{part}_mean": sum(scores) / len(scores),
            f"{part}_stderr": standard_error(scores),
        }
        metrics |= {
            f"{part}_{score}_share": scores.count(score) / len(scores) for score in (1, 2, 3)
        }
    return metrics


def shares(figures: dict[str, int | float | str | bool]) -> list[Row]:
    """Return the rows of the plot: each score's share, for accuracy and style."""
    return [
        {"group": part, "score": score, "share": figures[f"{part}_{score}_share"]}
        for part in ("accuracy", "style")
        for score in (1, 2, 3)
    ]


def read_answers(path: Path, per_set: int) -> list[Row]:
    """Return the first answers of each validation set; UserError if the file or a row is no good."""
    again = "run the generate stage of this variant again"
    if not path.exists():
        raise UserError(path, "this file does not exist", again)
    try:
        rows = [Answer.model_validate(row) for row in read_rows(path)]
    except ValidationError as error:
        raise UserError(
            path, f"it holds a row that is not an answer ({problem(error)})", again
        ) from None
    if len({row.id for row in rows}) < len(rows):
        raise UserError(path, "two answers have the same id", again)
    chosen = [row for name in SET_NAMES for row in [r for r in rows if r.split == name][:per_set]]
    if not chosen:
        raise UserError(path, "it holds no answer of the sets A to E", again)
    return [row.model_dump() | {"reference": row.answer, "answer": row.generated} for row in chosen]


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    answers: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("data/answers"),
    judge: Annotated[Path, typer.Option(help="Folder of a local judge.")] = Path("models/judge"),
    out: Annotated[Path, typer.Option(help="Folder for verdicts.")] = Path("data/verdicts"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/judge"),
    plots: Annotated[Path, typer.Option(help="Folder for plots.")] = Path("plots/judge"),
) -> None:
    """Judge the answers of one variant."""
    params = load_params()
    if variant not in params.variants:
        raise UserError(
            "judge",
            f"there is no variant {variant}",
            f"choose one of {', '.join(params.variants)} (params.yaml)",
        )
    rows = read_answers(answers / f"{variant}.jsonl", params.judge.items_per_set)
    verdicts = verdicts_or_error(rows, params, judge)
    write_rows(out / f"{variant}.jsonl", verdicts)
    figures = summarise(verdicts, params.judge)
    write_metrics(metrics / f"{variant}.json", figures)
    write_plot(plots / f"{variant}.json", shares(figures))
    counts = f"{figures['scored']} verdicts on {variant}, {figures['failed']} calls failed"
    print(terminal(f"judge: {counts}, in {out / variant}.jsonl"))


if __name__ == "__main__":
    run_stage(main)
