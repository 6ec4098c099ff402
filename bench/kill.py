"""Kill `dvc repro` at random times, run it again, and see that the adapter is the one of an uninterrupted run, bit for bit.

In a temporary clone with a two-layer model, four forward passes a step, dropout on, and a checkpoint every step. Each seed draws a
time uniformly over the length of an uninterrupted run and kills the whole process tree with SIGKILL; every second one waits from
there for the next checkpoint and kills inside its writing. A last one sends SIGTERM to dvc alone.

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

from bench.summary import show
from bula.files import sha256_file
from stages.train.checkpoints import SEAL, is_whole

ROOT = Path(__file__).resolve().parent.parent
# What train writes; figures of speed differ from run to run.
WRITTEN = ("models/adapter", "metrics/train.json", "metrics/template.json", "plots/train")
LOG = ".bula/repro.log"
FINGERPRINT = "[0-9a-f]" * 16
COMMAND = ["dvc", "repro", "train", "--no-run-cache"]
# What train says when it does not start over: training is deterministic, so the files alone would not tell.
RESUMED = "train: going on from step"


def clone(folder: Path, tiny: Path, steps: int = 25) -> None:
    """A repository in `folder` whose pipeline has run up to train, with parameters that make kills hurt."""
    from bench.clones import clone_tree, edit_params, shorten, small

    folder.mkdir(parents=True)
    clone_tree(folder)

    def edit(params: dict[str, Any]) -> None:
        small(tiny)(params)
        params["ingest"]["judge"] = {"kind": "api", "license": "none"}
        params["judge"]["base_url"] = "http://localhost:9"
        params["train"] |= {
            "max_steps": steps,
            "eval_steps": min(5, steps),
            "save_steps": 1,
            "log_steps": 1,
            "gradient_accumulation": 4,
        }
        params["train"]["lora"] |= {"r": 16, "dropout": 0.1}

    shorten(folder / "data/demo")
    edit_params(folder / "params.yaml", edit)
    (folder / "dvc.lock").unlink(missing_ok=True)
    repro = subprocess.run(
        ["dvc", "repro", "preprocess"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if repro.returncode:
        raise SystemExit(f"the clone does not run:\n{repro.stdout[-2000:]}{repro.stderr[-2000:]}")


def environment() -> dict[str, str]:
    """A user's environment: this virtual environment's commands, nothing fetched.

    dvc runs stages by the shell that SHELL names, and by /bin/sh where nothing does, as in most containers.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "SHELL": "/bin/sh",
    }


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """`dvc repro` in a process group of its own, as a terminal starts it; what it says goes to .bula/repro.log."""
    (folder / LOG).parent.mkdir(exist_ok=True)
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            COMMAND, cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True
        )


def finish(folder: Path) -> float:
    """Run to the end; seconds. SystemExit with the last lines if it fails."""
    started = time.perf_counter()
    if start(folder).wait():
        raise SystemExit(
            "dvc repro failed:\n"
            + (folder / LOG).read_text(encoding="utf-8", errors="replace")[-3000:]
        )
    return time.perf_counter() - started


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run that is not done, oldest first; a done one's are removed under another name."""
    found = folder.glob(f".bula/checkpoints/{FINGERPRINT}/checkpoint-*")
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def unsealed(folder: Path) -> set[Path]:
    """Checkpoints that have no seal: the one that is being written, and those that a kill cut short before."""
    return {path for path in checkpoints(folder) if not (path / SEAL).exists()}


