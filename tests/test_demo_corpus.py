"""The corpus that ships with the repository: how large it is, that its parts are apart, and that it holds nobody's data."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT
from bula.params import load_params
from bula.records import SET_NAMES
from bula.text import comparison_key, ngrams, words

Row = dict[str, Any]

DEMO = ROOT / "data/demo"
SETS = [f"validation/{name}" for name in SET_NAMES]
SPLITS = ["train", "dev", *SETS]
# Task to the fields of its options and the field of the right one.
CHOICES = {
    "medmcqa": (["opa", "opb", "opc", "opd"], "cop"),
    "medqa_4options": (["ending0", "ending1", "ending2", "ending3"], "label"),
}
KINDS = {
    "sintomas",
    "orientacao",
    "prevencao",
    "tratamento",
    "medicamento",
    "primeiros_socorros",
    "exame",
}


def read(name: str) -> list[Row]:
    return [
        json.loads(line)
        for line in (DEMO / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


# Every question-answer pair, by where it stands.
PAIRS = {
    f"{split}:{number}": row for split in SPLITS for number, row in enumerate(read(split), start=1)
}
FILES = sorted(path for path in DEMO.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("train", 420),
        ("dev", 20),
        *((name, 24) for name in SETS),
        *((f"benchmarks/{task}", 60) for task in [*CHOICES, "squad_completion"]),
    ],
)
def test_every_part_is_large_enough(name: str, least: int) -> None:
    assert len(read(name)) >= least


def test_the_default_parameters_ask_for_no_more_than_there_is() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    assert len(read("gold")) == 60 >= params.calibrate.items
    assert all(len(read(name)) >= params.generate.items_per_set for name in SETS)
    assert all(
        len(read(f"benchmarks/{task}")) >= params.benchmark.limit
        for task in [*CHOICES, "squad_completion"]
    )
    assert {Path(source.path) for source in params.ingest.benchmarks if source.kind == "files"} == {
        path.relative_to(ROOT) for path in FILES if path.parent.name == "benchmarks"
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEMO)))
def test_a_file_is_utf8_nfc_with_line_feeds_and_holds_no_personal_data(path: Path) -> None:
    text = path.read_bytes().decode("utf-8")
    assert unicodedata.is_normalized("NFC", text)
    assert "\r" not in text
    assert text.endswith("\n") and not text.endswith("\n\n")
    # A page that describes the corpus may point somewhere.
    patterns = [pattern for pattern in PERSONAL if path.suffix != ".md" or pattern != LINK]
    assert [match.group() for pattern in patterns for match in re.finditer(pattern, text)] == []


LINK = r"https?:|www\."
# CPF, CNPJ or any other long number; e-mail; telephone; address of a page.
PERSONAL = [
    r"\b\d{3}[. ]?\d{3}[. ]?\d{3}[- ]?\d{2}\b",
    r"\b\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}\b",
    r"\d{8,}",
    r"\S+@\w+",
    r"\b9?\d{4}[- ]\d{4}\b",
    LINK,
]


@pytest.mark.parametrize(
    "text",
    [
        "CPF 529.982.247-25.",
        "52998224725",
        "11.222.333/0001-81",
        "ana.lima@exemplo.com.br",
        "(11) 91234-5678",
        "3456-7890",
        "https://a.br",
    ],
)
def test_personal_data_would_be_seen(text: str) -> None:
    assert any(re.search(pattern, text) for pattern in PERSONAL)


def test_the_readme_of_the_corpus_gives_its_true_counts() -> None:
    text = " ".join((DEMO / "README.md").read_text(encoding="utf-8").split())
    listed = dict(re.findall(r"\| `([\w/]+)\.jsonl` \| (\d+) \|", text))
    present = {
        str(path.relative_to(DEMO).with_suffix("")) for path in FILES if path.suffix == ".jsonl"
    }
    assert listed == {name: str(len(read(name))) for name in present}
    for rows in (PAIRS.values(), read("gold")):
        lengths = [len(words(row["answer"])) for row in rows]
        assert f"{min(lengths)} to {max(lengths)} words" in text


def test_the_readme_of_the_corpus_gives_its_true_coverage() -> None:
    text = " ".join((DEMO / "README.md").read_text(encoding="utf-8").split())
    for kind in KINDS:
        counts = [
            sum(row["kind"] == kind for where, row in PAIRS.items() if where.startswith(part))
            for part in ("train", "dev", "validation")
        ]
        assert f"| `{kind}` | " + " | ".join(map(str, counts)) + " |" in text
    specialties = Counter(row["specialty"] for row in PAIRS.values())
    listed = {name: count for name, count in specialties.items() if count >= 10}
    assert all(f"{name} {count}" in text for name, count in listed.items())
    rest = specialties.total() - sum(listed.values())
    assert f"other {len(specialties) - len(listed)} specialties have {rest} pairs together" in text


# Questions and answers


def test_every_pair_has_the_four_fields_with_text_in_them() -> None:
    for where, row in PAIRS.items():
        assert set(row) == {"question", "answer", "specialty", "kind"}, where
        assert all(
            isinstance(value, str) and value == value.strip() and words(value)
            for value in row.values()
        ), where
        assert all(unicodedata.is_normalized("NFC", value) for value in row.values()), where
    assert {row["kind"] for row in PAIRS.values()} == KINDS


def test_answers_have_40_to_110_words() -> None:
    lengths = {where: len(words(row["answer"])) for where, row in PAIRS.items()}
    assert {where: length for where, length in lengths.items() if not 40 <= length <= 110} == {}


def test_no_question_is_asked_twice() -> None:
    gold = {f"gold:{row['id']}": row for row in read("gold")}
    asked = defaultdict(list)
    for where, row in (PAIRS | gold).items():
        asked[comparison_key(row["question"])].append(where)
    assert [places for places in asked.values() if len(places) > 1] == []


def shared_5grams(texts: dict[str, str]) -> dict[tuple[str, str], float]:
    """For every two texts with a word 5-gram in common: what they share, as a share of the shorter one's 5-grams."""
    grams = {where: set(ngrams(text, 5)) for where, text in texts.items()}
    owners = defaultdict(list)
    for where, own in grams.items():
        for gram in own:
            owners[gram].append(where)
    common = Counter(pair for places in owners.values() for pair in combinations(places, 2))
    return {(a, b): count / min(len(grams[a]), len(grams[b])) for (a, b), count in common.items()}


