"""Test conversations of several turns, from the source to the adapter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from transformers import PreTrainedTokenizerBase

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.judge_prompt import to_messages as to_judge_messages
from bula.models import load_config, load_tokenizer
from bula.params import ChatColumns, HubSource, load_params
from bula.prompts import (
    SYSTEM_PROMPT,
    encode,
    encode_prompt,
    encode_turns,
    token_lengths,
)
from bula.records import Example, Row, Turn, example_id, read_examples, read_rows
from stages.compare.inputs import PageAnswer
from stages.compare.report import side_by_side
from stages.dry_run import template as dry_run
from stages.dry_run.trial import Trial
from stages.ingest import sources
from stages.ingest.survey import new_survey
from stages.train import report
from stages.train.trainer import tokenise
from tests.conftest import make_ready
from tests.test_ingest import LIMITS, source
from tests.test_preprocess import ANSWER, OTHER, QUESTION, Result, deduplicate_rows, row, settings
from tests.test_prompts import REFUSES_SYSTEM, set_template
from tests.test_prompts import TURNS as CHAT_ML
from tests.test_train import example, train_with_kernels

# --- token ids and labels ---

TURNS = [
    Turn(question="Posso tomar sol?", answer="Sim, com protetor."),
    Turn(question="E à noite?", answer="Aí não há sol."),
]
CHAT = example("E na praia?", "Use chapéu.").model_copy(update={"history": TURNS})


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny)


def test_the_answers_of_three_turns_and_their_ends_are_supervised(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    # Each part is a text and whether its tokens are labels.
    parts = [
        (f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n", False),
        ("<|im_start|>user\nPosso tomar sol?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Sim, com protetor.<|im_end|>", True),
        ("\n<|im_start|>user\nE à noite?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Aí não há sol.<|im_end|>", True),
        ("\n<|im_start|>user\nE na praia?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Use chapéu.<|im_end|>", True),
    ]
    ids: list[int] = []
    labels: list[int] = []
    for text, is_supervised in parts:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += tokens
        labels += tokens if is_supervised else [-100] * len(tokens)
    assert encode_turns(tokenizer, CHAT) == (ids, labels)


def test_scoring_supervises_the_last_answer_only(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(tokenizer, CHAT)
    assert tokenizer.decode(encoded.completion) == "Use chapéu.<|im_end|>"
    assert encoded.prompt == encode_prompt(tokenizer, CHAT.question, CHAT.history)
    assert encoded.input_ids == encode_turns(tokenizer, CHAT).input_ids


def test_a_single_turn_has_the_same_ids_and_labels_as_in_scoring(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = list(read_rows(ROOT / "data/demo/train.jsonl"))[:50]
    fields = {"id": "0" * 16, "source": "s", "license": "l", "split": "train"}
    examples = [Example.model_validate(fields | demo_row) for demo_row in rows]
    trained = tokenise(tokenizer, examples)
    encoded = [encode(tokenizer, example) for example in examples]
    assert list(trained["input_ids"]) == [item.input_ids for item in encoded]
    assert list(trained["labels"]) == [item.labels for item in encoded]


def test_without_a_system_role_the_prompt_opens_the_first_question(tiny: Path) -> None:
    other = set_template(tiny, REFUSES_SYSTEM + CHAT_ML.replace("END", "'<|im_end|>'"))
    text = other.decode(encode_prompt(other, "E na praia?", TURNS[:1]))
    assert text == (
        f"<|im_start|>user\n{SYSTEM_PROMPT}\n\nPosso tomar sol?<|im_end|>\n"
        "<|im_start|>assistant\nSim, com protetor.<|im_end|>\n"
        "<|im_start|>user\nE na praia?<|im_end|>\n<|im_start|>assistant\n"
    )


COLUMNS = {"messages": "messages", "specialty": "", "kind": ""}
HUB_SOURCE = {
    "kind": "hub",
    "name": "chats",
    "id": "owner/chats",
    "revision": "0" * 40,
    "subset": "default",
    "split": "train",
    "columns": COLUMNS,
    "license": "cc0-1.0",
    "redistribution": "allowed",
    "filter": {},
    "limit": 0,
    "role": "train",
}
# The last answer follows an empty thinking block, as in the templates of thinking models.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if loop.last and m['role'] == 'assistant' %}{{ '<think></think>' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think></think>' }}{% endif %}"
)


def test_a_template_that_changes_earlier_turns_is_refused_for_conversations(tiny: Path) -> None:
    other = set_template(tiny, THINKING)
    single = CHAT.model_copy(update={"history": None})
    assert encode_turns(other, single).labels == encode(other, single).labels
    for refuse in (encode_turns, lambda *given: token_lengths(given[0], [given[1]])):
        with pytest.raises(UserError, match="writes an earlier turn in another way"):
            refuse(other, CHAT)


def test_the_dry_run_refuses_such_a_template_if_a_source_has_conversations(tiny: Path) -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    other = set_template(tiny, THINKING)
    config = load_config(tiny)
    dry_run.try_conversation(Trial("base", params, config, other, [], tiny))
    chats = HubSource.model_validate(HUB_SOURCE)
    ingest = params.ingest.model_copy(update={"sources": [chats]})
    with_chats = params.model_copy(update={"ingest": ingest})
    with pytest.raises(UserError, match="a conversation of two turns: its chat template writes"):
        dry_run.try_conversation(Trial("base", with_chats, config, other, [], tiny))


def test_an_id_covers_the_history() -> None:
    texts = ["Posso tomar sol?", "Sim, com protetor.", "E na praia?", "Use chapéu."]
    assert example_id("s", *texts) != example_id("s", *texts[2:])


# --- checks of training rows ---


def test_the_checks_of_training_rows_read_every_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = tokenise(tokenizer, [CHAT])
    figures = report.template_figures(tokenizer, rows, [CHAT])
    supervised = sum(label != -100 for label in rows["labels"][0])
    assert figures["rows_truncated"] == 0
    assert figures["end_of_turn_supervised"]
    assert figures["supervised_share"] == supervised / len(rows["input_ids"][0])


def test_an_earlier_answer_without_its_end_of_turn_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    labels = encode_turns(tokenizer, CHAT).labels
    labels[labels.index(tokenizer.eos_token_id)] = -100
    rows = tokenise(tokenizer, [CHAT]).remove_columns("labels").add_column("labels", [labels])
    with pytest.raises(UserError, match="or the end-of-turn token"):
        report.template_figures(tokenizer, rows, [CHAT])


def test_dev_bits_count_the_characters_of_all_answers() -> None:
    kept = {"eval_loss_nats": 2.0, "eval_token_accuracy": 0.5}
    figures = report._dev_figures(kept, [[-100, 1, 2, -100, 3]], [CHAT])
    # "Sim, com protetor.", "Aí não há sol." and "Use chapéu." have 18, 14 and 11 characters.
    assert figures["bits_per_token"] * 3 / figures["bits_per_character"] == pytest.approx(43)
    # Four of the letters take two bytes.
    assert figures["bits_per_token"] * 3 / figures["bits_per_byte"] == pytest.approx(47)


def test_the_judge_reads_the_earlier_turns() -> None:
    judged = {"question": "E na praia?", "reference": "Use chapéu.", "answer": "Não."}
    history = [turn.model_dump() for turn in TURNS]
    content = to_judge_messages(judged | {"history": history})[1]["content"]
    titles = [line for line in content.split("\n") if line.endswith(":")]
    assert titles == [
        *["Pergunta anterior:", "Resposta anterior:"] * 2,
        *["Pergunta:", "Referência:", "Resposta a avaliar:"],
    ]
    assert to_judge_messages(judged | {"history": []}) == to_judge_messages(judged)


def test_the_report_shows_a_conversation_in_its_order() -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    answers = {}
    for variant in params.variants:
        shown = CHAT.model_dump() | {"split": "A", "generated": "Não sei.", "finish_reason": "stop"}
        row_of_variant = PageAnswer.model_validate(shown | {"degenerate": False})
        answers[variant] = {CHAT.id: row_of_variant}
    lines = side_by_side(answers, params).split("\n\n")
    assert lines[:6] == [
        "### A: Posso tomar sol?",
        "**answer**: Sim, com protetor.",
        "**question**: E à noite?",
        "**answer**: Aí não há sol.",
        "**question**: E na praia?",
        "**reference**: Use chapéu.",
    ]


# --- sources ---


def messages(*texts: str, system: str = "") -> list[Row]:
    """Return messages of user and assistant in turn, after a system message if there is one."""
    found = [{"role": "system", "content": system}] if system else []
    for number, text in enumerate(texts):
        role = ("user", "assistant")[number % 2]
        found.append({"role": role, "content": text})
    return found


def read(file: Path) -> list[Row]:
    """Return the rows that ingest makes of a file with messages."""
    files = source(file, columns={"messages": "messages", "specialty": "area", "kind": ""})
    assert isinstance(files.columns, ChatColumns)
    return list(sources.read_files(files, LIMITS, new_survey()))


CONVERSATION = {"messages": messages("P1", "R1", "P2", "R2", system="Seja breve."), "area": "a"}
PAIR = {"messages": messages("P1", "R1"), "area": "a"}


def write(file: Path, rows: list[Row]) -> None:
    """Write rows in the format of the file's suffix."""
    match file.suffix:
        case ".parquet":
            pandas.DataFrame(rows).to_parquet(file)
        case ".json":
            file.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            lines = [json.dumps(line) + "\n" for line in rows]
            file.write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_messages_become_turns_without_the_system_message(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"chats{suffix}"
    write(file, [CONVERSATION, PAIR])
    conversation, pair = read(file)
    assert conversation["history"] == [{"question": "P1", "answer": "R1"}]
    assert (conversation["question"], conversation["answer"]) == ("P2", "R2")
    assert conversation["specialty"] == "a"
    assert (pair["question"], pair["answer"]) == ("P1", "R1")
    assert "history" not in pair


def test_a_csv_file_cannot_have_messages(tmp_path: Path) -> None:
    file = tmp_path / "chats.csv"
    pandas.DataFrame([CONVERSATION]).to_csv(file, index=False)
    with pytest.raises(UserError, match="messages: str and not a list of messages"):
        read(file)


CALL = {"role": "assistant", "content": "R", "tool_calls": [{"id": "1"}]}
UNUSABLE: dict[str, tuple[Any, str]] = {
    "null": (None, "NoneType and not a list of messages"),
    "no messages": ([], "user and assistant do not alternate up to an answer"),
    "no answer": (messages("P1", "R1", "P2"), "user and assistant do not alternate"),
    "answer first": (messages("P1", "R1")[::-1], "user and assistant do not alternate"),
    "two questions": (messages("P1")[:1] * 2, "user and assistant do not alternate"),
    "late system": (
        [*messages("P1", "R1"), *messages("P2", "R2", system="S")],
        "user and assistant do not alternate",
    ),
    "tool call": ([*messages("P1"), CALL], "a message calls a tool"),
    "tool": ([*messages("P1"), {"role": "tool", "content": "R"}], "another role"),
    "parts": (
        [*messages("P1"), {"role": "assistant", "content": [{"type": "text", "text": "R"}]}],
        "the content of a message is not text",
    ),
    "empty turn": (messages("P1", "R1", " ", "R2"), "a message is empty"),
    "no object": (["P1", "R1"], "a message is not an object"),
    "weight": (
        [*messages("P1"), {"role": "assistant", "content": "R", "weight": 0}],
        "a message has the weight 0",
    ),
    "half a pair": (messages("P1", "R\ud83d"), "contains half a surrogate pair"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_conversation_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    cell, reason = UNUSABLE[name]
    write(tmp_path / "chats.jsonl", [{"messages": cell, "area": ""}, PAIR])
    refused, good = read(tmp_path / "chats.jsonl")
    # The reader of the file finds half a surrogate pair before the columns are known.
    prefix = "" if name == "half a pair" else "messages: "
    assert refused["refused"].startswith(prefix + reason[:1])
    assert reason in refused["refused"]
    assert good["question"] == "P1"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_long_conversation_is_refused_by_the_limit_of_a_row(suffix: str, tmp_path: Path) -> None:
    text = "a" * (LIMITS.row_bytes // 2)
    file = tmp_path / f"chats{suffix}"
    write(file, [{"messages": messages("P", text, "P", text), "area": ""}, *[PAIR] * 30])
    rows = read(file)
    assert "longer than" in rows[0]["refused"]
    assert [found["question"] for found in rows[1:]] == ["P1"] * 30


@pytest.mark.parametrize(("length", "is_refused"), [(100, True), (2, False)])
def test_a_long_conversation_of_the_hub_is_refused(
    length: int, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = LIMITS.model_copy(update={"row_bytes": 150})
    cell = messages("P" * length, "R" * length)
    rows = [{"messages": cell, "area": ""}, PAIR]
    monkeypatch.setattr(sources, "hub_rows", lambda *_: iter(rows))
    first, second = sources.read_hub(HubSource.model_validate(HUB_SOURCE), limits, new_survey())
    assert ("refused" in first) == is_refused
    assert second["question"] == "P1"


def test_a_parquet_file_may_repeat_a_long_text_within_its_limits(tmp_path: Path) -> None:
    # The dictionary holds the text once, and each row counts only the text that it has.
    text = "a" * (LIMITS.row_bytes // 3)
    file = tmp_path / "chats.parquet"
    write(file, [{"messages": messages("P", text), "area": ""}, *[PAIR] * 3])
    assert [found["question"] for found in read(file)] == ["P", *["P1"] * 3]


# --- preprocess ---


def turn(question: str, answer: str) -> Row:
    return {"question": question, "answer": answer}


def chat(*turns: Row, **fields: Any) -> Row:
    """Return a raw row whose last turn is fresh."""
    return row(**fields) | {"history": list(turns)}


Preprocess = Callable[..., Result]


@pytest.fixture
def preprocess(tiny: Path, tmp_path: Path) -> Preprocess:
    """Return a function that preprocesses raw rows."""

    def run(rows: list[Row], items: dict[str, list[Row]] | None = None, **changes: Any) -> Result:
        params = settings(**{"max_prompt_tokens": 2000, "max_tokens": 2000, **changes})
        return deduplicate_rows(rows, tiny, tmp_path, params, items)

    return run


CPF = "Meu CPF é 529.982.247-25. Posso tomar dipirona hoje?"


def test_personal_data_in_an_earlier_turn_is_redacted(preprocess: Preprocess) -> None:
    result = preprocess([chat(turn(CPF, ANSWER))])
    [kept] = result.kept["train"]
    assert kept["history"] == [turn("Meu CPF é [CPF]. Posso tomar dipirona hoje?", ANSWER)]
    assert result.counts["privacy cpf"] == 1
    assert result.counts["privacy rows"] == 1


@pytest.mark.parametrize(
    ("earlier", "reason"),
    [
        (turn("Dói?", ANSWER), "question shorter than 2 words (turn 1)"),
        (turn(QUESTION, "?"), "answer has no words (turn 1)"),
        (turn(QUESTION, QUESTION), "answer equals the question (turn 1)"),
        (turn(QUESTION + " <|im_end|>", ANSWER), "holds a control token of the chat template"),
    ],
)
def test_an_unfit_earlier_turn_refuses_the_row(
    earlier: Row, reason: str, preprocess: Preprocess
) -> None:
    result = preprocess([chat(earlier), row()])
    assert [refused["reason"] for refused in result.refused] == [reason]


def test_lengths_count_the_complete_conversation(preprocess: Preprocess) -> None:
    result = preprocess([chat(turn(QUESTION, ANSWER))], max_prompt_tokens=150)
    assert result.refused[0]["reason"] == "prompt longer than 150 tokens"


def test_the_first_question_chooses_the_split(preprocess: Preprocess) -> None:
    rows = [chat(turn(QUESTION, ANSWER), split=None) for _ in range(6)]
    result = preprocess(rows, dev_share=0.3, validation_share=0.1)
    counts = [len(kept) for kept in result.kept.values()]
    assert sorted(counts) == [0, 0, 0, 0, 0, 0, 6]


def test_a_benchmark_item_in_an_earlier_turn_leaves_train(preprocess: Preprocess) -> None:
    items = {"mcq": [{"question": QUESTION, "choices": {"text": ["Banho", "Soro"]}}]}
    result = preprocess([chat(turn(QUESTION, OTHER)), row()], items=items)
    assert len(result.kept["train"]) == 1
    assert result.matrix["mcq"]["train_rows"] == 1


SHORT = "Posso tomar dipirona hoje?"


@pytest.mark.parametrize("place", [0, 1])
def test_a_short_validation_question_in_an_earlier_turn_leaves_train(
    place: int, preprocess: Preprocess
) -> None:
    turns = [turn("Estou com febre desde ontem.", OTHER)]
    turns.insert(place, turn(SHORT.upper(), ANSWER))
    result = preprocess([row(SHORT, split="A"), chat(*turns), row()])
    assert len(result.kept["A"]) == 1
    assert ["history" in kept for kept in result.kept["train"]] == [False]
    assert result.matrix["A"]["train_rows_near_duplicate"] == 1


def test_a_follow_up_question_of_two_conversations_removes_neither(preprocess: Preprocess) -> None:
    first = chat(turn(*fresh_turn()), question="E se não melhorar?", split="A")
    other = chat(turn(*fresh_turn()), question="E se não melhorar?")
    result = preprocess([first, other])
    assert len(result.kept["A"]) == len(result.kept["train"]) == 1


def fresh_turn() -> tuple[str, str]:
    """Return a question and an answer that no test has used yet."""
    found = row()
    return found["question"], found["answer"]


def test_a_conversation_that_is_a_prefix_of_another_leaves(preprocess: Preprocess) -> None:
    turns = [turn(*fresh_turn()) for _ in range(4)]
    rows = []
    for length in (2, 4, 1, 3):
        *history, last = turns[:length]
        conversation = row(last["question"], last["answer"])
        rows.append(conversation | ({"history": history} if history else {}))
    result = preprocess(rows)
    [kept] = result.kept["train"]
    assert kept["history"] == turns[:3]
    assert len(result.refused) == 3
    assert all("near-duplicate text of" in refused["reason"] for refused in result.refused)


def test_a_prefix_in_validation_removes_the_conversation_from_train(preprocess: Preprocess) -> None:
    start = fresh_turn()
    result = preprocess([row(*start, split="A"), chat(turn(*start)), row()])
    assert len(result.kept["A"]) == 1
    assert len(result.kept["train"]) == 1


# --- the complete way ---


def write_chats(folder: Path) -> None:
    """Write 8 rows of messages below data/sources, every other one with a single turn."""
    rows = []
    for number in range(8):
        texts = [*fresh_turn(), *fresh_turn()]
        rows.append({"messages": messages(*texts[-2:] if number % 2 else texts)})
    (folder / "data/sources").mkdir(parents=True)
    write(folder / "data/sources/chats.jsonl", rows)


def add_chats(params: dict[str, Any]) -> None:
    """Add the file of write_chats to the sources, with room for its rows in train."""
    params["preprocess"].update(max_prompt_tokens=1500, max_tokens=2000, train_limit=100)
    file = Path("data/sources/chats.jsonl")
    chats = source(file, columns=COLUMNS, name="chats", role="train")
    params["ingest"]["sources"].append(chats.model_dump(mode="json"))


def losses(folder: Path, kernels: str) -> list[float]:
    """Train with kernels and return the loss of each point of the curve."""
    return [point["loss_nats"] for point in train_with_kernels(folder, kernels)]


def test_conversations_and_pairs_train_one_adapter(workspace: Path, tiny: Path) -> None:
    write_chats(workspace)
    edit_params(workspace / "params.yaml", add_chats)
    make_ready(workspace, tiny)
    examples = read_examples(workspace / "data/clean/train.jsonl")
    lengths = [len(example.turns) for example in examples if example.source == "chats"]
    assert sorted(lengths) == [1, 1, 1, 1, 2, 2, 2, 2]
    fused = losses(workspace, "fused")
    assert fused == pytest.approx(losses(workspace, "trl"), abs=1e-3)
    assert (workspace / "models/adapter/adapter_model.safetensors").is_file()
    figures = json.loads((workspace / "metrics/template.json").read_text(encoding="utf-8"))
    assert figures["rows"] == len(examples)
    assert figures["rows_truncated"] == 0
