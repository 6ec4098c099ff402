"""Compare one variant's answers with the references by ROUGE and chrF.

bula/rouge.py defines the scores.

    python -m stages.rouge base
"""

from pathlib import Path
from typing import Annotated

import matplotlib
import typer

from bula.errors import run_stage
from bula.files import staged
from bula.item_scores import AnswerRow, read_checked
from bula.params import Params, load_params, variant_of
from bula.records import Row, write_rows
from bula.reports import write_metrics, write_plot
from bula.rouge import TYPES, Figures, score_answers, summarise

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes


def summarise_sets(rows: list[Row], params: Params) -> dict[str, Figures]:
    """Return the figures of each set, and the pooled figures."""
    figures = {}
    for name, members in group_by_set(rows).items():
        figures[name] = summarise(members, params)
    figures["pooled"] = summarise(rows, params)
    return figures


def group_by_set(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of each validation set, from A to E."""
    sets: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["split"]):
        members = sets.setdefault(row["split"], [])
        members.append(row)
    return sets


def to_points(rows: list[Row]) -> list[dict[str, str | float]]:
    """Return the F1 of each answer as a long table.

    The table has one row per answer and ROUGE type; `group` is the type.
    """
    points = []
    for kind, title in TYPES.items():
        for row in rows:
            point = {
                "set": row["split"],
                "id": row["id"],
                "group": title,
                "f": row[f"{kind}_f"],
            }
            points.append(point)
    return points


def draw(rows: list[Row], variant: str, path: Path) -> None:
    """Draw box plots of F1 by validation set and ROUGE type."""
    sets = group_by_set(rows)
    figure, axes = pyplot.subplots(
        ncols=len(TYPES),
        figsize=(12, 4),
        sharey=True,
        layout="constrained",
    )
    for axis, kind in zip(axes, TYPES, strict=True):
        draw_type(axis, kind, sets)
    axes[0].set_ylabel("F1 of an answer")
    answers = f"{len(rows)} answers; triangle: mean"
    figure.suptitle(f"ROUGE of {variant} against the references ({answers})")
    with staged(path) as temporary:
        # Without the version of matplotlib in the file, every run writes the same bytes.
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def draw_type(axis: Axes, kind: str, sets: dict[str, list[Row]]) -> None:
    """Draw one box per validation set for one ROUGE type."""
    boxes = []
    for rows in sets.values():
        boxes.append([row[f"{kind}_f"] for row in rows])
    axis.boxplot(boxes, tick_labels=list(sets), showmeans=True)
    axis.set(title=TYPES[kind], xlabel="validation set")
    axis.grid(axis="y", alpha=0.3)


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    answers: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("data/answers"),
    out: Annotated[Path, typer.Option(help="Folder for item scores.")] = Path("data/scores"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/rouge"),
    plots: Annotated[Path, typer.Option(help="Folder for plots.")] = Path("plots/rouge"),
) -> None:
    """Score the answers of one variant."""
    params = load_params()
    # An unknown variant has no answers: the message about the variant helps more.
    variant_of(params, variant)
    read = read_checked(answers / f"{variant}.jsonl", f"generate@{variant}", AnswerRow)
    rows = score_answers([row.model_dump() | {"variant": variant} for row in read])
    figures = summarise_sets(rows, params)
    write_rows(out / f"{variant}.jsonl", rows)
    write_metrics(metrics / f"{variant}.json", figures)
    write_plot(plots / f"{variant}.json", to_points(rows))
    draw(rows, variant, plots / f"{variant}.png")
    mean = figures["pooled"]["rougeL_f"]
    print(f"rouge: {variant} has ROUGE-L F1 {mean:.4f} on {len(rows)} answers")


if __name__ == "__main__":
    run_stage(main, less_memory="lower rouge.resamples")
