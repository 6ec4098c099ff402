"""Compare one variant's answers with the references by ROUGE and chrF.

bula/rouge.py defines the scores.

    python -m stages.rouge base
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.degeneration import not_meaningful
from bula.distributions import draw_distributions, group_by_set, to_quantiles
from bula.errors import run_stage
from bula.item_scores import ShownAnswer, read_answered
from bula.params import Params, load_params, variant_of
from bula.records import Row, write_rows
from bula.reports import write_metrics, write_plot
from bula.rouge import TYPES, Figures, score_answers, summarise


def summarise_sets(rows: list[Row], params: Params) -> dict[str, Figures]:
    """Return the figures of each set, and the pooled figures."""
    figures = {}
    for name, members in group_by_set(rows).items():
        figures[name] = summarise(members, params)
    figures["pooled"] = summarise(rows, params)
    return figures


def title_of(variant: str, answers: list[ShownAnswer], params: Params) -> str:
    """Return the title of the picture.

    It is marked if too many answers are degenerate: loops share words with a reference by chance.
    """
    title = f"ROUGE of {variant} against the references, {len(answers)} answers"
    share = sum(answer.degenerate for answer in answers) / len(answers)
    if share <= params.compare.max_degenerate_share:
        return title
    return f"{title}\n{not_meaningful(share)}"


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
    read = read_answered(answers / f"{variant}.jsonl", f"generate@{variant}", ShownAnswer)
    rows = score_answers([row.model_dump() | {"variant": variant} for row in read])
    figures = summarise_sets(rows, params)
    write_rows(out / f"{variant}.jsonl", rows)
    write_metrics(metrics / f"{variant}.json", figures)
    write_plot(plots / f"{variant}.json", to_quantiles(rows, TYPES))
    title = title_of(variant, read, params)
    draw_distributions(rows, TYPES, title, plots / f"{variant}.png")
    mean = figures["pooled"]["rougeL_f"]
    print(f"rouge: {variant} has ROUGE-L F1 {mean:.4f} on {len(rows)} answers")


if __name__ == "__main__":
    run_stage(main, less_memory="lower rouge.resamples")
