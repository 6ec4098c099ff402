"""Check BERTScore: values by hand, agreement with bert_score, and the stages."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bert_score
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from bench.clones import edit_params
from bula import bertscore
from bula.errors import UserError
from bula.models import load_encoder, load_plain_tokenizer
from bula.params import BaseEncoder, DirectoryModel, HubModel, Params, load_params
from bula.records import SET_NAMES, Row, read_rows, write_rows
from stages import bertscore as stage
from stages import bertscore_controls as controls_stage
from stages.models import encoder as encoder_stage
from tests.conftest import leftovers

WORDS = ["beba", "muita", "água", "e", "repouse", "tome", "sol", "não", "remédio", "hoje"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
POSITIONS = 12


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a BERT of three layers with random weights, a head and no pooler."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL, *WORDS]) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(
        vocab=str(vocabulary), do_lower_case=False, model_max_length=POSITIONS
    )
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
    )
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(bert: Path, workspace: Path) -> bertscore.Encoder:
    """Return layer 2 of the random BERT."""
    params = with_encoder(workspace, {"kind": "directory", "path": str(bert), "license": "mit"})
    return bertscore.open_encoder(params, Path("absent"), bert)


def with_encoder(workspace: Path, source: dict[str, Any], layer: int = 2) -> Params:
    """Return the parameters with an encoder, which are written too."""

    def edit(params: dict[str, Any]) -> None:
        params["bertscore"].update(encoder=source, layer=layer)

    edit_params(workspace / "params.yaml", edit)
    return load_params()


def row(generated: str, answer: str, number: int = 0) -> Row:
    """Return an answer row."""
    return {
        "id": f"{number:016d}",
        "split": SET_NAMES[number % 5],
        "question": "O que faço?",
        "answer": answer,
        "generated": generated,
        "finish_reason": "stop",
        "variant": "base",
    }


def scores(rows: list[Row]) -> list[list[float]]:
    """Return precision, recall and F1 of each row."""
    return [[each[f"bertscore_{part}"] for part in bertscore.PARTS] for each in rows]


# Values by hand


def test_greedy_matching_equals_a_calculation_by_hand() -> None:
    # The first and the last row are special tokens. The cosines of the words are
    #            r1   r2
    #     a1    1.0  0.0
    #     a2    0.8  0.6
    special = [0.0, 0.0, 1.0]
    answer = torch.tensor([special, [2.0, 0.0, 0.0], [0.8, 0.6, 0.0], special])
    reference = torch.tensor([special, [1.0, 0.0, 0.0], [0.0, 3.0, 0.0], special])
    found = bertscore.match(answer, reference)
    assert found.precision == pytest.approx((1 + 0.8) / 2)
    assert found.recall == pytest.approx((1 + 0.6) / 2)
    assert found.f == pytest.approx(2 * 0.9 * 0.8 / 1.7)
    # The library divides in place; the callers' tensors keep their lengths.
    assert answer[1, 0] == 2


def test_negative_cosines_are_kept() -> None:
    special = [0.0, 0.0, 1.0]
    answer = torch.tensor([special, [1.0, 0.0, -0.5], special])
    reference = torch.tensor([special, [-1.0, 0.0, -0.5], special])
    # The cosine of the words is (-1 + 0.25) / 1.25 = -0.6; that with a special token is -0.447.
    assert bertscore.match(answer, reference).precision == pytest.approx(-0.5 / 1.25**0.5)


# The library


def test_scores_agree_with_bert_score(
    encoder: bertscore.Encoder, bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = ["beba água", "não tome sol hoje", "repouse e beba muita água hoje", "sol"]
    references = ["beba muita água e repouse", "tome sol", "repouse hoje", "não tome remédio"]
    rows = [row(*pair) for pair in zip(answers, references, strict=True)]
    found = bertscore.score_pairs(encoder, rows, batch_size=3)
    expected = bert_score.score(
        answers, references, model_type=str(bert), num_layers=2, batch_size=1, device="cpu"
    )
    for part, values in zip(bertscore.PARTS, expected, strict=True):
        ours = [each[f"bertscore_{part}"] for each in found]
        assert ours == pytest.approx(values.tolist(), abs=1e-5)


def test_equal_texts_score_1(encoder: bertscore.Encoder) -> None:
    found = bertscore.score_pairs(encoder, [row("beba água", "beba água")], 1)
    assert scores(found) == [pytest.approx([1, 1, 1])]


def test_an_answer_without_a_token_scores_0(encoder: bertscore.Encoder) -> None:
    # bert_score 0.3.13 fails on it under transformers 5.
    found = bertscore.score_pairs(encoder, [row("", "beba água"), row("sol", "sol")], 2)
    assert scores(found) == [[0, 0, 0], pytest.approx([1, 1, 1])]


def test_long_texts_are_cut_and_counted(encoder: bertscore.Encoder, workspace: Path) -> None:
    fits = " ".join(["beba"] * (POSITIONS - 2))
    rows = [row(f"{fits} sol hoje", "sol", 0), row(fits, "sol", 1), row("sol", f"{fits} sol", 2)]
    found = bertscore.score_pairs(encoder, rows, 2)
    assert [each["answer_cut"] for each in found] == [True, False, False]
    assert [each["reference_cut"] for each in found] == [False, False, True]
    assert scores(found)[0] == pytest.approx(scores(found)[1])
    figures = bertscore.summarise(found, load_params())
    assert (figures["answers_cut"], figures["references_cut"]) == (1, 1)


def test_a_tokenizer_without_a_limit_takes_the_number_of_positions(
    encoder: bertscore.Encoder,
) -> None:
    encoder.tokenizer.model_max_length = 10**30
    assert bertscore.longest_input(encoder.model, encoder.tokenizer) == POSITIONS


@pytest.fixture
def roberta(bert: Path, workspace: Path) -> bertscore.Encoder:
    """Return a random RoBERTa whose tokenizer has no limit."""
    config = RobertaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        pad_token_id=1,
    )
    folder = workspace / "roberta"
    RobertaModel(config).save_pretrained(folder)
    tokenizer = load_plain_tokenizer(bert)
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(folder)
    source = {"kind": "directory", "path": str(folder), "license": "mit"}
    return bertscore.open_encoder(with_encoder(workspace, source), Path("absent"), folder)


def test_roberta_reads_two_tokens_fewer_than_it_has_positions(roberta: bertscore.Encoder) -> None:
    # Its first token has the position 2, so that 12 positions hold 10 tokens.
    assert roberta.most_tokens == POSITIONS - 2
    fits = " ".join(["beba"] * (POSITIONS - 4))
    rows = [row(fits, "sol", 0), row(f"{fits} sol", "sol", 1)]
    found = bertscore.score_pairs(roberta, rows, 2)
    assert [each["answer_cut"] for each in found] == [False, True]
    assert scores(found)[0] == pytest.approx(scores(found)[1])
    # One more token has no position.
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        roberta.model(torch.full((1, POSITIONS - 1), 5))


# Encoders


def test_a_layer_that_the_encoder_lacks_is_refused(bert: Path, workspace: Path) -> None:
    source = {"kind": "directory", "path": str(bert), "license": "mit"}
    params = with_encoder(workspace, source, layer=4)
    with pytest.raises(UserError, match=r"bertscore\.layer is 4, but the encoder .* has 3 layers"):
        bertscore.open_encoder(params, Path("absent"), bert)


def test_layer_0_is_the_embeddings(encoder: bertscore.Encoder) -> None:
    # Without context, a word at the same place has the same state in any text.
    embeddings = encoder._replace(layer=0)
    texts = [bertscore.encode_text(embeddings, text) for text in ("beba água", "beba sol")]
    first, second = bertscore.embed(embeddings, texts)
    assert torch.equal(first[1], second[1])
    assert not torch.allclose(first[2], second[2])


@pytest.fixture
def pickled(bert: Path, tmp_path: Path) -> Path:
    """Return the random BERT with pickled weights and a vocabulary, as older encoders have."""
    folder = tmp_path / "pickled"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).write_bytes((bert / name).read_bytes())
    weights = load_file(bert / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def test_pickled_weights_become_the_same_safetensors(bert: Path, pickled: Path) -> None:
    encoder_stage.replace_pickle(pickled)
    assert not (pickled / "pytorch_model.bin").exists()
    expected = load_encoder(bert).state_dict()
    found = load_encoder(pickled).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    text = "beba água"
    assert (
        load_plain_tokenizer(pickled)(text).input_ids == load_plain_tokenizer(bert)(text).input_ids
    )


class Hostile:
    """An object whose unpickling writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call that a careless reader would make."""
        return (Path.touch, (Path("opened"),))


def test_a_pickle_that_runs_code_is_refused(pickled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pickled)
    torch.save({"weight": Hostile()}, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: it cannot be loaded"):
        encoder_stage.replace_pickle(pickled)
    assert not (pickled / "opened").exists()


def test_an_encoder_of_a_folder_is_copied(bert: Path, workspace: Path) -> None:
    source = DirectoryModel(kind="directory", path=str(bert), license="mit")
    target = workspace / "models/encoder"
    encoder_stage.fetch_encoder(source, target, load_params().ingest.limits)
    assert load_encoder(target).config.num_hidden_layers == 3
    assert load_plain_tokenizer(target)("beba água").input_ids == [2, 5, 7, 3]
    assert leftovers(workspace) == []


def test_the_base_as_encoder_leaves_a_note(workspace: Path) -> None:
    target = workspace / "models/encoder"
    encoder_stage.fetch_encoder(BaseEncoder(kind="base"), target, load_params().ingest.limits)
    assert [file.name for file in target.iterdir()] == ["README.md"]


def test_settings_name_the_hub_encoder_and_its_revision(bert: Path, workspace: Path) -> None:
    source = HubModel(kind="hub", id="a/b", revision="0" * 40, license="mit")
    params = with_encoder(workspace, source.model_dump())
    settings = bertscore.describe(params, bert)
    assert settings["encoder"] == "a/b"
    assert settings["revision"] == "0" * 40
    assert len(str(settings["weights_sha256"])) == 64


# The stages


@pytest.fixture
def answered(workspace: Path, tiny: Path) -> Iterator[Path]:
    """Return a workspace with a tiny base, answers of a variant and answers of the controls."""
    (workspace / "models").mkdir(exist_ok=True)
    (workspace / "models/base").symlink_to(tiny)
    rows = [row("Beba água.", "Beba água e repouse.", number) for number in range(10)]
    write_rows(workspace / "data/answers/base.jsonl", rows)
    for control in controls_stage.CONTROLS:
        others = [each | {"variant": control} for each in rows]
        write_rows(workspace / f"data/controls/answers_{control}.jsonl", others)
    yield workspace


def test_the_stage_writes_figures_of_the_base_as_encoder(answered: Path) -> None:
    stage.main("base")
    figures = json.loads((answered / "metrics/bertscore/base.json").read_text(encoding="utf-8"))
    assert sorted(figures) == [*SET_NAMES, "pooled", "settings"]
    assert figures["settings"]["encoder"] == "models/base"
    assert figures["settings"]["layer"] == load_params().bertscore.layer
    pooled = figures["pooled"]
    assert (pooled["items"], figures["A"]["items"]) == (10, 2)
    assert 0 < pooled["bertscore_f"] < 1
    # All ten pairs are equal, so that nothing varies but rounding.
    assert pooled["bertscore_f_stderr"] == pytest.approx(0, abs=1e-6)
    assert pooled["bertscore_f_low"] == pytest.approx(pooled["bertscore_f"], abs=1e-5)
    [first, *_] = read_rows(answered / "data/scores/bert-base.jsonl")
    assert first["bertscore_f"] == pytest.approx(pooled["bertscore_f"], abs=1e-5)
    assert leftovers(answered) == []


def test_questions_without_an_answer_have_no_score(answered: Path) -> None:
    file = answered / "data/answers/base.jsonl"
    first, *others = read_rows(file)
    write_rows(file, [first | {"generated": "", "finish_reason": "failed"}, *others])
    stage.main("base")
    scored = [row["id"] for row in read_rows(answered / "data/scores/bert-base.jsonl")]
    assert scored == [row["id"] for row in others]


def test_the_controls_have_the_scores_of_equal_answers(answered: Path) -> None:
    stage.main("base")
    controls_stage.main()
    text = (answered / "metrics/bertscore_controls.json").read_text(encoding="utf-8")
    figures = json.loads(text)
    assert sorted(figures) == ["echo", "nearest", "settings", "stock"]
    variant = json.loads((answered / "metrics/bertscore/base.json").read_text(encoding="utf-8"))
    expected = variant["pooled"]["bertscore_f"]
    assert figures["stock"]["bertscore_f"] == pytest.approx(expected, abs=1e-5)
    rows = list(read_rows(answered / "data/bertscore_controls.jsonl"))
    assert [each["variant"] for each in rows] == ["stock"] * 10 + ["nearest"] * 10 + ["echo"] * 10


def test_missing_answers_are_named_before_the_encoder_is_loaded(workspace: Path) -> None:
    with pytest.raises(UserError, match=r"answers/base\.jsonl: .*Run `dvc repro generate@base`"):
        stage.main("base")


def test_a_variant_whose_rows_would_overwrite_others_is_refused(workspace: Path) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["variants"]["bert-base"] = dict(params["variants"]["base"])

    edit_params(workspace / "params.yaml", edit)
    with pytest.raises(UserError, match=r"variants\.bert-base: data/scores/bert-base\.jsonl"):
        load_params()
