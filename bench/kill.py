"""Kill `dvc repro` at random times and compare the resumed adapter.

The bench runs in a temporary clone with a two-layer model, four forward passes per step, dropout,
and a checkpoint every step. Each seed draws a time uniformly over the length of an uninterrupted
run and kills the process tree with SIGKILL. Odd seeds then wait for the next checkpoint and kill
while it is written. The last kill sends SIGTERM to dvc only. The run after each kill must write,
byte for byte, the files of the uninterrupted run.

    python -m bench.kill [--seeds 20]
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from voluptuous import Invalid

from bench.clones import ROOT, Edit, build_tiny, clone_tree, edit_params, shorten, small
from bench.summary import show
from bula.checkpoints import COMPLETE_MARKER, is_complete
from bula.files import sha256_file

# The outputs of train, except for the figures of speed, which differ from run to run.
OUTPUTS = ("models/adapter", "metrics/train.json", "metrics/template.json", "plots/train")
LOG = ".bula/repro.log"
FINGERPRINT = "[0-9a-f]" * 16
COMMAND = ["dvc", "repro", "train", "--no-run-cache"]
# Training is deterministic, so only this line tells a resumed run from a run that starts over.
RESUMED = "train: resuming from step"
LOG_TAIL_CHARACTERS = 3000

DvcProcess = subprocess.Popen[bytes]


def clone(folder: Path, tiny: Path, steps: int = 25) -> None:
    """Make a clone whose pipeline has run up to train."""
    folder.mkdir(parents=True)
    clone_tree(folder)
    shorten(folder / "data/demo")
    edit_params(folder / "params.yaml", sensitive_training(tiny, steps))
    (folder / "dvc.lock").unlink(missing_ok=True)
    command = ["dvc", "repro", "preprocess"]
    repro = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    if repro.returncode:
        raise SystemExit(f"the clone does not run:\n{repro.stdout[-2000:]}{repro.stderr[-2000:]}")


def sensitive_training(tiny: Path, steps: int) -> Edit:
    """Return an edit of params.yaml that makes kills do harm."""

    def edit(params: dict[str, Any]) -> None:
        small(tiny)(params)
        params["ingest"]["judge"] = {"kind": "api", "license": "none"}
        params["judge"]["base_url"] = "http://localhost:9"
        params["train"].update(
            max_steps=steps,
            eval_steps=min(5, steps),
            save_steps=1,
            log_steps=1,
            gradient_accumulation=4,
        )
        params["train"]["lora"].update(r=16, dropout=0.1)

    return edit


def environment() -> dict[str, str]:
    """Return a user's environment, with this virtual environment and offline.

    dvc runs stages in the shell that SHELL names, and in /bin/sh where SHELL is unset, as in most
    containers.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "SHELL": "/bin/sh",
    }


def read_log(folder: Path) -> str:
    """Return the output of `dvc repro`."""
    return (folder / LOG).read_text(encoding="utf-8", errors="replace")


def start(folder: Path) -> DvcProcess:
    """Start `dvc repro` in a new process group, as terminals do.

    Its output goes to .bula/repro.log.
    """
    (folder / LOG).parent.mkdir(exist_ok=True)
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            COMMAND, cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True
        )


