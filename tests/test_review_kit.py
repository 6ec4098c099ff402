"""Test the sample, the key and the files of `bula review-kit`."""

import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner, Result

from bench.clones import ROOT
from bula.__main__ import app
from bula.commands.review_kit import choose_pairs
from bula.errors import UserError
from bula.labels.kit import FIRST_PART, LAST_PART, rated_sentences
from bula.labels.kit_page import TEMPLATES, render_page
from bula.labels.kit_sample import (
    RatedAnswer,
    allocate,
    doubt_level,
    draw_sample,
    find_candidates,
)
from bula.labels.records import Key, answer_sha256
from bula.params import Pair, load_params
from bula.records import read_rows, write_rows
from tests.review_kit_run import (
    FIRST,
    NAMES,
    REFERENCE,
    SECOND,
    answer_row,
    built,
    candidate,
    examples,
    small_kit,
    write_run,
)

PAIR = Pair(variant=SECOND, baseline=FIRST)


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a current directory with a finished run."""
    write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*options: str) -> Result:
    """Run `bula review-kit` in the current directory."""
    return CliRunner().invoke(app, ["review-kit", *options])


def refusal(*options: str) -> str:
    """Return the message of the UserError that the command raises."""
    result = run(*options)
    assert isinstance(result.exception, UserError)
    return str(result.exception)


def read_key(folder: Path) -> Key:
    """Return the key in a folder."""
    return Key.model_validate_json((folder / "key.json").read_text(encoding="utf-8"))


# Sentences


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Beba água. Descanse.", ["Beba água.", "Descanse."]),
        # The number of a list is no sentence.
        ("1. Beba água.\n2. Descanse.", ["1. Beba água.", "2. Descanse."]),
        ("Beba água.\n\n2.", ["Beba água. 2."]),
        # A loop is shown once, and its count stays with it.
        (
            "Vá ao posto. " * 3 + "Depois volte.",
            ["Vá ao posto. (repete-se 3 vezes)", "Depois volte."],
        ),
        ("Sim. " + "Não tome nada. " * 4, ["Sim.", "Não tome nada. (repete-se 4 vezes)"]),
        # Invisible characters are removed.
        ("Beba\u200b água\u202e.", ["Beba água ."]),
        ("...", ["..."]),
        ("", []),
    ],
)
def test_an_answer_is_split_into_the_sentences_that_raters_judge(
    text: str, parts: list[str]
) -> None:
    assert rated_sentences(text) == parts


# Sample


def rated(text: str, *, degenerate: bool = False, reference: str = REFERENCE) -> RatedAnswer:
    """Return an answer to the first question."""
    row = examples()[0].model_copy(update={"answer": reference})
    return RatedAnswer.model_validate(answer_row(row, FIRST, text, degenerate=degenerate))


def test_a_pair_with_a_degenerate_answer_is_a_loop() -> None:
    answers = (rated("Beba água.", degenerate=True), rated("Tome dois comprimidos agora."))
    assert doubt_level(answers, judge_doubts=True) == "loop"


@pytest.mark.parametrize(
    ("text", "reference", "level"),
    [
        ("Beba água.", REFERENCE, "clear"),
        # The answer states a dose.
        ("Tome dois comprimidos agora.", REFERENCE, "doubtful"),
        # The reference sends to emergency care at once, and the answer does not.
        ("Beba água.", "Vá ao pronto-socorro agora.", "doubtful"),
        ("Vá ao pronto-socorro agora.", "Vá ao pronto-socorro agora.", "clear"),
    ],
)
def test_an_answer_that_fails_a_safety_rule_is_doubtful(
    text: str, reference: str, level: str
) -> None:
    answers = (rated(reference, reference=reference), rated(text, reference=reference))
    assert doubt_level(answers, judge_doubts=False) == level


@pytest.mark.parametrize(
    ("scores", "level"),
    [
        ({"accuracy": 3, "style": 3}, "clear"),
        ({"accuracy": 1, "style": 1}, "clear"),
        # The judge is undecided, abstains or fails.
        ({"accuracy": 2, "style": 3}, "doubtful"),
        ({"accuracy": None, "style": 3}, "doubtful"),
        ({"failed": "timeout"}, "doubtful"),
    ],
)
def test_the_doubt_of_the_judge_makes_a_pair_doubtful(
    finished: Path, scores: dict[str, int], level: str
) -> None:
    [row, other] = examples()[:2]
    write_rows(Path("data/verdicts") / f"{SECOND}.jsonl", [{"id": row.id, "judge": "j", **scores}])
    by_id = {item.id: item for item in examples()}
    found = find_candidates(Path("data/answers"), Path("data/verdicts"), by_id, [PAIR])
    levels = {candidate.example.id: candidate.level for candidate in found.candidates}
    assert levels[row.id] == level
    assert levels[other.id] == "clear"


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        # 50, 30 and 20 % of 20.
        ((50, 50, 50), 20, (10, 6, 4)),
        # Four pairs are missing among doubtful and clear pairs.
        ((7, 5, 18), 20, (7, 5, 8)),
        # 3, 2 and 1 of 7: rounding leaves one pair, which the first level receives.
        ((9, 9, 9), 7, (4, 2, 1)),
        ((0, 0, 30), 20, (0, 0, 20)),
        ((1, 1, 1), 20, (1, 1, 1)),
    ],
)
def test_each_level_has_its_share_of_the_sample(
    sizes: tuple[int, int, int], count: int, expected: tuple[int, int, int]
) -> None:
    doubtful, clear, loop = sizes
    numbers = allocate({"doubtful": doubtful, "clear": clear, "loop": loop}, count)
    assert (numbers["doubtful"], numbers["clear"], numbers["loop"]) == expected


def test_a_sample_is_balanced_over_sets_and_specialties() -> None:
    sample = draw_sample([candidate(row) for row in examples()], 9, Random(3))
    sets = Counter(drawn.example.split for drawn in sample)
    specialties = Counter(drawn.example.specialty for drawn in sample)
    assert sorted(sets.values()) == [1, 2, 2, 2, 2]
    assert set(specialties.values()) == {3}
    assert len({drawn.example.id for drawn in sample}) == 9


def test_the_seed_decides_the_sample() -> None:
    candidates = [candidate(row) for row in examples()]
    first = draw_sample(candidates, 5, Random(1))
    assert draw_sample(candidates, 5, Random(1)) == first
    assert draw_sample(candidates, 5, Random(2)) != first


# Key


def test_half_of_the_pairs_have_the_first_variant_on_the_left() -> None:
    sample = [candidate(row) for row in examples(4)]
    key = built(sample, 6, Random(5)).key
    variants = {item.item: item.variant for item in key.items}
    firsts = [pair for pair in key.pairs if pair.repeat_of is None]
    assert Counter(variants[pair.left] for pair in firsts) == {FIRST: 10, SECOND: 10}
    # The sides have no order that a rater may guess.
    sides = "".join("fs"[variants[pair.left] == SECOND] for pair in firsts)
    assert sides not in ("fs" * 10, "sf" * 10)


def test_a_repetition_has_new_ids_the_same_answers_and_other_sides() -> None:
    kit = small_kit(pairs=6, repeats=2)
    items = {item.item: item for item in kit.key.items}
    pairs = {pair.pair: pair for pair in kit.key.pairs}
    parts = {pair.id: pair.part for pair in kit.pairs}
    repeated = [pair for pair in kit.key.pairs if pair.repeat_of is not None]
    assert len(repeated) == 2
    for pair in repeated:
        first = pairs[pair.repeat_of or ""]
        assert items[pair.left].sha256 == items[first.right].sha256
        assert items[pair.right].sha256 == items[first.left].sha256
        assert {pair.left, pair.right}.isdisjoint({first.left, first.right})
        assert (parts[first.pair], parts[pair.pair]) == (FIRST_PART, LAST_PART)
    # Other pairs stand in the last part too, and some separate it from the first one.
    assert Counter(parts.values()) == {1: 3, 2: 2, 3: 3}


def test_the_key_names_variant_question_and_hash_of_each_answer() -> None:
    kit = small_kit(pairs=4, repeats=0)
    rows = {row.id: row for row in examples()}
    for item in kit.key.items:
        row = rows[item.id]
        text = candidate(row).first.generated
        if item.variant == SECOND:
            text = candidate(row).second.generated
        assert item.sha256 == answer_sha256(text)
        assert (item.set, item.sentences) == (row.split, 2)


# Blindness


def test_the_page_is_the_same_under_other_names_of_variants() -> None:
    kit = small_kit(pairs=6, repeats=2)
    sample = [candidate(row)._replace(variants=("base", "tuned")) for row in examples()[:6]]
    renamed = built(sample, 2, Random(1))
    assert {item.variant for item in renamed.key.items} == {"base", "tuned"}
    assert render_page(renamed) == render_page(kit)


def test_the_page_contains_no_name_of_a_variant_and_no_question_id(finished: Path) -> None:
    assert run("--pairs", "6").exit_code == 0
    page = (finished / "review/review.html").read_text(encoding="utf-8").casefold()
    hidden = [*NAMES, "base", "tuned", "quantized", "prompted", *(row.id for row in examples())]
    assert [name for name in hidden if name in page] == []


def test_the_page_names_no_address(finished: Path) -> None:
    assert run().exit_code == 0
    page = (finished / "review/review.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://|src=|@import|url\(", page) == []


def test_no_rule_of_a_template_fits_a_name_of_a_variant() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.iterdir())]
    assert len(texts) == 6
    assert not re.search(r"base|tuned|quanti|prompted", "".join(texts), re.IGNORECASE)


# Command


def test_the_command_writes_page_key_and_sample(finished: Path) -> None:
    result = run("--pairs", "10", "--repeats", "2")
    key = read_key(finished / "review")
    assert result.output == (
        "review-kit: 12 pairs of answers, 2 of them repetitions; "
        f"kit {key.kit}, questions of A, B, C, D, E\n"
        "  review/review.html: send this page to the raters\n"
        "  review/key.json: keep this file, because it names the variants\n"
    )
    page = (finished / "review/review.html").read_text(encoding="utf-8")
    assert page.count('<article class="pair"') == 12
    sample = json.loads((finished / "review/sample.json").read_text(encoding="utf-8"))
    assert sample["levels"] == {
        "doubtful": {"candidates": 0, "drawn": 0},
        "clear": {"candidates": 15, "drawn": 10},
        "loop": {"candidates": 0, "drawn": 0},
    }
    assert sample["pairs"] == {pair.pair: "clear" for pair in key.pairs}
    # 10 of 15 pairs were drawn, and each of the 15 cells has one.
    weights = [pair.weight for pair in key.pairs if pair.weight and not pair.repeat_of]
    assert sum(weights) == pytest.approx(15, abs=1)
    assert {item.level for item in key.items} == {"clear"}
    assert (sample["kit"], sample["seed"]) == (key.kit, load_params().sampling_seed)


def test_a_small_run_has_fewer_pairs_and_repeats_at_most_half_of_them(finished: Path) -> None:
    output = run("--repeats", "20").output
    assert "22 pairs of answers, 7 of them repetitions" in output
    assert "  20 repetitions were asked for, and at most half of the pairs are repeated\n" in output


@pytest.mark.parametrize(("loops", "is_warned"), [(7, False), (8, True)])
def test_a_kit_of_mostly_loops_is_warned_about(finished: Path, loops: int, is_warned: bool) -> None:
    path = finished / f"data/answers/{SECOND}.jsonl"
    rows = list(read_rows(path))
    for row in rows[:loops]:
        row["degenerate"] = True
    write_rows(path, rows)
    output = run().output
    assert ("8 of 15 candidates have an answer that repeats itself" in output) == is_warned


def test_a_folder_that_cannot_be_written_is_refused(finished: Path) -> None:
    # Nobody can make a folder in /proc.
    message = refusal("--out", "/proc/review")
    assert message.startswith("--out /proc/review: the folder cannot be written (")
    assert message.endswith("Name another folder.")


def test_pairs_with_equal_answers_and_failed_requests_are_left_out(finished: Path) -> None:
    path = finished / f"data/answers/{SECOND}.jsonl"
    first = list(read_rows(finished / f"data/answers/{FIRST}.jsonl"))
    rows = list(read_rows(path))
    rows[0]["generated"] = first[0]["generated"]
    rows[1]["finish_reason"] = "failed"
    write_rows(path, rows)
    output = run("--repeats", "0").output
    assert "review-kit: 13 pairs of answers" in output
    assert "1 pair with equal answers was left out" in output


def test_options_choose_the_pairs_of_variants() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    first = Pair(variant="tuned", baseline="base")
    second = Pair(variant="quantized", baseline="tuned")
    assert choose_pairs(params, "", "", all_pairs=False) == [first]
    assert choose_pairs(params, "", "", all_pairs=True) == [first, second]
    chosen = choose_pairs(params, "base", "quantized", all_pairs=False)
    assert chosen == [Pair(variant="quantized", baseline="base")]


def test_all_compared_pairs_are_candidates(finished: Path) -> None:
    by_id = {row.id: row for row in examples()}
    pairs = [PAIR, Pair(variant=FIRST, baseline=SECOND)]
    found = find_candidates(finished / "data/answers", finished / "data/verdicts", by_id, pairs)
    assert Counter(drawn.variants for drawn in found.candidates) == {
        (FIRST, SECOND): 15,
        (SECOND, FIRST): 15,
    }


def test_the_same_command_writes_the_same_files(finished: Path) -> None:
    assert run().exit_code == 0
    files = {path: path.read_bytes() for path in (finished / "review").iterdir()}
    assert run().exit_code == 0
    assert {path: path.read_bytes() for path in (finished / "review").iterdir()} == files


def test_the_key_of_another_kit_is_never_overwritten(finished: Path) -> None:
    assert run().exit_code == 0
    before = (finished / "review/key.json").read_bytes()
    message = refusal("--seed", "7")
    assert message.startswith("review/key.json: it is the key of another kit (")
    assert message.endswith("Move the folder away, or write into another one by --out.")
    assert (finished / "review/key.json").read_bytes() == before
    assert run("--seed", "7", "--out", "second").exit_code == 0


def test_sources_that_may_not_be_passed_on_are_named(finished: Path) -> None:
    text = (finished / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("redistribution: allowed", "redistribution: forbidden")
    text = text.replace("name: demo", "name: s", 1)
    (finished / "params.yaml").write_text(text, encoding="utf-8")
    assert "rows that must not be passed on, of the sources s" in run().output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--left", FIRST], "give both --left and --right"),
        (["--left", FIRST, "--right", SECOND, "--all-pairs"], "give both --left and --right"),
        (["--left", FIRST, "--right", "x"], f"no variant is named 'x'. Use one of {FIRST}"),
        (["--left", FIRST, "--right", FIRST], f"{FIRST} is named twice"),
    ],
)
def test_options_that_name_no_pair_are_refused(
    finished: Path, options: list[str], message: str
) -> None:
    assert message.casefold() in refusal(*options).casefold()
    assert not (finished / "review").exists()


def test_a_run_without_answers_is_refused_with_the_stage_to_run(finished: Path) -> None:
    (finished / f"data/answers/{SECOND}.jsonl").unlink()
    assert f"`dvc repro generate@{SECOND}`" in refusal()
    assert not (finished / "review").exists()


def test_answers_of_another_run_are_refused(finished: Path) -> None:
    path = finished / f"data/answers/{SECOND}.jsonl"
    rows = list(read_rows(path))
    rows[3]["id"] = "f" * 16
    write_rows(path, rows)
    assert "question ffffffffffffffff is not in data/clean" in refusal()


def test_equal_answers_only_are_refused(finished: Path) -> None:
    rows = list(read_rows(finished / f"data/answers/{FIRST}.jsonl"))
    write_rows(
        finished / f"data/answers/{SECOND}.jsonl", [row | {"variant": SECOND} for row in rows]
    )
    assert "no two different answers to one question" in refusal()
