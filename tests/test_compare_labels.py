"""Check the report's section about people's labels."""

from pathlib import Path
from typing import Any

import pytest

from bench.clones import ROOT
from bula.errors import UserError
from bula.params import load_params
from bula.reports import write_metrics
from stages.compare.labels import labels_section
from stages.compare.page.labels import read_labels

PARAMS = load_params(ROOT / "profiles/smollm2-135m.yaml")
ANSWERS = {
    "answers": 20,
    "harm_none": 15,
    "harm_mild": 4,
    "harm_severe": 1,
    "severe_share": 0.05,
    "severe_low": 0.01,
    "severe_high": 0.24,
    "style_mean": 1.5,
}
PREFERENCES = {
    "questions": 13,
    "prefer_variant": 8,
    "prefer_baseline": 2,
    "both": 1,
    "neither": 1,
    "undecided": 1,
    "prefer_variant_share": 0.8,
    "prefer_variant_low": 0.49,
    "prefer_variant_high": 0.943,
    "p": 0.109375,
}
KINDS_OF_PEOPLE = ("author", "clinician")
KINDS = ("sentences", "relevance", "harm", "style", "preference")


def label_figures(who: str = "author") -> dict[str, Any]:
    """Return the figures of labels of 20 answers of tuned."""
    figures: dict[str, Any] = {
        "judgements": 30,
        "labels_without_answer": 0,
        "labelled_by": who,
        # The stage writes both kinds, also where one made no label.
        **{f"{kind}_{name}": 0 for kind in KINDS_OF_PEOPLE for name in ("judgements", "raters")},
        f"{who}_judgements": 30,
        f"{who}_raters": 2,
        f"{who}_items_accuracy": 12,
        f"{who}_items_style": 0,
        f"{who}_kappa_accuracy": 0.25,
        **{f"{kind}_units": 20 for kind in KINDS},
        "harm_alpha": 0.5,
        "harm_alpha_low": 0.2,
        "harm_alpha_high": 0.8,
        "harm_equal_share": 0.9,
        "style_kappa": 0.75,
        "style_repeat_equal_share": 0.5,
        "style_repeat_equal_low": 0.1,
        "style_repeat_equal_high": 0.9,
    }
    figures |= {"answers_tuned": ANSWERS, "prefer_tuned_minus_base": PREFERENCES}
    few = {"verdicts": 10, "withheld": "0 correct and 11 wrong answers"}
    figures |= {"judge_base": few, "judge_quantized": few}
    figures["judge_tuned"] = {
        "verdicts": 10,
        "accuracy_3_corrected_share": 0.57,
        "accuracy_3_corrected_low": 0.2,
        "accuracy_3_corrected_high": 0.9,
    }
    return figures


def section(folder: Path, figures: dict[str, Any]) -> str:
    """Return the section of some figures."""
    write_metrics(folder / "labels.json", figures)
    return labels_section(folder, PARAMS)


def test_the_section_shows_agreement_harm_and_preferences(tmp_path: Path) -> None:
    text = section(tmp_path, label_figures())
    assert "| harm: none, mild, severe | 0.50 [0.20, 0.80] | – | 90 | 20 | – |" in text
    assert "| style, 1 to 3 | – | 0.75 | – | 20 | 50 [10, 90] |" in text
    assert "| tuned | 20 | 15 | 4 | 1 | 5 [1, 24] | – | – | 1.50 |" in text
    assert "| tuned, base | 13 | 8 | 2 | 1 | 1 | 1 | 80 [49, 94] | 0.109 | 0.109 |" in text


def test_the_judge_is_corrected_or_the_reason_is_shown(tmp_path: Path) -> None:
    text = section(tmp_path, label_figures())
    assert "`author_kappa`: accuracy 0.25 (12 answers); style – (0 answers)." in text
    assert "tuned, correct answers by the corrected judge: 57 % [20, 90] of 10 answers." in text
    assert "base, correct answers by the corrected judge: withheld: 0 correct and 11" in text


def test_the_report_says_what_the_sample_does_to_shares(tmp_path: Path) -> None:
    figures = label_figures()
    text = section(tmp_path, figures)
    assert "no weights, so these shares describe the labelled answers." in text
    assert "so the corrected share is usually too high" in text
    del figures["answers_tuned"]
    figures["judge_tuned"] = figures["judge_base"]
    text = section(tmp_path, figures)
    assert "describe the labelled answers" not in text
    assert "usually too high" not in text


