"""Test the corpus that ships with the repository.

The corpus is large enough, its parts are disjoint, and it contains no personal data.
"""

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT
from bula.params import load_params
from bula.records import SET_NAMES
from bula.text import comparison_key, ngrams, words
from stages.preprocess.minhash import jaccard_similarity, shingles

Row = dict[str, Any]

DEMO = ROOT / "data/demo"
PARAMS = load_params(ROOT / "profiles/smollm2-135m.yaml")
SETS = [f"validation/{name}" for name in SET_NAMES]
SPLITS = ["train", "dev", *SETS]
# For each benchmark, the fields of its four options and the field of the correct option's index.
CHOICES = {
    "medmcqa": (["opa", "opb", "opc", "opd"], "cop"),
    "medqa_4options": (["ending0", "ending1", "ending2", "ending3"], "label"),
}
BENCHMARKS = [*CHOICES, "squad_completion", "contrast"]
KINDS = {
    "sintomas",
    "orientacao",
    "prevencao",
    "tratamento",
    "medicamento",
    "primeiros_socorros",
    "exame",
}
PAIR_FIELDS = {
    "question",
    "answer",
    "specialty",
    "kind",
}
SCALES = ("accuracy", "style")
PATHS = sorted(DEMO.rglob("*"))
FILES = [path for path in PATHS if path.is_file()]


def read(name: str) -> list[Row]:
    """Return the rows of a file of the corpus."""
    text = (DEMO / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def read_pairs() -> dict[str, Row]:
    """Return all question-answer pairs by file and line."""
    pairs = {}
    for split in SPLITS:
        for number, row in enumerate(read(split), start=1):
            pairs[f"{split}:{number}"] = row
    return pairs


PAIRS = read_pairs()


def word_count(text: str) -> int:
    """Return the number of words in a text."""
    return len(words(text))


def assert_no_duplicates(texts: dict[str, str]) -> None:
    """Check that no two texts differ in case or punctuation only."""
    places: dict[str, str] = {}
    for place, text in texts.items():
        key = comparison_key(text)
        assert key not in places, (place, places[key])
        places[key] = place


# Sizes


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("train", 420),
        ("dev", 20),
        *[(name, 24) for name in SETS],
        *[(f"benchmarks/{task}", 60) for task in BENCHMARKS],
    ],
)
def test_every_part_is_large_enough(name: str, least: int) -> None:
    assert len(read(name)) >= least


def test_the_60_gold_answers_are_enough_for_calibrate() -> None:
    assert len(read("gold")) == 60
    assert PARAMS.calibrate.items <= 60


@pytest.mark.parametrize("name", SETS)
def test_each_set_is_large_enough_for_generate(name: str) -> None:
    assert len(read(name)) >= PARAMS.generate.items_per_set


@pytest.mark.parametrize("task", BENCHMARKS)
def test_each_benchmark_is_large_enough_for_its_limit(task: str) -> None:
    assert len(read(f"benchmarks/{task}")) >= PARAMS.benchmark.limit


def test_the_default_parameters_name_every_benchmark_of_the_corpus() -> None:
    named = set()
    for task in PARAMS.ingest.benchmarks:
        if task.kind == "files":
            named.add(ROOT / task.path)
    present = set((DEMO / "benchmarks").iterdir())
    assert named == present


# Text of the files


def corpus_id(path: Path) -> str:
    """Return the name of a file in pytest's output."""
    return str(path.relative_to(DEMO))


@pytest.mark.parametrize("path", FILES, ids=corpus_id)
def test_a_file_is_utf_8_in_nfc_with_line_feeds(path: Path) -> None:
    text = path.read_bytes().decode("utf-8")
    assert unicodedata.is_normalized("NFC", text)
    assert "\r" not in text
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


