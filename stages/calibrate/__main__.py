"""Judge answers that people scored, and measure the agreement.

The author scored the gold answers before any judge saw them, and is no clinician: `author_kappa`
is about these labels, and `clinician_kappa` about the labels of clinicians. Low agreement means
that the judge's scores are unreliable. Some questions are repeated, and attacks on the judge are
appended to wrong answers. A second judge gets the same questions.

    python -m stages.calibrate
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.errors import run_stage
from bula.escaping import terminal
from bula.judge_outcomes import failure_note
from bula.judging import Judged, verdicts_or_error
from bula.params import Params, load_params
from bula.records import Row, write_rows
from bula.reports import Scalar, write_metrics
from stages.calibrate.figures import judge_figures, judges_agreement
from stages.calibrate.gold import Questions, read_questions

# The figures of metrics/calibrate.json: those of the judge, and groups about the second one.
Content = dict[str, Scalar | dict[str, Scalar]]


def ask_judges(rows: list[Row], params: Params, folder: Path) -> list[Judged]:
    """Return the verdicts of each judge on the same rows."""
    found = []
    for judge in params.judge.judges:
        alone = params.model_copy(update={"judge": judge})
        found.append(verdicts_or_error(rows, alone, folder))
    return found


def summarise(questions: Questions, judged: list[Judged], params: Params) -> Content:
    """Return the figures of the judge, of the second judge, and of their agreement."""
    verdicts = [{row["id"]: row for row in one.rows} for one in judged]
    each = []
    for settings, rows in zip(params.judge.judges, verdicts, strict=True):
        each.append(judge_figures(questions, rows, settings, params))
    content: Content = {**each[0]}
    if len(each) > 1:
        content["second_judge"] = each[1]
        agreement = judges_agreement(questions.gold, verdicts[0], verdicts[1], params)
        content["two_judges"] = agreement
    return content


def speeds(judged: list[Judged]) -> Content:
    """Return what the calls of each judge took."""
    content: Content = {**judged[0].speed}
    for other in judged[1:]:
        content["second_judge"] = other.speed
    return content


def last_line(content: Content, judged: list[Judged]) -> str:
    """Return the stage's last line."""
    who = content["labelled_by"]
    accuracy, style = content[f"{who}_kappa_accuracy"], content[f"{who}_kappa_style"]
    failures = [failure for one in judged for failure in one.failures]
    kappas = f"{who}_kappa {accuracy:.2f} for accuracy, {style:.2f} for style"
    return f"calibrate: {kappas}{failure_note(failures)}"


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
    questions = read_questions(params.calibrate)
    judged = ask_judges(questions.rows, params, judge)
    content = summarise(questions, judged, params)
    write_rows(out, [row for one in judged for row in one.rows])
    write_metrics(metrics, content)
    write_metrics(speed, speeds(judged))
    print(terminal(last_line(content, judged)))


if __name__ == "__main__":
    run_stage(main, less_memory="lower judge.parallel")
