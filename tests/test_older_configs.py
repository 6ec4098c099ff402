"""Test that saved models load in transformers 4.57 with the same logits."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bench.clones import ROOT
from bula import older_configs
from bula.files import sha256_file
from bula.models import load_model, load_tokenizer, save_model
from bula.older_configs import extend_config, extend_tokenizer_config
from tests.conftest import COMMAND_TIMEOUT_SECONDS

TEXT = "Posso tomar dipirona com febre? Beba água, descanse e procure um médico se piorar."
# Differences of rounding between two versions, in shares of the largest logit.
TOLERANCE = 1e-4
PINS = ROOT / "tests/data/transformers-4.57.txt"
CACHE = ROOT / ".bula/tests"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Small weights would make all logits alike, whatever the positions are.
    "initializer_range": 0.5,
}
WINDOWS = {"sliding_window": 4, "head_dim": 8}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": LLAMA3},
    "mistral": {**WINDOWS, "rope_parameters": {"rope_theta": 1000000.0}},
    "qwen2": {"rope_parameters": {"rope_theta": 1000000.0}},
    "qwen3": {"head_dim": 8, "rope_parameters": {"rope_theta": 1000000.0}},
    "smollm3": {"rope_parameters": {"rope_theta": 5000000.0}},
    "granite": {"rope_parameters": {"rope_theta": 300000.0}, "logits_scaling": 8.0},
    "olmo2": {"rope_parameters": {"rope_theta": 500000.0}},
    "cohere": {"rope_parameters": {"rope_theta": 75000.0}},
    "gemma": {"head_dim": 8, "rope_parameters": {"rope_theta": 20000.0}},
    "gemma2": {**WINDOWS, "rope_parameters": {"rope_theta": 20000.0}},
    "gemma3_text": {**WINDOWS, "rope_parameters": GEMMA3_ROPE},
    "phi3-long": {
        "original_max_position_embeddings": 64,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 250000.0,
            "short_factor": [1.0, 1.5, 2.0, 2.5],
            "long_factor": [2.0, 3.0, 4.0, 5.0],
        },
    },
    "phi3": {"rope_parameters": {"rope_theta": 250000.0, "partial_rotary_factor": 0.5}},
}


@pytest.fixture(scope="module")
def models(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return tiny models of each architecture with random weights, as this project saves them."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = load_tokenizer(smollm2)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    for name, options in CONFIGS.items():
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            name.partition("-")[0],
            vocab_size=len(tokenizer),
            **SIZES,
            **ends,
            **json.loads(json.dumps(options)),
        )
        save_model(AutoModelForCausalLM.from_config(config).float(), tokenizer, folder / name)
    return [folder / name for name in CONFIGS]


@pytest.fixture(scope="module")
def older() -> Path:
    """Return a folder with transformers 4.57, kept between runs.

    torch and the other packages are those of this environment. The folder lies in this repository,
    because other users can write to a temporary folder of a known name.
    """
    folder = CACHE / sha256_file(PINS)
    if (folder / "transformers").exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--only-binary=:all:", "--require-hashes", "--requirement", str(PINS)]
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        target = Path(temporary) / "packages"
        result = subprocess.run(
            [*command, "--target", str(target)], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            reason = result.stderr.strip().splitlines()[-1]
            # Runs of CI have a network, and must not lose these tests unnoticed.
            give_up = pytest.fail if os.environ.get("CI") else pytest.skip
            give_up(f"transformers 4.57 cannot be installed: {reason}")
        target.rename(folder)
    return folder


@pytest.fixture(scope="module")
def read_by_older(
    older: Path, models: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder with what transformers 4.57 computes with each model."""
    output = tmp_path_factory.mktemp("older")
    command = [sys.executable, "-P", str(ROOT / "tests/older_reader.py"), TEXT, str(output)]
    result = subprocess.run(
        [*command, *map(str, models)],
        env={**os.environ, "PYTHONPATH": str(older), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT_SECONDS,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return output


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_4_57_computes_the_same_logits(
    name: str, models: list[Path], read_by_older: Path
) -> None:
    folder = models[0].parent / name
    found = load_file(read_by_older / f"{name}.st")
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    with torch.inference_mode():
        logits = model(input_ids=found["ids"][None]).logits[0]
    assert (found["logits"] - logits).abs().max() <= TOLERANCE * logits.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_4_57_reads_the_same_tokens_template_and_ends(
    name: str, models: list[Path], read_by_older: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models[0].parent / name)
    found = json.loads((read_by_older / f"{name}.json").read_text(encoding="utf-8"))
    ids = load_file(read_by_older / f"{name}.st")["ids"]
    chat = [{"role": "user", "content": TEXT}]
    assert found["version"].startswith("4.57.")
    assert ids.tolist() == tokenizer(TEXT)["input_ids"]
    assert found["chat"] == tokenizer.apply_chat_template(chat, tokenize=False)
    assert found["special"] == sorted(tokenizer.all_special_ids)
    assert found["end"] == 2


@pytest.mark.parametrize("name", CONFIGS)
def test_the_older_keys_change_nothing_that_this_version_reads(
    name: str, models: list[Path]
) -> None:
    text = (models[0].parent / name / "config.json").read_text(encoding="utf-8")
    written = json.loads(text)
    newer = json.loads(text)
    for key in ("rope_theta", "rope_scaling", "rope_local_base_freq", "torch_dtype"):
        newer.pop(key, None)
    assert written["rope_theta"] > 10000.0
    found = AutoConfig.for_model(**written).to_dict()
    expected = AutoConfig.for_model(**newer).to_dict()
    # This second name of rope_type is for the older version alone.
    found["rope_parameters"].pop("type", None)
    assert {key: found[key] for key in expected} == expected


def test_llama_3_scaling_is_written_in_both_forms() -> None:
    extended = extend_config({"model_type": "llama", "rope_parameters": LLAMA3, "dtype": "float32"})
    assert extended["rope_parameters"] == LLAMA3
    assert extended["rope_theta"] == 500000.0
    assert extended["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    assert extended["torch_dtype"] == "float32"


def test_windows_have_their_own_rope_base_in_the_older_form() -> None:
    extended = extend_config({"model_type": "gemma3_text", "rope_parameters": GEMMA3_ROPE})
    assert extended["rope_theta"] == 1000000.0
    assert extended["rope_local_base_freq"] == 10000.0
    assert extended["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


def test_plain_rope_and_models_without_rope_get_no_scaling() -> None:
    plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    assert extend_config(plain)["rope_scaling"] is None
    assert extend_config({"model_type": "gpt2"}) == {"model_type": "gpt2"}


def test_a_text_model_inside_another_model_is_extended() -> None:
    text = {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    assert extend_config({"text_config": text})["text_config"]["rope_theta"] == 7.0


def test_names_of_the_tokenizer_are_those_that_both_versions_know() -> None:
    config = {
        "tokenizer_class": "TokenizersBackend",
        "extra_special_tokens": ["<a>"],
        "is_local": True,
        "local_files_only": True,
        "eos_token": "</s>",
    }
    assert extend_tokenizer_config(config) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<a>"],
        "eos_token": "</s>",
    }
    named = {"tokenizer_class": "LlamaTokenizer", "extra_special_tokens": {"image_token": "<a>"}}
    assert extend_tokenizer_config(named) == named


def test_every_file_of_a_saved_model_can_be_read_by_everyone(tiny: Path) -> None:
    assert {file.stat().st_mode & 0o777 for file in tiny.iterdir()} == {0o644}


@pytest.mark.parametrize("documents", [{}, {"README.md": b"# A card\n"}])
def test_a_model_without_older_keys_says_so_on_the_console_and_in_its_card(
    documents: dict[str, bytes],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = load_model(tiny, "float32")
    tokenizer = load_tokenizer(tiny)
    save_model(model, tokenizer, tmp_path / "both", documents)
    assert capsys.readouterr().out == ""
    # As an architecture whose configuration reads an older key in another way.
    monkeypatch.setattr(older_configs, "_reads_alike", lambda *_: False)
    save_model(model, tokenizer, tmp_path / "newer", documents)
    assert capsys.readouterr().out == f"newer: {older_configs.NEWER_FORM}\n"
    config = json.loads((tmp_path / "newer/config.json").read_text(encoding="utf-8"))
    assert "rope_theta" not in config
    tokenizer_config = (tmp_path / "newer/tokenizer_config.json").read_text(encoding="utf-8")
    assert "PreTrainedTokenizerFast" in tokenizer_config
    if documents:
        assert_card_of_the_newer_form(tmp_path)


def assert_card_of_the_newer_form(folder: Path) -> None:
    """Check that only the card of the model without older keys has the note."""
    assert older_configs.NEWER_FORM not in (folder / "both/README.md").read_text("utf-8")
    text = (folder / "newer/README.md").read_text("utf-8")
    assert text.startswith("# A card\n\n## Versions of transformers\n\n")
    assert text.endswith(f"{older_configs.NEWER_FORM}\n")


def test_the_guide_names_every_tested_architecture() -> None:
    text = " ".join((ROOT / "docs/usage.md").read_text(encoding="utf-8").split())
    listed = text.partition("The tests compare")[2].partition(".")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == {name.partition("-")[0] for name in CONFIGS}
