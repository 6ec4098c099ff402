"""Test `bula score` on a repository whose stages are shell commands."""

import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import pytest
from networkx import DiGraph

from bench.clones import ROOT
from bula.commands.score import choose_places, run_variant, run_variants, split_stages
from bula.errors import UserError
from tests.conftest import run

# Each `answer` waits until all three have started, so they end only if they run beside each other.
PIPELINE = """
stages:
  data:
    cmd: echo rows > rows.txt
    outs: [rows.txt]
  answer:
    foreach: ${variants}
    do:
      cmd: >-
        echo "$CUDA_VISIBLE_DEVICES" > started/${key} && n=0;
        while [ "$(ls started | wc -l)" -lt 3 ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done;
        test "$(ls started | wc -l)" -eq 3 && echo ${key} > answer-${key}.txt
      deps: [rows.txt]
      outs: ["answer-${key}.txt"]
  score:
    foreach: ${variants}
    do:
      cmd: ${item.command} answer-${key}.txt > score-${key}.txt
      deps: ["answer-${key}.txt", scorer.txt]
      outs: ["score-${key}.txt"]
  scorer:
    cmd: echo scorer > scorer.txt
    deps: [params.yaml]
    outs:
      # DVC alone records no stage with such an output.
      - scorer.txt: {cache: false}
  compare:
    cmd: cat score-base.txt score-tuned.txt score-quantized.txt > compare.txt
    deps: [score-base.txt, score-tuned.txt, score-quantized.txt]
    outs: [compare.txt]
"""
VARIANTS = (
    "variants:\n  base: {command: cat}\n  tuned: {command: cat}\n  quantized: {command: cat}\n"
)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with three variants, as the working folder."""
    monkeypatch.chdir(tmp_path)
    run(["git", "init", "-q"], tmp_path)
    run(["dvc", "init", "-q"], tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "params.yaml").write_text(VARIANTS)
    (tmp_path / "started").mkdir()
    return tmp_path


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `bula score` in the working folder."""
    command = [sys.executable, "-m", "bula", "score", *arguments]
    return run(command, Path.cwd(), PYTHONPATH=str(ROOT))


def recorded(repo: Path) -> str:
    """Return the text of DVC's run-cache."""
    files = [file for file in (repo / ".dvc/cache/runs").rglob("*") if file.is_file()]
    return "".join(file.read_text() for file in files)


class Stage(NamedTuple):
    """A stage of DVC's graph."""

    addressing: str


def test_the_stages_of_no_variant_that_variants_need_come_first() -> None:
    graph: Any = DiGraph()
    # Each edge leads from a stage to a stage that it depends on.
    edges = [
        ("score@a", "answer@a"),
        ("answer@a", "data"),
        ("score@a", "scorer"),
        ("compare", "score@a"),
    ]
    edges += [("score@b", "answer@b"), ("answer@b", "data"), ("score@b", "scorer")]
    graph.add_edges_from((Stage(one), Stage(other)) for one, other in edges)
    shared, of_variant = split_stages(graph)
    assert shared == ["data", "scorer"]
    assert of_variant == {"a": ["answer@a", "score@a"], "b": ["answer@b", "score@b"]}


def test_variants_run_beside_each_other_on_their_own_devices(repo: Path) -> None:
    result = call("--devices", "4,5,6")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (repo / "compare.txt").read_text() == "base\ntuned\nquantized\n"
    devices = sorted(file.read_text().strip() for file in (repo / "started").iterdir())
    assert devices == ["4", "5", "6"]
    status = run(["dvc", "status", "--json"], repo)
    # dvc.lock has every stage, although three processes wrote it.
    assert status.stdout.strip() == "{}"
    assert "echo scorer" in recorded(repo)


def test_a_variant_that_fails_leaves_the_others(repo: Path) -> None:
    broken = VARIANTS.replace("tuned: {command: cat}", "tuned: {command: 'false'}")
    (repo / "params.yaml").write_text(broken)
    result = call("--jobs", "3")
    assert result.returncode == 1
    assert "these variants failed: tuned" in result.stderr
    assert "Read .bula/score/tuned.log" in result.stderr
    assert (repo / "score-quantized.txt").exists()
    assert not (repo / "compare.txt").exists()
    assert "score@tuned" in (repo / ".bula/score/tuned.log").read_text()
    assert "echo scorer" in recorded(repo)


def test_a_device_scores_several_variants_in_turn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    used = []

    def record(command: list[str], *, env: dict[str, str], **_: object) -> int:
        used.append((command[-1], env["CUDA_VISIBLE_DEVICES"]))
        return 0

    monkeypatch.setattr(subprocess, "call", record)
    assert run_variants({"a": ["s@a"], "b": ["s@b"]}, ["7"]) == []
    assert used == [("s@a", "7"), ("s@b", "7")]


def test_a_variant_without_a_log_leaves_its_device_to_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # The log of the first variant cannot be opened.
    (tmp_path / ".bula/score/a.log").mkdir(parents=True)
    monkeypatch.setattr(subprocess, "call", lambda *_, **__: 0)
    devices: SimpleQueue[str] = SimpleQueue()
    devices.put("7")
    with pytest.raises(IsADirectoryError):
        run_variant("a", ["s@a"], devices)
    assert devices.get_nowait() == "7"


@pytest.mark.parametrize(("devices", "jobs"), [("", 0), ("0,1", 2)])
def test_devices_or_jobs_are_needed(devices: str, jobs: int) -> None:
    with pytest.raises(UserError, match="either --devices or --jobs"):
        choose_places(devices, jobs)
    assert choose_places("0, 1", 0) == ["0", "1"]
    assert choose_places("", 2) == ["", ""]