def test_shared_5grams_by_hand() -> None:
    # x has a b c d e, b c d e f; y has b c d e f and five more: 1 of 2. z shares nothing with either.
    texts = {"x": "a b c d e f", "y": "B, c, d, e, f. g h i j k", "z": "a b c d x e f g h"}
    assert shared_5grams(texts) == {("x", "y"): 0.5}


def test_no_two_answers_share_more_than_30_percent_of_their_5grams() -> None:
    shares = shared_5grams({where: row["answer"] for where, row in PAIRS.items()})
    assert {pair: share for pair, share in shares.items() if share > 0.3} == {}


def test_the_topics_are_24_a_set_all_different_one_for_each_pair() -> None:
    topics = YAML(typ="safe").load((DEMO / "topics.yaml").read_text(encoding="utf-8"))
    assert {name: len(titles) for name, titles in topics.items()} == dict.fromkeys(SET_NAMES, 24)
    assert len({comparison_key(title) for titles in topics.values() for title in titles}) == 120
    assert {name.removeprefix("validation/"): len(read(name)) for name in SETS} == dict.fromkeys(
        SET_NAMES, 24
    )


# Benchmarks


@pytest.mark.parametrize("task", CHOICES)
def test_the_right_letter_is_each_of_the_four_equally_often(task: str) -> None:
    options, answer = CHOICES[task]
    items = read(f"benchmarks/{task}")
    limit = load_params(ROOT / "profiles/smollm2-135m.yaml").benchmark.limit
    # Among all items, and among those that the default parameters score: a model that always says C gets a quarter.
    for chosen in (items, items[: limit or None]):
        counts = Counter(item[answer] for item in chosen)
        assert set(counts) == {0, 1, 2, 3}
        assert max(counts.values()) - min(counts.values()) <= 1
    for item in items:
        assert len({comparison_key(item[option]) for option in options}) == 4, item["id"]


@pytest.mark.parametrize("task", CHOICES)
def test_length_does_not_give_the_right_option_away(task: str) -> None:
    options, answer = CHOICES[task]
    items = read(f"benchmarks/{task}")
    longest = sum(
        max(range(4), key=lambda option: len(item[options[option]])) == item[answer]
        for item in items
    )
    # A quarter by chance; always saying the longest option must stay below one half.
    assert longest / len(items) < 0.5


@pytest.mark.parametrize(
    ("task", "question"),
    [("medmcqa", "question"), ("medqa_4options", "sent1"), ("squad_completion", "text")],
)
def test_benchmark_items_are_all_different(task: str, question: str) -> None:
    items = read(f"benchmarks/{task}")
    key = "doc_id" if task == "squad_completion" else "id"
    assert (
        len({item[key] for item in items})
        == len({comparison_key(item[question]) for item in items})
        == len(items)
    )


def test_a_completion_is_in_the_context_once_and_not_in_the_sentence_to_be_completed() -> None:
    for item in read("benchmarks/squad_completion"):
        assert item["context"].count(item["value"]) == 1, item["doc_id"]
        context, sentence = (
            item["text"][: len(item["context"])],
            item["text"][len(item["context"]) :],
        )
        assert context == item["context"], item["doc_id"]
        assert words(sentence), item["doc_id"]
        assert item["value"].casefold() not in sentence.casefold(), item["doc_id"]


# Gold answers


def test_gold_answers_are_scored_1_to_3_with_a_note_where_something_is_wrong() -> None:
    gold = read("gold")
    for row in gold:
        assert set(row) == {
            "id",
            "area",
            "question",
            "reference",
            "answer",
            "accuracy",
            "style",
            "note",
        }, row["id"]
        assert row["area"] in {"A", "B", "C", "D", "E"}, row["id"]
        assert {type(row["accuracy"]), type(row["style"])} == {int}, row["id"]
        assert bool(row["note"]) == (row["accuracy"] < 3 or row["style"] < 3), row["id"]
    assert len({row["id"] for row in gold}) == len(gold)
    # Kappa needs every score to occur, and on each scale alone: 20 times each, the two crossed.
    for part in ("accuracy", "style"):
        assert Counter(row[part] for row in gold) == {1: 20, 2: 20, 3: 20}
    assert set(Counter((row["accuracy"], row["style"]) for row in gold).values()) == {6, 7}


@pytest.mark.parametrize("first", [9, 18, 27, 30, 36])
def test_the_first_gold_answers_are_as_balanced_as_all(first: int) -> None:
    # calibrate.items takes them in file order.
    for part in ("accuracy", "style"):
        assert set(Counter(row[part] for row in read("gold")[:first]).values()) == {first // 3}


def test_a_gold_answer_is_about_as_long_as_its_reference() -> None:
    # Otherwise a judge could score by length.
    ratios = {
        row["id"]: len(words(row["answer"])) / len(words(row["reference"])) for row in read("gold")
    }
    assert {item: ratio for item, ratio in ratios.items() if not 0.75 <= ratio <= 1.25} == {}
