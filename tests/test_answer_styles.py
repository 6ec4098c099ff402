"""Test the prompts of styles, and their checks of form."""

import pytest

from bench.styles import summarise
from bula.answer_styles import (
    STYLES,
    StyleName,
    blog_faults,
    count_syllables,
    post_faults,
    readability,
    simple_faults,
    with_style,
)

SENTENCE = "Beba água e descanse bem em casa hoje. "
BLOG = "Como tratar a gripe\n\n" + "\n\n".join([(SENTENCE * 6).strip()] * 3)


def test_a_style_puts_its_instruction_before_the_question() -> None:
    assert with_style("Dói?", None) == "Dói?"
    for name, style in STYLES.items():
        assert with_style("Dói?", name) == f"{style.instruction}\n\nDói?"


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("pés", 1),
        ("água", 2),
        ("dia", 2),
        ("país", 2),
        ("saúde", 3),
        ("coração", 3),
        ("remédio", 4),
        ("pst", 1),
    ],
)
def test_syllables_are_groups_of_vowels(word: str, count: int) -> None:
    assert count_syllables(word) == count


def test_readability_equals_a_value_worked_by_hand() -> None:
    # 3 words in 1 sentence, 2 + 2 + 2 syllables: 248.835 - 1.015 * 3 - 84.6 * 2.
    assert readability("Beba água hoje.") == pytest.approx(76.59)
    # 4 words in 2 sentences, 2 + 1 + 2 + 2 syllables: 248.835 - 1.015 * 2 - 84.6 * 7 / 4.
    assert readability("Beba mel. Durma cedo!") == pytest.approx(98.755)
    assert readability("...") == 0


def test_a_post_has_at_most_280_characters() -> None:
    assert post_faults("a" * 279 + ".") == []
    assert post_faults("a" * 280 + ".") == ["281 characters, not 1 to 280"]
    assert post_faults("Beba água! #saúde") == []


def test_a_post_is_one_complete_paragraph() -> None:
    assert post_faults("# Gripe\n\nBeba água.") == ["several paragraphs", "a heading"]
    assert post_faults("Beba água e") == ["no complete last sentence"]
    assert post_faults("") == ["0 characters, not 1 to 280", "no complete last sentence"]


def test_a_blog_text_has_a_title_and_three_paragraphs() -> None:
    assert blog_faults(BLOG) == []
    assert blog_faults("## Gripe" + BLOG.removeprefix("Como tratar a gripe")) == []
    untitled = BLOG.partition("\n\n")[2]
    assert blog_faults(untitled) == ["no title", "2 paragraphs, not 3"]
    assert blog_faults("Beba água.")[:2] == ["2 words, not 120 to 600", "no title"]
    assert "no complete last sentence" in blog_faults(BLOG + " Se")


def test_simple_language_has_short_sentences_of_short_words() -> None:
    assert simple_faults(SENTENCE * 4) == []
    assert simple_faults("Beba água.") == ["2 words, not 20 to 150"]
    assert simple_faults("sol " * 26) == ["a sentence of 26 words"]
    hard = "Medicamentos antiinflamatórios comprometem funcionalidade gastrointestinal. "
    assert simple_faults(hard * 5)[0].startswith("readability -")


def test_the_share_of_answers_that_keep_the_form_is_printed() -> None:
    line = summarise(StyleName.POST, ["Beba água.", "a" * 300, "b" * 290 + "."])
    assert line == (
        "post: 1 of 3 answers keep the form (33%); "
        "N characters, not N to N (2); no complete last sentence (1)"
    )
