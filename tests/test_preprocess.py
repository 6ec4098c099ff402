"""Test refusals, personal data, splits and repetitions in preprocess.

The helpers and texts here are used by the other tests of preprocess too.
"""

import itertools
import json
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
from transformers import PreTrainedTokenizerBase

from bench.clones import ROOT
from bula.errors import UserError
from bula.models import load_tokenizer
from bula.params import Params, Preprocess, load_params
from bula.privacy import Finding
from bula.prompts import encode, token_lengths
from bula.records import SET_NAMES, Example, Row, example_id, read_rows
from bula.text import mask
from stages.preprocess import __main__ as stage
from stages.preprocess import clean
from stages.preprocess.report import quarantine_rows
from stages.preprocess.splits import SPLITS
from stages.preprocess.table import rows_at
from tests.conftest import write_jsonl

DEMO = [*read_rows(ROOT / "data/demo/train.jsonl"), *read_rows(ROOT / "data/demo/dev.jsonl")]
NUMBERS = itertools.count()

QUESTION = (
    "Minha filha de dois anos está com febre alta desde ontem, posso dar banho frio para baixar?"
)
ANSWER = (
    "Não use água fria nem álcool. Tire o excesso de roupa, ofereça líquidos e dê o antitérmico que"
    " o pediatra orientou. "
    "Procure atendimento se a febre durar mais de dois dias, ou já se ela estiver molinha."
)
OTHER = (
    "Febre sozinha não faz mal ao cérebro. Observe se ela brinca e bebe água quando a temperatura"
    " cede, e anote os horários. "
    "Leve ao pronto-socorro hoje mesmo se houver manchas na pele, vômitos ou dificuldade para"
    " respirar."
)
# One of 17 words differs, and with it two of 16 2-word shingles: 14 of 18 are common.
NEARLY = QUESTION.replace("alta", "forte")
# The check digits of 529.982.247-25, the usual example, are correct.
PERSONAL = "Meu CPF é 529.982.247-25, moro na Rua das Flores, 12. Posso tomar dipirona hoje?"


def fresh() -> tuple[str, str]:
    """Return a question and an answer that no test has used yet."""
    demo = DEMO[next(NUMBERS) % len(DEMO)]
    return demo["question"], demo["answer"]


def row(
    question: object = ..., answer: object = ..., split: str | None = "train", line: int = 1
) -> Row:
    """Return a raw row.

    Question and answer repeat no other row unless they are passed.
    """
    fresh_question, fresh_answer = fresh()
    return {
        "question": fresh_question if question is ... else question,
        "answer": fresh_answer if answer is ... else answer,
        "split": split,
        "file": "f.csv",
        "line": line,
        "source": "demo",
        "license": "cc0-1.0",
    }


def settings(**changes: object) -> Params:
    """Return the small profile with one worker and changed parameters.

    `rows` changes privacy.rows; the other names are parameters of preprocess.
    """
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    rules = {name: value for name, value in changes.items() if name in Preprocess.model_fields}
    sections = {
        "compute": params.compute.model_copy(update={"workers": 1}),
        "preprocess": params.preprocess.model_copy(update=rules),
        "privacy": params.privacy.model_copy(update={"rows": changes.get("rows", "redact")}),
    }
    return params.model_copy(update=sections)


class Result(NamedTuple):
    """The examples by split, the refused rows, the contamination matrix and the counts."""

    kept: dict[str, list[Row]]
    refused: list[Row]
    matrix: dict[str, dict[str, int]]
    counts: dict[str, int]


def deduplicate_rows(
    rows: list[Row],
    tiny: Path,
    folder: Path,
    params: Params | None = None,
    items: Mapping[str, list[Any]] | None = None,
) -> Result:
    """Preprocess rows without writing the result."""
    work = folder / f"work{next(NUMBERS)}"
    write_jsonl(work / "raw/demo.jsonl", rows)
    tasks = []
    for name, questions in (items or {}).items():
        tasks.append(work / f"{name}.jsonl")
        write_jsonl(tasks[-1], questions)
    outcome = stage.preprocess(work / "raw", tasks, tiny, work, params or settings())
    table = outcome.table
    decision = outcome.decision
    kept: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for kept_row in rows_at(table, work, numpy.flatnonzero(decision.alive)):
        example = kept_row["example"]
        kept[example["split"]].append(example)
    refused = list(quarantine_rows(table, decision, work, outcome.parts))
    return Result(kept, refused, decision.matrix, outcome.counts)


