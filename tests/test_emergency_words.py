"""Test how messages with typing errors are read, and the lists of phrases."""

import pytest

from bula.emergency.finding import find_by_words
from bula.emergency.words import phrases, spell


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("muuuito", "muito"),
        ("n to concegindo", "nao estou consegindo"),
        ("q dor mto forte hj", "que dor muito forte hoje"),
        ("ele ta mal", "ele esta mal"),
        ("vai pro braco", "vai para o braco"),
        ("enfarte", "infarte"),
        ("convulcao", "convulsao"),
        ("emgasgou", "engasgou"),
        ("rispirando", "respirando"),
        ("vc tb", "voce tambem"),
        ("pq o bb num respira", "porque o bebe nao respira"),
        # The words of the patterns stay as they are.
        ("nao esta respirando", "nao esta respirando"),
    ],
)
def test_common_spellings_are_replaced(written: str, read: str) -> None:
    assert spell(written) == read


def test_a_list_has_a_phrase_per_line() -> None:
    pattern = phrases(r"""
        # A comment is no phrase.
        dor ... peito
        febre  # neither is this one
        ta (?:mole
            |frio)
    """)
    assert pattern.search("dor no meio do peito")
    # A gap has at most four words, and no end of a sentence.
    assert not pattern.search("dor a b c d e peito")
    assert not pattern.search("dor. no peito")
    assert pattern.search("ta frio")
    assert not pattern.search("comment")
    assert not pattern.search("febrezinha")


def test_a_phrase_may_contain_a_shared_word() -> None:
    assert phrases("<child> <pale>").search("meu bebe roxinho")


def test_a_gap_may_have_its_own_length() -> None:
    assert phrases("dor ...2 peito").search("dor no meu peito")
    assert not phrases("dor ...2 peito").search("dor no meio do peito")
    # A comma may stand before a gap.
    assert phrases("caiu ... nao").search("caiu, ela nao")


def test_two_signs_of_a_phrase_may_stand_in_either_order() -> None:
    pattern = phrases("sangue ~ nariz")
    assert pattern.search("sangue saindo do nariz")
    assert pattern.search("nariz cheio de sangue")
    assert not pattern.search("sangue. nariz")


def test_an_entry_of_the_vocabulary_is_a_list_of_alternatives() -> None:
    pattern = phrases("<limb> <weak>")
    assert pattern.search("braco dormente")
    assert pattern.search("mao nao obedece")
    assert not pattern.search("braco forte")


def test_single_signs_are_an_emergency_only_together() -> None:
    # One strong sign counts 2, a weak sign and a word for now count 1, and 3 are enough.
    assert find_by_words("ele está cambaleando") == "none"
    assert find_by_words("está vomitando, tenho febre") == "none"
    assert find_by_words("agora ele está cambaleando") == "samu"
    assert find_by_words("está cambaleando e vomitando") == "samu"
    assert find_by_words("está vomitando, com febre e tontura") == "samu"


def test_a_sign_of_the_past_is_no_emergency() -> None:
    assert find_by_words("Tive falta de ar ano passado, já passou.") == "none"
    assert find_by_words("Tive falta de ar ano passado e agora voltou.") == "samu"
    assert find_by_words("Caí da escada há dez anos.") == "none"
    # A disease of years, or one faint, does not make the present sign old.
    assert find_by_words("Meu pai tem asma há 20 anos e não consegue respirar.") == "samu"
    assert find_by_words("Teve um AVC ano passado e não consegue falar.") == "samu"
    assert find_by_words("Minha mãe desmaiou uma vez.") == "samu"


def test_a_question_about_a_matter_is_no_emergency() -> None:
    assert find_by_words("O que é hemorragia?") == "none"
    assert find_by_words("Por que dá falta de ar?") == "none"
    assert find_by_words("Por que ele está com falta de ar?") == "samu"
    assert find_by_words("Qual a diferença entre infarto e parada cardíaca?") == "none"
    assert find_by_words("Sou enfermeira, como ensinar os sinais de AVC?") == "none"
    assert find_by_words("Sou enfermeira e minha mãe está com a boca torta") == "samu"


def test_death_needs_a_wish_and_a_means_needs_an_intent() -> None:
    assert find_by_words("queria estar no cemitério") == "cvv"
    assert find_by_words("fui ao cemitério ontem") == "none"
    assert find_by_words("comprei os comprimidos, só falta coragem") == "cvv"
    assert find_by_words("comprei os comprimidos") == "none"
