"""Prove in a fresh clone that the remotes have this commit's run.

The clone has no cache, so everything in it comes from git and from the remotes. No stage runs
except compare, whose figures must come out again.

    python -m bula verify
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain, starmap
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from bula.commands.verify_remote import report, verify_all
from bula.errors import UserError
from bula.escaping import terminal
from bula.experiments import run_dvc, run_git

# Git and DVC ignore this folder, and its disk also has DVC's cache.
FOLDER = Path(".bula/verify")
# This stage takes seconds and writes the figures that people read.
CHEAP_STAGE = "compare"
FIGURES = ("metrics", "plots")
JOBS = 8


class RefutedError(Exception):
    """A point that does not hold, with the lines that say why."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))


@contextlib.contextmanager
def fresh_clone(remote: str | None) -> Iterator[Path]:
    """Yield a clone of HEAD with the remotes of this repository.

    `remote` replaces the default remote. The clone is deleted at the end.
    """
    # A killed run leaves its clone.
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        run_git("clone", "--quiet", "--no-hardlinks", ".", str(FOLDER))
        share_remotes(FOLDER, remote)
        yield FOLDER
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


def share_remotes(clone: Path, remote: str | None) -> None:
    """Give the clone the remotes and credentials of this repository, but no cache."""
    # Imported here because DVC takes a second to load.
    from dvc.repo import Repo

    local = Path(".dvc/config.local")
    if local.exists():
        (clone / local).write_bytes(local.read_bytes())
    with Repo() as repo:
        urls = {name: str(values["url"]) for name, values in repo.config["remote"].items()}
    if remote and remote not in urls:
        known = ", ".join(sorted(urls)) or "none"
        raise UserError(".dvc/config", f"there is no remote {remote!r}", f"name one of {known}")
    for name, url in urls.items():
        if "://" not in url:
            # DVC cannot write an absolute path with accents into its configuration.
            relative = os.path.relpath(url, clone)
            run_dvc("remote", "modify", "--quiet", "--local", name, "url", relative, folder=clone)
    run_dvc("config", "--quiet", "--local", "cache.dir", ".dvc/cache", folder=clone)
    if remote:
        run_dvc("config", "--quiet", "--local", "core.remote", remote, folder=clone)


def dvc_output(clone: Path, *arguments: str) -> str:
    """Return what dvc prints in the clone. Its messages go to the terminal."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = os.environ | {"PATH": path}
    result = subprocess.run(
        command, cwd=clone, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if result.returncode:
        raise RefutedError(f"dvc {arguments[0]} failed, and its messages are above")
    return result.stdout


def check_remotes(clone: Path) -> str:
    """Hash every object that the lock names, on its remote."""
    with contextlib.chdir(clone):
        results, _ = verify_all(None, JOBS, all_commits=False, fix=False)
    if any(result.problems for result in results.values()):
        raise RefutedError(*chain.from_iterable(starmap(report, results.items())))
    objects = sum(result.objects for result in results.values())
    return f"{objects} objects on {', '.join(results) or 'no remote'} are good"


def check_pull(clone: Path) -> str:
    """Fetch all outputs into an empty cache."""
    dvc_output(clone, "pull")
    return "dvc pull fetched all outputs"


def check_stages(clone: Path) -> str:
    """Compare code, parameters and files with the lock, as `dvc repro` does."""
    stale: dict[str, Any] = json.loads(dvc_output(clone, "status", "--json"))
    if stale:
        raise RefutedError(*(f"{stage}: {json.dumps(why)}" for stage, why in sorted(stale.items())))
    return "dvc repro would run nothing"


def locked_files(clone: Path) -> dict[str, str]:
    """Return the MD5s in dvc.lock of the outputs in git, by path."""
    tracked = set(run_git("ls-files", "-z", folder=clone).split("\0"))
    lock = YAML(typ="safe").load((clone / "dvc.lock").read_text(encoding="utf-8"))
    outs = [out for stage in lock["stages"].values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outs if out["path"] in tracked}


def check_figures(clone: Path) -> str:
    """Compare the committed figures with the MD5s in dvc.lock."""
    files = locked_files(clone)
    wrong = []
    for path, md5 in sorted(files.items()):
        content = (clone / path).read_bytes()
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            wrong.append(f"{path}: its MD5 is {found}, and dvc.lock has {md5}")
    if wrong:
        raise RefutedError(*wrong)
    return f"{len(files)} committed figures have the MD5 of dvc.lock"


def check_recomputed(clone: Path) -> str:
    """Run compare on the fetched data, and compare its figures with the committed ones."""
    dvc_output(clone, "repro", "--force", "--single-item", CHEAP_STAGE)
    changed = run_git("status", "--porcelain", "--", *FIGURES, folder=clone).splitlines()
    if changed:
        raise RefutedError(*(f"{line[3:]}: {CHEAP_STAGE} writes other bytes" for line in changed))
    return f"{CHEAP_STAGE} writes the committed figures again from the fetched data"


# A later point is checked only if the earlier ones hold.
POINTS: dict[str, Callable[[Path], str]] = {
    "remote": check_remotes,
    "pull": check_pull,
    "figures": check_figures,
    "stages": check_stages,
    "recomputed": check_recomputed,
}


def show(name: str, state: str, text: str) -> None:
    """Print one point, with further lines indented below it."""
    first, *others = text.splitlines() or [""]
    print(terminal(f"{name:10}  {state:6}  {first}"), flush=True)
    for line in others:
        print(terminal(" " * 20 + line), flush=True)


def check_all(clone: Path) -> bool:
    """Check and print the points in order, and return whether all hold."""
    holds = True
    for name, check in POINTS.items():
        if not holds:
            show(name, "open", "not checked, because an earlier point failed")
            continue
        try:
            show(name, "ok", check(clone))
        except (RefutedError, UserError) as error:
            holds = False
            show(name, "FAILED", str(error))
    return holds


def verify(
    remote: Annotated[
        str | None, typer.Option(help="Fetch from this remote instead of the default one.")
    ] = None,
) -> None:
    """Clone this commit, fetch its data, and compare both with dvc.lock.

    The exit code is 1 if a point fails. The clone needs as much disk as all outputs twice, and a
    second call at the same time would delete it.
    """
    commit = run_git("rev-parse", "--short", "HEAD").strip()
    if run_git("status", "--porcelain", "--untracked-files=no").strip():
        print("Changes that are not committed are not checked.")
    with fresh_clone(remote) as clone:
        show("clone", "ok", f"commit {commit}")
        holds = check_all(clone)
    raise typer.Exit(0 if holds else 1)
