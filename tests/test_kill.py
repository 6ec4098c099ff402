"""`dvc repro` killed while it trains: what bench/kill.py does twenty times, here four times and with fewer steps."""

import random
import signal
from pathlib import Path

from bench import kill


def test_killed_at_random_times_it_goes_on_to_the_same_adapter(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bula"
    # Four passes a step, dropout on, a checkpoint every step.
    kill.clone(folder, tiny, steps=6)
    length, draw = kill.finish(folder), random.Random(20261122)
    whole = kill.written(folder)
    assert len(whole) == 8
    for kills in (
        [(signal.SIGTERM, True)],
        [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGKILL, False)],
    ):
        kill.reset(folder)
        for how, aim in kills:
            # The first checkpoint may be written much sooner than that of the run whose length was taken: no draw for SIGTERM.
            after = 0.0 if how == signal.SIGTERM else draw.uniform(0, length / 2 if aim else length)
            found = kill.kill(folder, after, how, aim)
            assert found["survivors"] == 0
            log = (folder / kill.LOG).read_text(encoding="utf-8")
            # Told to end while it trains, it leaves a checkpoint that counts; on a busy machine the adapter may be there by then.
            assert how == signal.SIGKILL or found["last_whole"] != "none" or found["was_done"], (
                f"{found}\n{log[-3000:]}"
            )
        (folder / kill.LOG).unlink()
        kill.finish(folder)
        assert found["last_whole"] == "none" or kill.RESUMED in (folder / kill.LOG).read_text(
            encoding="utf-8"
        )
        assert kill.written(folder) == whole
    assert not list((folder / ".bula/checkpoints").iterdir())
