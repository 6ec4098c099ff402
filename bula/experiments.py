"""Run DVC and git for experiments, on inputs that git tracks."""

import os
import subprocess
import sys
from pathlib import Path

from bula.errors import UserError

# Untracked files that no copy needs: profiles, and what a run writes in git's working tree.
NO_INPUTS = ("profiles", "metrics", "plots", "dvc.lock")


def run_git(*arguments: str, folder: Path = Path()) -> str:
    """Run git in a folder and return its output.

    Raise UserError if it fails.
    """
    command = ["git", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no message"]
        what = f"`git {' '.join(arguments)[:80]}` failed ({lines[-1]})"
        raise UserError(folder.absolute(), what, "run this in a clone of the repository")
    return result.stdout


def run_dvc(*arguments: str, folder: Path = Path()) -> None:
    """Run dvc in a folder with this interpreter's programs on PATH.

    Raise UserError if it fails.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", *arguments]
    with subprocess.Popen(command, cwd=folder, env=os.environ | {"PATH": path}) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reached dvc too, and training saves its step before it exits.
            process.wait()
            raise
    if code:
        raise UserError(f"dvc {' '.join(arguments)}", "it failed", "read its messages above")


def refuse_untracked_inputs() -> None:
    """Raise a UserError if a copy of the repository would miss an input.

    DVC and git copy only the files that git tracks. Any other file could be an input, unless git
    ignores it.
    """
    others = [f":(exclude){name}" for name in NO_INPUTS]
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard", "--", ".", *others]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(Path.cwd(), "git cannot list its files", "run this in a clone")
    # DVC writes a .gitignore beside each output.
    names = filter(None, result.stdout.split("\0"))
    found = [name for name in names if not name.endswith(".gitignore")]
    if found:
        what = f"git does not track this file, so an experiment would miss it ({len(found)} in all)"
        fix = "run `git add` on each (after `dvc add` for data), or delete or ignore it"
        raise UserError(found[0], what, fix)
