"""Fixtures: the real SmolLM2 tokenizer, a two-layer model around it, and a workspace with a small corpus to run stages in."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.clones import ROOT, build_tiny, edit_params, shorten, small
from bula.records import SET_NAMES, Example, write_rows

# Two workers with two threads each would wait for each other on two cores; set before torch is imported, and for every stage.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# No command of a test takes a third of it; below pytest's own limit, so that one reads what the command said.
HANGS_SECONDS = 700


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of their names, but first those that take longest, so that two workers end at about the same time."""
    longest = ("test_pipeline.py", "test_train.py", "test_kill.py")
    items.sort(
        key=lambda item: (
            longest.index(item.path.name) if item.path.name in longest else len(longest)
        )
    )


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded base model, brought in by the ingest stage's own code: models/base if `make repro` ran, else downloaded."""
    from bula.params import load_params
    from stages.ingest.models import ingest_base

    base = ROOT / "models/base"
    config = base / "config.json"
    # After a run of another profile another model lies there.
    if config.exists() and json.loads(config.read_text(encoding="utf-8"))["hidden_size"] == 576:
        return base
    path = tmp_path_factory.mktemp("smollm2") / "base"
    ingest = load_params(ROOT / "profiles/smollm2-135m.yaml").ingest
    ingest_base(ingest.base, "bfloat16", path, ingest.limits)
    return path


@pytest.fixture(scope="session")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers, 256 wide, random weights, with SmolLM2's tokenizer and chat template."""
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    build_tiny(smollm2, path)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def validation_examples(split: Any, count: int = 3) -> list[Example]:
    """Return examples of one validation set, with answers of different lengths."""
    examples = []
    for number in range(count):
        example = Example(
            id=f"{split.lower()}{number:015d}",
            source="s",
            license="l",
            split=split,
            question=f"Pergunta {number} de {split}?",
            answer="Beba água, " * (number + 1) + "e repouse.",
        )
        examples.append(example)
    return examples


def write_validation_sets(folder: Path) -> None:
    """Write the sets A to E below data/clean/validation."""
    for split in SET_NAMES:
        path = folder / f"data/clean/validation/{split}.jsonl"
        write_rows(path, validation_examples(split))


@pytest.fixture
def workspace(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small params.yaml and the demo corpus, as the current directory."""
    shutil.copytree(ROOT / "data/demo", tmp_path / "data/demo")
    shorten(tmp_path / "data/demo")
    shutil.copytree(
        ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", tmp_path / "params.yaml")
    edit_params(tmp_path / "params.yaml", small(tiny))
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ready(workspace: Path, tiny: Path) -> Path:
    """The workspace after ingest and preprocess."""
    from bula.params import load_params
    from stages.ingest.sources import read_source, read_task
    from stages.preprocess import __main__ as preprocess

    (workspace / "models/base").symlink_to(tiny)
    params = load_params()
    for source in params.ingest.sources:
        write_rows(
            workspace / f"data/raw/{source.name}.jsonl", read_source(source, params.ingest.limits)
        )
    for task in params.ingest.benchmarks:
        write_rows(
            workspace / f"data/benchmarks/{task.name}.jsonl", read_task(task, params.ingest.limits)
        )
    preprocess.main()
    return workspace


def run(command: list[str], cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the virtual environment as a user would, and give what came back."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = (
        os.environ
        | {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        | environment
    )
    # No terminal's input: a question that a program asks must fail, not wait.
    quiet, pipe = subprocess.DEVNULL, subprocess.PIPE
    started = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        text=True,
        start_new_session=True,
        stdin=quiet,
        stdout=pipe,
        stderr=pipe,
    )
    try:
        output, errors = started.communicate(timeout=HANGS_SECONDS)
    except subprocess.TimeoutExpired:
        # The whole group, whose pipes would keep this waiting; then what it said until then.
        os.killpg(started.pid, signal.SIGKILL)
        output, errors = started.communicate()
        pytest.fail(
            f"{' '.join(command)} did not end in {HANGS_SECONDS} seconds:\n{output[-5000:]}\n{errors[-5000:]}"
        )
    return subprocess.CompletedProcess(command, started.returncode, output, errors)


def leftovers(folder: Path) -> list[str]:
    """Names of half-written outputs below a folder."""
    return sorted(str(path) for path in folder.rglob(".*.tmp"))


@pytest.fixture
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    """Fails the test if a half-written output is left behind."""
    yield
    assert leftovers(tmp_path) == []
