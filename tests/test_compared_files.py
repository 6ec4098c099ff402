"""Test the lists of files that compare and labels read of each variant."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT, clone_tree, commit, edit_params, git
from bula.compared_files import (
    check_compared_files,
    compared_files,
    file_patterns,
    listed_files,
    with_variants,
    write_variants,
)
from bula.errors import UserError
from tests.conftest import run
from tests.test_pipeline import stages_run

PIPELINE = """\
# A comment.
stages:
  generate:
    foreach: ${variants}
    do:
      cmd: exec ./stage
      outs:
      - "data/answers/${key}.jsonl": {remote: rows}
      - metrics/generate/${key}.json: {cache: false}
      - metrics/speed/generate/${key}.json: {cache: false}

  seeds:
    foreach: [1, 2]
    do:
      cmd: exec ./stage
      outs:
      - data/seeds/${item}.json

  compare:
    cmd: exec ./stage
    deps:
    - bula/stats.py
    - data/answers/base.jsonl
    - data/answers/old.jsonl
    - metrics/generate.json
    - metrics/generate/base.json
    - metrics/generate/old.json
"""
DVC: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def test_compare_reads_rows_and_figures_but_no_times() -> None:
    content = YAML(typ="safe").load(PIPELINE)
    assert file_patterns(content, "compare") == [
        "data/answers/${key}.jsonl",
        "metrics/generate/${key}.json",
    ]
    assert compared_files(content, "compare", ["a", "b"]) == {
        "data/answers/a.jsonl",
        "data/answers/b.jsonl",
        "metrics/generate/a.json",
        "metrics/generate/b.json",
    }


def test_another_variant_replaces_only_the_files_of_variants() -> None:
    text = with_variants(PIPELINE, ["base", "mine"])
    assert text == PIPELINE.replace("generate/old.json", "generate/mine.json").replace(
        "answers/old.jsonl", "answers/mine.jsonl"
    )
    assert with_variants(text, ["base", "mine"]) == text


def test_a_pipeline_without_compare_stays_as_it_is() -> None:
    text = PIPELINE[: PIPELINE.index("  compare:")]
    assert with_variants(text, ["mine"]) == text


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (["base", "mine"], r"does not list data/answers/mine\.jsonl \(2 such files\)"),
        (["base"], r"lists data/answers/old\.jsonl, whose variant is not in params\.yaml"),
    ],
)
def test_a_wrong_list_is_refused_with_the_command_that_corrects_it(
    variants: list[str], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "dvc.yaml"
    file.write_text(PIPELINE, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        check_compared_files(file, variants)
    assert "python -m bula deps --write" in caught.value.fix
    check_compared_files(file, ["base", "old"])


def test_a_pipeline_without_compare_is_not_refused(tmp_path: Path) -> None:
    pipeline = tmp_path / "dvc.yaml"
    pipeline.write_text("stages:\n  ingest:\n    cmd: exec ./stage\n", encoding="utf-8")
    check_compared_files(pipeline, ["base"])


@pytest.mark.parametrize("profile", sorted(path.stem for path in ROOT.glob("profiles/*.yaml")))
def test_the_list_can_be_written_for_each_profile(profile: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    params = ROOT / f"profiles/{profile}.yaml"
    write_variants(tmp_path / "dvc.yaml", params)
    variants = YAML(typ="safe").load(params.read_text(encoding="utf-8"))["variants"]
    check_compared_files(tmp_path / "dvc.yaml", variants)


def test_an_edit_of_variants_in_a_clone_changes_the_list(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("variants: {base: {}, old: {}}\n", encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    edit_params(tmp_path / "params.yaml", lambda params: params.update(variants={"mine": {}}))
    check_compared_files(tmp_path / "dvc.yaml", ["mine"])


def test_compare_lists_no_folder_of_several_stages() -> None:
    listed = DVC["stages"]["compare"]["deps"]
    folders = {str(Path(pattern).parent) for pattern in file_patterns(DVC, "compare")}
    assert folders.isdisjoint(listed)
    # Likelihood, generate, safety, benchmark, rouge, BERTScore and judge: rows and figures.
    assert len(file_patterns(DVC, "compare")) == 14
    assert len(listed_files(DVC, "compare")) == 14 * 3


def test_labels_lists_the_answers_and_verdicts_of_each_variant() -> None:
    assert listed_files(DVC, "labels") == {
        f"data/{folder}/{variant}.jsonl"
        for folder in ("answers", "verdicts")
        for variant in ("base", "tuned", "quantized")
    }


def test_a_new_variant_is_added_to_both_lists() -> None:
    text = with_variants((ROOT / "dvc.yaml").read_text(encoding="utf-8"), ["base", "mine"])
    stages = YAML(typ="safe").load(text)["stages"]
    for reader in ("compare", "labels"):
        assert "data/answers/mine.jsonl" in stages[reader]["deps"]
        assert "data/answers/tuned.jsonl" not in stages[reader]["deps"]


# A clean clone with a remote

# It stands for every stage, and writes the same bytes in each run.
STAGE = """\
#!/usr/bin/env python
import json, os
from pathlib import Path
for path in json.loads(Path("outputs.json").read_text())[os.environ["DVC_STAGE"]]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("{}")
"""
# Outputs that other stages read in part.
PARTS = (
    "data/clean/train.jsonl",
    "data/clean/dev.jsonl",
    "data/clean/few_shot.jsonl",
    "data/clean/validation/A.jsonl",
    "data/controls/likelihood_ngram.jsonl",
    "data/controls/scores_stock.jsonl",
    "models/gguf/q4_k_m.gguf",
)


def outputs_of_stages(variants: list[str]) -> dict[str, list[str]]:
    """Return the files that each stage of the pipeline writes."""
    found: dict[str, list[str]] = {}
    for name, entry in DVC["stages"].items():
        body = entry.get("do", entry)
        outs = [out for key in ("outs", "metrics", "plots") for out in body.get(key, [])]
        paths = [out if isinstance(out, str) else next(iter(out)) for out in outs]
        keys = variants if "do" in entry else [""]
        for key in keys:
            address = f"{name}@{key}" if key else name
            found[address] = [path.replace("${key}", key) for path in paths]
    for paths in found.values():
        for part in PARTS:
            folder = "/".join(part.split("/")[:2])
            if folder in paths:
                paths.append(part)
        paths[:] = [path for path in paths if not any(p.startswith(f"{path}/") for p in PARTS)]
    return found


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with the real dvc.yaml, whose tiny outputs are in folder remotes."""
    folder = tmp_path_factory.mktemp("pushed") / "bula"
    folder.mkdir()
    clone_tree(folder)
    variants = ["base", "tuned", "quantized"]
    outputs = outputs_of_stages(variants)
    (folder / "outputs.json").write_text(json.dumps(outputs), encoding="utf-8")
    (folder / "stage").write_text(STAGE, encoding="utf-8")
    for name, place in (("local", "remote"), ("rows", "rows")):
        changed = run(["dvc", "remote", "modify", name, "url", str(folder.parent / place)], folder)
        assert changed.returncode == 0, changed.stderr
    (folder / "dvc.lock").unlink(missing_ok=True)
    for path in (path for paths in outputs.values() for path in paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("{}", encoding="utf-8")
    recorded = run(["dvc", "commit", "--force", "--quiet", "dvc.yaml"], folder)
    assert recorded.returncode == 0, recorded.stderr
    commit(folder, "run")
    sent = run(["dvc", "push", "--quiet"], folder)
    assert sent.returncode == 0, sent.stderr
    return folder


@pytest.fixture
def fresh(pushed: Path, tmp_path: Path) -> Path:
    """Return a clone of that repository without data."""
    git(tmp_path, "clone", "--quiet", str(pushed), "fresh")
    return tmp_path / "fresh"


def repro(folder: Path, *options: str) -> list[str]:
    """Run `dvc repro`, and return the stages that ran."""
    result = run(["dvc", "repro", *options], folder)
    assert result.returncode == 0, result.stderr
    return sorted(stages_run(result.stdout))


def data_files(folder: Path) -> set[str]:
    """Return the files below data/ and models/ that git does not track."""
    names = git(folder, "ls-files", "--others", "--ignored", "--exclude-standard")
    return {name for name in names.splitlines() if name.startswith(("data/", "models/"))}


def test_an_unchanged_clone_without_data_is_up_to_date(fresh: Path) -> None:
    assert repro(fresh, "--dry", "--allow-missing") == []
    assert repro(fresh, "--pull", "--allow-missing") == []
    assert data_files(fresh) == set()
    assert git(fresh, "status", "--porcelain") == ""


def test_a_changed_parameter_fetches_only_the_inputs_of_its_stages(fresh: Path) -> None:
    edit_params(fresh / "params.yaml", lambda params: params["rouge"].update(resamples=60))
    variants = ("base", "quantized", "tuned")
    own = ["controls", *(f"rouge@{name}" for name in variants)]
    # The figures are the same, so compare has nothing new to read.
    assert repro(fresh, "--pull", "--allow-missing") == own
    expected = {
        *(f"data/answers/{name}.jsonl" for name in variants),
        *(f"data/scores/{name}.jsonl" for name in variants),
        "data/checked.txt",
        "data/clean/train.jsonl",
        "data/clean/validation/A.jsonl",
        "data/controls/likelihood_ngram.jsonl",
        "data/controls/scores_stock.jsonl",
    }
    assert data_files(fresh) == expected


def test_compare_alone_and_the_stages_after_rouge_run_in_a_clone_without_data(fresh: Path) -> None:
    edit_params(fresh / "params.yaml", lambda params: params["compare"].update(examples=2))
    pulled = ("--pull", "--allow-missing")
    assert repro(fresh, *pulled, "--single-item", "compare") == ["compare"]
    found = data_files(fresh)
    assert "data/likelihood/base.jsonl" in found
    assert not any(name.startswith("models/") for name in found)
    edit_params(fresh / "params.yaml", lambda params: params["compare"].update(examples=3))
    assert repro(fresh, *pulled, "--downstream", "rouge@base") == ["compare"]


def test_one_file_of_a_variant_can_be_pulled(fresh: Path) -> None:
    pulled = run(["dvc", "pull", "data/likelihood/base.jsonl"], fresh)
    assert pulled.returncode == 0, pulled.stderr
    assert data_files(fresh) == {"data/likelihood/base.jsonl"}


def test_a_new_variant_stops_the_first_stage_until_its_files_are_listed(fresh: Path) -> None:
    text = (fresh / "params.yaml").read_text(encoding="utf-8")
    added = "variants:\n  mine: {model: models/base, engine: transformers}\n"
    (fresh / "params.yaml").write_text(text.replace("variants:\n", added), encoding="utf-8")
    shutil.copy(ROOT / "stage", fresh / "stage")
    result = run(["dvc", "repro", "--pull", "--allow-missing"], fresh)
    assert stages_run(result.stdout) == ["check"]
    assert "dvc.yaml: the stage compare does not list data/answers/mine.jsonl" in result.stderr
    assert run(["python", "-m", "bula", "deps", "--write"], fresh).returncode == 0
    checked = run(["dvc", "repro", "check"], fresh)
    assert checked.returncode == 0, checked.stderr
