"""Test the search for questions with the meaning of an item's question."""

from pathlib import Path

import numpy
import pytest
import torch

from bench.clones import edit_params
from bula.params import DirectoryModel, Params
from bula.records import Row
from stages.preprocess import __main__ as stage
from stages.preprocess import semantic
from tests.test_bertscore import bert
from tests.test_preprocess import ANSWER, OTHER, QUESTION, deduplicate_rows, row, settings
from tests.test_preprocess_stage import prepare, rows_of_all_splits

__all__ = ["bert"]

# Unit vectors of the questions below; their cosines with the first are 1, 0.96, 0.6 and 0.
VECTORS = {
    QUESTION: [1.0, 0.0],
    "A pequena arde em febre, o chuveiro gelado serve?": [0.96, 0.28],
    "Com febre, posso levar a criança para a escola?": [0.6, 0.8],
    "Qual é o melhor horário para tomar sol?": [0.0, 1.0],
}


def with_encoder(path: Path, policy: str = "remove") -> Params:
    """Return parameters with the encoder of a directory."""
    source = DirectoryModel(kind="directory", path=str(path), license="mit")
    contamination = settings().preprocess.contamination
    changed = contamination.model_copy(update={"policy": policy, "cosine_threshold": 0.9})
    return settings(encoder=source, contamination=changed)


@pytest.fixture
def known_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the encoder by a table of vectors."""

    def look_up(_: object, questions: list[str]) -> semantic.Vectors:
        return numpy.array([VECTORS[question] for question in questions], numpy.float32)

    monkeypatch.setattr(semantic, "open_encoder", lambda _: None)
    monkeypatch.setattr(semantic, "embed_questions", look_up)


def rows_with_vectors(first_split: str) -> list[Row]:
    """Return one row per question; only the first may be in another split than train."""
    first, *others = VECTORS
    return [row(first, split=first_split), *(row(question) for question in others)]


@pytest.mark.usefixtures("known_vectors")
def test_a_training_question_with_the_meaning_of_an_item_leaves(tiny: Path, tmp_path: Path) -> None:
    result = deduplicate_rows(rows_with_vectors("A"), tiny, tmp_path, with_encoder(tmp_path))
    [identity] = [example["id"] for example in result.kept["A"]]
    reasons = [refused["reason"] for refused in result.refused]
    assert reasons == [f"same meaning as {identity} in A (0.96)"]
    assert result.matrix["A"]["train_rows_near_duplicate"] == 1


@pytest.mark.usefixtures("known_vectors")
@pytest.mark.parametrize(("policy", "kept"), [("remove", 2), ("keep", 3)])
def test_the_policy_decides_about_the_meaning_of_a_benchmark_item(
    policy: str, kept: int, tiny: Path, tmp_path: Path
) -> None:
    items = {"mcq": [{"question": QUESTION, "choices": {"text": ["Banho", "Soro"]}}]}
    rows = rows_with_vectors("train")[1:]
    result = deduplicate_rows(rows, tiny, tmp_path, with_encoder(tmp_path, policy), items)
    assert len(result.kept["train"]) == kept
    assert result.matrix["mcq"]["train_rows_near_duplicate"] == 1


@pytest.mark.usefixtures("known_vectors")
def test_a_nearer_benchmark_item_hides_no_validation_item(tiny: Path, tmp_path: Path) -> None:
    # The row has the cosine 1 with the benchmark item, which removes nothing under keep.
    near, paraphrase, *_ = VECTORS
    items = {"mcq": [{"question": near, "choices": {"text": ["Banho", "Soro"]}}]}
    rows = [row(near), row(paraphrase, split="A")]
    result = deduplicate_rows(rows, tiny, tmp_path, with_encoder(tmp_path, "keep"), items)
    [identity] = [example["id"] for example in result.kept["A"]]
    reasons = [refused["reason"] for refused in result.refused]
    assert reasons == [f"same meaning as {identity} in A (0.96)"]


def test_a_paraphrase_stays_without_an_encoder(tiny: Path, tmp_path: Path) -> None:
    result = deduplicate_rows(rows_with_vectors("A"), tiny, tmp_path)
    assert result.refused == []


def test_an_embedding_is_the_mean_of_the_last_hidden_states(bert: Path) -> None:
    encoder = semantic.open_encoder(bert)
    questions = ["tome muita água hoje", "sol", "não tome remédio e repouse"]
    found = semantic.embed_questions(encoder, questions)
    assert found.shape == (3, 16)
    for question, vector in zip(questions, found, strict=True):
        inputs = encoder.tokenizer(question, return_tensors="pt").to(encoder.model.device)
        with torch.inference_mode():
            states = encoder.model(**inputs).last_hidden_state[0]
        mean = states.mean(dim=0)
        expected = (mean / mean.norm()).tolist()
        assert vector.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_stage_reads_the_encoder_of_a_directory(bert: Path, tiny: Path, tmp_path: Path) -> None:
    # The random encoder knows no word of the two questions: their first 10 tokens are [UNK].
    other = "Quais exames preciso fazer antes de uma cirurgia de catarata no mês que vem?"
    rows = [row(QUESTION, ANSWER, "A"), row(other, OTHER)]
    params = with_encoder(bert)
    result = deduplicate_rows(rows, tiny, tmp_path, params)
    reasons = [refused["reason"] for refused in result.refused]
    assert len(reasons) == 1
    assert reasons[0].startswith("same meaning as ")


# --- the device ---


class StoppedError(Exception):
    """The stage prepared a device."""


def prepare_device(name: str, dtype: str) -> None:
    """Stop the stage, and say which device it prepares."""
    raise StoppedError(name, dtype)


@pytest.mark.parametrize(("section", "key"), [("preprocess", "encoder"), ("privacy", "names")])
def test_a_model_computes_on_the_cpu(
    section: str, key: str, workspace: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(workspace, tiny, rows_of_all_splits(1))
    monkeypatch.setattr(stage, "prepare_device", prepare_device)
    stage.main()
    source = {"kind": "directory", "path": "models/base", "license": "mit"}
    edit_params(workspace / "params.yaml", lambda params: params[section].update({key: source}))
    with pytest.raises(StoppedError, match="'cpu', 'float32'"):
        stage.main()
