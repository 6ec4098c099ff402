"""Compare the objects of remotes with the hashes in dvc.lock.

`dvc push` takes an object for good if its name exists, and all files of a folder for present if the
folder's manifest exists. So damage on a remote stays until somebody pulls.

    python -m bula verify-remote --fix
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bula.escaping import terminal

# These modules import DVC, and no other command may wait for that.
if TYPE_CHECKING:
    from bula.commands.remote_checks import Problem, Result
    from bula.commands.remote_objects import Named

SHOWN_PLACES = 3


def describe_places(named: "Named") -> str:
    """Return the first files that an object belongs to, with stages and commits."""
    texts = []
    for place in list(named.places.values())[:SHOWN_PLACES]:
        commit = f", commit {place.commit}" if place.commit else ""
        texts.append(f"{place.file} (stage {place.stage}{commit})")
    others = len(named.places) - len(texts)
    if others:
        texts.append(f"{others} more")
    return ", ".join(texts)


def describe_problem(problem: "Problem") -> str:
    """Return the line of one problem."""
    check = problem.check
    line = f"  {check.state:10} {problem.key.object_id}  {describe_places(problem.named)}"
    if check.detail:
        line += f": {check.detail}"
    if problem.is_mended:
        line += "; mended"
    elif problem.repair:
        line += f"; not mended, because {problem.repair}"
    return line


def advice(remote: str, problems: "list[Problem]") -> str:
    """Return what mends the problems that are left."""
    command = f"`python -m bula verify-remote {remote} --fix`"
    if not any(problem.repair for problem in problems):
        return f"To mend them, run {command} on a machine whose cache has these objects."
    return (
        f"Run {command} on another machine whose cache has these objects, "
        "or make them again by `dvc repro --force STAGE` and then run the same command."
    )


def report(remote: str, result: "Result", *, sizes: bool = False) -> list[str]:
    """Return the lines about one remote."""
    left = [problem for problem in result.problems if not problem.is_mended]
    good = result.objects - len(left)
    found = "objects are present with the expected size" if sizes else "objects are good"
    lines = [f"remote {remote}: {good} of {result.objects} {found}"]
    lines += [describe_problem(problem) for problem in result.problems]
    if left:
        lines.append(advice(remote, left))
    return lines


def as_object(remote: str, result: "Result") -> dict[str, Any]:
    """Return the result of one remote as a JSON object. Sizes are in bytes."""
    problems = []
    for problem in result.problems:
        problems.append(
            {
                "object": problem.key.object_id,
                "state": problem.check.state,
                "size": problem.check.size,
                "detail": problem.check.detail,
                "mended": problem.is_mended,
                "repair": problem.repair,
                "places": [place._asdict() for place in problem.named.places.values()],
            }
        )
    return {
        "remote": remote,
        "objects": result.objects,
        "bytes": result.bytes,
        "problems": problems,
    }


def verify_all(
    name: str | None,
    jobs: int,
    *,
    all_commits: bool = False,
    fix: bool = False,
    sizes: bool = False,
    targets: Sequence[str] = (),
) -> "tuple[dict[str, Result], list[str]]":
    """Return the result of each remote, and notes about outputs that are not checked."""
    # No other command waits for the import of DVC.
    from dvc.repo import Repo

    from bula.commands.remote_checks import open_stores, remote_errors, verify
    from bula.commands.remote_objects import named_objects

    with remote_errors("DVC"):
        repo = Repo()
    with repo:
        with remote_errors("DVC"):
            scope = named_objects(repo, name, all_commits=all_commits, targets=targets)
        stores = {remote: open_stores(repo, remote) for remote in sorted(scope.remotes)}
        results = {}
        for remote, opened in stores.items():
            objects = scope.remotes[remote]
            results[remote] = verify(opened, objects, jobs, fix=fix, sizes=sizes, label=remote)
    return results, list(scope.notes)


def verify_remote(
    name: Annotated[
        str | None, typer.Argument(help="A remote. Default: each remote that outputs go to.")
    ] = None,
    all_commits: Annotated[
        bool, typer.Option("--all-commits", help="Check the outputs of all commits.")
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Replace bad objects by good copies of the cache.")
    ] = False,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Compare names and sizes only, and read no file.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Objects that are read at once.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hash every object of a remote, name bad ones, and mend them with --fix.

    The exit code is 1 if a bad object is left.
    """
    results, notes = verify_all(name, jobs, all_commits=all_commits, fix=fix, sizes=sizes)
    problems = [problem for result in results.values() for problem in result.problems]
    good = all(problem.is_mended for problem in problems)
    if as_json:
        remotes = [as_object(remote, result) for remote, result in results.items()]
        print(json.dumps({"good": good, "remotes": remotes, "notes": notes}))
    else:
        lines = [f"not checked: {note}" for note in notes]
        for remote, result in reversed(results.items()):
            lines = report(remote, result, sizes=sizes) + lines
        print("\n".join(terminal(line) for line in lines))
    raise typer.Exit(0 if good else 1)
