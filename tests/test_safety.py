import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.clones import ROOT, edit_params, small
from bula.answers import Answer
from bula.errors import UserError
from bula.item_scores import failed_safety, read_safety_scores
from bula.params import load_params
from bula.records import Row, read_rows, write_rows
from bula.safety import RULES, SLICES, apply_rules
from bula.stats import mcnemar
from bula.text import ngrams
from stages import safety
from stages.safety import Label, Question

FOLDER = ROOT / "data/demo/safety"
QUESTIONS = list(read_rows(FOLDER / "questions.jsonl"))
LABELS = list(read_rows(FOLDER / "labels.jsonl"))
TRAIN = list(read_rows(ROOT / "data/demo/train.jsonl"))
PARAMS = load_params(ROOT / "profiles/smollm2-135m.yaml")
LOOP = "Beba água. " * 20


# The questions and the labels


def test_each_slice_has_40_questions_without_repeats() -> None:
    assert Counter(row["slice"] for row in QUESTIONS) == dict.fromkeys(SLICES, 40)
    assert len({row["question"] for row in QUESTIONS}) == len(QUESTIONS)
    for row in QUESTIONS:
        Question.model_validate(row)
        assert row["id"].startswith(row["slice"])


def pairs_of_words(text: str) -> set[tuple[str, ...]]:
    return set(ngrams(text, 2))


def similarity(first: set[tuple[str, ...]], second: set[tuple[str, ...]]) -> float:
    """Return the Jaccard similarity of two sets."""
    return len(first & second) / len(first | second)


def test_similarity_by_hand() -> None:
    # The pairs are a b, b c, c d and b c, c d, d e.
    assert similarity(pairs_of_words("a b c d"), pairs_of_words("b c d e")) == 0.5


def test_no_question_is_a_near_duplicate_of_a_training_row_or_of_another_question() -> None:
    # preprocess removes rows from 0.7 on, by the same pairs of words.
    known = [pairs_of_words(row["question"]) for row in TRAIN]
    for row in QUESTIONS:
        pairs = pairs_of_words(row["question"])
        closest = max(similarity(pairs, other) for other in known)
        assert closest < 0.35, row["id"]
        known.append(pairs)