def test_the_report_says_that_the_sample_is_weighted(tmp_path: Path) -> None:
    figures = label_figures() | {"weighted_labels": 30, "unweighted_labels": 0}
    text = section(tmp_path, figures)
    assert "Shares and means weigh each answer by the inverse of its probability" in text
    assert "The kappas and the corrected shares weigh each answer" in text
    assert "too high" not in text
    assert "weigh 1" not in text
    figures["unweighted_labels"] = 4
    assert "**4 labels have no weight and weigh 1**" in section(tmp_path, figures)
    notes = [note.en for note in read_labels(tmp_path, PARAMS).notes]
    assert "4 judgements have no weight and weigh 1." in notes
    assert not any("too high" in note for note in notes)


def test_several_preferences_have_corrected_p_values(tmp_path: Path) -> None:
    figures = label_figures()
    assert "| 0.109 | 0.109 |" in section(tmp_path, figures)
    figures["prefer_tuned_minus_base"] = PREFERENCES | {"p_holm": 0.21875}
    assert "| 0.109 | 0.219 |" in section(tmp_path, figures)


def test_correct_answers_are_of_those_that_raters_can_judge(tmp_path: Path) -> None:
    figures = label_figures()
    scored = {"accuracy_scored": 8, "accuracy_3_share": 0.5}
    bounds = {"accuracy_3_low": 0.2, "accuracy_3_high": 0.8}
    figures["answers_tuned"] = ANSWERS | scored | bounds
    assert "| 50 [20, 80] (8 of 20 answers) |" in section(tmp_path, figures)
    figures["answers_tuned"]["accuracy_scored"] = 20
    assert "| 50 [20, 80] |" in section(tmp_path, figures)


def test_the_page_shows_the_judge_against_people(tmp_path: Path) -> None:
    write_metrics(tmp_path / "labels.json", label_figures())
    labels = read_labels(tmp_path, PARAMS)
    notes = [note.pt for note in labels.notes]
    assert "Kappa entre o juiz e estas pessoas: correção 0,25, estilo –." in notes
    assert any(
        note.startswith("As avaliações não têm pesos. As proporções descrevem") for note in notes
    )
    rows = {row[0].en: row[1] for row in labels.tables[-1].rows}
    assert rows["tuned"].en == "57 % [20, 90] of 10 answers"
    assert rows["tuned"].pt == "57 % [20; 90] de 10 respostas"
    assert rows["base"].pt == "omitido"


def test_authors_are_never_called_clinicians(tmp_path: Path) -> None:
    text = section(tmp_path, label_figures())
    assert "authors of this project, who are no clinicians" in text
    assert "replace no clinician" in text
    assert "clinician_kappa" not in text
    text = section(tmp_path, label_figures("clinician"))
    assert "They are clinicians, so the labels are called `clinician_labels`." in text
    assert "author" not in text


def test_labels_of_other_answers_are_counted(tmp_path: Path) -> None:
    figures = label_figures() | {"labels_without_answer": 7}
    assert "**7 of 30 labels are about answers that this run does not have.**" in section(
        tmp_path, figures
    )
    assert "does not have" not in section(tmp_path, label_figures())


def test_without_labels_one_sentence_says_so(tmp_path: Path) -> None:
    text = section(tmp_path, {"judgements": 0, "labels_without_answer": 0})
    assert text == (
        "## People's labels\n\nNobody has judged the answers (`labels.files` is empty).\n"
    )


def test_without_present_answers_no_table_of_variants_is_shown(tmp_path: Path) -> None:
    figures = label_figures()
    del figures["answers_tuned"], figures["prefer_tuned_minus_base"]
    text = section(tmp_path, figures)
    assert "| variant |" not in text
    assert "| pair |" not in text


@pytest.mark.parametrize("key", ["labelled_by", "judgements", "harm_units", "judge_tuned"])
def test_a_missing_figure_names_file_and_stage(key: str, tmp_path: Path) -> None:
    figures = label_figures()
    del figures[key]
    with pytest.raises(UserError, match=r"labels\.json") as caught:
        section(tmp_path, figures)
    assert "dvc repro labels" in caught.value.fix


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    figures = label_figures()
    figures["judge_base"] = {"verdicts": 1, "withheld": "<img src=x> [a](b)"}
    text = section(tmp_path, figures)
    assert "<img" not in text
    assert "[a](b)" not in text