def finish(folder: Path) -> float:
    """Run `dvc repro` to completion and return the seconds.

    SystemExit with the end of the log if it fails.
    """
    started = time.perf_counter()
    if start(folder).wait():
        raise SystemExit(f"dvc repro failed:\n{read_log(folder)[-LOG_TAIL_CHARACTERS:]}")
    return time.perf_counter() - started


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of an unfinished run, oldest first.

    The checkpoints of a finished run are deleted under another name.
    """
    found = folder.glob(f".bula/checkpoints/{FINGERPRINT}/checkpoint-*")
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def marked(folder: Path) -> set[Path]:
    """Return the checkpoints with a marker."""
    return {path for path in checkpoints(folder) if (path / COMPLETE_MARKER).exists()}


def unmarked(folder: Path) -> set[Path]:
    """Return the checkpoints without a marker.

    One of them may be being written, and earlier kills may have left others.
    """
    return {path for path in checkpoints(folder) if not (path / COMPLETE_MARKER).exists()}


def is_working(process: psutil.Process) -> bool:
    """Return whether a process still runs.

    A zombie does not count: many containers have no init that collects orphans.
    """
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def count_survivors(tree: list[psutil.Process], seconds: float = 60) -> int:
    """Return how many processes still run, after waiting for their exit.

    The wait takes at most `seconds`.
    """
    deadline = time.monotonic() + seconds
    while any(map(is_working, tree)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return sum(map(is_working, tree))


def repair_dvc(folder: Path, lock_before: str) -> bool:
    """Restore a truncated dvc.lock; return whether it was truncated.

    dvc writes dvc.lock in place, and README.md tells people to restore it. dvc also writes its
    rwlock in place, and a rwlock that is not JSON is deleted.
    """
    delete_broken_rwlock(folder / ".dvc/tmp/rwlock")
    lock = folder / "dvc.lock"
    if has_stages(lock, lock_before):
        return False
    lock.write_text(lock_before, encoding="utf-8")
    return True


def delete_broken_rwlock(rwlock: Path) -> None:
    """Delete dvc's rwlock if it is not JSON."""
    try:
        json.loads(rwlock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError:
        rwlock.unlink()


def has_stages(lock: Path, lock_before: str) -> bool:
    """Return whether dvc.lock is valid and has every stage it had before."""
    yaml = YAML(typ="safe")
    try:
        content = yaml.load(lock.read_text(encoding="utf-8"))
        COMPILED_LOCKFILE_SCHEMA(content)
        return bool(content["stages"].keys() >= yaml.load(lock_before)["stages"].keys())
    except (YAMLError, Invalid, AttributeError, KeyError, FileNotFoundError):
        return False


def wait_for_moment(
    process: DvcProcess, folder: Path, seconds: float, aim: bool, leftovers: set[Path]
) -> None:
    """Wait `seconds`, and with `aim` until a checkpoint is being written.

    The wait stops when the process exits. `leftovers` are the checkpoints that an earlier kill left
    unmarked. They do not count, nor do complete checkpoints that lose their marker while they are
    deleted.
    """
    deadline = time.monotonic() + seconds
    once_marked: set[Path] = set()
    while process.poll() is None:
        early = time.monotonic() < deadline
        if not early and (not aim or unmarked(folder) - leftovers - once_marked):
            return
        # A leftover that train has deleted may be written again.
        leftovers = leftovers & unmarked(folder)
        once_marked.update(marked(folder))
        time.sleep(0.01 if early else 0.001)


def send_signal(
    process: DvcProcess, folder: Path, how: signal.Signals
) -> tuple[list[psutil.Process], bool]:
    """Send SIGKILL to the process group, or SIGTERM to dvc.

    Return the process tree, and whether the adapter existed already. The group is stopped
    meanwhile, because a small training could finish while the children are listed.
    """
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
        # dvc deleted the old adapter; train writes the new one before it deletes checkpoints.
        was_done = (folder / "models/adapter").exists()
        send = os.killpg if how == signal.SIGKILL else os.kill
        send(process.pid, how)
    finally:
        os.killpg(process.pid, signal.SIGCONT)
    return tree, was_done


def kill(folder: Path, after: float, how: signal.Signals, aim: bool = False) -> dict[str, Any]:
    """Start `dvc repro`, kill it, and return what the kill left.

    The kill comes after `after` seconds, and with `aim` not before a checkpoint is being written.
    """
    leftovers = unmarked(folder)
    lock = (folder / "dvc.lock").read_text(encoding="utf-8")
    process = start(folder)
    wait_for_moment(process, folder, after, aim, leftovers)
    had_ended = process.poll() is not None
    tree: list[psutil.Process] = []
    was_done = False
    if not had_ended:
        tree, was_done = send_signal(process, folder, how)
    process.wait()
    # After SIGTERM training still saves its step, so the processes must exit first.
    survivors = count_survivors(tree)
    kept = checkpoints(folder)
    complete = [path.name for path in kept if is_complete(path)]
    return {
        "seconds": round(after, 2),
        "signal": how.name,
        "had_ended": had_ended,
        "was_done": was_done,
        "survivors": survivors,
        "last_whole": complete[-1] if complete else "none",
        "while_writing": len(complete) < len(kept),
        "lock_cut": repair_dvc(folder, lock),
    }


def reset(folder: Path) -> None:
    """Delete every output, checkpoint and lock entry of train."""
    yaml = YAML(typ="safe")
    lock = folder / "dvc.lock"
    content = yaml.load(lock.read_text(encoding="utf-8"))
    content["stages"].pop("train", None)
    with lock.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)
    for name in (".bula/checkpoints", LOG, *OUTPUTS):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def hash_outputs(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that train wrote."""
    files: list[Path] = []
    for name in OUTPUTS:
        path = folder / name
        files += [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file.relative_to(folder)): sha256_file(file) for file in files if file.is_file()}


def try_seed(
    folder: Path, seed: int, length: float, how: signal.Signals, reference: dict[str, str]
) -> dict[str, Any]:
    """Kill a run at a random time and return the comparison.

    The row states whether the second run resumed from a checkpoint, and whether its files are those
    of the uninterrupted run.
    """
    reset(folder)
    seconds = random.Random(seed).uniform(0, length)
    aim = seed % 2 == 1 or how == signal.SIGTERM
    found = kill(folder, seconds, how, aim)
    (folder / LOG).unlink()
    rerun_seconds = finish(folder)
    return {
        "seed": seed,
        **found,
        "rerun_seconds": round(rerun_seconds, 1),
        "resumed": RESUMED in read_log(folder),
        "same": hash_outputs(folder) == reference,
    }


def count(rows: list[dict[str, Any]], key: str) -> int:
    """Return the sum of a column."""
    return sum(row[key] for row in rows)


def summarise(rows: list[dict[str, Any]], length: float) -> None:
    """Print the counts over the killed runs beside the goals."""
    with_checkpoint = [row for row in rows if row["last_whole"] != "none"]
    figures = {
        "kills": len(rows),
        "same": count(rows, "same"),
        "while_writing": count(rows, "while_writing"),
        "lock_cut": count(rows, "lock_cut"),
        "left_a_checkpoint": len(with_checkpoint),
        "resumed": count(rows, "resumed"),
        "survivors": count(rows, "survivors"),
        "uninterrupted_seconds": length,
    }
    goals = {
        "same": len(rows),
        "resumed": len(with_checkpoint),
        "survivors": 0,
        "while_writing": 1,
    }
    exact = ("same", "resumed", "survivors")
    met = all(figures[name] == goals[name] for name in exact) and figures["while_writing"] > 0
    show("kill", figures, goals, met)


def main(
    seeds: Annotated[int, typer.Option(help="Kills with SIGKILL.")] = 20,
) -> None:
    """Print a line for each kill, and one JSON line last."""
    if not (ROOT / "models/base").exists():
        raise SystemExit("models/base is missing; run `make repro` or `dvc pull` first")
    with tempfile.TemporaryDirectory() as place:
        tiny = Path(place) / "tiny"
        folder = Path(place) / "bula"
        build_tiny(ROOT / "models/base", tiny)
        clone(folder, tiny)
        length = finish(folder)
        reference = hash_outputs(folder)
        print(f"uninterrupted: {length:.1f} s, {len(reference)} files", flush=True)
        plan = [(seed, signal.SIGKILL) for seed in range(seeds)] + [(seeds, signal.SIGTERM)]
        rows = []
        for seed, how in plan:
            row = try_seed(folder, seed, length, how, reference)
            print(json.dumps(row), flush=True)
            rows.append(row)
    summarise([row for row in rows if not row["had_ended"]], length)


if __name__ == "__main__":
    typer.run(main)
