"""Fixtures: the real SmolLM2 tokenizer, a two-layer model, and workspaces.

A workspace contains a small corpus, and tests run stages in it.
"""

import contextlib
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
from tests.browser import start_browser
from tests.judge_server import StartJudge, judge_servers

# Two workers with two threads each would compete for two cores; torch reads this at import.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# The tests' parameters say `device: cpu`, and a GPU must be hidden before CUDA starts.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# Below pytest's own limit, so that the failure shows the output; no command takes a third of it.
COMMAND_TIMEOUT_SECONDS = 700
SHOWN_CHARACTERS = 5000
SMOLLM2_WIDTH = 576
# These run first, so that two workers finish at about the same time.
LONGEST_FILES = ("test_pipeline.py", "test_train.py", "test_kill.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests: the longest files first, the others by name."""

    def place(item: pytest.Item) -> int:
        name = item.path.name
        return LONGEST_FILES.index(name) if name in LONGEST_FILES else len(LONGEST_FILES)

    items.sort(key=place)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return chromium; skip the test where no browser is installed.

    Playwright keeps an event loop in this thread, in which asyncio.run of other modules would fail.
    """
    with start_browser() as started:
        yield started


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the embedded base model.

    That is models/base if `make repro` ran, else a download by the code of the stage models.
    """
    from bula.params import load_params
    from stages.models.base import fetch_base

    base = ROOT / "models/base"
    # A run of another profile leaves another model there.
    if _width(base) == SMOLLM2_WIDTH:
        return base
    path = tmp_path_factory.mktemp("smollm2") / "base"
    ingest = load_params(ROOT / "profiles/smollm2-135m.yaml").ingest
    fetch_base(ingest.base, "bfloat16", path, ingest.limits)
    return path


def _width(model: Path) -> int | None:
    """Return the hidden size of a model, or None without a model."""
    config = model / "config.json"
    if not config.exists():
        return None
    return int(json.loads(config.read_text(encoding="utf-8"))["hidden_size"])


@pytest.fixture(scope="session")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a two-layer Llama with random weights.

    It is 256 wide and has SmolLM2's tokenizer and chat template.
    """
    path = tmp_path_factory.mktemp("tiny") / "tiny"
    build_tiny(smollm2, path)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def make_workspace(folder: Path, tiny: Path) -> None:
    """Fill a folder with small parameters and the demo corpus."""
    shutil.copytree(ROOT / "data/demo", folder / "data/demo")
    shorten(folder / "data/demo")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tasks", folder / "tasks", ignore=ignored)
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    edit_params(folder / "params.yaml", small(tiny))
    (folder / "models").mkdir()


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
    """Return a workspace, which is the current directory."""
    make_workspace(tmp_path, tiny)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def prepared(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace after ingest and preprocess, which tests only copy."""
    folder = tmp_path_factory.mktemp("prepared") / "workspace"
    folder.mkdir()
    make_workspace(folder, tiny)
    with contextlib.chdir(folder):
        make_ready(folder, tiny)
    return folder


@pytest.fixture
def ready(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a workspace after ingest and preprocess, which is the current directory."""
    shutil.copytree(prepared, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_ready(workspace: Path, tiny: Path) -> None:
    """Ingest and preprocess in a workspace, which must be the current directory."""
    from bula.params import load_params
    from stages.ingest.sources import read_source, read_task
    from stages.preprocess import __main__ as preprocess

    (workspace / "models/base").symlink_to(tiny)
    ingest = load_params().ingest
    for source in ingest.sources:
        rows = read_source(source, ingest.limits)
        write_rows(workspace / f"data/raw/{source.name}.jsonl", rows)
    for task in ingest.benchmarks:
        items = read_task(task, ingest.limits)
        write_rows(workspace / f"data/benchmarks/{task.name}.jsonl", items)
    preprocess.main()


def run(command: list[str], cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the virtual environment as a user would.

    Return its exit code and output. The command has no input, so that a question fails at once.
    """
    started = subprocess.Popen(
        command,
        cwd=cwd,
        env=user_environment() | environment,
        text=True,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        output, errors = started.communicate(timeout=COMMAND_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        # Any process of the group would hold the pipes open.
        os.killpg(started.pid, signal.SIGKILL)
        output, errors = started.communicate()
        shown = f"{output[-SHOWN_CHARACTERS:]}\n{errors[-SHOWN_CHARACTERS:]}"
        limit = f"{COMMAND_TIMEOUT_SECONDS} seconds"
        pytest.fail(f"{' '.join(command)} did not exit within {limit}:\n{shown}")
    return subprocess.CompletedProcess(command, started.returncode, output, errors)


def user_environment() -> dict[str, str]:
    """Return the environment with this virtual environment and repository."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def leftovers(folder: Path) -> list[str]:
    """Return the names of incomplete outputs below a folder."""
    return sorted(str(path) for path in folder.rglob(".*.tmp"))


@pytest.fixture
def api(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartJudge]:
    """Return a function that starts a judge with the given replies."""
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with judge_servers(workspace) as start:
        yield start
