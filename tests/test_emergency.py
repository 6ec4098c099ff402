"""Test the emergency rules on sentences of our own, and on the demo corpus."""

import json
import time
from pathlib import Path

import pytest

from bench import emergency as bench
from bench.clones import ROOT
from bula.emergency.answers import CVV, DISCLAIMER, SAMU
from bula.emergency.finding import (
    answer_emergency,
    find_by_words,
    find_emergency,
    model_may_answer,
)

LINES = (ROOT / "tests/data/emergency/sentences.tsv").read_text(encoding="utf-8").splitlines()
SENTENCES = [tuple(line.split("\t")) for line in LINES]


@pytest.mark.parametrize(("label", "sentence"), SENTENCES, ids=[line[1] for line in SENTENCES])
def test_a_labelled_sentence_gets_its_number(label: str, sentence: str) -> None:
    assert find_by_words(sentence) == bench.LABELS[label]


def test_case_and_accents_do_not_matter() -> None:
    for text in ("CONVULSÃO", "convulsao", "Convulsa\u0303o", "ele teve uma convulsão"):
        assert find_by_words(text) == "samu"


def test_a_denial_covers_its_own_clause_only() -> None:
    assert find_by_words("Não tenho falta de ar.") == "none"
    assert find_by_words("Não tenho febre, mas tenho falta de ar.") == "samu"
    assert find_by_words("Não tenho falta de ar. Estou com dor no peito.") == "samu"
    # A denial of something else is no denial of the symptom.
    assert find_by_words("Não aguento a falta de ar.") == "samu"
    assert find_by_words("Não sei o que fazer com a falta de ar.") == "samu"


def test_a_denial_also_covers_pairs_of_signs() -> None:
    assert find_by_words("Grávida, sem sangramento.") == "none"
    assert find_by_words("Grávida, com sangramento.") == "samu"
    assert find_by_words("Sem febre e sem falta de ar, posso nadar?") == "none"


def test_a_denied_thought_of_suicide_still_gets_188() -> None:
    assert find_by_words("Não penso em suicídio, mas estou muito triste.") == "cvv"


def test_the_answers_name_the_numbers() -> None:
    assert answer_emergency("Estou com dor no peito.") == SAMU
    assert answer_emergency("Quero me matar.") == CVV
    assert answer_emergency("Posso tomar sol?") == ""
    assert "192" in SAMU
    assert "188" in CVV
    assert "192" in CVV
    assert "192" in DISCLAIMER
    assert "188" in DISCLAIMER


def test_no_model_answers_a_question_about_suicide() -> None:
    assert not model_may_answer("Quero morrer.")
    assert model_may_answer("Estou com dor no peito.")
    assert model_may_answer("Posso tomar sol?")


@pytest.mark.parametrize("name", ["emergency", "no_dose", "harmless"])
def test_the_slices_of_safety_keep_their_rates(name: str) -> None:
    questions = bench.group_questions(ROOT / "data/demo")[f"safety, {name}"]
    warned = sum(find_emergency(question) != "none" for question in questions)
    assert len(questions) == 40
    # The only harmless question with a warning is about a cousin's thoughts of suicide.
    assert warned == {"emergency": 40, "no_dose": 0, "harmless": 1}[name]


def test_few_training_questions_without_samu_get_a_warning() -> None:
    questions = bench.group_questions(ROOT / "data/demo")["train, reference names no SAMU"]
    by_words = sum(find_by_words(question) != "none" for question in questions)
    assert by_words / len(questions) <= 0.04
    # Half of these are urgent: a swallowed battery, a torsion of a testicle, a child who drowns.
    warned = sum(find_emergency(question) != "none" for question in questions)
    assert warned / len(questions) <= 0.1


def test_groups_are_split_by_the_reference(tmp_path: Path) -> None:
    safety = tmp_path / "safety/questions.jsonl"
    safety.parent.mkdir()
    safety.write_text(json.dumps({"slice": "no_dose", "question": "q"}) + "\n", encoding="utf-8")
    urgent = json.dumps({"question": "a", "answer": "Chame o SAMU."})
    calm = json.dumps({"question": "b", "answer": "Beba água."})
    (tmp_path / "train.jsonl").write_text(f"{urgent}\n{calm}\n", encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text("", encoding="utf-8")
    assert bench.group_questions(tmp_path) == {
        "safety, no_dose": ["q"],
        "train, reference names SAMU": ["a"],
        "train, reference names no SAMU": ["b"],
    }


def test_sentences_of_a_file_are_counted_by_their_number(tmp_path: Path) -> None:
    lines = ["192\tdor no peito", "192\tbom dia", "188\tquero morrer", "-\tdor no peito"]
    path = tmp_path / "sentences.tsv"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert bench.count_answers(path) == {"192": (1, 1, 2), "188": (1, 1, 1), "-": (0, 1, 1)}
    path.write_text("188\tdor no peito", encoding="utf-8")
    assert bench.count_answers(path, find_by_words)["188"] == (0, 1, 1)


@pytest.mark.parametrize(
    "part", ["nao ", "dor ", "tomei um ", "sem ou ", "a, e ", "nem dor no peito ", "sou medico "]
)
def test_a_long_question_is_read_soon(part: str) -> None:
    started = time.process_time()
    find_emergency(part * 3000)
    # A search that takes quadratic time needs minutes.
    assert time.process_time() - started < 20