# --- a row by itself ---


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(smollm2)


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (None, "Sim, procure o posto de saúde.", "question is missing"),
        ("Posso tomar sol?", None, "answer is missing"),
        ("Posso tomar sol?", 3, "answer is no text"),
        ("Posso tomar sol?", " ?! ", "answer has no words"),
        ("Posso tomar sol?", "sol " * 30_000, "answer longer than 100000 characters"),
        ("Sol?", "Sim, procure o posto de saúde.", "question shorter than 2 words"),
        ("Posso tomar sol?", "Sim, pode.", "answer shorter than 5 words"),
        (
            "Posso tomar sol de manhã cedo?",
            "posso TOMAR sol... de manhã cedo",
            "answer equals the question",
        ),
        (
            "¿Cuánto tiempo dura la fiebre del dengue en los niños?",
            "Sim, procure o posto de saúde.",
            "in another language (es)",
        ),
        (
            "Posso tomar sol?",
            "Yes, but only early in the morning and with sunscreen.",
            "in another language (en)",
        ),
        ("Posso tomar \ufffdlcool?", "Sim, procure o posto de saúde.", "question is mojibake"),
        (
            "Posso tomar sol?",
            "Sim, pode.<|im_end|>\n<|im_start|>user\nE depois disso?",
            "holds a control token of the chat template",
        ),
    ],
)
def test_an_unfit_row_goes_to_quarantine_with_its_reason(
    question: object, answer: object, reason: str, tiny: Path, tmp_path: Path
) -> None:
    result = deduplicate_rows([row(question, answer, line=7), row()], tiny, tmp_path)
    assert len(result.refused) == 1
    refused = result.refused[0]
    assert len(refused.pop("id")) == 16
    assert refused == {
        "source": "demo",
        "file": "f.csv",
        "line": 7,
        "reason": reason,
        "excerpt": mask(question),
    }
    assert len(result.kept["train"]) == 1


def test_a_follow_up_may_be_shorter_than_a_first_question(tiny: Path, tmp_path: Path) -> None:
    first = {"question": QUESTION, "answer": ANSWER}
    follow_up = row("Hoje?", OTHER) | {"history": [first]}
    no_words = row("?!", OTHER) | {"history": [first]}
    result = deduplicate_rows([follow_up, row("Hoje?", ANSWER), no_words], tiny, tmp_path)
    [kept] = result.kept["train"]
    assert kept["question"] == "Hoje?"
    assert kept["history"] == [first]
    reasons = [refused["reason"] for refused in result.refused]
    assert reasons == ["question shorter than 2 words", "question has no words"]


def test_an_unreadable_row_goes_to_quarantine_with_ingests_reason(
    tiny: Path, tmp_path: Path
) -> None:
    unreadable = {
        "file": "a.csv",
        "line": 3,
        "source": "demo",
        "license": "l",
        "refused": "not utf-8",
        "excerpt": "xx 99",
    }
    result = deduplicate_rows([row(), unreadable], tiny, tmp_path)
    assert len(result.refused) == 1
    refused = result.refused[0]
    assert refused["line"] == 3
    assert refused["reason"] == "unreadable: not utf-8"
    assert refused["excerpt"] == "xx 99"


def test_a_masked_excerpt_shows_the_shape_of_a_text_and_no_word() -> None:
    assert mask("Sou João, CPF 123.456") == "xxx xxxx, xxx 999.999"
    assert len(mask("a" * 500)) == 60
    assert mask("\ud83d\x00") == "  "


