import pytest

from bench.clones import ROOT
from bula.degeneration import is_degenerate, repeated_4gram_share, repeated_letters_share
from bula.params import load_params
from bula.records import read_rows

LIMIT = 0.3


def test_the_share_of_repeated_word_4grams_equals_a_calculation_by_hand() -> None:
    # 9 words have 6 runs of four words, and the last run repeats the first.
    text = "Tome um copo de água, tome um copo de"
    assert repeated_4gram_share(text) == pytest.approx(1 / 6)


def test_case_and_punctuation_do_not_tell_words_apart_and_accents_do() -> None:
    assert repeated_4gram_share("Beba água. BEBA ÁGUA; beba água!") == pytest.approx(1 / 3)
    assert repeated_4gram_share("Beba água. Beba agua. Beba água.") == 0.0


@pytest.mark.parametrize("text", ["", "Sim.", "Não, não, não.", "Pode tomar com água."])
def test_texts_of_fewer_than_five_words_repeat_nothing(text: str) -> None:
    assert repeated_4gram_share(text) == 0.0


def test_the_share_of_repeated_letters_equals_a_calculation_by_hand() -> None:
    # 23 letters have 4 equal runs of 20 letters: 1 - 1 / 4.
    assert repeated_letters_share("a" * 23) == 0.75
    assert repeated_letters_share("a" * 19) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "... !!! 💊",
        "O chá é o chá, e o chá é o chá, e o chá é o chá, e o chá é o chá.",
        "sim sim sim sim sim sim",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "dordordordordordordordordordordordordordor",
        "1. Beba água. 2. Beba água. 3. Beba água. 4. Beba água. 5. Beba água. 6. Beba água.",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26",
        "Lave as mãos antes de comer. " * 3,
    ],
)
def test_loops_and_answers_without_a_word_are_degenerate(text: str) -> None:
    assert is_degenerate(text, LIMIT)


@pytest.mark.parametrize(
    "text",
    [
        "Sim.",
        "37,5 °C",
        "192",
        "Não, não tome os dois juntos: os dois são anti-inflamatórios. "
        "Procure o médico se a dor não passar.",
        "Tome 1 comprimido de 8 em 8 horas por 7 dias, depois 1 de 12 em 12 horas por 3 dias.",
        # Senseless words repeat nothing; docs/metrics.md says that the measure misses them.
        "O pai fim ajudá dor menos longe copo seis verde que a lua como onde tambéi.",
    ],
)
def test_short_and_ordinary_answers_are_not_degenerate(text: str) -> None:
    assert not is_degenerate(text, LIMIT)


def test_an_answer_is_degenerate_above_the_limit() -> None:
    # The share is 1 / 3.
    text = "Beba água. Beba água. Beba água."
    assert is_degenerate(text, 0.33)
    assert not is_degenerate(text, 0.34)


def corpus_texts() -> list[str]:
    """Return all answers and references of the demo corpus."""
    demo = ROOT / "data/demo"
    files = sorted(demo.glob("*.jsonl")) + sorted(demo.glob("validation/*.jsonl"))
    texts = []
    for file in files:
        for row in read_rows(file):
            texts += [row[field] for field in ("answer", "reference") if field in row]
    return texts


def test_no_reference_of_the_corpus_is_degenerate() -> None:
    limit = load_params(ROOT / "params.yaml").generate.max_repeated_share
    texts = corpus_texts()
    assert len(texts) > 600
    assert not [text for text in texts if is_degenerate(text, limit)]
    # The largest share is far below the limit.
    assert max(map(repeated_4gram_share, texts)) < 0.05
