"""Test `bula profile`, which runs a profile beside the pipeline's own run.

Here the stages are a few lines of Python (tests/test_seeds.py).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, commit, edit_params, git
from bula.errors import UserError
from bula.params import load_params
from bula.profile_clone import prepare
from tests.conftest import run
from tests.test_seeds import STAGES, WORK, pipeline

OWN_SEED = 20261122
OTHER_SEED = 20261123
# Signs with a meaning in YAML, in a shell, or in Hydra's overrides.
HOSTILE = 'sim, "não": {a} [b] ${c} $(d) \\ \' # 0x1F ~'
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


def other(params: dict[str, Any]) -> None:
    """Turn the default parameters into another profile."""
    params.update(seed=OTHER_SEED, dtype="float32")
    params["variants"] = {"tuned": {"model": "models/merged", "engine": "transformers"}}
    params["compare"]["baseline"] = "tuned"
    rows = {
        "kind": "files",
        "name": "clinic",
        "path": "data/sources/rows.jsonl",
        "columns": {"question": HOSTILE, "answer": "b", "specialty": "", "kind": ""},
        "filter": {"Situação do paciente": [HOSTILE, "0123", "null", "1e3"]},
        "limit": 0,
        "role": "split",
        "encoding": "utf-8",
        "names": "removed",
        "license": "cc-by-4.0",
        "redistribution": "allowed",
    }
    params["ingest"]["sources"].append(rows)


def make_repository(folder: Path) -> None:
    """Write a Git and DVC repository with a small pipeline and a profile `other`."""
    (folder / "data/sources").mkdir(parents=True)
    (folder / "data/sources/rows.jsonl").write_text("{}\n", encoding="utf-8")
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(pipeline(), file)
    (folder / "work.py").write_text(WORK.replace("ROOT", repr(str(folder))), encoding="utf-8")
    script = '#!/bin/sh\nexec python work.py "${DVC_STAGE%%@*}"\n'
    (folder / "stage").write_text(script, encoding="utf-8")
    (folder / "stage").chmod(0o755)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "profiles/other.yaml")
    edit_params(folder / "profiles/other.yaml", other)
    (folder / ".gitignore").write_text("/.bula\n/log\n/broken\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    assert run(["dvc", "init", "--quiet"], folder).returncode == 0
    (folder / ".dvcignore").write_text("/.bula\n", encoding="utf-8")
    commit(folder, "start")


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return that repository, which is the current directory.

    Its path has an accent, and git knows no name of the user.
    """
    folder = tmp_path / "ação"
    folder.mkdir()
    make_repository(folder)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(folder)
    return folder


def profile(repo: Path, name: str = "other") -> tuple[int, str, list[str]]:
    """Run `bula profile`, and return its exit code, its output, and the stages that ran."""
    log = repo / "log"
    log.unlink(missing_ok=True)
    result = run(["python", "-m", "bula", "profile", name], repo)
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return result.returncode, result.stdout + result.stderr, lines


def own_run(repo: Path) -> None:
    """Run the pipeline with params.yaml, for the variant that the small stages know."""
    result = run(["dvc", "repro", *STAGES], repo)
    assert result.returncode == 0, result.stderr


def all_stages(seed: int = OTHER_SEED) -> list[str]:
    """Return the lines of the log after a run of all stages."""
    return sorted(f"{seed} {stage}" for stage in STAGES)


def tracked_state(repo: Path) -> dict[str, bytes]:
    """Return the bytes of all files outside .bula, git's and DVC's own folders and the records."""
    hidden = (".bula", ".git", ".dvc", "log")
    paths = [path for path in repo.rglob("*") if path.is_file()]
    places = {str(path.relative_to(repo)): path for path in paths}
    return {
        name: path.read_bytes()
        for name, path in places.items()
        if not name.startswith((*hidden, "profiles/results"))
    }


def test_a_profile_runs_all_stages_and_changes_nothing_of_the_own_run(repo: Path) -> None:
    own_run(repo)
    before = tracked_state(repo)
    code, said, log = profile(repo)
    assert code == 0, said
    # DVC's cache has the data of the own run, whose parameters are the same.
    assert sorted(log) == [line for line in all_stages() if "preprocess" not in line]
    assert tracked_state(repo) == before
    assert (repo / "models/merged").read_text(encoding="utf-8") == f"{OWN_SEED}\n"
    merged = repo / ".bula/profiles/other/models/merged"
    assert merged.read_text(encoding="utf-8") == f"{OTHER_SEED}\n"
    # A second run has nothing to do, and saves the experiment again.
    assert profile(repo)[::2] == (0, [])
    assert tracked_state(repo) == before
    assert run(["dvc", "exp", "list", "--name-only"], repo).stdout.split() == ["other"]