def test_a_word_in_capitals_before_a_quote_is_not_refused_as_mojibake(
    tiny: Path, tmp_path: Path
) -> None:
    question = "Tenho câncer. Ele disse “AMANHÃ” ontem, devo esperar?"
    result = deduplicate_rows([row(question), row()], tiny, tmp_path)
    assert result.refused == []
    assert len(result.kept["train"]) == 2


def test_repairs_are_counted(tiny: Path, tmp_path: Path) -> None:
    result = deduplicate_rows(
        [row("VocÃª estÃ¡ com <b>muita</b> dor agora?"), row()], tiny, tmp_path
    )
    assert result.kept["train"][0]["question"] != result.kept["train"][1]["question"]
    assert result.counts["repaired mojibake_repaired"] == 1
    assert result.counts["repaired html_stripped"] == 1


def test_personal_data_is_redacted_and_counted(tiny: Path, tmp_path: Path) -> None:
    result = deduplicate_rows([row(PERSONAL)], tiny, tmp_path)
    redacted = "Meu CPF é [CPF], moro na [ENDEREÇO]. Posso tomar dipirona hoje?"
    assert result.kept["train"][0]["question"] == redacted
    counts = {name: n for name, n in result.counts.items() if name.startswith("privacy")}
    assert counts == {"privacy cpf": 1, "privacy address": 1, "privacy rows": 1}


def test_a_name_that_only_the_model_finds_is_redacted_and_counted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(text: str) -> list[Finding]:
        start = text.find("zylanna")
        return [Finding("name", start, start + 7)] if start >= 0 else []

    monkeypatch.setattr(clean, "load_finder", lambda source: find)
    question = "Ontem vi zylanna com febre alta, o que ela deve tomar?"
    result = deduplicate_rows([row(question)], tiny, tmp_path)
    expected = "Ontem vi [NOME] com febre alta, o que ela deve tomar?"
    assert result.kept["train"][0]["question"] == expected
    assert result.counts["privacy name"] == 1


def test_personal_data_can_be_quarantined_and_no_digit_is_left_there(
    tiny: Path, tmp_path: Path
) -> None:
    result = deduplicate_rows([row(PERSONAL), row()], tiny, tmp_path, settings(rows="quarantine"))
    assert [r["reason"] for r in result.refused] == ["personal data (address, cpf)"]
    assert "529" not in json.dumps(result.refused)
    assert len(result.kept["train"]) == 1


def test_personal_data_can_stop_the_stage_with_file_and_line(tiny: Path, tmp_path: Path) -> None:
    found = r"the row contains personal data \(address, cpf\)"
    message = rf"demo: f\.csv:4: {found}, and privacy\.rows is fail"
    with pytest.raises(UserError, match=message):
        deduplicate_rows([row(PERSONAL, line=4)], tiny, tmp_path, settings(rows="fail"))


def test_text_is_normalised_and_ids_are_stable(tiny: Path, tmp_path: Path) -> None:
    raw = row("Na\u0303o\u200b  dói mais?\r\n", " Beba\u00a0água e descanse bem. ")
    result = deduplicate_rows([raw], tiny, tmp_path)
    example = result.kept["train"][0]
    assert example["question"] == "Não dói mais?"
    assert example["answer"] == "Beba água e descanse bem."
    # printf 'demo\x1fNão dói mais?\x1fBeba água e descanse bem.' | sha256sum, first 16 hex digits.
    assert example["id"] == "5cb3d45da52e5d58"


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("max_prompt_tokens", "prompt longer than"), ("max_tokens", "longer than")],
)
def test_a_row_longer_than_the_limit_is_refused_and_not_cut(
    limit: str, reason: str, tiny: Path, tmp_path: Path
) -> None:
    result = deduplicate_rows([row()], tiny, tmp_path, settings(**{limit: 20}))
    assert result.refused[0]["reason"] == f"{reason} 20 tokens"


