"""Test the search for names of people, by lists and cues and by a model."""

from pathlib import Path
from typing import Any

import pytest

from bula.errors import UserError
from bula.params import DirectoryModel, NoModel
from bula.privacy import Finding, find_personal_data, redact
from bula.privacy.name_model import PART, find_names, load_finder


def redacted(text: str) -> str:
    """Return the text with placeholders for personal data."""
    return redact(text, find_personal_data(text))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("A paciente Solange Prado refere dor", "A paciente [NOME] refere dor"),
        ("minha avó dona Filomena caiu", "minha avó dona [NOME] caiu"),
        ("meu filho kauan tem febre", "meu filho [NOME] tem febre"),
        # A name that is on no list.
        ("minha sobrinha Zylanna tem asma", "minha sobrinha [NOME] tem asma"),
        ("Dr. Belizarto disse que é virose", "Dr. [NOME] disse que é virose"),
        ("me chamo Zylanna e tenho asma", "me chamo [NOME] e tenho asma"),
        ("meu nome é zylanna", "meu nome é [NOME]"),
        ("Nome: SOLANGE DO PRADO\nIdade: 40", "Nome: [NOME]\nIdade: 40"),
        ("josefa pereira da silva, 54 anos", "[NOME], 54 anos"),
        ("Aguardo.\nAtenciosamente,\nFilomena Prado", "Aguardo.\nAtenciosamente,\n[NOME]"),
        ("João P. Siqueira assinou", "[NOME] assinou"),
        ("falei com a Solange do balcão", "falei com a [NOME] do balcão"),
        ("o Toninho foi ao posto", "o [NOME] foi ao posto"),
        ("falar c/ adilson", "falar c/ [NOME]"),
        ("recado p/ solange", "recado p/ [NOME]"),
        ("conversei com Zylanna ontem", "conversei com [NOME] ontem"),
        ("rita (irma) avisa", "[NOME] (irma) avisa"),
        ("Bebê de Solange Prado Lemos, 3 kg", "Bebê de [NOME], 3 kg"),
        ("dra Ingrid M. atendeu", "dra [NOME]. atendeu"),
        ("ass: jose ribamar costa", "ass: [NOME]"),
        # Decomposed accents, as some systems write them.
        ("minha mãe Márcia", "minha mãe [NOME]"),
    ],
)
def test_a_name_beside_a_cue_is_found(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "A doença de Parkinson, a síndrome de Down e o sinal de Murphy",
        "A doença de Wilson e a manobra de Leopold",
        "O dr. Google disse que é grave",
        "O Hospital Israelita Albert Einstein e o Instituto José Alencar Gomes da Silva",
        "A Lei Maria da Penha e a Fundação Oswaldo Cruz",
        "O óleo de Rosa Mosqueta e o teste ELISA",
        "Ligue para Disque Saúde 136, tratar com Ivermectina, passei para Rivotril",
        "Falei com Secretaria Municipal e falar com Deus",
        "Nome: Losartana Potássica 50 mg",
        "A paciente Covid positiva",
        "Carlos Chagas descreveu a doença de Chagas",
        "Obrigada. Tenho 45 anos. Senhora, beba água.",
        "vera verdade, a rosa é clara e o sol é lindo",
        "isso me chama atenção, me chamo atenção sempre",
    ],
)
def test_diseases_drugs_and_institutions_stay(text: str) -> None:
    assert find_personal_data(text) == []


def classify(text: str) -> list[dict[str, Any]]:
    """Label each word in capitals as a person, and the word Recife as a place."""
    groups = []
    for label, word in (("PER", "XIS"), ("LOC", "Recife")):
        start = text.find(word)
        if start >= 0:
            groups.append({"entity_group": label, "start": start, "end": start + len(word)})
    return groups


def test_a_model_adds_names_and_no_places() -> None:
    text = "Ontem XIS foi a Recife."
    found = find_personal_data(text, lambda plain: find_names(plain, classify))
    assert found == [Finding("name", 6, 9)]


def test_a_long_text_is_classified_in_parts() -> None:
    text = "a " * PART + "XIS " + "a " * PART
    start = 2 * PART
    assert find_names(text, classify) == [Finding("name", start, start + 3)]


def test_no_model_searches_nothing() -> None:
    assert load_finder(NoModel(kind="none")) is None


def save_classifier(folder: Path, labels: list[str]) -> DirectoryModel:
    """Write a tiny token classifier that gives each token the last label."""
    import torch
    from transformers import BertConfig, BertForTokenClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "oi", "zy"]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        model.classifier.bias[-1] = 100.0
    model.save_pretrained(folder)
    return DirectoryModel(kind="directory", path=str(folder), license="mit")


def test_a_directory_with_a_token_classifier_finds_names(tmp_path: Path) -> None:
    source = save_classifier(tmp_path / "ner", ["O", "B-PER"])
    find = load_finder(source)
    assert find is not None
    assert find_personal_data("oi zy", find) == [Finding("name", 0, 2), Finding("name", 3, 5)]


def test_a_model_without_a_label_for_people_is_refused(tmp_path: Path) -> None:
    source = save_classifier(tmp_path / "places", ["O", "B-LOC"])
    with pytest.raises(UserError, match="has no label for people: LOC, O"):
        load_finder(source)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    source = DirectoryModel(kind="directory", path=str(tmp_path / "none"), license="mit")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_finder(source)
