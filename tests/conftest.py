"""Fixtures: the real SmolLM2 tokenizer, a two-layer model around it, and a workspace with a small corpus to run stages in."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

# Two workers with two threads each would wait for each other on two cores; set before torch is imported, and for every stage.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).resolve().parent.parent
Edit = Callable[[dict[str, Any]], None]
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


def build_tiny(smollm2: Path, path: Path) -> None:
    """Write the two-layer model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from bula.models import load_tokenizer, save_model

    tokenizer = load_tokenizer(smollm2)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        # Wide enough apart that bfloat16 does not swap the likeliest tokens.
        initializer_range=0.1,
    )
    save_model(LlamaForCausalLM(config).to(torch.bfloat16), tokenizer, path)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def edit_params(path: Path, edit: Edit) -> None:
    """Change a params.yaml in place."""
    yaml = YAML(typ="safe")
    params = yaml.load(path.read_text(encoding="utf-8"))
    edit(params)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def small(tiny: Path) -> Edit:
    """The default parameters, cut down to what a two-layer model runs in seconds."""

    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["base"] = {"kind": "directory", "path": str(tiny), "license": "apache-2.0"}
        params["preprocess"]["train_limit"] = 16
        params["train"] |= {
            "max_steps": 6,
            "eval_steps": 3,
            "save_steps": 3,
            "log_steps": 1,
            "batch_size": 2,
            "gradient_accumulation": 2,
        }
        params["train"]["lora"] |= {"r": 4, "alpha": 8}
        params["merge"]["check_items"] = params["quantize"]["check_items"] = 2
        params["quantize"]["types"] = ["q8_0"]
        params["generate"] |= {"items_per_set": 2, "max_new_tokens": 8}
        params["benchmark"]["limit"] = 4
        params["rouge"]["resamples"] = params["compare"]["resamples"] = params["calibrate"][
            "resamples"
        ] = 50
        params["judge"] |= {"items_per_set": 1, "reason_characters": 20}
        params["calibrate"]["items"] = 3
        params["variants"] = {
            "base": {"model": "models/base", "engine": "transformers"},
            "tuned": {"model": "models/merged", "engine": "transformers"},
            "quantized": {"model": "models/gguf/q8_0.gguf", "engine": "llama.cpp"},
        }

    return edit


def shorten(demo: Path) -> None:
    """Keep the first rows of each file of the demo corpus."""
    for name, rows in (
        ("train", 16),
        ("dev", 4),
        *((f"validation/{s}", 2) for s in "ABCDE"),
        ("gold", 3),
    ):
        file = demo / f"{name}.jsonl"
        file.write_text(
            "".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]),
            encoding="utf-8",
        )


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
    from bula.records import write_rows
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