def test_lengths_counted_in_bulk_equal_the_lengths_in_training(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    pairs = [(r["question"], r["answer"]) for r in DEMO[:40]]
    pairs.append(("Dói?\n\nMuito?", "Sim.\n1. Beba água\n2. Descanse"))
    common = {"id": "0" * 16, "source": "s", "license": "l", "split": "train"}
    examples = []
    expected = []
    for question, answer in pairs:
        fields = common | {"question": question, "answer": answer}
        examples.append(Example.model_validate(fields))
        fields["history"] = [{"question": "Oi, tudo bem?", "answer": "Tudo, e você?"}]
        examples.append(Example.model_validate(fields))
    for example in examples:
        encoded = encode(tokenizer, example)
        expected.append((len(encoded.prompt), len(encoded.input_ids)))
    assert token_lengths(tokenizer, examples) == expected


# --- splits ---


def synthetic(count: int, seed: int) -> Iterator[Row]:
    """Yield rows of random words, which repeat no other row."""
    random = numpy.random.default_rng(seed)
    texts = [f"{r['question']} {r['answer']}" for r in DEMO]
    vocabulary = sorted(set(" ".join(texts).split()))
    for line in range(count):
        question = " ".join(random.choice(vocabulary, 12))
        answer = " ".join(random.choice(vocabulary, 30))
        yield row(question + "?", answer + ".", None, line)


class Growth(NamedTuple):
    """Preprocessing of 400 rows, and of the same rows with 40 more.

    Of the 40, half are new, and half nearly repeat an old row.
    """

    old: list[Row]
    before: Result
    after: Result


@pytest.fixture(scope="module")
def growth(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Growth:
    folder = tmp_path_factory.mktemp("growth")
    params = settings(dev_share=0.1, validation_share=0.1)
    old = list(synthetic(400, 1))
    new = list(synthetic(20, 2))
    for old_row in old[:20]:
        question = f"Doutor, {old_row['question']}"
        answer = old_row["answer"] + " Melhoras."
        new.append(old_row | {"question": question, "answer": answer})
    # The new rows come before, among and after the old rows.
    mixed = [*new[:15], *old[:200], *new[15:30], *old[200:], *new[30:]]
    before = deduplicate_rows(old, tiny, folder, params)
    after = deduplicate_rows(mixed, tiny, folder, params)
    return Growth(old, before, after)


def splits_by_id(result: Result) -> dict[str, str]:
    """Return the split of every example that stays."""
    splits = {}
    for split, examples in result.kept.items():
        splits.update({example["id"]: split for example in examples})
    return splits


def test_new_rows_move_no_old_row_to_another_split(growth: Growth) -> None:
    before = splits_by_id(growth.before)
    after = splits_by_id(growth.after)
    stayed = {identity: split for identity, split in after.items() if identity in before}
    assert len(before) == 400
    assert stayed.items() <= before.items()


def test_an_old_row_leaves_only_if_its_edited_copy_ranks_before_it(growth: Growth) -> None:
    before = splits_by_id(growth.before)
    after = splits_by_id(growth.after)
    edited = {
        example_id(old_row["source"], old_row["question"], old_row["answer"])
        for old_row in growth.old[:20]
    }
    refused = growth.after.refused
    left = {r["id"] for r in refused if r["reason"].startswith("near-duplicate ")}
    # One row of each of the 20 pairs leaves, with its reason.
    assert len(refused) == 20
    assert len(left) == 20
    assert before.keys() - after.keys() == edited & left


def test_the_splits_have_their_shares(growth: Growth) -> None:
    counts = {split: len(examples) for split, examples in growth.before.kept.items()}
    # 0.4 of 400 in train, 0.1 in each other; three standard deviations of a binomial: 29 and 18.
    assert abs(counts.pop("train") - 160) <= 29
    assert all(abs(count - 40) <= 18 for count in counts.values())


# --- repetitions ---


def without_accents(text: str) -> str:
    """Return the text as many people type it."""
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(sign for sign in decomposed if unicodedata.category(sign) != "Mn")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (QUESTION.upper(), ANSWER.replace(",", " ;")),
        (without_accents(QUESTION), without_accents(ANSWER)),
    ],
    ids=["other case and punctuation", "no accents"],
)
def test_the_same_text_in_another_spelling_is_kept_once(
    question: str, answer: str, tiny: Path, tmp_path: Path
) -> None:
    rows = [row(QUESTION, ANSWER), row(question, answer)]
    result = deduplicate_rows(rows, tiny, tmp_path)
    kept = result.kept["train"]
    assert len(kept) == 1
    assert result.refused[0]["reason"] == f"same text as {kept[0]['id']} in train"


