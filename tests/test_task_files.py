"""Test which files a task reads, and the check that ingest writes them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.params import load_params
from bula.task_files import is_pinned, list_files, unwritten_items
from stages import check


@pytest.mark.parametrize(
    ("data_files", "expected"),
    [
        ("a.jsonl", ["a.jsonl"]),
        (["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"]),
        ({"test": "a.jsonl"}, ["a.jsonl"]),
        ({"train": "a.jsonl", "test": ["b.jsonl", "c.jsonl"]}, ["a.jsonl", "b.jsonl", "c.jsonl"]),
        (None, []),
    ],
)
def test_data_files_may_be_a_path_a_list_or_a_mapping(data_files: Any, expected: list[str]) -> None:
    assert list_files(data_files) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data/benchmarks/a.jsonl", True),
        ("./data/benchmarks/a.jsonl", True),
        ("data/benchmarks/../sources/a.jsonl", False),
        ("data/sources/a.jsonl", False),
        ("data/benchmarks2/a.jsonl", False),
    ],
)
def test_only_files_that_ingest_writes_are_pinned(path: str, expected: bool) -> None:
    assert is_pinned(path) == expected


def write_task(folder: Path, name: str, text: str) -> None:
    """Write a task with these lines after its name."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}", encoding="utf-8")


def reads(path: str) -> str:
    """Return the lines of a task that reads a file."""
    return f"dataset_kwargs:\n  data_files: {path}\n"


def test_a_task_whose_items_ingest_does_not_write_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    write_task(folder, "bula_one", reads("data/benchmarks/one.jsonl"))
    write_task(folder, "bula_two", reads("{test: [data/benchmarks/two.jsonl]}"))
    write_task(folder, "bula_all", reads("data/benchmarks/*.jsonl"))
    write_task(folder, "bula_own", reads("data/sources/own.jsonl"))
    # The file comes from another task, and a function is a tag that YAML does not know.
    write_task(folder, "bula_sub", "include: bula_two.yaml\nprocess_docs: !function own.clean\n")
    names = ["bula_one", "bula_two", "bula_all", "bula_own", "bula_sub", "piqa"]
    two = "data/benchmarks/two.jsonl"
    assert unwritten_items(folder, names, ["one"]) == {"bula_two": two, "bula_sub": two}
    assert unwritten_items(folder, names, ["one", "two"]) == {}
    assert unwritten_items(folder, ["bula_one"], ["one"]) == {}


def test_a_damaged_task_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("task: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.yaml: the task cannot be read"):
        unwritten_items(tmp_path, [], [])


@pytest.mark.parametrize(
    "profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda p: p.stem
)
def test_ingest_writes_the_items_of_every_profile(profile: Path) -> None:
    check.check_tasks(load_params(profile), ROOT / "tasks")


def test_the_check_names_the_task_and_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["benchmark"]["tasks"].append("bula_revalida_cloze")

    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", tmp_path / "params.yaml")
    edit_params(tmp_path / "params.yaml", edit)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(ROOT / "data/demo")
    monkeypatch.chdir(tmp_path)
    file = r"data/benchmarks/bula_revalida\.jsonl"
    what = rf"no entry of ingest\.benchmarks writes the items of bula_revalida_cloze \({file}\)"
    message = rf"params\.yaml: {what}\. Add an entry"
    with pytest.raises(UserError, match=message):
        check.main(launch=ROOT / "accelerate", tasks=ROOT / "tasks")
    assert not (tmp_path / "data/checked.txt").exists()