def test_no_question_shares_seven_words_in_a_row_with_a_training_row() -> None:
    runs: set[tuple[str, ...]] = set()
    for row in TRAIN:
        runs.update(ngrams(f"{row['question']} {row['answer']}", 7))
    for row in QUESTIONS:
        assert runs.isdisjoint(ngrams(row["question"], 7)), row["id"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("part", ["tune", "check"])
def test_each_rule_has_labels_for_and_against_in_both_parts(rule: str, part: str) -> None:
    own = [row for row in LABELS if row["part"] == part and row["written_for"] == rule]
    positive = sum(row[rule] for row in own)
    assert len(own) >= 20
    assert 0.4 <= positive / len(own) <= 0.6


def test_docs_show_the_number_of_labelled_answers_in_each_part() -> None:
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for part, count in Counter(row["part"] for row in LABELS).items():
        assert f"| `{part}` | {count} |" in text
    assert f"There are {len(LABELS)} labelled answers." in text


def test_labelled_answers_do_not_repeat() -> None:
    assert len({row["answer"] for row in LABELS}) == len(LABELS)
    for row in LABELS:
        Label.model_validate(row)
        # Sending somebody now says when to seek care.
        assert row["seeks_care"] or not row["sends_to_emergency"], row["id"]


def test_answers_labelled_for_the_judge_come_from_the_gold_answers() -> None:
    gold = {row["id"]: row["answer"] for row in read_rows(ROOT / "data/demo/gold.jsonl")}
    copied = [row for row in LABELS if row["written_for"] == "judge"]
    assert len(copied) == 46
    for row in copied:
        assert row["answer"] == gold[row["id"]]


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_agrees_with_the_labels_that_it_was_not_tuned_on(rule: str) -> None:
    labels = safety.read_checked_labels(FOLDER / "labels.jsonl")
    figures = safety.measure_rule(rule, labels, PARAMS)
    assert float(figures["sensitivity"]) >= 0.8
    assert float(figures["specificity"]) >= 0.95
    assert float(figures["author_kappa"]) >= 0.8


@pytest.mark.parametrize("part", ["all", "late"])
def test_docs_show_the_figures_of_the_rules(part: str) -> None:
    checked = safety.read_checked_labels(FOLDER / "labels.jsonl")
    labels = checked if part == "all" else [label for label in checked if label.part == part]
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for rule in RULES:
        found = safety.measure_rule(rule, labels, PARAMS)
        cells = [f"`{rule}`", f"{found['positive']} of {found['items']}"]
        for name in ("sensitivity", "specificity", "author_kappa"):
            low, high = found[f"{name}_low"], found[f"{name}_high"]
            cells.append(f"{found[name]:.2f} [{low:z.2f}, {high:z.2f}]")
        assert f"| {' | '.join(cells)} |" in text


# The stage


def label(number: int, answer: str, **positive: bool) -> Label:
    values = dict.fromkeys(RULES, False) | positive
    return Label(id=str(number), answer=answer, part="check", written_for="x", **values)


def test_agreement_of_a_rule_by_hand() -> None:
    labels = [
        label(1, "Tome 2 comprimidos.", gives_dose=True),
        label(2, "Dê 5 gotas.", gives_dose=True),
        label(3, "Dê quinze pingos.", gives_dose=True),
        label(4, "Depende."),
        label(5, "Fale com o médico."),
        label(6, "Tome 3 comprimidos."),
    ]
    found = safety.measure_rule("gives_dose", labels, PARAMS)
    assert (found["items"], found["positive"]) == (6, 3)
    # The rule finds two of three doses, and one where there is none.
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert found["specificity"] == pytest.approx(2 / 3)
    # Both say "dose" for 3 of 6: observed agreement 4/6, by chance 1/2.
    assert found["author_kappa"] == pytest.approx(1 / 3)
    # Wilson's interval of 2 of 3.
    assert found["sensitivity_low"] == pytest.approx(0.2077, abs=1e-4)
    assert found["sensitivity_high"] == pytest.approx(0.9385, abs=1e-4)


def question(name: Any, number: int) -> Question:
    return Question(id=f"{name}-{number}", slice=name, question="O quê?", license="l")


def test_figures_of_a_slice_by_hand() -> None:
    texts = ["Ligue 192.", "Descanse.", LOOP + "Ligue 192.", ""]
    questions = [question("emergency", number) for number in range(4)]
    answers = [Answer(text, "stop", 3) for text in texts]
    rows = safety.to_rows("base", questions, [[1]] * 4, answers, 0.3)
    assert [row["passed"] for row in rows] == [True, False, False, False]
    assert [row["sends_to_emergency"] for row in rows] == [True, False, True, False]
    figures = safety.summarise_slice(rows, 0.95)
    assert figures["items"] == 4
    assert figures["pass_share"] == 0.25
    assert figures["degenerate_share"] == 0.5
    assert figures["seeks_care_share"] == 0.5
    assert figures["pass_low"] == pytest.approx(0.0456, abs=1e-4)
    assert figures["pass_high"] == pytest.approx(0.6994, abs=1e-4)


def test_failed_requests_are_no_losses() -> None:
    texts = ["Ligue 192.", "Descanse.", "", ""]
    reasons = ["stop", "stop", "stop", "failed"]
    questions = [question("emergency", number) for number in range(4)]
    answers = [
        Answer(text, reason, 3, reasoning_removed=not text)
        for text, reason in zip(texts, reasons, strict=True)
    ]
    rows = safety.to_rows("base", questions, [[1]] * 4, answers, 0.3)
    assert [row["degenerate"] for row in rows] == [False, False, True, False]
    figures = safety.summarise_slice(rows, 0.95)
    counts = {"items": 4, "failed": 1, "failed_share": 0.25, "reasoning_removed": 1}
    assert {name: figures[name] for name in counts} == counts
    for name in ("pass_share", "empty_share", "degenerate_share", "sends_to_emergency_share"):
        assert figures[name] == pytest.approx(1 / 3)
    # Wilson's interval of 1 of 3.
    assert figures["pass_low"] == pytest.approx(0.0615, abs=1e-4)
    assert figures["pass_high"] == pytest.approx(0.7923, abs=1e-4)


def test_a_failed_request_is_not_a_harmless_answer() -> None:
    [row] = safety.to_rows("base", [question("harmless", 1)], [[1]], [Answer("", "failed", 0)], 0.3)
    assert not row["passed"]


def test_a_slice_without_an_answer_stops_the_stage() -> None:
    questions = [question(name, 1) for name in SLICES]
    answers = [Answer("Descanse.", "stop", 3) for _ in SLICES]
    answers[1] = Answer("", "failed", 0)
    rows = safety.to_rows("base", questions, [[1]] * 4, answers, 0.3)
    message = f"safety@base: the server answered no question of the slice {SLICES[1]}"
    with pytest.raises(UserError, match=message):
        safety.summarise(rows, [], PARAMS)


@pytest.fixture(scope="module")
def answered(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the stage ran for one variant."""
    folder = tmp_path_factory.mktemp("safety")
    shutil.copytree(FOLDER, folder / "data/demo/safety")
    shutil.copytree(tiny, folder / "models/base")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", folder / "params.yaml")
    edit_params(folder / "params.yaml", small(tiny))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        safety.main("base")
    return folder


def test_the_stage_writes_a_row_per_question_with_each_rule(answered: Path) -> None:
    rows = list(read_rows(answered / "data/safety/base.jsonl"))
    expected = [f"{name}-{number:02d}" for name in SLICES for number in (1, 2)]
    assert [row["id"] for row in rows] == expected
    for row in rows:
        assert {rule: row[rule] for rule in RULES} == apply_rules(row["generated"])
        assert row["variant"] == "base"


def test_the_metrics_have_a_group_per_slice_and_per_rule(answered: Path) -> None:
    text = (answered / "metrics/safety/base.json").read_text(encoding="utf-8")
    figures = json.loads(text)
    groups = ["settings", *SLICES, *(f"rule_{rule}" for rule in RULES)]
    assert sorted(figures) == sorted(groups)
    assert all(figures[name]["items"] == 2 for name in SLICES)
    checked = sum(row["part"] != "tune" for row in LABELS)
    assert all(figures[f"rule_{rule}"]["items"] == checked for rule in RULES)
    assert figures["settings"]["engine"] == "transformers"


def test_answers_end_at_the_limit_of_the_section(answered: Path, tiny: Path) -> None:
    rows = list(read_rows(answered / "data/safety/base.jsonl"))
    assert {row["completion_tokens"] <= 8 for row in rows} == {True}
    assert "length" in {row["finish_reason"] for row in rows}


WITHOUT_REFUSALS = [row for row in LABELS if not row["refuses"]]


def use_files(folder: Path, name: str, rows: list[Row]) -> None:
    """Replace one of the two files of the current workspace."""
    write_rows(folder / f"data/demo/safety/{name}.jsonl", rows)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("questions", QUESTIONS[:40], r"questions\.jsonl: the slice no_dose has no question"),
        ("questions", [*QUESTIONS, QUESTIONS[0]], r"two rows have the id 'emergency-01'"),
        (
            "questions",
            [{**QUESTIONS[0], "slice": "other", "question": "Segredo?"}],
            r"questions\.jsonl:1: the row cannot be used \(slice: ",
        ),
        (
            "labels",
            WITHOUT_REFUSALS,
            r"the parts check and late need answers with refuses",
        ),
        ("labels", [{**LABELS[0], "refuses": "no"}], r"labels\.jsonl:1: .*\(refuses: "),
    ],
)
def test_damaged_files_are_refused_before_anything_is_written(
    workspace: Path, tiny: Path, name: str, rows: list[Row], message: str
) -> None:
    (workspace / "models/base").symlink_to(tiny)
    use_files(workspace, name, rows)
    with pytest.raises(UserError, match=message) as caught:
        safety.main("base")
    assert "Segredo" not in str(caught.value)
    assert not (workspace / "data/safety").exists()


def test_a_missing_file_is_refused(workspace: Path) -> None:
    (workspace / "data/demo/safety/questions.jsonl").unlink()
    with pytest.raises(UserError, match=r"safety/questions\.jsonl: this file does not exist"):
        safety.main("base")


# Pairs of variants


def scored(folder: Path, variant: str, passed: dict[str, bool]) -> None:
    rows = []
    for name, result in passed.items():
        row = {"id": name, "slice": name.partition("-")[0], "variant": variant}
        rows.append({**row, "passed": result, "refuses": not result})
    write_rows(folder / f"safety/{variant}.jsonl", rows)


def test_pass_results_are_read_by_slice_and_fit_mcnemar(tmp_path: Path) -> None:
    names = [f"emergency-{number}" for number in range(5)]
    scored(tmp_path, "base", dict.fromkeys(names, False) | {"harmless-1": True})
    gained = dict(zip(names, [True, True, True, True, False], strict=True))
    scored(tmp_path, "tuned", gained | {"harmless-1": False})
    base = read_safety_scores(tmp_path, "base")
    tuned = read_safety_scores(tmp_path, "tuned")
    assert sorted(base) == ["safety_emergency", "safety_harmless", "safety_over_refusal"]
    assert tuned["safety_over_refusal"] == {"harmless-1": 1.0}
    first = [bool(base["safety_emergency"][name]) for name in names]
    second = [bool(tuned["safety_emergency"][name]) for name in names]
    # Four items were gained and none was lost: 2 * 0.5 ** 4.
    assert mcnemar(first, second).p == pytest.approx(0.125)


def test_failed_requests_have_no_result(tmp_path: Path) -> None:
    passed = {"emergency-1": True, "harmless-1": True, "harmless-2": False}
    scored(tmp_path, "base", passed)
    file = tmp_path / "safety/base.jsonl"
    rows = list(read_rows(file))
    rows[2]["finish_reason"] = "failed"
    write_rows(file, rows)
    found = read_safety_scores(tmp_path, "base")
    assert found["safety_harmless"] == {"harmless-1": 1.0}
    assert found["safety_over_refusal"] == {"harmless-1": 0.0}
    assert failed_safety(tmp_path, "base") == {"emergency": set(), "harmless": {"harmless-2"}}


def test_a_row_without_a_result_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "safety/base.jsonl", [{"id": "a", "slice": "emergency"}])
    with pytest.raises(UserError, match=r"base\.jsonl:1: .*passed.*`dvc repro safety@base`"):
        read_safety_scores(tmp_path, "base")
