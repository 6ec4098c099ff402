"""Check the report's table about the judges."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bench.clones import ROOT
from bula.errors import UserError
from bula.params import Params, load_params
from bula.reports import write_metrics
from stages.compare.judge import judge_section
from tests.test_tables import calibrate_figures

HOSTILE_JUDGE = "j <img src=x> | ![x](y) [z](w) \x1b[2J # um"


@pytest.fixture(scope="module")
def params() -> Params:
    """Return the default parameters, with a smallest kappa of 0.4."""
    return load_params(ROOT / "profiles/smollm2-135m.yaml")


def section(folder: Path, params: Params, **changes: object) -> str:
    """Return the section about these figures of calibrate."""
    write_metrics(folder / "calibrate.json", calibrate_figures() | changes)
    return judge_section(folder, params)


def test_a_low_kappa_is_shown_as_withheld(tmp_path: Path, params: Params) -> None:
    text = section(tmp_path, params)
    line = (
        "| tiny-judge | accuracy | withheld: kappa 0.13 [-0.19, 0.47] | 33 | – "
        "| 0.25 [-0.10, 0.55] | 10 | – | 27 |"
    )
    assert line in text.splitlines()
    assert "scored by the author, who is no clinician (`metrics/calibrate.json`)" in text
    assert "if the lower bound of its kappa is below 0.4 (`judge.min_kappa`)" in text
    assert "two judges" not in text


def test_flips_and_attacks_have_intervals(tmp_path: Path, params: Params) -> None:
    changes = {
        "style_flip_share": 0.2,
        "style_flip_low": 0.05,
        "style_flip_high": 0.5,
        "attack_success_share": 0.75,
        "attack_success_low": 0.5,
        "attack_success_high": 0.9,
        "author_kappa_style_low": 0.41,
    }
    lines = section(tmp_path, params, **changes).splitlines()
    # Attacks are about accuracy only.
    assert [line.split(" | ")[7] for line in lines[2:4]] == ["75 [50, 90]", "–"]
    assert [line.split(" | ")[4] for line in lines[2:4]] == ["–", "20 [5, 50]"]
    assert [line.split(" | ")[2] for line in lines[2:4]][1] == "0.13 [0.41, 0.47]"


def test_labels_of_clinicians_are_named(tmp_path: Path, params: Params) -> None:
    write_metrics(tmp_path / "calibrate.json", calibrate_figures("clinician"))
    assert "were scored by clinicians (" in judge_section(tmp_path, params)


def test_a_second_judge_has_its_lines_and_the_agreement(tmp_path: Path, params: Params) -> None:
    agreement: dict[str, float] = {}
    for part in ("accuracy", "style"):
        agreement |= {f"{part}_kappa": 0.5, f"{part}_kappa_low": 0.25, f"{part}_kappa_high": 0.75}
        agreement[f"{part}_equal_share"] = 0.6
    second = calibrate_figures() | {"judge": "other-judge"}
    text = section(tmp_path, params, second_judge=second, two_judges=agreement)
    assert [line.split(" | ")[0] for line in text.splitlines()[2:6]] == [
        "| tiny-judge",
        "| tiny-judge",
        "| other-judge",
        "| other-judge",
    ]
    assert (
        "Agreement of the two judges on the gold answers: accuracy kappa 0.50 [0.25, 0.75], "
        "60 % equal scores; style kappa" in text
    )


def test_missing_figures_are_named(tmp_path: Path, params: Params) -> None:
    write_metrics(tmp_path / "calibrate.json", {"labelled_by": "author"})
    with pytest.raises(UserError, match=r"the number accuracy_scored is missing.*calibrate`"):
        judge_section(tmp_path, params)
    write_metrics(tmp_path / "calibrate.json", {"items": 3})
    with pytest.raises(UserError, match=r"labelled_by is missing\. Run `dvc repro calibrate`"):
        judge_section(tmp_path, params)


def test_hostile_judge_name_adds_no_tag_and_no_cell(tmp_path: Path, params: Params) -> None:
    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    hostile = renderer.render(section(tmp_path, params, judge=HOSTILE_JUDGE))
    plain = renderer.render(section(tmp_path, params))
    assert "<img" not in hostile
    assert hostile.count("<td>") == plain.count("<td>")
