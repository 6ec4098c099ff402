"""Test which repetitions matter: boilerplate, forms of questions and wordings."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from bula.params import Params
from bula.records import SET_NAMES, Row
from stages.preprocess import runs, splits, weights, wordings
from tests.test_preprocess import (
    ANSWER,
    NEARLY,
    OTHER,
    QUESTION,
    Result,
    deduplicate_rows,
    row,
    settings,
    splits_by_id,
)

# 18 words, which are longer than a run of 13.
NOTICE = (
    "Este texto é só informativo e em nenhum caso dispensa a avaliação de um médico em sua unidade."
)
TITLE = (
    "Segundo a Linha de Cuidado da Pessoa com Doença Renal Crônica na Rede Estadual de Atenção"
    " Especializada, edição de 2019"
)
QUESTIONS = (
    "qual exame deve ser pedido primeiro?",
    "quem precisa de consulta com o nefrologista?",
    "com que frequência a pressão deve ser medida em casa?",
)
ANSWERS = (
    "Peça creatinina e urina, e repita em três meses para confirmar o achado.",
    "Encaminhe quem perde função depressa ou tem sangue e proteína juntos na urina.",
    "Duas vezes por semana bastam, sempre sentado, depois de cinco minutos de descanso.",
)
NAMES = ("losartana", "alopurinol", "metformina", "omeprazol")
# Five wordings of one question.
WORDINGS = (
    QUESTION,
    f"Bom dia, doutora. {QUESTION}",
    f"{QUESTION} Obrigada.",
    "Como baixo a temperatura da minha pequena? O chuveiro gelado serve?",
    "Criança quente de dois aninhos: água fria ajuda?",
)


def identities(result: Result, split: str) -> set[str]:
    """Return the ids of the examples of a split."""
    return {example["id"] for example in result.kept[split]}


# --- boilerplate ---


def test_a_disclaimer_in_many_rows_removes_no_row(tiny: Path, tmp_path: Path) -> None:
    rows = [row(split="A" if number < 3 else "train") for number in range(9)]
    for noticed in rows:
        noticed["answer"] = f"{noticed['answer']} {NOTICE}"
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert result.refused == []
    assert result.matrix["A"]["items_shared_run"] == 0


def test_a_short_answer_before_a_disclaimer_is_not_the_text_of_an_item(
    tiny: Path, tmp_path: Path
) -> None:
    # The disclaimer is boilerplate, so "Sim, pode." is all that the answers of two rows share.
    rows = [row(answer=f"Sim, pode. {NOTICE}", split="A")]
    rows += [row(answer=f"Sim, pode. {NOTICE} Volte em {number} dias.") for number in range(2, 9)]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert [refused["reason"] for refused in result.refused] == []


@pytest.mark.parametrize("cited_in", ["question", "answer"])
def test_the_title_of_a_guideline_removes_no_row(cited_in: str, tiny: Path, tmp_path: Path) -> None:
    rows = []
    for number, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        split = "train" if number else "B"
        if cited_in == "question":
            rows.append(row(f"{TITLE}, {question}", answer, split))
        else:
            rows.append(row(f"Na rotina do posto, {question}", f"{TITLE}: {answer}", split))
    result = deduplicate_rows(rows, tiny, tmp_path)
    # Only three rows share the title, so its runs count; they cover too little of each text.
    assert result.refused == []


def test_a_row_that_quotes_a_validation_answer_leaves_train(tiny: Path, tmp_path: Path) -> None:
    rows = [row(QUESTION, ANSWER, "C"), row(answer=f"Outro caso. {ANSWER} {OTHER}"), row()]
    result = deduplicate_rows(rows, tiny, tmp_path)
    [identity] = identities(result, "C")
    reasons = [refused["reason"] for refused in result.refused]
    assert reasons == [f"contains the text of {identity} in C (1.00)"]


def test_a_quote_before_a_disclaimer_is_found_without_the_disclaimer(
    tiny: Path, tmp_path: Path
) -> None:
    rows = [row(QUESTION, f"{ANSWER} {NOTICE}", "C"), row(answer=f"Outro caso. {ANSWER} Melhoras.")]
    rows += [row() | {"answer": f"{answer} {NOTICE}"} for answer in (OTHER, *ANSWERS)]
    rows += [row(answer=f"{NOTICE} {ANSWERS[0]}"), row(answer=f"{NOTICE} {ANSWERS[1]}")]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert [refused["reason"][:20] for refused in result.refused] == ["contains the text of"]


def test_the_answer_of_many_wordings_is_no_boilerplate(tiny: Path, tmp_path: Path) -> None:
    # Eight rows contain the runs of the answer, more than max_run_rows.
    rows = [row(answer=ANSWER, split="A") for _ in range(8)]
    rows += [row(answer=f"Outro caso. {ANSWER} {OTHER}"), row()]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert len(result.kept["A"]) == 8
    assert [refused["reason"][:20] for refused in result.refused] == ["contains the text of"]


def numbered(first: int, last: int) -> str:
    """Return a text whose words occur nowhere else, in a language that is not guessed."""
    return " ".join(f"palavra{number}" for number in range(first, last))


@pytest.mark.parametrize(
    ("words", "stays"),
    # Of 100 words, 60 are most of the text; 45 are fewer than passage_words.
    [(60, False), (45, True)],
)
def test_a_long_passage_is_found_if_it_is_most_of_an_item(
    words: int, stays: bool, tiny: Path, tmp_path: Path
) -> None:
    item = row("Quando devo voltar ao médico?", numbered(0, 100), "D")
    quoting = row(answer=f"{OTHER} {numbered(20, 20 + words)}")
    result = deduplicate_rows([item, quoting, row()], tiny, tmp_path)
    assert len(result.kept["train"]) == 2 if stays else 1


@pytest.mark.parametrize("history", [[], [{"question": QUESTIONS[1], "answer": ANSWERS[1]}]])
def test_the_last_answer_of_a_validation_conversation_is_an_item_text(
    history: list[Row], tiny: Path, tmp_path: Path
) -> None:
    first = {"question": QUESTIONS[0], "answer": f"{OTHER} {ANSWERS[0]}"}
    item = row(QUESTION, ANSWER, "A") | {"history": [first]}
    # The copied answer has fewer words than half of the conversation.
    quoting = row(WORDINGS[4], ANSWER) | {"history": history}
    result = deduplicate_rows([item, quoting, row()], tiny, tmp_path)
    [identity] = identities(result, "A")
    reasons = [refused["reason"] for refused in result.refused]
    assert reasons == [f"contains the text of {identity} in A (1.00)"]


def test_covered_words_by_hand() -> None:
    # Text 0 is a question with the runs abc, bcd and cde; text 1 an answer with the run xyz.
    index = runs.index_runs([["a b c d e", "x y z"]], 3)
    abc, bcd, cde, xyz = index.run.tolist()
    all_words = numpy.ones(8, bool)
    rows = numpy.array([7, 7, 9, 9])
    found = numpy.array([abc, cde, bcd, xyz])
    cover = runs.cover_texts(index, all_words, rows, found, 3)
    assert cover.row.tolist() == [7, 9, 9]
    assert cover.text.tolist() == [0, 0, 1]
    assert cover.covered.tolist() == [5, 3, 3]
    # If cde is boilerplate, only a and b count.
    own = numpy.array([True, True, False, False, False, True, True, True])
    cover = runs.cover_texts(index, own, rows[:1], found[:1], 3)
    assert cover.covered.tolist() == [2]


def test_no_shared_run_covers_nothing() -> None:
    index = runs.index_runs([["a b c d e", "x y z"]], 3)
    nothing = numpy.empty(0, numpy.int64)
    cover = runs.cover_texts(index, numpy.ones(8, bool), nothing, nothing, 3)
    assert cover.covered.tolist() == []


# --- forms of questions ---


@pytest.fixture
def word_weights(tmp_path: Path) -> weights.Weights:
    """Return the weights of a, in three of three texts, and of b and 5, in one."""
    counts = weights.count_words(["a b", "a a", "Á 5"])
    numpy.save(tmp_path / "0.words.npy", counts)
    weights.write_weights(tmp_path, 1, 3)
    return weights.load_weights(tmp_path)


def test_the_weight_of_a_word_by_hand(word_weights: weights.Weights) -> None:
    assert word_weights["a"] == pytest.approx(math.log(2))
    assert word_weights["b"] == pytest.approx(math.log(4))
    assert word_weights["unknown"] == pytest.approx(math.log(4))


def test_a_number_has_the_largest_weight(word_weights: weights.Weights) -> None:
    assert word_weights["5"] == word_weights.largest
    assert word_weights["10mg"] == word_weights.largest


def test_a_light_word_stands_in_enough_rows(word_weights: weights.Weights) -> None:
    assert word_weights.are_light({"a"}, 1.0)
    assert word_weights.are_light({"a", "b"}, 0.33)
    assert not word_weights.are_light({"a", "b"}, 0.34)
    assert not word_weights.are_light({"5", "b"}, 0.34)


def test_weighted_jaccard_by_hand(word_weights: weights.Weights) -> None:
    # log 2 of log 2 + 2 log 4 is one of five; without weights it would be one of three.
    similarity = weights.weighted_jaccard({"a", "b"}, {"a", "c"}, word_weights)
    assert similarity == pytest.approx(1 / 5)
    assert weights.weighted_jaccard(set(), set(), word_weights) == 1


@pytest.mark.parametrize(
    ("other", "expected"),
    [("Posso tomar ibuprofeno com café?", 0.47), ("Posso tomar a losartana com café?", 0.95)],
)
def test_the_worked_examples_of_weighted_words_in_docs_metrics(other: str, expected: float) -> None:
    frequency = {"posso": 250, "tomar": 250, "com": 500, "cafe": 20, "a": 900}
    values = numpy.full(weights.BUCKETS, math.log1p(1000 / 10))
    known = weights.Weights(values.astype(numpy.float32))
    known.known.update({word: math.log1p(1000 / rows) for word, rows in frequency.items()})
    words = weights.distinct_words("Posso tomar losartana com café?")
    similarity = weights.weighted_jaccard(words, weights.distinct_words(other), known)
    assert similarity == pytest.approx(expected, abs=0.005)


def test_another_residue_of_a_long_title_is_another_question(tiny: Path, tmp_path: Path) -> None:
    questions = [f"{TITLE}, {end}" for end in ("qual é a dose?", "quando suspender?", "quem usa?")]
    rows = [row(question, split="E") for question in questions[:1]]
    rows += [row(question) for question in questions[1:]] + [row() for _ in range(20)]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert result.refused == []


def form_rows(answer: Callable[[str, int], str], validation: bool) -> list[Row]:
    """Return one question about four drugs, with one drug in a validation set if asked."""
    rows = []
    for number, name in enumerate(NAMES):
        question = f"O que devo fazer se eu me esquecer de tomar um comprimido de {name} à noite?"
        split = "E" if validation and not number else "train"
        rows.append(row(question, answer(name, number), split))
    return rows


@pytest.mark.parametrize("validation", [True, False], ids=["other split", "one split"])
@pytest.mark.parametrize(
    "answer",
    [
        lambda name, number: f"{(ANSWER, OTHER, *ANSWERS)[number]} Isso vale para {name}.",
        lambda name, number: f"{(ANSWER, OTHER, *ANSWERS)[number]}",
        lambda name, _: f"Tome {name} assim que lembrar, e pule a dose se a próxima estiver perto.",
    ],
    ids=["own answers", "own answers without the name", "answers of one form"],
)
def test_questions_of_one_form_about_different_drugs_stay(
    answer: Callable[[str, int], str], validation: bool, tiny: Path, tmp_path: Path
) -> None:
    rows = form_rows(answer, validation) + [row() for _ in range(20)]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert result.refused == []


def test_a_validation_question_with_other_function_words_leaves_train(
    tiny: Path, tmp_path: Path
) -> None:
    # 13 of 22 shingles are common, which is less than the threshold of 0.7.
    typed = QUESTION.replace("com febre", "com uma febre").replace("posso dar", "e posso dar um")
    rows = [row(QUESTION, ANSWER, "A"), row(typed, OTHER)] + [row() for _ in range(40)]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert len(result.refused) == 1
    assert result.refused[0]["reason"].startswith("near-duplicate question of ")


# --- wordings ---


def test_a_validation_question_with_its_words_in_another_order_leaves_train(
    tiny: Path, tmp_path: Path
) -> None:
    # The sources choose the splits. Of six shingles of two words the questions share two.
    rows = [row("Dipirona pode tomar na gravidez?", split="A")]
    rows += [row("Na gravidez pode tomar dipirona?"), row(), row()]
    result = deduplicate_rows(rows, tiny, tmp_path)
    [identity] = identities(result, "A")
    reasons = [refused["reason"] for refused in result.refused]
    assert reasons == [f"near-duplicate question of {identity} in A (1.00)"]


def wording_rows(split: str | None, answer: str = ANSWER) -> list[Row]:
    """Return five rows with one answer."""
    return [row(wording, answer, split) for wording in WORDINGS]


def test_wordings_of_a_question_stay_in_train(tiny: Path, tmp_path: Path) -> None:
    result = deduplicate_rows(wording_rows("train"), tiny, tmp_path)
    assert len(result.kept["train"]) == 5


def test_wordings_leave_train_if_the_parameter_says_so(tiny: Path, tmp_path: Path) -> None:
    near = settings().preprocess.near_duplicates
    params = settings(near_duplicates=near.model_copy(update={"paraphrases": "remove"}))
    result = deduplicate_rows(wording_rows("train"), tiny, tmp_path, params)
    # The last two wordings have other words, so they are no near-duplicates.
    assert len(result.kept["train"]) == 3
    assert all(r["reason"].startswith("near-duplicate text of ") for r in result.refused)


def test_a_wording_of_a_fixed_validation_row_leaves_train(tiny: Path, tmp_path: Path) -> None:
    rows = [row(WORDINGS[4], ANSWER, "B"), row(WORDINGS[3], ANSWER, "train"), row()]
    result = deduplicate_rows(rows, tiny, tmp_path)
    [identity] = identities(result, "B")
    reasons = [refused["reason"] for refused in result.refused]
    assert reasons == [f"same answer as {identity} in B (1.00)"]


def test_a_short_answer_is_not_a_leak(tiny: Path, tmp_path: Path) -> None:
    answer = "Sim, pode tomar com água."
    rows = [row(answer=answer, split="B"), row(answer=answer), row()]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert result.refused == []


def many_splits() -> Params:
    """Return parameters under which half of the rows leave train."""
    return settings(dev_share=0.1, validation_share=0.08)


def intents() -> list[Row]:
    """Return 20 questions in three wordings each, without splits."""
    rows = []
    for number in range(20):
        answer = f"{numbered(100 * number, 100 * number + 20)}."
        for start in ("Me diga", "Preciso saber", "Alguém explica"):
            question = f"{start}: {numbered(100 * number + 30, 100 * number + 36)}?"
            rows.append(row(question, answer, None))
    return rows


def splits_by_answer(result: Result) -> dict[str, set[str]]:
    """Return the splits of each answer."""
    found: dict[str, set[str]] = {}
    for split, examples in result.kept.items():
        for example in examples:
            found.setdefault(example["answer"], set()).add(split)
            assert example["split"] == split
    return found


def test_wordings_share_a_split_whatever_the_order_of_the_rows(tiny: Path, tmp_path: Path) -> None:
    rows = intents()
    result = deduplicate_rows(rows, tiny, tmp_path, many_splits())
    found = splits_by_answer(result)
    assert len(found) == 20
    assert all(len(in_splits) == 1 for in_splits in found.values())
    assert len(set().union(*found.values())) >= 3
    backwards = deduplicate_rows(rows[::-1], tiny, tmp_path, many_splits())
    assert splits_by_id(backwards) == splits_by_id(result)


def test_another_wording_moves_no_row(tiny: Path, tmp_path: Path) -> None:
    rows = intents()
    before = splits_by_answer(deduplicate_rows(rows, tiny, tmp_path, many_splits()))
    for known in rows[::3]:
        rows.append(row(f"Oi, {known['question']}", known["answer"], None))
    after = splits_by_answer(deduplicate_rows(rows, tiny, tmp_path, many_splits()))
    assert after == before


def join(groups: list[int], answers: list[int], fixed: list[bool], most: int) -> list[int]:
    """Return the joined splits of rows that are all in split 6 (train)."""
    near = settings().preprocess.near_duplicates.model_copy(update={"max_paraphrases": most})
    # All rows that are joined go to dev, which has the index 5.
    params = settings(near_duplicates=near, dev_share=0.9999, validation_share=0.0).preprocess
    split = numpy.full(len(groups), 6, numpy.int16)
    joined = wordings.join_wordings(
        split,
        numpy.array(fixed),
        numpy.array(groups, dtype=numpy.uint64),
        numpy.array(answers, dtype=numpy.uint64),
        params,
    )
    result: list[int] = joined.tolist()
    return result


def test_joined_rows_by_hand() -> None:
    free = [False] * 6
    # The answer 1 joins the questions 10 and 11, and question 11 has the answer 2 too.
    assert join([10, 11, 11, 12, 12, 13], [1, 1, 2, 3, 3, 4], free, 2) == [5, 5, 5, 6, 6, 6]
    # A fixed row joins nothing.
    assert join([10, 11], [1, 1], [False, True], 2) == [6, 6]
    # Three questions are more than two: the answer is a stock answer.
    assert join([10, 11, 12], [1, 1, 1], [False] * 3, 2) == [6, 6, 6]


def test_the_splits_of_hashes_by_hand() -> None:
    params = settings(dev_share=0.1, validation_share=0.1).preprocess
    positions = [0.0, 0.09, 0.11, 0.25, 0.59, 0.61, 0.99]
    hashes = numpy.array([int(position * 2**64) for position in positions], dtype=numpy.uint64)
    names = [splits.SPLITS[number] for number in splits.split_numbers(hashes, params)]
    assert names == ["dev", "dev", "A", "B", "E", "train", "train"]
    no_sets = settings(dev_share=0.1, validation_share=0.0).preprocess
    names = [splits.SPLITS[number] for number in splits.split_numbers(hashes, no_sets)]
    assert names == ["dev", "dev", *["train"] * 5]


def test_joined_rows_have_the_shares_of_the_parameters() -> None:
    params = settings(dev_share=0.1, validation_share=0.1).preprocess
    random = numpy.random.default_rng(5)
    # 2,000 answers with two questions each.
    answers = numpy.repeat(random.integers(2**63, size=2000).astype(numpy.uint64), 2)
    groups = random.integers(2**63, size=4000).astype(numpy.uint64)
    split = numpy.full(4000, 6, numpy.int16)
    joined = wordings.join_wordings(split, numpy.zeros(4000, bool), groups, answers, params)
    assert (joined[::2] == joined[1::2]).all()
    counts = numpy.bincount(joined[::2], minlength=7)
    # Each of six splits expects 200 of 2,000; three standard deviations of a binomial are 41.
    assert all(abs(count - 200) <= 41 for count in counts[: len(SET_NAMES) + 1])


def test_a_nearly_equal_question_with_another_answer_stays_in_its_split(
    tiny: Path, tmp_path: Path
) -> None:
    result = deduplicate_rows([row(QUESTION, ANSWER), row(NEARLY, OTHER)], tiny, tmp_path)
    assert len(result.kept["train"]) == 2