def test_a_finished_profile_can_be_compared_applied_and_becomes_a_branch(repo: Path) -> None:
    own_run(repo)
    commit(repo, "the pipeline's own run")
    code, said, _ = profile(repo)
    assert code == 0, said
    diff = run(["dvc", "metrics", "diff", "HEAD", "other"], repo)
    # The small pipeline's dev losses are 3 and 2.99.
    assert "2.99" in diff.stdout, diff.stderr
    branch = run(["dvc", "exp", "branch", "other", "other-branch"], repo)
    assert branch.returncode == 0, branch.stderr
    applied = run(["dvc", "exp", "apply", "other"], repo)
    assert applied.returncode == 0, applied.stderr
    assert load_params(repo / "params.yaml") == load_params(repo / "profiles/other.yaml")
    assert (repo / "models/merged").read_text(encoding="utf-8") == f"{OTHER_SEED}\n"


def test_the_figures_of_a_profile_are_recorded(repo: Path) -> None:
    code, said, _ = profile(repo)
    assert code == 0, said
    assert "profiles/results/other.json" in said
    written = json.loads((repo / "profiles/results/other.json").read_text(encoding="utf-8"))
    figures = written["figures"]
    assert figures["train__dev_loss_nats"] == 2.99
    assert figures["tuned__bits_per_character"] == 1.99
    assert written["conditions"]["train"] == "float32"
    assert len(written["conditions"]["sha256 of the profile"]) == 16


def test_a_failed_run_continues_where_it_stopped(repo: Path) -> None:
    (repo / "broken").touch()
    code, said, before = profile(repo)
    assert code == 1
    assert "it failed. Read its messages above." in said
    assert not (repo / "profiles/results/other.json").exists()
    (repo / "broken").unlink()
    code, said, after = profile(repo)
    assert code == 0, said
    finished = [line for line in before if "benchmark" not in line]
    assert sorted([*finished, *after]) == all_stages()


def test_a_profile_uses_the_files_as_they_are_now(repo: Path) -> None:
    assert profile(repo)[0] == 0
    with (repo / "work.py").open("a", encoding="utf-8") as file:
        file.write("# edited, not committed\n")
    (repo / "data/sources/rows.jsonl").unlink()
    (repo / "data/sources/new.jsonl").write_text("{}\n", encoding="utf-8")
    git(repo, "add", "data/sources/new.jsonl")
    code, said, log = profile(repo)
    assert code == 0, said
    assert sorted(log) == all_stages()
    sources = repo / ".bula/profiles/other/data/sources"
    assert [path.name for path in sources.iterdir()] == ["new.jsonl"]


def test_an_experiment_of_an_earlier_commit_is_replaced(repo: Path) -> None:
    assert profile(repo)[0] == 0
    commit(repo, "the record")
    code, said, log = profile(repo)
    assert (code, log) == (0, []), said
    listed = run(["dvc", "exp", "list", "--all-commits", "--name-only"], repo)
    assert listed.stdout.split() == ["other"]


def test_an_input_that_git_does_not_track_is_refused(repo: Path) -> None:
    (repo / "data/sources/new.jsonl").write_text("{}\n", encoding="utf-8")
    code, said, log = profile(repo)
    assert (code, log) == (1, [])
    assert "data/sources/new.jsonl: git does not track this input (1 in all)" in said


def test_an_unknown_profile_is_refused_with_the_names(repo: Path) -> None:
    code, said, _ = profile(repo, "../other")
    assert code == 1
    assert "there is no profile '../other'. Name one of gemma-3-270m, llama-3.2-1b, other" in said


def test_a_profile_with_terms_stops_before_anything_is_made(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BULA_ACCEPT_GEMMA_TERMS", raising=False)
    code, said, log = profile(repo, "gemma-3-270m")
    assert (code, log) == (1, [])
    assert "https://ai.google.dev/gemma/terms" in said
    assert "Read the terms, and set BULA_ACCEPT_GEMMA_TERMS=1 if you accept them." in said
    assert not (repo / ".bula").exists()


@pytest.mark.parametrize("source", [*PROFILES, None], ids=lambda path: path.stem if path else "-")
def test_the_clone_has_exactly_the_parameters_of_the_profile(
    source: Path | None, repo: Path
) -> None:
    """Check all profiles, and one with strings that Hydra's overrides cannot express."""
    file = source or repo / "profiles/other.yaml"
    clone = prepare(file.stem, file)
    assert (clone / "params.yaml").read_bytes() == file.read_bytes()
    assert load_params(clone / "params.yaml") == load_params(file)


def test_a_clone_reads_the_keys_of_the_repository(repo: Path) -> None:
    with (repo / ".gitignore").open("a", encoding="utf-8") as file:
        file.write("/.env\n")
    (repo / ".env").write_text("OPENAI_API_KEY=a\n", encoding="utf-8")
    clone = prepare("other", repo / "profiles/other.yaml")
    assert (clone / ".env").read_text(encoding="utf-8") == "OPENAI_API_KEY=a\n"
    (repo / ".env").unlink()
    prepare("other", repo / "profiles/other.yaml")
    assert not (clone / ".env").is_symlink()


def test_a_folder_without_git_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="Run this in a clone of the repository"):
        prepare("other", ROOT / "profiles/smollm2-135m.yaml")
