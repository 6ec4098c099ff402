"""Test n-grams, MinHash bands and candidate pairs."""

from pathlib import Path

import numpy
import pytest

from bench.clones import ROOT
from bula.params import NearDuplicates, load_params
from bula.records import Row
from stages.preprocess import contamination, minhash, parts, runs
from tests.test_preprocess import ANSWER, QUESTION


@pytest.fixture(scope="module")
def near() -> NearDuplicates:
    return load_params(ROOT / "params.yaml").preprocess.near_duplicates


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity over 2-word shingles."""
    shingles = minhash.shingles(one, 2)
    other_shingles = minhash.shingles(other, 2)
    return minhash.jaccard_similarity(shingles, other_shingles)


def ngram_hashes(texts: list[str], size: int) -> minhash.Hashes:
    """Return the n-gram hashes of texts."""
    flat, offsets = minhash.word_hashes(texts)
    hashes, _ = minhash.ngram_hashes(flat, offsets, size)
    return hashes


def count_runs(text: str, index: runs.RunIndex) -> int:
    """Return the number of indexed runs that a text contains.

    A run has 13 words.
    """
    hashes = ngram_hashes([text], 13)
    places = runs.find_sorted(hashes, index.hashes)
    return int(numpy.count_nonzero(places >= 0))


def agreement(bands: minhash.Hashes, one: int, other: int) -> float:
    """Return the share of bands in which two texts agree."""
    equal = bands[:, one] == bands[:, other]
    return float(equal.mean())


def test_accents_are_stripped_from_composed_and_decomposed_letters() -> None:
    text = "Não, à NOITE: coração, pe\u0301"
    assert minhash.strip_accents(text) == "Nao, a NOITE: coracao, pe"


def test_shingles_ignore_accents_and_case() -> None:
    expected = {("doi", "a"), ("a", "noite")}
    assert minhash.shingles("Dói à noite", 2) == expected
    assert minhash.shingles("doi a noite", 2) == expected


def test_a_text_shorter_than_a_shingle_is_one_shingle() -> None:
    assert minhash.shingles("Só", 2) == {("so",)}
    assert minhash.shingles("só", 2) == {("so",)}


def test_bands_and_word_hashes_ignore_accents(near: NearDuplicates) -> None:
    texts = ["Só", "so", "Dói à noite", "doi a noite"]
    bands = minhash.band_hashes(texts, near)
    assert agreement(bands, 0, 1) == 1
    assert agreement(bands, 2, 3) == 1
    flat, _ = minhash.word_hashes(["coração é", "coracao e"])
    assert flat[:2].tolist() == flat[2:].tolist()


def test_the_arrays_of_a_part_ignore_accents(tmp_path: Path, near: NearDuplicates) -> None:
    accented = {"id": "0" * 16, "question": "Dói?", "answer": "Não."}
    plain = {"id": "0" * 16, "question": "doi", "answer": "nao"}
    rows: list[Row] = [{"example": accented}, {"example": plain}]
    parts.write_part(tmp_path, 0, rows, [1, 1], near)
    with numpy.load(tmp_path / "0.npz") as arrays:
        assert arrays["question"][0] == arrays["question"][1]
        assert arrays["text"][0] == arrays["text"][1]


def test_similarity_by_hand() -> None:
    # {ab, bc, cd} and {ab, bc, ce}: two of four.
    assert similarity("a b c d", "A, b. c e") == 0.5


def test_equal_texts_agree_in_all_bands_and_different_texts_in_none(near: NearDuplicates) -> None:
    texts = [QUESTION, QUESTION.upper(), ANSWER, "só", "SÓ"]
    bands = minhash.band_hashes(texts, near)
    assert bands.shape == (25, 5)
    assert agreement(bands, 0, 1) == 1
    assert agreement(bands, 3, 4) == 1
    assert agreement(bands, 0, 2) == 0


def test_the_worked_example_of_similarity_in_docs_metrics() -> None:
    question = "Posso tomar dipirona com febre?"
    assert similarity(question, "Posso tomar dipirona com febre alta?") == 0.8
    assert similarity(question, "Posso tomar dipirona com leite?") == 0.6


def candidate_probability(jaccard: float) -> float:
    """Return the probability that one of 25 bands of 5 values agrees."""
    return 1 - (1 - jaccard**5) ** 25


@pytest.mark.parametrize(
    ("jaccard", "expected"),
    [(0.8, 0.99995), (0.7, 0.990), (0.6, 0.868)],
)
def test_the_probabilities_of_a_candidate_pair_in_docs_metrics(
    jaccard: float, expected: float
) -> None:
    assert candidate_probability(jaccard) == pytest.approx(expected, abs=5e-4)


def test_the_worked_example_of_runs_in_docs_metrics() -> None:
    item = "Tome um comprimido de oito em oito horas por sete dias depois das refeições com água."
    copied = (
        "Em geral, tome um comprimido de oito em oito horas por sete dias, depois das refeições."
    )
    reworded = (
        "Tome um comprimido de seis em seis horas por sete dias depois das refeições com água."
    )
    index = runs.index_runs([[item]], 13)
    assert len(index.hashes) == 4
    assert count_runs(copied, index) == 2
    assert count_runs(reworded, index) == 0
    assert similarity(item, reworded) == pytest.approx(11 / 19)


def random_words(random: numpy.random.Generator, prefix: str, count: int) -> list[str]:
    """Return words that occur in no other text."""
    numbers = random.integers(10**9, size=count)
    return [f"{prefix}{number}" for number in numbers]


@pytest.mark.parametrize(
    ("shared", "own", "expected"),
    # Two texts of 14 + 3 words have a similarity of 0.7, two texts of 10 + 10 words of 1/3.
    [(14, 3, 0.990), (10, 10, 0.098)],
)
def test_a_pair_is_a_candidate_as_often_as_the_formula_says(
    shared: int, own: int, expected: float, near: NearDuplicates
) -> None:
    random = numpy.random.default_rng(3)
    texts = []
    for _ in range(400):
        common = random_words(random, "c", shared)
        texts.append(" ".join(common + random_words(random, "a", own)))
        texts.append(" ".join(common + random_words(random, "b", own)))
    one_word = near.model_copy(update={"shingle_words": 1})
    bands = minhash.band_hashes(texts, one_word)
    agrees = bands[:, ::2] == bands[:, 1::2]
    seen = agrees.any(axis=0).mean()
    assert candidate_probability(shared / (shared + 2 * own)) == pytest.approx(expected, abs=1e-3)
    deviation = (expected * (1 - expected) / 400) ** 0.5
    assert abs(seen - expected) <= 3 * deviation + 0.01


def pairs_of(
    key: list[int], split: list[int], reach: int, within_split: bool
) -> set[tuple[int, int]]:
    """Return the candidate pairs as a set."""
    keys = numpy.array(key, dtype=numpy.uint64)
    splits = numpy.array(split, dtype=numpy.int16)
    pairs: set[tuple[int, int]] = set()
    for early, late in minhash.candidate_pairs(keys, splits, reach, within_split):
        pairs.update(zip(early.tolist(), late.tolist(), strict=True))
    return pairs


def test_candidates_pair_each_text_with_the_equal_texts_before_it_and_the_first() -> None:
    # The texts 0, 2, 3, 5 and 6 are equal and of one split.
    key = [7, 1, 7, 7, 2, 7, 7]
    split = [0] * 7
    before = {(0, 2), (2, 3), (3, 5), (5, 6)}
    first = {(0, 3), (0, 5), (0, 6)}
    assert pairs_of(key, split, 1, True) == before | first
    assert pairs_of(key, split, 1, False) == set()


def test_candidates_pair_each_text_with_the_first_of_every_earlier_split() -> None:
    # Text 3 is paired with text 0, and texts 4 and 5 with texts 0 and 3.
    key = [7] * 6
    split = [0, 0, 0, 1, 2, 2]
    first = {(0, 3), (0, 4), (0, 5), (3, 4), (3, 5)}
    second = {(1, 3), (1, 4), (1, 5)}
    assert pairs_of(key, split, 1, False) == first
    assert pairs_of(key, split, 2, False) == first | second


def test_candidates_never_pair_texts_with_different_keys() -> None:
    assert pairs_of([7, 8, 7, 8], [0, 0, 1, 2], 3, True) == {(0, 2), (1, 3)}


@pytest.fixture(scope="module")
def index() -> runs.RunIndex:
    """Return the runs of two texts, which have 1 and 14 words."""
    texts = [["z"], ["a b c d e f g h i j k l m n"]]
    return runs.index_runs(texts, 13)


def test_the_index_of_runs_contains_the_text_and_the_place_of_each_run(
    index: runs.RunIndex,
) -> None:
    assert index.text.tolist() == [1, 1]
    # The word z has place 0.
    assert index.place.tolist() == [1, 2]
    assert index.offsets.tolist() == [0, 1, 15]
    assert len(index.hashes) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("x a b c d e f g h i j k l y", 0), ("x b c d e f g h i j k l m n y", 1)],
)
def test_twelve_shared_words_are_not_a_run_of_thirteen(
    text: str, expected: int, index: runs.RunIndex
) -> None:
    assert count_runs(text, index) == expected


def test_a_run_never_continues_in_the_next_text() -> None:
    assert len(ngram_hashes(["a b", "c d e"], 3)) == 1
    assert len(ngram_hashes([], 3)) == 0


def test_the_nearest_row_has_the_largest_share_of_word_5_grams() -> None:
    # The item has the 5-grams qabcd, abcde and bcdef; row 3 contains abcde: one of three.
    train = [
        {"id": "2", "question": "q", "answer": "z z z z z"},
        {"id": "3", "question": "q", "answer": "x a b c d e"},
    ]
    nearest = contamination.nearest_rows({"1": "q a b c d e f"}, iter(train), 5)
    assert nearest == {"1": (1 / 3, "3")}
