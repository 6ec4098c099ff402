"""Test that `dvc exp run -S KEY=VALUE` changes one line of params.yaml."""

import difflib
import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from bench.clones import ROOT

FILES = ("params.yaml", *(f"profiles/{path.name}" for path in sorted(ROOT.glob("profiles/*.yaml"))))


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    """Return the lines that are only in one of two texts."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    removed = [line[2:] for line in lines if line.startswith("- ")]
    added = [line[2:] for line in lines if line.startswith("+ ")]
    return removed, added


def override(file: str, setting: str, folder: Path) -> tuple[list[str], list[str]]:
    """Let DVC set a key in a copy, and return the lines that it removed and added."""
    copy = folder / "params.yaml"
    shutil.copy(ROOT / file, copy)
    before = copy.read_text(encoding="utf-8")
    apply_overrides(copy, [setting])
    return changed_lines(before, copy.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("seed=7", "seed: 7"),
        ("dtype=float16", "dtype: float16"),
        ("compute.workers=9", "  workers: 9"),
        ("preprocess.near_duplicates.threshold=0.65", "    threshold: 0.65"),
        ("preprocess.languages=[en]", "  - en"),
        ("train.lora.r=8", "    r: 8"),
        ("train.learning_rate=0.0005", "  learning_rate: 0.0005"),
        ("generate.decoding.no_repeat_ngram=4", "    no_repeat_ngram: 4"),
        ("judge.base_url='http://127.0.0.1:8000/v1'", "  base_url: http://127.0.0.1:8000/v1"),
        ("compare.pairs.0.baseline=other", "    baseline: other"),
        ("compare.primary.1=chrf", "  - chrf"),
        ("variants.quantized.model=models/a.gguf", "    model: models/a.gguf"),
    ],
)
def test_an_override_changes_one_line(file: str, setting: str, line: str, tmp_path: Path) -> None:
    removed, added = override(file, setting, tmp_path)
    assert added == [line]
    assert len(removed) == 1


@pytest.mark.parametrize("file", FILES)
def test_a_new_item_of_a_list_adds_one_line(file: str, tmp_path: Path) -> None:
    setting = "quantize.types=[q4_k_m,q8_0]"
    removed, added = override(file, setting, tmp_path)
    # Each profile has one of the two types.
    assert removed == []
    assert added in (["  - q4_k_m"], ["  - q8_0"])