CPF = r"\b\d{3}[. ]?\d{3}[. ]?\d{3}[- ]?\d{2}\b"
CNPJ = r"\b\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}\b"
LONG_NUMBER = r"\d{8,}"
EMAIL = r"\S+@\w+"
TELEPHONE = r"\b9?\d{4}[- ]\d{4}\b"
LINK = r"https?:|www\."
PERSONAL = [CPF, CNPJ, LONG_NUMBER, EMAIL, TELEPHONE, LINK]


def find_personal_data(text: str, patterns: list[str]) -> list[str]:
    """Return the parts of a text that look like personal data."""
    found: list[str] = []
    for pattern in patterns:
        matches = re.finditer(pattern, text)
        found.extend(match.group() for match in matches)
    return found


@pytest.mark.parametrize("path", FILES, ids=corpus_id)
def test_a_file_contains_no_personal_data(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    patterns = list(PERSONAL)
    if path.suffix == ".md":
        # A page about the corpus may contain links.
        patterns.remove(LINK)
    if path == DEMO / "labels.jsonl":
        # Ids and hashes have long runs of digits by chance, and only notes are written by people.
        text = "\n".join(json.loads(line).get("note", "") for line in text.splitlines())
        assert "traço" in text
    assert find_personal_data(text, patterns) == []


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
def test_the_patterns_find_personal_data(text: str) -> None:
    assert find_personal_data(text, PERSONAL) != []


# The README of the corpus


@pytest.fixture(scope="module")
def readme() -> str:
    """Return the text of the corpus's README on one line."""
    text = (DEMO / "README.md").read_text(encoding="utf-8")
    return " ".join(text.split())


def test_the_readme_lists_the_number_of_rows_of_each_file(readme: str) -> None:
    listed = dict(re.findall(r"\| `([\w/]+)\.jsonl` \| (\d+) \|", readme))
    present = {}
    for path in FILES:
        if path.suffix == ".jsonl":
            name = str(path.relative_to(DEMO).with_suffix(""))
            present[name] = str(len(read(name)))
    assert listed == present


@pytest.mark.parametrize(
    "rows",
    [
        list(PAIRS.values()),
        read("gold"),
    ],
    ids=["pairs", "gold"],
)
def test_the_readme_states_the_lengths_of_answers(rows: list[Row], readme: str) -> None:
    lengths = [word_count(row["answer"]) for row in rows]
    shortest = min(lengths)
    longest = max(lengths)
    assert f"{shortest} to {longest} words" in readme


def count_kind(part: str, kind: str) -> int:
    """Return how many pairs of one kind a part contains."""
    count = 0
    for place, row in PAIRS.items():
        if place.startswith(part) and row["kind"] == kind:
            count += 1
    return count


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_readme_counts_the_pairs_of_each_kind(kind: str, readme: str) -> None:
    train = count_kind("train", kind)
    dev = count_kind("dev", kind)
    validation = count_kind("validation", kind)
    assert f"| `{kind}` | {train} | {dev} | {validation} |" in readme


def test_the_readme_counts_the_pairs_of_each_specialty(readme: str) -> None:
    counts = Counter(row["specialty"] for row in PAIRS.values())
    rare_specialties = 0
    rare_pairs = 0
    for name, count in counts.items():
        if count >= 10:
            assert f"{name} {count}" in readme
        else:
            rare_specialties += 1
            rare_pairs += count
    assert f"other {rare_specialties} specialties have {rare_pairs} pairs together" in readme


# Questions and answers


def test_every_pair_has_the_four_fields() -> None:
    for place, row in PAIRS.items():
        assert set(row) == PAIR_FIELDS, place


def is_clean_text(value: object) -> bool:
    """Return whether a value is text with words and without outer spaces."""
    if not isinstance(value, str):
        return False
    return value == value.strip() and word_count(value) > 0


def test_every_field_of_a_pair_is_clean_text_in_nfc() -> None:
    for place, row in PAIRS.items():
        for value in row.values():
            assert is_clean_text(value), place
            assert unicodedata.is_normalized("NFC", value), place


def test_the_pairs_have_all_kinds() -> None:
    found = {row["kind"] for row in PAIRS.values()}
    assert found == KINDS


def test_answers_have_40_to_110_words() -> None:
    for place, row in PAIRS.items():
        length = word_count(row["answer"])
        assert 40 <= length <= 110, place


def test_no_question_appears_twice() -> None:
    questions = {}
    for place, row in PAIRS.items():
        questions[place] = row["question"]
    for row in read("gold"):
        gold_id = row["id"]
        questions[f"gold:{gold_id}"] = row["question"]
    assert_no_duplicates(questions)


def shared_5grams(texts: dict[str, str]) -> dict[tuple[str, str], float]:
    """Return the share of 5-grams that two texts have in common.

    A 5-gram is a run of five words. The share is relative to the text with fewer 5-grams. Pairs of
    texts without a common 5-gram are left out.
    """
    grams = {}
    owners = defaultdict(list)
    for place, text in texts.items():
        grams[place] = set(ngrams(text, 5))
        for gram in grams[place]:
            owners[gram].append(place)
    common: Counter[tuple[str, str]] = Counter()
    for places in owners.values():
        common.update(combinations(places, 2))
    shares = {}
    for pair, count in common.items():
        fewest = min(len(grams[place]) for place in pair)
        shares[pair] = count / fewest
    return shares


def test_shared_5grams_by_hand() -> None:
    texts = {
        # The two 5-grams are a b c d e and b c d e f.
        "x": "a b c d e f",
        # Of its 5-grams, only b c d e f is in x.
        "y": "B, c, d, e, f. g h i j k",
        # It shares no 5-gram with x or y.
        "z": "a b c d x e f g h",
    }
    assert shared_5grams(texts) == {("x", "y"): 0.5}


def test_no_two_answers_share_more_than_30_percent_of_their_5grams() -> None:
    answers = {}
    for place, row in PAIRS.items():
        answers[place] = row["answer"]
    shares = shared_5grams(answers)
    for pair, share in shares.items():
        assert share <= 0.3, pair


# Topics of the validation sets


@pytest.fixture(scope="module")
def topics() -> dict[str, list[str]]:
    """Return the topics of each validation set."""
    text = (DEMO / "topics.yaml").read_text(encoding="utf-8")
    content: dict[str, list[str]] = YAML(typ="safe").load(text)
    return content


@pytest.mark.parametrize("name", SET_NAMES)
def test_each_set_has_24_topics_and_24_pairs(name: str, topics: dict[str, list[str]]) -> None:
    pairs = read(f"validation/{name}")
    assert len(topics[name]) == 24
    assert len(pairs) == 24


def test_all_120_topics_are_different(topics: dict[str, list[str]]) -> None:
    keys: set[str] = set()
    for titles in topics.values():
        keys.update(map(comparison_key, titles))
    assert len(keys) == 120


def test_only_the_sets_have_topics(topics: dict[str, list[str]]) -> None:
    assert set(topics) == set(SET_NAMES)


# Benchmarks


@pytest.mark.parametrize(
    "limit",
    [None, PARAMS.benchmark.limit or None],
    ids=["all items", "scored items"],
)
@pytest.mark.parametrize("task", CHOICES)
def test_each_option_is_correct_equally_often(task: str, limit: int | None) -> None:
    # A model that always answers C is then correct for a quarter of the items.
    _, answer = CHOICES[task]
    items = read(f"benchmarks/{task}")[:limit]
    counts = Counter(item[answer] for item in items)
    assert set(counts) == {0, 1, 2, 3}
    most = max(counts.values())
    fewest = min(counts.values())
    assert most - fewest <= 1


@pytest.mark.parametrize("task", CHOICES)
def test_the_four_options_of_an_item_are_different(task: str) -> None:
    options, _ = CHOICES[task]
    for item in read(f"benchmarks/{task}"):
        texts = [item[option] for option in options]
        keys = set(map(comparison_key, texts))
        assert len(keys) == 4, item["id"]


def longest_option(item: Row, options: list[str]) -> int:
    """Return the index of an item's longest option."""
    lengths = [len(item[option]) for option in options]
    return lengths.index(max(lengths))


@pytest.mark.parametrize("task", CHOICES)
def test_the_longest_option_is_correct_for_less_than_half_of_the_items(task: str) -> None:
    # By chance it is correct for a quarter.
    options, answer = CHOICES[task]
    items = read(f"benchmarks/{task}")
    correct = 0
    for item in items:
        if longest_option(item, options) == item[answer]:
            correct += 1
    assert correct < len(items) / 2


@pytest.mark.parametrize(
    ("task", "key", "question"),
    [
        ("medmcqa", "id", "question"),
        ("medqa_4options", "id", "sent1"),
        ("squad_completion", "doc_id", "text"),
        ("contrast", "id", "question"),
    ],
)
def test_benchmark_items_are_all_different(task: str, key: str, question: str) -> None:
    items = read(f"benchmarks/{task}")
    questions = {}
    for item in items:
        questions[item[key]] = item[question]
    assert len(questions) == len(items)
    assert_no_duplicates(questions)


COMPLETIONS = read("benchmarks/squad_completion")


def sentence_of(item: Row) -> str:
    """Return the sentence to complete, which follows the context."""
    size = len(item["context"])
    return str(item["text"][size:])


def test_the_text_of_a_completion_starts_with_its_context() -> None:
    for item in COMPLETIONS:
        context = item["context"]
        assert item["text"].startswith(context), item["doc_id"]


def test_a_completion_appears_once_in_the_context() -> None:
    for item in COMPLETIONS:
        value = item["value"]
        assert item["context"].count(value) == 1, item["doc_id"]


def test_a_completion_does_not_appear_in_the_sentence() -> None:
    for item in COMPLETIONS:
        value = item["value"].casefold()
        sentence = sentence_of(item)
        assert word_count(sentence) > 0, item["doc_id"]
        assert value not in sentence.casefold(), item["doc_id"]


# Contrast pairs

CONTRAST = read("benchmarks/contrast")
CONTRAST_FIELDS = {
    "id",
    "slice",
    "question",
    "right",
    "wrong",
    "license",
}
SLICE_SIZES = {
    "negation": 34,
    "dose": 36,
    "emergency": 36,
    "interaction": 34,
    "population": 34,
}
# A rule that knows nothing about medicine may find at most this share of the correct texts.
MOST_BY_RULE = 0.6
# Returns the value by which a rule prefers a text.
Rule = Callable[[str], float]


def rule_share(pairs: list[Row], rule: Rule) -> float:
    """Return the share of pairs in which the rule prefers the correct text.

    A tie counts as half a pair.
    """
    correct = 0.0
    for pair in pairs:
        right = rule(pair["right"])
        wrong = rule(pair["wrong"])
        if right == wrong:
            correct += 0.5
        elif right > wrong:
            correct += 1
    return correct / len(pairs)


def count_word(word: str) -> Rule:
    """Return a rule that prefers the text in which a word occurs more often."""
    return lambda text: words(text).count(word)


def word_weights(pairs: list[Row]) -> dict[str, float]:
    """Return the weight of each word in a naive Bayes classifier of correct and wrong texts."""
    in_right: Counter[str] = Counter()
    in_wrong: Counter[str] = Counter()
    for pair in pairs:
        in_right.update(set(words(pair["right"])))
        in_wrong.update(set(words(pair["wrong"])))
    weights = {}
    for word in in_right | in_wrong:
        weights[word] = math.log((in_right[word] + 1) / (in_wrong[word] + 1))
    return weights


def learned_rule(pairs: list[Row]) -> Rule:
    """Return the classifier of words that these pairs teach."""
    weights = word_weights(pairs)
    return lambda text: sum(weights.get(word, 0.0) for word in set(words(text)))


def learned_share(pairs: list[Row], folds: int) -> float:
    """Return the share that the classifier finds in pairs on which it was not trained."""
    correct = 0.0
    for fold in range(folds):
        held_out = pairs[fold::folds]
        known = [pair for pair in pairs if pair not in held_out]
        correct += rule_share(held_out, learned_rule(known)) * len(held_out)
    return correct / len(pairs)


def test_rules_by_hand() -> None:
    pairs = [
        {"right": "Não tome.", "wrong": "Tome."},
        {"right": "Tome hoje.", "wrong": "Tome amanhã."},
        {"right": "Pode.", "wrong": "Não pode."},
        {"right": "Não vá.", "wrong": "Vá."},
    ]
    # Two pairs are found, one is missed, and one is a tie.
    assert rule_share(pairs, count_word("não")) == 2.5 / 4
    assert word_weights(pairs)["não"] == pytest.approx(math.log(3 / 2))
    # Without its own pair, "não" has the weights ln(2/2), ln(3/2), ln(3/1) and ln(2/2).
    assert learned_share(pairs, 4) == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4)


