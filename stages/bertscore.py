"""Compare one variant's answers with the references by BERTScore.

bula/bertscore.py defines the score.

    python -m stages.bertscore base
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.bertscore import Figures, group_by, open_encoder, score_pairs, summarise
from bula.errors import run_stage
from bula.hardware import prepare_device, seed_everything
from bula.item_scores import AnswerRow, read_answered
from bula.params import Params, load_params, variant_of
from bula.records import Row, write_rows
from bula.reports import write_metrics


def summarise_sets(rows: list[Row], params: Params) -> dict[str, Figures]:
    """Return the figures of each set, and the pooled figures."""
    figures = {
        name: summarise(members, params) for name, members in group_by(rows, "split").items()
    }
    figures["pooled"] = summarise(rows, params)
    return figures


def main(
    variant: Annotated[str, typer.Argument(help="Name of the variant.")],
    answers: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("data/answers"),
    base: Annotated[Path, typer.Option(help="Folder of the base model.")] = Path("models/base"),
    encoder: Annotated[Path, typer.Option(help="Folder of the encoder.")] = Path("models/encoder"),
    out: Annotated[Path, typer.Option(help="Folder for item scores.")] = Path("data/scores"),
    metrics: Annotated[Path, typer.Option(help="Folder for metrics.")] = Path("metrics/bertscore"),
) -> None:
    """Score the answers of one variant."""
    params = load_params()
    prepare_device(params.device, "float32")
    # An unknown variant has no answers: the message about the variant helps more.
    variant_of(params, variant)
    seed_everything(params.sampling_seed)
    read = read_answered(answers / f"{variant}.jsonl", f"generate@{variant}", AnswerRow)
    opened = open_encoder(params, base, encoder)
    given = [row.model_dump() | {"variant": variant} for row in read]
    rows = score_pairs(opened, given, params.bertscore.batch_size)
    figures = summarise_sets(rows, params)
    write_rows(out / f"bert-{variant}.jsonl", rows)
    write_metrics(metrics / f"{variant}.json", {"settings": opened.settings, **figures})
    mean = figures["pooled"]["bertscore_f"]
    print(f"bertscore: {variant} has F1 {mean:.4f} on {len(rows)} answers")


if __name__ == "__main__":
    run_stage(main, less_memory="lower bertscore.batch_size")
