"""Test the normalisation of text and its words."""

import unicodedata

import pytest

from bula.text import comparison_key, ngrams, normalise, words

# "não" with the tilde as a separate character, as some keyboards and PDF files write it.
DECOMPOSED = "na\u0303o"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (DECOMPOSED, "n\u00e3o"),
        ("um\r\ndois\rtrês", "um\ndois\ntrês"),
        ("\ufeffDor\u200b de ca\u00adbeça\u2060", "Dor de cabeça"),
        ("febre\x00alta\x1ftosse\x7ffim", "febre alta tosse fim"),
        ("  500\u00a0mg \t de   dipirona ", "500 mg de dipirona"),
        ("um  \n  dois", "um\ndois"),
        ("um\n\n\n\ndois\n\ntrês", "um\n\ndois\n\ntrês"),
        ("um\n \t \n\u200b\n\ndois", "um\n\ndois"),
        ("\n\n texto \n\n", "texto"),
        (" \u200b\n\t", ""),
    ],
    ids=[
        "nfc",
        "line feeds",
        "invisible",
        "control",
        "spaces",
        "ends of lines",
        "blank lines",
        "blank by space",
        "outer",
        "nothing left",
    ],
)
def test_normalise_removes_characters_without_meaning(raw: str, clean: str) -> None:
    assert normalise(raw) == clean


def test_normalise_keeps_case_punctuation_accents_and_compatibility_characters() -> None:
    # NFKC would turn ª into a, ½ into 1⁄2 and … into three dots.
    text = "À 1ª vista: ½ comprimido… (não 2!) 🩺"
    assert normalise(text) == text


def test_normalise_changes_nothing_the_second_time() -> None:
    raw = f"\ufeff {DECOMPOSED}\u00a0sei \r\n\r\n\r\n\x07 é  isso\u200b "
    once = normalise(raw)
    assert once == "não sei\n\né isso"
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Não, à noite!", ["não", "à", "noite"]),
        (DECOMPOSED, ["n\u00e3o"]),
        ("CORAÇÃO Ênfase ÚTIL", ["coração", "ênfase", "útil"]),
        ("anti-inflamatório d'água", ["anti", "inflamatório", "d", "água"]),
        ("2,5 mg/kg em 1ª dose", ["2", "5", "mg", "kg", "em", "1ª", "dose"]),
        ("rouge_score", ["rouge", "score"]),
        ("", []),
        ("... ?! —", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_with_their_accents(
    text: str, expected: list[str]
) -> None:
    assert words(text) == expected


def test_comparison_key_ignores_case_punctuation_and_spacing() -> None:
    assert comparison_key("  Posso tomar:\n dipirona? ") == "posso tomar dipirona"
    assert comparison_key("posso tomar dipirona") == "posso tomar dipirona"
    assert comparison_key(DECOMPOSED) == comparison_key("NÃO")


def test_comparison_key_distinguishes_accents_and_word_boundaries() -> None:
    assert comparison_key("o avô") != comparison_key("o avó")
    assert comparison_key("sem fim") != comparison_key("semfim")


def test_ngrams_are_consecutive_words_in_order_with_repetitions() -> None:
    repeated = [("dor", "de"), ("de", "dor")]
    shifted = [("um", "dois", "três"), ("dois", "três", "quatro")]
    assert list(ngrams("Dor de dor, de dor.", 2)) == repeated * 2
    assert list(ngrams("um dois três quatro", 3)) == shifted
    assert list(ngrams("um dois", 1)) == [("um",), ("dois",)]


def test_a_text_has_one_ngram_of_its_length_and_no_longer_ngram() -> None:
    assert list(ngrams("um dois três", 3)) == [("um", "dois", "três")]
    assert list(ngrams("um dois três", 4)) == []