def test_contrast_pairs_have_all_fields_as_clean_text_and_the_license_of_the_corpus() -> None:
    for pair in CONTRAST:
        assert set(pair) == CONTRAST_FIELDS, pair["id"]
        assert all(map(is_clean_text, pair.values())), pair["id"]
        assert pair["license"] == "cc-by-4.0"


def test_each_slice_has_its_number_of_pairs_in_file_and_readme(readme: str) -> None:
    assert Counter(pair["slice"] for pair in CONTRAST) == SLICE_SIZES
    for name, count in SLICE_SIZES.items():
        assert f"| `{name}` | {count} |" in readme


def test_the_first_contrast_pairs_contain_all_slices_equally_often() -> None:
    # benchmark.task_limits takes them in file order.
    for count in (40, 100, 150):
        found = Counter(pair["slice"] for pair in CONTRAST[:count])
        assert set(found.values()) == {count // 5}


def test_the_texts_of_a_contrast_pair_have_nearly_equal_length() -> None:
    for pair in CONTRAST:
        lengths = (len(pair["right"]), len(pair["wrong"]))
        assert max(lengths) - min(lengths) <= 0.15 * max(lengths), pair["id"]


def changed_words(pair: Row) -> int:
    """Return how many words were changed between the two texts of a pair."""
    right = words(pair["right"])
    wrong = words(pair["wrong"])
    changes = SequenceMatcher(None, right, wrong, autojunk=False).get_opcodes()
    return sum(max(j - i, m - k) for tag, i, j, k, m in changes if tag != "equal")


def test_the_texts_of_a_contrast_pair_differ_in_few_words() -> None:
    changes = {pair["id"]: changed_words(pair) for pair in CONTRAST}
    assert min(changes.values()) == 1
    assert max(changes.values()) <= 7
    assert sum(changes.values()) / len(changes) < 2


def test_a_negation_pair_differs_in_the_word_not_and_half_of_the_correct_texts_have_it() -> None:
    pairs = [pair for pair in CONTRAST if pair["slice"] == "negation"]
    count = count_word("não")
    differences = Counter(count(pair["right"]) - count(pair["wrong"]) for pair in pairs)
    assert differences == {1: 17, -1: 17}
    assert all(changed_words(pair) == 1 for pair in pairs)


@pytest.mark.parametrize("part", [*SLICE_SIZES, "all"])
def test_no_length_finds_the_correct_text(part: str) -> None:
    pairs = [pair for pair in CONTRAST if part in (pair["slice"], "all")]
    for rule in (len, word_count):
        share = rule_share(pairs, rule)
        assert 1 - MOST_BY_RULE <= share <= MOST_BY_RULE


@pytest.mark.parametrize("part", [*SLICE_SIZES, "all"])
def test_no_single_word_finds_the_correct_text(part: str) -> None:
    pairs = [pair for pair in CONTRAST if part in (pair["slice"], "all")]
    vocabulary = set()
    for pair in pairs:
        vocabulary |= set(words(pair["right"])) ^ set(words(pair["wrong"]))
    for word in vocabulary:
        share = rule_share(pairs, count_word(word))
        assert 1 - MOST_BY_RULE <= share <= MOST_BY_RULE, word


@pytest.mark.parametrize("part", [*SLICE_SIZES, "all"])
def test_no_classifier_of_words_finds_the_correct_text(part: str) -> None:
    pairs = [pair for pair in CONTRAST if part in (pair["slice"], "all")]
    assert learned_share(pairs, 10) <= MOST_BY_RULE


def test_no_contrast_pair_repeats_a_question_or_an_answer_of_the_corpus() -> None:
    known = [(shingles(row["question"], 2), row) for row in PAIRS.values()]
    corpus_runs = set()
    for row in PAIRS.values():
        corpus_runs |= set(ngrams(f"{row['question']} {row['answer']}", 13))
    for pair in CONTRAST:
        own = shingles(pair["question"], 2)
        nearest = max(jaccard_similarity(own, other) for other, _ in known)
        assert nearest < 0.3, pair["id"]
        for field in ("question", "right", "wrong"):
            assert not corpus_runs & set(ngrams(pair[field], 13)), pair["id"]


# Gold answers

GOLD = read("gold")
GOLD_FIELDS = {
    "id",
    "area",
    "question",
    "reference",
    "answer",
    "accuracy",
    "style",
    "labelled_by",
    "note",
}


def test_gold_answers_have_all_fields_and_an_area() -> None:
    for row in GOLD:
        assert set(row) == GOLD_FIELDS, row["id"]
        assert row["area"] in SET_NAMES, row["id"]
        # No clinician has read the demo.
        assert row["labelled_by"] == "author", row["id"]


def test_gold_answers_have_different_ids() -> None:
    ids = {row["id"] for row in GOLD}
    assert len(ids) == len(GOLD)


def test_gold_scores_are_integers() -> None:
    for row in GOLD:
        assert type(row["accuracy"]) is int, row["id"]
        assert type(row["style"]) is int, row["id"]


def test_a_gold_answer_has_a_note_exactly_where_a_score_is_below_3() -> None:
    for row in GOLD:
        lowest = min(row["accuracy"], row["style"])
        has_note = bool(row["note"])
        assert has_note == (lowest < 3), row["id"]


@pytest.mark.parametrize("scale", SCALES)
def test_each_gold_score_appears_20_times_per_scale(scale: str) -> None:
    # Kappa needs every score to occur.
    counts = Counter(row[scale] for row in GOLD)
    assert counts == {
        1: 20,
        2: 20,
        3: 20,
    }


def test_the_two_gold_scores_are_crossed() -> None:
    combined = Counter((row["accuracy"], row["style"]) for row in GOLD)
    assert len(combined) == 9
    assert set(combined.values()) == {6, 7}


@pytest.mark.parametrize("first", [9, 18, 27, 30, 36])
@pytest.mark.parametrize("scale", SCALES)
def test_the_first_gold_answers_are_balanced(scale: str, first: int) -> None:
    # calibrate.items takes them in file order.
    counts = Counter(row[scale] for row in GOLD[:first])
    assert set(counts.values()) == {first // 3}


def test_a_gold_answer_is_about_as_long_as_its_reference() -> None:
    # Otherwise a judge could score by length.
    for row in GOLD:
        answer = word_count(row["answer"])
        reference = word_count(row["reference"])
        assert 0.75 <= answer / reference <= 1.25, row["id"]
