"""Answer questions of train or dev, outside the pipeline.

python -m bula answers train --questions 30
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bula.errors import UserError
from bula.escaping import terminal
from bula.params import Params, load_params, variant_of

TrainingSplit = Literal["train", "dev"]
FOLDER = Path(".bula")


def choose_variants(params: Params, names: str) -> list[str]:
    """Return the named variants, or those of the first pair of `compare.pairs`.

    `names` is a list with commas. Raise UserError for an unknown variant, or if there is no pair.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen and params.compare.pairs:
        first = params.compare.pairs[0]
        chosen = [first.baseline, first.variant]
    if not chosen:
        raise UserError("params.yaml", "compare.pairs is empty", "use --variants base,tuned")
    for name in chosen:
        variant_of(params, name)
    return list(dict.fromkeys(chosen))


def answers(
    split: Annotated[TrainingSplit, typer.Argument(help="Whose questions are answered.")],
    variants: Annotated[
        str, typer.Option(help="Variants with commas; else the first of compare.pairs.")
    ] = "",
    questions: Annotated[int, typer.Option(min=1, help="Most questions.")] = 30,
    clean: Annotated[Path, typer.Option(help="Folder of train and dev.")] = Path("data/clean"),
    out: Annotated[
        Path | None, typer.Option(help="Folder for answers; else .bula/answers-SPLIT.")
    ] = None,
) -> None:
    """Answer questions that may become training pairs, as the stage generate does."""
    # torch is imported here, so that the other commands start without it.
    from bula.hardware import prepare_device, seed_everything
    from bula.labels.split_answers import answer_split

    params = load_params()
    chosen = choose_variants(params, variants)
    folder = out or FOLDER / f"answers-{split}"
    prepare_device(params.device, params.dtype)
    seed_everything(params.sampling_seed)
    count = answer_split(clean, split, chosen, params, questions, folder)
    names = " and ".join(chosen)
    print(terminal(f"answers: {names} answered {count} questions of {split}, in {folder}"))
    print(terminal(f"answers: let people judge them: review-kit --answers {folder}"))
