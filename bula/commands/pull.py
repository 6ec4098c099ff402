"""Fetch outputs by `dvc pull`, and name bad objects if it fails.

`dvc repro --pull` fetches too, but if an object is damaged or missing, it runs the stage again and
exits with 0. This command exits with 1, so a shell does not start the pipeline after it.

    python -m bula pull && dvc repro
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from bula.commands.verify_remote import report, verify_all
from bula.errors import UserError
from bula.escaping import terminal

JOBS = 8


def refuse_unchecked(remotes: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Raise a UserError for a remote whose objects DVC would not hash.

    `settings` is the section `remote` of DVC's configuration.
    """
    for name in remotes:
        if not settings.get(name, {}).get("verify"):
            what = "`verify` is not set, so DVC would deliver damaged files"
            raise UserError(f"remote {name}", what, f"run `dvc remote modify {name} verify true`")


def recorded_outputs(repo: Any) -> tuple[list[str], list[str]]:
    """Return the outputs with a recorded hash, and the outputs without a hash.

    `dvc pull` without targets fails if a stage has never run.
    """
    recorded: list[str] = []
    others: list[str] = []
    for out in repo.index.outs:
        if out.use_cache:
            names = recorded if out.hash_info else others
            names.append(repo.fs.relpath(out.fs_path))
    return recorded, others


def prepare(targets: list[str], remote: str | None) -> list[str]:
    """Check the settings of the remotes, and return the targets for DVC.

    Without targets, they are all outputs that some run recorded.
    """
    # No other command waits for the import of DVC.
    from dvc.repo import Repo

    from bula.commands.remote_checks import remote_errors
    from bula.commands.remote_objects import named_objects

    with remote_errors("DVC"), Repo() as repo:
        remotes = sorted(named_objects(repo, remote, targets=targets).remotes)
        refuse_unchecked(remotes, repo.config["remote"])
        recorded, others = recorded_outputs(repo)
    if targets:
        return targets
    for name in others:
        print(terminal(f"not pulled: {name}: no hash of it is recorded yet"))
    return recorded


def explain(targets: list[str], remote: str | None) -> list[str]:
    """Return the lines about the remotes after a failed pull."""
    results, _ = verify_all(remote, JOBS, targets=targets)
    lines = [line for name, result in results.items() for line in report(name, result)]
    if not any(result.problems for result in results.values()):
        lines.append("The remotes are good, so DVC's message above names the reason.")
    return lines


def pull(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Outputs, files of them, or stages. Default: all.")
    ] = None,
    remote: Annotated[
        str | None, typer.Option("--remote", "-r", help="A remote. Default: the outputs' own.")
    ] = None,
) -> None:
    """Fetch outputs by dvc pull, and name every bad object if it fails.

    The exit code is 1 if DVC did not deliver every output.
    """
    from dvc.cli import main as dvc

    wanted = prepare(targets or [], remote)
    options = ["--remote", remote] if remote else []
    if not wanted or dvc(["pull", *options, "--", *wanted]) == 0:
        return
    print("\n".join(terminal(line) for line in explain(wanted, remote)))
    raise typer.Exit(1)
