import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.clones import ROOT
from bula import answer_key, answering
from bula.answer_key import MODULES, fingerprint
from bula.commands.deps import UNLISTED, imported_files
from bula.params import Decoding, Params, Variant, load_params

# Modules that answering.py imports, directly or indirectly, and that shape no answer: they keep,
# check, name or redact texts, or build the prompts.
OTHERS = {
    "answer_key",
    "answer_ledger",
    "api_keys",
    "escaping",
    "files",
    *("__init__", "addresses", "births", "contacts", "councils", "documents", "fragments"),
    *("given_names", "health_numbers", "identity_cards", "kinds", "names", "phones", "places"),
    "public_services",
    "processes",
    "prompts",
    "records",
}


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "profiles/smollm2-135m.yaml")


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny, tmp_path / "tiny")
    return tmp_path / "tiny"


def variant_at(model: Path, **keys: Any) -> Variant:
    """Return a variant whose model lies anywhere, which params.yaml could not name."""
    return Variant.model_construct(model=str(model), **{"engine": "transformers", **keys})


def test_every_module_that_answering_imports_is_in_the_fingerprint_or_named_here() -> None:
    found: set[str] = set()
    pending = {str(Path(answering.__file__).relative_to(ROOT))}
    while pending:
        file = pending.pop()
        found.add(file)
        pending.update(imported_files(ROOT, file) - found - UNLISTED)
    names = {Path(file).stem for file in found}
    assert names == set(MODULES) | OTHERS
    assert not set(MODULES) & OTHERS


def with_generate(params: Params, **changes: Any) -> Params:
    changed = params.generate.model_copy(update=changes)
    return params.model_copy(update={"generate": changed})


def test_another_model_engine_or_rule_has_another_fingerprint(model: Path, params: Params) -> None:
    first = fingerprint(variant_at(model), params)
    assert fingerprint(variant_at(model), params) == first
    # Few-shot examples are a part of the prompt, and batch_key covers the prompt.
    assert fingerprint(variant_at(model, few_shot=3), params) == first
    harsh = Decoding(temperature=0, repetition_penalty=1.2, no_repeat_ngram=0)
    others = [
        fingerprint(variant_at(model, engine="llama.cpp"), params),
        fingerprint(variant_at(model), with_generate(params, decoding=harsh)),
        fingerprint(variant_at(model), with_generate(params, max_new_tokens=9)),
    ]
    (model / "config.json").write_text("{}", encoding="utf-8")
    others.append(fingerprint(variant_at(model), params))
    assert len({first, *others}) == 5


def test_another_version_of_vllm_has_another_fingerprint(
    model: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for version in ("0.32.0", "0.33.0"):
        monkeypatch.setattr(answer_key, "vllm_version", lambda version=version: version)
        found.append(fingerprint(variant_at(model, engine="vllm"), params))
    assert len(set(found)) == 2


def test_the_version_of_vllm_is_found_in_its_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer_key.vllm_version() == ""
    metadata = tmp_path / "vllm-0.32.1.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.1\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert answer_key.vllm_version() == "0.32.1"


def test_another_processor_or_gpu_has_another_fingerprint(
    model: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [fingerprint(variant_at(model), params)]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "another"})
    found.append(fingerprint(variant_at(model), params))
    for name in ("NVIDIA A100", "NVIDIA H200"):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index, name=name: name)
        found.append(fingerprint(variant_at(model), params))
    assert len(set(found)) == 4


def test_another_server_or_served_model_has_another_fingerprint(params: Params) -> None:
    # The folder of the model need not exist, because the server has its own copy.
    found = []
    for url, name in (("http://a/v1", "m"), ("http://b/v1", "m"), ("http://a/v1", "n")):
        variant = variant_at(Path("missing"), engine="openai", base_url=url, served_model=name)
        found.append(fingerprint(variant, params))
    assert len(set(found)) == 3
