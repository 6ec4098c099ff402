"""Compare adapters, merged models and GGUF files with one of them.

Run `python -m bula fidelity models/adapter models/merged models/gguf/q4_k_m.gguf`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bula.errors import UserError
from bula.escaping import terminal

if TYPE_CHECKING:
    from bula.fidelity import Result

QUESTIONS = Path("data/demo/validation")
HEAD = ("form", "kind", "KL, nats per token", "same greedy token", "perplexity", "verdict")


def fidelity(
    forms: Annotated[list[Path], typer.Argument(help="Adapter, model or .gguf; first: reference.")],
    base: Annotated[Path, typer.Option(help="Base model of the adapters.")] = Path("models/base"),
    rows: Annotated[Path | None, typer.Option(help="JSON Lines: question and answer.")] = None,
    items: Annotated[int, typer.Option(help="Number of questions.", min=1)] = 8,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure whether files hold the same model; exit with 1 if not.

    Each form is compared with the first one, at every token of the answers, in float32.
    """
    if len(forms) < 2:
        fix = "name two or more, such as an adapter and its merged model"
        raise UserError("bula fidelity", "one form has nothing to be compared with", fix)
    files = question_files(rows)
    missing = [form for form in forms if not form.exists()]
    if missing:
        raise UserError(missing[0], "it does not exist", "name a folder or a .gguf file")
    others = [form for form in forms if form.is_file() and form.suffix != ".gguf"]
    if others:
        raise UserError(others[0], "it is no model", "name a folder or a .gguf file")
    # torch is imported here, so that the other commands start without it.
    from bula.fidelity import compare_forms, read_questions
    from bula.hardware import prepare_device
    from bula.model_files import is_adapter

    if any(is_adapter(form) for form in forms) and not base.exists():
        fix = "name the base model that the adapter was trained on by --base"
        raise UserError(base, "it does not exist", fix)
    prepare_device(device, "float32")
    results = compare_forms(forms, base, read_questions(files, items))
    print(terminal(show(results), lines=True))
    if any(result.problems for result in results):
        raise typer.Exit(1)


def question_files(rows: Path | None) -> list[Path]:
    """Return the files of questions; raise UserError if there is none."""
    fix = "name a JSON Lines file with `question` and `answer` in each row by --rows"
    if rows is None:
        files = sorted(QUESTIONS.glob("*.jsonl"))
        if not files:
            raise UserError(QUESTIONS, "the folder has no questions", fix)
        return files
    if not rows.is_file():
        raise UserError(rows, "it is not a file", fix)
    return [rows]


def show(results: list["Result"]) -> str:
    """Return the table of the forms, and a line per problem."""
    table = [HEAD, *(line(result) for result in results)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    lines = []
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    for result in results:
        lines += [f"{result.form}: {problem}" for problem in result.problems]
    first = results[0]
    if first.figures:
        counts = f"{first.figures['items']} answers, {first.figures['tokens']} tokens"
        lines.append(f"Compared in float32 with {first.form} over {counts}.")
    return "\n".join(lines)


def line(result: "Result") -> tuple[str, ...]:
    """Return the cells of one form."""
    form = str(result.form)
    if not result.figures:
        return form, result.kind, "", "", "", "DIFFERS"
    verdict = "DIFFERS" if result.problems else f"within {result.limit_nats:g} nats: rounding"
    return (
        form,
        result.kind,
        f"{result.figures['kl_nats']:.3g}",
        f"{result.figures['greedy_agreement']:.1%}",
        f"{result.figures['perplexity']:.3f}",
        verdict if result.limit_nats else "reference",
    )