def works(process: psutil.Process) -> bool:
    """Whether a process still does something. One that ended is gone, also where no init collects orphans, as in many containers."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def survivors(tree: list[psutil.Process], seconds: float = 60) -> int:
    """How many of the processes still work after so many seconds; waits no longer than it must."""
    deadline = time.monotonic() + seconds
    while any(map(works, tree)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return sum(map(works, tree))


def mend_lock(folder: Path, before: str) -> bool:
    """Put dvc.lock back if a kill cut it short, as README.md tells people to, and say whether it did: dvc writes it in place.

    Its rwlock is written in place too, many times; one that is no JSON goes.
    """
    lock, held = folder / "dvc.lock", folder / ".dvc/tmp/rwlock"
    try:
        json.loads(held.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except ValueError:
        held.unlink()
    try:
        content = YAML(typ="safe").load(lock.read_text(encoding="utf-8"))
        COMPILED_LOCKFILE_SCHEMA(content)
        whole = content["stages"].keys() >= YAML(typ="safe").load(before)["stages"].keys()
    except (YAMLError, Invalid, AttributeError, KeyError, FileNotFoundError):
        whole = False
    if not whole:
        lock.write_text(before, encoding="utf-8")
    return not whole


def kill(folder: Path, after: float, how: signal.Signals, aim: bool = False) -> dict[str, Any]:
    """Start, and kill after so many seconds: with SIGKILL every process at once, with SIGTERM dvc alone; says what was found.

    With `aim`, not before a checkpoint is being written.
    """
    # What an earlier kill cut short is no writing, until train has removed it; nor is a whole one that loses its seal as it goes.
    stale, sealed, lock = (
        unsealed(folder),
        set[Path](),
        (folder / "dvc.lock").read_text(encoding="utf-8"),
    )
    process, begun = start(folder), time.monotonic()
    while process.poll() is None and (
        (early := time.monotonic() < begun + after)
        or (aim and not unsealed(folder) - stale - sealed)
    ):
        stale &= unsealed(folder)
        sealed |= {path for path in checkpoints(folder) if (path / SEAL).exists()}
        time.sleep(0.01 if early else 0.001)
    tree: list[psutil.Process] = []
    done = False
    if not (ended := process.poll() is not None):
        # Held still meanwhile: looking for the children takes so long that a small model's training could be over.
        os.killpg(process.pid, signal.SIGSTOP)
        try:
            tree = psutil.Process(process.pid).children(recursive=True)
            # dvc took the old one away, and train writes it whole: before it lets go of its checkpoints.
            done = (folder / "models/adapter").exists()
            (os.killpg if how == signal.SIGKILL else os.kill)(process.pid, how)
        finally:
            os.killpg(process.pid, signal.SIGCONT)
    process.wait()
    # First let them end: on SIGTERM training still saves its step.
    left = survivors(tree)
    kept = checkpoints(folder)
    whole = [path.name for path in kept if is_whole(path)]
    return {
        "seconds": round(after, 2),
        "signal": how.name,
        "had_ended": ended,
        "was_done": done,
        "survivors": left,
        "last_whole": whole[-1] if whole else "none",
        "while_writing": len(whole) < len(kept),
        "lock_cut": mend_lock(folder, lock),
    }


def reset(folder: Path) -> None:
    """As if train had never run: nothing that it wrote, no checkpoint, no entry in dvc.lock."""
    yaml, lock = YAML(typ="safe"), folder / "dvc.lock"
    content = yaml.load(lock.read_text(encoding="utf-8"))
    content["stages"].pop("train", None)
    with lock.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)
    for path in (folder / ".bula/checkpoints", folder / LOG, *(folder / name for name in WRITTEN)):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def written(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that train wrote."""
    files = [
        file
        for name in WRITTEN
        for file in (
            [folder / name] if (folder / name).is_file() else sorted((folder / name).rglob("*"))
        )
    ]
    return {str(file.relative_to(folder)): sha256_file(file) for file in files if file.is_file()}


def try_seed(
    folder: Path, seed: int, length: float, how: signal.Signals, reference: dict[str, str]
) -> dict[str, Any]:
    """One kill at a random time, and the run after it: whether it went on from a checkpoint, and whether every file is that of the
    uninterrupted run.
    """
    reset(folder)
    found = kill(
        folder,
        random.Random(seed).uniform(0, length),
        how,
        aim=seed % 2 == 1 or how == signal.SIGTERM,
    )
    (folder / LOG).unlink()
    rerun = finish(folder)
    resumed = RESUMED in (folder / LOG).read_text(encoding="utf-8", errors="replace")
    return (
        {"seed": seed}
        | found
        | {
            "rerun_seconds": round(rerun, 1),
            "resumed": resumed,
            "same": written(folder) == reference,
        }
    )


def summarise(rows: list[dict[str, Any]], length: float) -> None:
    """Count over the runs that were killed before they ended, and compare with the goals."""
    whole = sum(row["last_whole"] != "none" for row in rows)
    figures = {
        "kills": len(rows),
        "same": sum(row["same"] for row in rows),
        "while_writing": sum(row["while_writing"] for row in rows),
        "lock_cut": sum(row["lock_cut"] for row in rows),
        "left_a_checkpoint": whole,
        "resumed": sum(row["resumed"] for row in rows),
        "survivors": sum(row["survivors"] for row in rows),
        "uninterrupted_seconds": length,
    }
    goals = {"same": len(rows), "resumed": whole, "survivors": 0, "while_writing": 1}
    met = (
        all(figures[name] == goals[name] for name in ("same", "resumed", "survivors"))
        and figures["while_writing"] > 0
    )
    show("kill", figures, goals, met)


def main(
    seeds: Annotated[int, typer.Option(help="Kills with SIGKILL.")] = 20,
) -> None:
    """Kill and compare; a line for each seed, and one JSON line last."""
    from bench.clones import build_tiny

    if not (ROOT / "models/base").exists():
        raise SystemExit("models/base is missing; `make repro` or `dvc pull` brings it")
    with tempfile.TemporaryDirectory() as place:
        tiny, folder = Path(place) / "tiny", Path(place) / "bula"
        build_tiny(ROOT / "models/base", tiny)
        clone(folder, tiny)
        length = finish(folder)
        reference = written(folder)
        print(f"uninterrupted: {length:.1f} s, {len(reference)} files", flush=True)
        plan = [(seed, signal.SIGKILL) for seed in range(seeds)] + [(seeds, signal.SIGTERM)]
        rows = []
        for seed, how in plan:
            rows.append(try_seed(folder, seed, length, how, reference))
            print(json.dumps(rows[-1]), flush=True)
    summarise([row for row in rows if not row["had_ended"]], length)


if __name__ == "__main__":
    typer.run(main)
