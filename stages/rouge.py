"""Compare one variant's answers with the references by ROUGE-1, -2 and -L.

Words keep their Portuguese letters. rouge_score's own tokenizer keeps a to z only: "não" would count as two words, "n" and "o".

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

TYPES = ("rouge1", "rouge2", "rougeL")
PARTS = ("precision", "recall", "f")


class PortugueseTokenizer(Tokenizer):  # type: ignore[misc]
    """Words of letters and digits, accents kept, in the interface that rouge_score asks for."""

    def tokenize(self, text: str) -> list[str]:
        """Return the lower-case words of `text`."""
        return words(text)


def score(rows: list[Row]) -> list[Row]:
    """Return one row per answer: id, set, variant, and precision, recall and F1 of each type (Lin 2004)."""
    scorer = RougeScorer(TYPES, tokenizer=PortugueseTokenizer())
    scored = []
    for row in rows:
        result = scorer.score(row["answer"], row["generated"])
        figures = {
            f"{kind}_{part}": float(getattr(result[kind], {"f": "fmeasure"}.get(part, part)))
            for kind in TYPES
            for part in PARTS
        }
        scored.append({"id": row["id"], "split": row["split"], "variant": row["variant"]} | figures)
    return scored


def summarise(rows: list[Row], params: Params) -> dict[str, int | float]:
    """Return means over answers; an interval beside each F1, a standard error beside the rest."""
    metrics: dict[str, int | float] = {"items": len(rows)}
    for kind in TYPES:
        for part in PARTS:
            values = [row[f"{kind}_{part}"] for row in rows]
            metrics[f"{kind}_{part}"] = sum(values) / len(values)
            if part == "f":
                low, high = bootstrap_mean(
                    values, params.rouge.resamples, params.rouge.confidence, params.sampling_seed
                )
                metrics |= {f"{kind}_f_low": low, f"{kind}_f_high": high}
            else:
                metrics[f"{kind}_{part}_stderr"] = standard_error(values)
    return metrics


def to_points(rows: list[Row]) -> list[dict[str, str | float]]:
    """Return the F1 of each answer as a long table: set, id, group (the ROUGE type), f."""
    names = {kind: kind.replace("rouge", "ROUGE-") for kind in TYPES}
    return [
        {"set": row["split"], "id": row["id"], "group": names[kind], "f": row[f"{kind}_f"]}
        for kind in TYPES
        for row in rows
    ]


def draw(rows: list[Row], variant: str, path: Path) -> None:
    """Draw box plots of the three F1 distributions over the validation sets."""
    sets = sorted({row["split"] for row in rows})
    figure, axes = pyplot.subplots(
        1, len(TYPES), figsize=(12, 4), sharey=True, layout="constrained"
    )
    for axis, kind in zip(axes, TYPES, strict=True):
        axis.boxplot(
            [[row[f"{kind}_f"] for row in rows if row["split"] == name] for name in sets],
            tick_labels=sets,
            showmeans=True,
        )
        axis.set(title=kind.replace("rouge", "ROUGE-"), xlabel="validation set")
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("F1 of an answer")
    figure.suptitle(
        f"ROUGE of {variant} against the references ({len(rows)} answers; triangle: mean)"
    )
    with staged(path) as temporary:
        # Without the version of the drawing library in it, the picture is the same bytes on every run.
        figure.savefig(temporary, format="png", dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    answers: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("data/answers"),
    out: Annotated[Path, typer.Option(help="Folder for the row of each answer.")] = Path(
        "data/scores"
    ),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/rouge"),
    plots: Annotated[Path, typer.Option(help="Folder for plots.")] = Path("plots/rouge"),
) -> None:
    """Score the answers of one variant."""
    params = load_params()
    variant_of(params, variant)
    read = read_checked(answers / f"{variant}.jsonl", f"generate@{variant}", AnswerRow)
    rows = score([row.model_dump() | {"variant": variant} for row in read])
    sets = sorted({row["split"] for row in rows})
    figures = {
        name: summarise([row for row in rows if row["split"] == name], params) for name in sets
    }
    pooled = summarise(rows, params)
    write_rows(out / f"{variant}.jsonl", rows)
    write_metrics(metrics / f"{variant}.json", figures | {"pooled": pooled})
    write_plot(plots / f"{variant}.json", to_points(rows))
    draw(rows, variant, plots / f"{variant}.png")
    print(f"rouge: {variant} has ROUGE-L F1 {pooled['rougeL_f']:.4f} on {len(rows)} answers")


if __name__ == "__main__":
    run_stage(main)
