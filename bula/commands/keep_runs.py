"""Record finished stages in DVC's run-cache.

`dvc repro` does not record a stage that has an output with `cache: false` which is neither a metric
nor a plot. Most stages have one: their figures in metrics/, which git has. This command records
each stage whose inputs and outputs are exactly what dvc.lock says, so a file that was edited since
the stage ran is never recorded as its input.

    python -m bula keep-runs
"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from bula.errors import UserError

# DVC takes a second to load, and no other command may wait for that.
if TYPE_CHECKING:
    from dvc.stage import Stage


def is_unchanged(stage: "Stage") -> bool:
    """Return whether a stage's command, inputs and outputs are those of dvc.lock.

    DVC records no stage with an output that persists.
    """
    if not stage.cmd or any(out.persist for out in stage.outs):
        return False
    return not any(stage.changed_entries())


def keep_finished(folder: Path) -> tuple[int, int]:
    """Record the unchanged stages of a repository in the run-cache.

    Return their number and the number of all stages. Raise UserError if another DVC command runs,
    or if DVC cannot read the repository.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo, lock_repo

    try:
        # DVC creates the stages of its run-cache in the current directory.
        with contextlib.chdir(folder), Repo() as repo, lock_repo(repo):
            stages = [stage for stage in repo.index.stages if stage.cmd]
            unchanged = [stage for stage in stages if is_unchanged(stage)]
            for stage in unchanged:
                repo.stage_cache.save(stage)
    except LockError as error:
        what = "another DVC command runs here, so no stage was recorded"
        raise UserError(folder.absolute(), what, "run this command when it has ended") from error
    except DvcException as error:
        fix = "run this in a clone of the repository"
        raise UserError(folder.absolute(), f"DVC cannot read it ({error})", fix) from error
    return len(unchanged), len(stages)


def keep_runs() -> None:
    """Record the finished stages in DVC's run-cache."""
    unchanged, stages = keep_finished(Path())
    print(f"keep-runs: {unchanged} of {stages} stages are as dvc.lock says, and recorded")
