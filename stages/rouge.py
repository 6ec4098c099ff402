"""Compare one variant's answers with the references by ROUGE-1, ROUGE-2 and ROUGE-L.

Words keep their Portuguese letters. The tokenizer of rouge_score keeps only a to z, so it would
split "não" into the words "n" and "o".

    python -m stages.rouge base
"""

from pathlib import Path
from typing import Annotated

import matplotlib
import typer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from bula.errors import run_stage
from bula.files import staged
from bula.item_scores import AnswerRow, read_checked
from bula.params import Params, load_params, variant_of
from bula.records import Row, write_rows
from bula.reports import write_metrics, write_plot
from bula.stats import bootstrap_mean, standard_error
from bula.text import words

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

# The name of each ROUGE type in rows and metrics, and in plots.
TYPES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
# The name of each part in rows and metrics, and in rouge_score.
PARTS = {"precision": "precision", "recall": "recall", "f": "fmeasure"}
Figures = dict[str, int | float]


class PortugueseTokenizer(Tokenizer):  # type: ignore[misc]
    """Words of letters and digits with accents, in the interface of rouge_score."""

    def tokenize(self, text: str) -> list[str]:
        """Return the lower-case words of `text`."""
        return words(text)


def score(rows: list[Row]) -> list[Row]:
    """Return one row of scores per answer.

    A row contains id, set, variant, and precision, recall and F1 of each ROUGE type (Lin 2004).
    """
    scorer = RougeScorer(list(TYPES), tokenizer=PortugueseTokenizer())
    scored = []
    for row in rows:
        result = scorer.score(row["answer"], row["generated"])
        scores: Row = {
            "id": row["id"],
            "split": row["split"],
            "variant": row["variant"],
        }
        for kind in TYPES:
            for part, attribute in PARTS.items():
                value = getattr(result[kind], attribute)
                scores[f"{kind}_{part}"] = float(value)
        scored.append(scores)
    return scored


def summarise(rows: list[Row], params: Params) -> Figures:
    """Return the mean of each score over the answers.

    F1 comes with a bootstrap interval, precision and recall with a standard error.
    """
    settings = params.rouge
    metrics: Figures = {"items": len(rows)}
    for kind in TYPES:
        for part in PARTS:
            name = f"{kind}_{part}"
            values = [row[name] for row in rows]
            metrics[name] = sum(values) / len(values)
            if part == "f":
                low, high = bootstrap_mean(
                    values,
                    settings.resamples,
                    settings.confidence,
                    params.sampling_seed,
                )
                metrics[f"{name}_low"] = low
                metrics[f"{name}_high"] = high
            else:
                metrics[f"{name}_stderr"] = standard_error(values)
    return metrics


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
    rows = score([row.model_dump() | {"variant": variant} for row in read])
    figures = summarise_sets(rows, params)
    write_rows(out / f"{variant}.jsonl", rows)
    write_metrics(metrics / f"{variant}.json", figures)
    write_plot(plots / f"{variant}.json", to_points(rows))
    draw(rows, variant, plots / f"{variant}.png")
    mean = figures["pooled"]["rougeL_f"]
    print(f"rouge: {variant} has ROUGE-L F1 {mean:.4f} on {len(rows)} answers")


if __name__ == "__main__":
    run_stage(main, less_memory="lower rouge.resamples")