@pytest.fixture(scope="module")
def validation_pairs() -> list[Row]:
    """Return the validation rows of the demo corpus.

    Many of them have accents in the question.
    """
    rows: list[Row] = []
    for name in SET_NAMES:
        rows += read_rows(ROOT / f"data/demo/validation/{name}.jsonl")
    accented = [r for r in rows if without_accents(r["question"]) != r["question"]]
    assert len(accented) > 100
    return rows


@pytest.mark.parametrize("same_answer", [False, True], ids=["another answer", "the same answer"])
def test_a_validation_question_typed_without_accents_leaves_train(
    same_answer: bool, validation_pairs: list[Row], tiny: Path, tmp_path: Path
) -> None:
    rows = [row()]
    questions = []
    for pair in validation_pairs:
        questions.append(pair["question"])
        rows.append(row(pair["question"], pair["answer"], "A"))
        typed = row(without_accents(pair["question"]))
        if same_answer:
            typed["answer"] = without_accents(pair["answer"])
        rows.append(typed)
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert len(result.kept["train"]) == 1
    assert len(result.refused) == len(validation_pairs)
    # The questions that stay are unchanged.
    kept = [example["question"] for example in result.kept["A"]]
    assert sorted(kept) == sorted(questions)


def test_two_answers_to_one_question_are_both_kept_within_a_split(
    tiny: Path, tmp_path: Path
) -> None:
    result = deduplicate_rows([row(QUESTION, ANSWER), row(NEARLY, OTHER)], tiny, tmp_path)
    assert len(result.kept["train"]) == 2


def test_a_text_with_a_few_words_changed_is_kept_once(tiny: Path, tmp_path: Path) -> None:
    answer = ANSWER.replace("fria", "gelada")
    result = deduplicate_rows([row(QUESTION, ANSWER), row(NEARLY, answer)], tiny, tmp_path)
    assert len(result.kept["train"]) == 1
    assert result.refused[0]["reason"].startswith("near-duplicate text of ")


@pytest.mark.parametrize("split", ["A", "E", "dev"])
def test_near_duplicates_of_validation_questions_are_removed_from_train(
    split: str, tiny: Path, tmp_path: Path
) -> None:
    rows = [row(NEARLY, OTHER, "train"), row(QUESTION, ANSWER, split), row()]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert [example["question"] for example in result.kept[split]] == [QUESTION]
    assert len(result.kept["train"]) == 1
    identity = result.kept[split][0]["id"]
    reason = f"near-duplicate question of {identity} in {split} (0.78)"
    assert result.refused[0]["reason"] == reason


def test_two_validation_sets_do_not_ask_the_same_question(tiny: Path, tmp_path: Path) -> None:
    rows = [row(QUESTION, ANSWER, "C"), row(QUESTION, OTHER, "B"), row()]
    result = deduplicate_rows(rows, tiny, tmp_path)
    assert len(result.kept["B"]) == 1
    assert len(result.kept["C"]) == 0


def test_every_demo_row_survives_preprocessing(
    tiny: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    from stages.ingest.sources import read_source

    params = settings()
    rows: list[Row] = []
    for source in params.ingest.sources:
        rows += read_source(source, params.ingest.limits)
    items = {}
    for task in params.ingest.benchmarks:
        if task.kind == "files":
            items[task.name] = list(read_rows(ROOT / task.path))
    result = deduplicate_rows(rows, tiny, tmp_path, params, items)
    assert result.refused == []
    assert {figures["train_rows"] for figures in result.matrix.values()} == {0}
    example = Example.model_validate(result.kept["train"][0])
    completion = tokenizer.decode(encode(tokenizer, example).completion)
    assert completion == example.answer + "<|im_end|>"
