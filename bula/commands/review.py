"""Compare this run with that of another commit.

python -m bula review --base main --out review.md
"""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bula.errors import UserError
from bula.escaping import terminal

# These modules import DVC and SciPy, and no other command may wait for that.
if TYPE_CHECKING:
    from bula.review.report import Review

USAGE_ERROR = 2


def read_review(base: str, folder: Path) -> "Review":
    """Return the review of this workspace against a revision.

    The files of both runs are written below `folder`.
    """
    from bula.commands import review_files, review_lock
    from bula.experiments import run_git
    from bula.params import load_params
    from bula.review import answers, changes, gate, report, verdicts

    params = load_params()
    gate.check_own_gates(params)
    commit = review_files.resolve(base)
    before = review_files.gather_revision(base, commit, folder / "before")
    after = review_files.gather_workspace(folder / "after")
    params, differing = gate.with_gates_of(before, params)
    figures = verdicts.compare_runs(before, after, params)
    return report.Review(
        before=before,
        after=after,
        behind=int(run_git("rev-list", "--count", f"HEAD..{commit}")),
        problems=review_lock.lock_problems(after.lock),
        figures=figures,
        outcomes=gate.check_gates(figures, params),
        params=changes.changed_params(before, after),
        counts=changes.changed_counts(before, after),
        headline=changes.changed_headline(before, after),
        answers=answers.changed_answers(before, after),
        alpha=params.review.alpha,
        lock=params.review.lock,
        differing=differing,
    )


def write_review(base: str, *, as_json: bool) -> tuple[str, bool]:
    """Return a review as text, and whether its gate passes."""
    from bula.review.report_json import as_object
    from bula.review.report_markdown import as_markdown

    with tempfile.TemporaryDirectory() as folder:
        found = read_review(base, Path(folder))
        if as_json:
            text = json.dumps(as_object(found), ensure_ascii=False, indent=2, allow_nan=False)
        else:
            text = as_markdown(found)
    return text, found.passed


def review(
    base: Annotated[str, typer.Option(help="The commit, branch or tag to compare with.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the review.")] = None,
) -> None:
    """Compare this run with that of another commit, and apply the gate.

    The exit code is 1 if the gate fails or dvc.lock does not match, and 2 if there is nothing to
    compare.
    """
    from bula.commands.generated import write_text

    try:
        text, passed = write_review(base, as_json=as_json)
        if out:
            write_text(out, text)
    except UserError as error:
        typer.echo(terminal(str(error), lines=True), err=True)
        raise typer.Exit(USAGE_ERROR) from None
    result = "passes" if passed else "fails"
    print(f"review: the gate {result}, wrote {out}" if out else text)
    raise typer.Exit(0 if passed else 1)
