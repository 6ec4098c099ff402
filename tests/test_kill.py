"""Kill `dvc repro` while it trains, as bench/kill.py does, with fewer steps."""

import random
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench import kill

LOG_TAIL_CHARACTERS = 3000


class Clone(NamedTuple):
    """A clone, with the duration and outputs of an uninterrupted run."""

    folder: Path
    seconds: float
    outputs: dict[str, str]


@pytest.fixture(scope="module")
def clone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    folder = tmp_path_factory.mktemp("kill") / "bula"
    # Four passes per step, dropout, and a checkpoint every step.
    kill.clone(folder, tiny, steps=6)
    seconds = kill.finish(folder)
    outputs = kill.hash_outputs(folder)
    assert len(outputs) == 10
    return Clone(folder, seconds, outputs)


def assert_resumes(clone: Clone, found: dict[str, Any]) -> None:
    """Run again after a kill and compare with the uninterrupted run."""
    (clone.folder / kill.LOG).unlink()
    kill.finish(clone.folder)
    assert found["last_whole"] == "none" or kill.RESUMED in kill.read_log(clone.folder)
    assert kill.hash_outputs(clone.folder) == clone.outputs
    assert not list((clone.folder / ".bula/checkpoints").iterdir())


def test_a_run_killed_several_times_resumes_to_the_same_adapter(clone: Clone) -> None:
    draw = random.Random(20261122)
    kill.reset(clone.folder)
    for aim in (False, True, False):
        seconds = draw.uniform(0, clone.seconds / 2 if aim else clone.seconds)
        found = kill.kill(clone.folder, seconds, signal.SIGKILL, aim)
        assert found["survivors"] == 0
    assert_resumes(clone, found)


def test_a_run_stopped_by_sigterm_saves_and_resumes_to_the_same_adapter(clone: Clone) -> None:
    kill.reset(clone.folder)
    # No delay: the first checkpoint may come much sooner than in the timed run.
    found = kill.kill(clone.folder, 0.0, signal.SIGTERM, aim=True)
    log = kill.read_log(clone.folder)[-LOG_TAIL_CHARACTERS:]
    assert found["survivors"] == 0
    # On a busy machine the adapter may be complete by then.
    assert found["last_whole"] != "none" or found["was_done"], f"{found}\n{log}"
    assert_resumes(clone, found)
