"""Compare the answers of the controls with the references by BERTScore.

bula/bertscore.py defines the score, and the stage controls writes the answers.

    python -m stages.bertscore_controls
"""

from pathlib import Path
from typing import Annotated

import typer

from bula.bertscore import group_by, open_encoder, score_pairs, summarise
from bula.errors import run_stage
from bula.hardware import prepare_device, seed_everything
from bula.item_scores import AnswerRow, read_checked
from bula.params import load_params
from bula.records import Row, write_rows
from bula.reports import write_metrics

# The controls that answer questions.
CONTROLS = ("stock", "nearest", "echo")


def read_control(folder: Path, control: str) -> list[Row]:
    """Return the answers of one control, each with the control's name."""
    read = read_checked(folder / f"answers_{control}.jsonl", f"controls@{control}", AnswerRow)
    return [row.model_dump() | {"variant": control} for row in read]


def main(
    answers: Annotated[Path, typer.Option(help="Folder of answers.")] = Path("data/controls"),
    base: Annotated[Path, typer.Option(help="Folder of the base model.")] = Path("models/base"),
    encoder: Annotated[Path, typer.Option(help="Folder of the encoder.")] = Path("models/encoder"),
    out: Annotated[Path, typer.Option(help="File for item scores.")] = Path(
        "data/bertscore_controls.jsonl"
    ),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path(
        "metrics/bertscore_controls.json"
    ),
) -> None:
    """Score the answers of the controls."""
    params = load_params()
    prepare_device(params.device, "float32")
    seed_everything(params.sampling_seed)
    given = []
    for control in CONTROLS:
        given += read_control(answers, control)
    opened = open_encoder(params, base, encoder)
    rows = score_pairs(opened, given, params.bertscore.batch_size)
    figures = {}
    for control, members in group_by(rows, "variant").items():
        figures[control] = summarise(members, params)
    write_rows(out, rows)
    write_metrics(metrics, {"settings": opened.settings, **figures})
    mean = figures["stock"]["bertscore_f"]
    print(f"bertscore_controls: the stock answer has F1 {mean:.4f}, in {metrics}")


if __name__ == "__main__":
    run_stage(main, less_memory="lower bertscore.batch_size")
