"""Run DVC and git for experiments, on inputs that git tracks."""

import os
import subprocess
import sys
from pathlib import Path

from bula.errors import UserError

# DVC and git copy these folders into an experiment, but only the files that git tracks.
INPUTS = ("accelerate", "bula", "data", "stages", "tasks", "templates")


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
    """Raise a UserError if a copy of the repository would miss an input."""
    command = ["git", "ls-files", "--others", "--exclude-standard", "--", *INPUTS]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(Path.cwd(), "git cannot list its files", "run this in a clone")
    # DVC writes a .gitignore beside each output.
    found = [name for name in result.stdout.splitlines() if not name.endswith(".gitignore")]
    if found:
        fix = "run `git add` on each, after `dvc add` for data"
        raise UserError(found[0], f"git does not track this input ({len(found)} in all)", fix)
