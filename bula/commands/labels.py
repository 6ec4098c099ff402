"""Import what people say about answers, and export their preferences.

python -m bula labels import R1.jsonl R2.jsonl --key review/key.json --raters clinician
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bula.errors import UserError
from bula.escaping import terminal
from bula.labels.raters import Raters

if TYPE_CHECKING:
    from bula.labels.preference_pairs import Exported
    from bula.labels.records import Label

LABELS = Path("data/labels/labels.jsonl")
ANSWERS = Path("data/answers")

app = typer.Typer(no_args_is_help=True, help="Import and export people's labels of answers.")


@app.command("import")
def import_labels(
    files: Annotated[list[Path], typer.Argument(help="Files that raters exported.")],
    key: Annotated[Path, typer.Option(help="Key of the kit.")],
    raters: Annotated[Raters, typer.Option(help="Who judged.")],
    out: Annotated[Path, typer.Option(help="File of labels, which may exist.")] = LABELS,
    answers: Annotated[Path, typer.Option(help="Folder of the judged answers.")] = ANSWERS,
    past_answers: Annotated[
        bool, typer.Option("--past-answers", help="Accept labels of another run's answers.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace earlier labels of these raters.")
    ] = False,
) -> None:
    """Check the files of raters, and add their labels."""
    # Imported here, because no other command needs these modules.
    from bula.labels.files import read_labels, write_labels
    from bula.labels.judgements import import_forms, merge, read_key

    checked = None if past_answers else answers
    new, unfinished = import_forms(files, read_key(key), raters, checked)
    old = read_labels([out]) if out.exists() else []
    labels = merge(old, new, replace=replace)
    write_labels(out, labels)
    people = counted(len({label.rater for label in new}), "rater")
    made = counted(len(new), "judgement")
    print(terminal(f"labels: {people}, {made} ({raters}_labels), in {out}"))
    for rater, count in unfinished.items():
        if count:
            print(terminal(unfinished_note(rater, count)))
    print(f"labels: {counted(len(labels), 'judgement')} in all; {next_step(new)}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def unfinished_note(rater: str, count: int) -> str:
    """Return that a rater's unfinished judgements were left out, and how to finish them."""
    verb = "was" if count == 1 else "were"
    made = counted(count, "unfinished judgement")
    return (
        f"labels: {made} of {rater} {verb} left out; the rater can load the file on the page, "
        "finish there and save it again"
    )


def next_step(labels: list[Label]) -> str:
    """Return what to do with a file of labels.

    Figures about a run need labels of the validation sets, and training pairs need the others.
    """
    from bula.records import SET_NAMES

    if any(label.set in SET_NAMES for label in labels):
        return "name the file under labels.files"
    return "export them by `bula labels export-pairs`"


def left_out_note(exported: Exported) -> str:
    """Return the number of pairs without a row, by reason."""
    parts = [f"{count} {reason}" for reason, count in exported.left_out.items()]
    return f"; left out: {', '.join(parts)}" if parts else ""


@app.command("export-pairs")
def export_preferences(
    file: Annotated[Path, typer.Argument(help="JSON Lines file to write.")],
    labels: Annotated[list[Path] | None, typer.Option(help="Files of labels.")] = None,
    answers: Annotated[list[Path] | None, typer.Option(help="Folders of answers.")] = None,
    model: Annotated[Path, typer.Option(help="Model whose prompts are written.")] = Path(
        "models/base"
    ),
    clean: Annotated[Path, typer.Option(help="Folder of validation/.")] = Path("data/clean"),
    allow_validation: Annotated[
        bool, typer.Option("--allow-validation", help="Export validation questions too.")
    ] = False,
) -> None:
    """Write strict preferences as a data set for TRL's DPOTrainer."""
    # Imported here, because transformers loads slowly.
    from bula.labels.files import read_labels
    from bula.labels.preference_pairs import (
        export_pairs,
        read_sources,
        refuse_empty,
        validation_questions,
    )
    from bula.models import load_tokenizer
    from bula.prompts import has_system_role
    from bula.records import write_rows

    read = read_labels(labels or [LABELS])
    sources = read_sources(answers or [ANSWERS])
    excluded = set() if allow_validation else validation_questions(read, clean)
    if not model.is_dir():
        raise UserError(model, "the model does not exist", "run `dvc pull`, or name one by --model")
    has_system = has_system_role(load_tokenizer(model))
    exported = export_pairs(read, sources, excluded, has_system=has_system)
    refuse_empty(exported, file)
    write_rows(file, exported.rows)
    print(terminal(f"labels: {len(exported.rows)} pairs in {file}{left_out_note(exported)}"))
