"""Check the controls: answers, a character model and compressors without a model."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from bench.clones import edit_params
from bula.errors import UserError
from bula.item_scores import AnswerRow, read_checked
from bula.records import Example, Turn, read_rows, write_rows
from bula.rouge import PortugueseTokenizer
from stages.controls import __main__ as controls
from stages.controls import ngram
from stages.controls.answers import (
    common_length,
    echo,
    nearest,
    position_masks,
    stock,
    stock_index,
)
from stages.controls.compressors import COMPRESSORS, added_bits, compressed_bits
from tests.conftest import leftovers, write_validation_sets


def example(question: str, answer: str, history: list[Turn] | None = None) -> Example:
    """Return a training example."""
    return Example(
        id="0" * 16,
        source="s",
        license="l",
        split="train",
        question=question,
        answer=answer,
        history=history,
    )


# Answers


def test_the_stock_answer_has_the_highest_mean_rouge_l() -> None:
    # F1 of the pairs: 2 * 2 / (2 + 4) = 0.667, 0, and 2 * 1 / (4 + 2) = 0.333. The means are
    # 0.333, 0.5 and 0.167.
    answers = ["Beba água", "Beba água e repouse", "repouse hoje"]
    assert stock_index(answers) == 1
    train = [example("?", answer) for answer in answers]
    asked = [example("O que faço?", "Nada."), example("E agora?", "Nada.")]
    assert stock(train, asked) == ["Beba água e repouse"] * 2


def test_the_first_of_equal_stock_answers_is_taken() -> None:
    assert stock_index(["um dois", "dois um", "um dois"]) == 0
    assert stock_index(["beba água"]) == 0
    assert stock_index(["...", "beba água"]) == 0


def test_the_common_subsequence_equals_the_one_of_rouge_score() -> None:
    generator = random.Random(1)
    scorer = RougeScorer(["rougeL"], tokenizer=PortugueseTokenizer())
    for _ in range(200):
        first = generator.choices("abcde", k=generator.randint(1, 90))
        second = generator.choices("abcdef", k=generator.randint(1, 90))
        expected = scorer.score(" ".join(first), " ".join(second))["rougeL"].recall
        length = common_length(position_masks(first), len(first), second)
        assert length / len(first) == pytest.approx(expected)


def test_the_nearest_answer_belongs_to_the_most_similar_question() -> None:
    # The second question shares "com" and "febre", and the third one "tosse", too. No question has
    # a word of "zzz", so the first one is taken.
    train = [
        example("Posso correr?", "Corra."),
        example("Dor com febre?", "Meça."),
        example("Mancha com febre, tosse?", "Repouse."),
    ]
    asked = [example("Com febre e tosse", "?"), example("zzz", "?")]
    assert nearest(train, asked) == ["Repouse.", "Corra."]


def test_the_nearest_answer_reads_the_complete_conversation() -> None:
    train = [example("Tomo chá?", "Sim."), example("Tomo dipirona?", "Depende.")]
    earlier = [Turn(question="Dipirona faz mal?", answer="Nem sempre.")]
    assert nearest(train, [example("Tomo?", "?", earlier)]) == ["Depende."]


def test_the_echo_is_the_question() -> None:
    assert echo([example("Tomo chá?", "Sim.")]) == ["Tomo chá?"]


# Character n-gram


def test_the_probabilities_of_a_letter_equal_a_calculation_by_hand() -> None:
    counts = ngram.count(["a"])
    assert counts.alphabet == {"a", ngram.END}
    # Without a context: (1 + 2 / 3) / (2 + 2) for "a" and for the end, (0 + 2 / 3) / 4 otherwise.
    assert ngram.probability(counts, "", "a") == pytest.approx(5 / 12)
    assert ngram.probability(counts, "", "z") == pytest.approx(1 / 6)
    # Each longer context has one count of one kind, so that p becomes (1 + p) / 2: five times.
    start = ngram.START * 5
    assert ngram.probability(counts, start, "a") == pytest.approx(377 / 384)
    assert ngram.answer_bits(counts, "a") == pytest.approx(2 * math.log2(384 / 377))


def test_an_unseen_character_costs_the_escape_and_its_code_point() -> None:
    counts = ngram.count(["a"])
    # The escape costs 1 / 6 / 2 ** 5. No context with "z" has a count, so the end costs 5 / 12.
    expected = math.log2(192) + math.log2(0x110000 - 2) + math.log2(12 / 5)
    assert ngram.answer_bits(counts, "z") == pytest.approx(expected)


@pytest.mark.parametrize("context", ["", "á", "ebe á", ngram.START * 5, "zzzzz", "zz ág"])
def test_the_probabilities_after_a_context_sum_to_1(context: str) -> None:
    counts = ngram.count(["Beba água.", "Beba muita água e repouse.", "Não beba."])
    escape = "\x04"
    assert escape not in counts.alphabet
    total = sum(ngram.probability(counts, context, each) for each in [*counts.alphabet, escape])
    assert total == pytest.approx(1)


def test_the_ngram_predicts_similar_answers_better_than_others() -> None:
    counts = ngram.count(["Beba água e repouse."] * 3 + ["Procure um médico."])
    similar = ngram.answer_bits(counts, "Beba água.")
    assert similar < ngram.answer_bits(counts, "Xuxu frito")


# Compressors


def keep(data: bytes) -> bytes:
    """Compress nothing."""
    return data


def test_compressed_bits_count_bytes_and_line_feeds() -> None:
    # "é" has two bytes in UTF-8, and each text one line feed.
    assert compressed_bits(keep, ["é"]) == 24
    assert compressed_bits(keep, ["a", "b"]) == 32
    assert added_bits(keep, ["aaaa"], ["é"]) == 24


@pytest.mark.parametrize("name", COMPRESSORS)
def test_known_text_adds_few_bits(name: str) -> None:
    compress = COMPRESSORS[name]
    generator = random.Random(2)
    text = "".join(generator.choices("abcdefghij", k=3000))
    alone = compressed_bits(compress, [text])
    assert 0 < added_bits(compress, [text], [text]) < alone / 2
    assert compress(text.encode()) == compress(text.encode())


def test_the_gzip_size_does_not_depend_on_the_clock() -> None:
    # Bytes 4 to 7 of a gzip file are the time.
    assert COMPRESSORS["gzip"](b"a")[4:8] == bytes(4)


# Stage


@pytest.fixture
def local(workspace: Path) -> Path:
    """Return the workspace with validation sets and three training examples."""
    write_validation_sets(workspace)
    train = [
        example("Posso tomar água?", "Beba água, e repouse."),
        example("Pergunta de D?", "Beba água."),
        example("Tenho tosse?", "Procure um médico."),
    ]
    rows = []
    for number, each in enumerate(train):
        rows.append(each.model_copy(update={"id": f"f{number:015d}"}))
    write_rows(workspace / "data/clean/train.jsonl", rows)
    return workspace


def metrics_of(folder: Path) -> dict[str, Any]:
    text = (folder / "metrics/controls.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def test_the_stage_writes_answers_scores_and_figures(local: Path) -> None:
    controls.main()
    figures = metrics_of(local)
    assert list(figures) == ["bz2", "echo", "gzip", "nearest", "ngram", "stock", "xz"]
    # The workspace generates 2 answers per set and scores all 3 references of each.
    assert [figures[name]["items"] for name in ("stock", "nearest", "echo")] == [10] * 3
    assert [figures[name]["items"] for name in ("ngram", "gzip", "bz2", "xz")] == [15] * 4
    # The stock answer has the words beba, água, e and repouse. It equals the first reference of
    # each set, and has 4 of 6 words in common with the second: F1 is (1 + 2 * 4 / 10) / 2.
    assert figures["stock"]["rougeL_f"] == pytest.approx(0.9)
    assert figures["stock"]["degenerate_share"] == 0
    folder = local / "data/controls"
    rows = read_checked(folder / "answers_stock.jsonl", "controls@stock", AnswerRow)
    assert {row.generated for row in rows} == {"Beba água, e repouse."}
    assert leftovers(local) == []


def test_ngram_rows_give_the_figure_of_the_metrics(local: Path) -> None:
    controls.main()
    rows = list(read_rows(local / "data/controls/likelihood_ngram.jsonl"))
    nats = sum(row["nats"] for row in rows)
    characters = sum(row["characters"] for row in rows)
    found = metrics_of(local)["ngram"]["bits_per_character"]
    assert found == pytest.approx(nats / math.log(2) / characters, rel=1e-5)


def test_the_stock_answer_is_one_of_the_first_training_answers(local: Path) -> None:
    edit_params(local / "params.yaml", lambda params: params["controls"].update(stock_answers=1))
    controls.main()
    [*rows] = read_rows(local / "data/controls/answers_stock.jsonl")
    assert {row["generated"] for row in rows} == {"Beba água, e repouse."}


def test_a_second_run_writes_the_same_bytes(local: Path) -> None:
    controls.main()
    first = {path: path.read_bytes() for path in sorted((local / "data/controls").iterdir())}
    assert len(first) == 7
    controls.main()
    assert {path: path.read_bytes() for path in first} == first


def test_an_empty_training_file_is_refused_before_any_output(local: Path) -> None:
    (local / "data/clean/train.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"data/clean/train\.jsonl: the file is empty"):
        controls.main()
    assert not (local / "metrics").exists()
    assert not (local / "data/controls").exists()


def test_controls_never_import_torch() -> None:
    code = "import stages.controls.__main__, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
