"""Test the GGUF form of an adapter, by its numbers and in llama.cpp."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from bench.clones import ROOT
from bula.errors import UserError
from bula.gguf_adapter import make_converter, write_gguf_adapter
from bula.models import load_tokenizer, save_model

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# Llama's converter permutes rows, Phi-3's keeps q, k and v in one matrix, the others rename only.
KINDS = ("llama", "qwen2", "gemma3_text", "phi3")
ALPHA = 8
RANK = 4
PROMPTS = ["Posso tomar sol?", "Dói a cabeça e", "A febre é"]
CARD = "---\nmodel_name: Beispiel-bula\nlicense: apache-2.0\nlanguage:\n- pt\n---\n"
Array = NDArray[np.float32]


def make_models(kind: str, smollm2: Path, folder: Path) -> Path:
    """Write a random base, an adapter of it and the merged model, and return the folder."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(smollm2)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **SIZES, **ENDS)
    base = AutoModelForCausalLM.from_config(config).float()
    save_model(base, tokenizer, folder / "base")
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            # PEFT starts B at zero, and such an adapter would change nothing.
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    save_model(model.merge_and_unload(), tokenizer, folder / "merged")
    return folder


@pytest.fixture(scope="module")
def models(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns a folder of models, which tests only read.

    The folder also has adapter.gguf, the GGUF file of its adapter.
    """

    @cache
    def build(kind: str) -> Path:
        folder = make_models(kind, smollm2, tmp_path_factory.mktemp(kind))
        (folder / "adapter/README.md").write_text(CARD, encoding="utf-8")
        write_gguf_adapter(folder / "adapter", folder / "merged", folder / "adapter.gguf")
        return folder

    return build


@pytest.fixture(scope="module")
def llama(models: Callable[[str], Path]) -> Path:
    """Return the folder of Llama's architecture."""
    return models("llama")


def converted(model: Path) -> dict[str, Array]:
    """Return the tensors that llama.cpp's converter makes of a model, by name."""
    converter = make_converter(model, model.parent / "unused.gguf")
    converter.prepare_tensors()
    tensors = converter.gguf_writer.tensors[0]
    return {name: np.asarray(info.tensor) for name, info in tensors.items()}


def adapter_tensors(file: Path) -> dict[str, Array]:
    """Return the tensors of a GGUF file, by name."""
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}


@pytest.mark.parametrize("kind", KINDS)
def test_base_and_adapter_add_up_to_the_merged_model(
    kind: str, models: Callable[[str], Path]
) -> None:
    folder = models(kind)
    found = adapter_tensors(folder / "adapter.gguf")
    base = converted(folder / "base")
    merged = converted(folder / "merged")
    adapted = {name.removesuffix(".lora_a") for name in found if name.endswith(".lora_a")}
    assert adapted == {name for name in base if not np.array_equal(base[name], merged[name])}
    for name in adapted:
        change = found[f"{name}.lora_b"] @ found[f"{name}.lora_a"] * (ALPHA / RANK)
        np.testing.assert_allclose(base[name] + change, merged[name], atol=1e-5)


def test_the_file_says_that_it_is_a_lora_adapter(llama: Path) -> None:
    fields = gguf.GGUFReader(llama / "adapter.gguf").fields
    expected = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "Beispiel-bula",
        "general.license": "apache-2.0",
        "general.languages": ["pt"],
        "adapter.type": "lora",
        "adapter.lora.alpha": ALPHA,
    }
    assert {name: fields[name].contents() for name in expected} == expected


def answers(model: Path, *adapters: Path) -> list[str]:
    """Return llama.cpp's greedy answers, with the adapter and then without it."""
    command = [sys.executable, str(ROOT / "tests/llama_lora.py"), str(model), *map(str, adapters)]
    result = subprocess.run(
        command,
        input=json.dumps(PROMPTS),
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [answer["choices"][0]["text"] for answer in json.loads(result.stdout)]


def test_llama_cpp_answers_with_the_adapter_as_with_the_merged_model(
    llama: Path, tmp_path: Path
) -> None:
    files = {}
    for name in ("base", "merged"):
        files[name] = tmp_path / f"{name}.gguf"
        make_converter(llama / name, files[name]).write()
    merged = answers(files["merged"])
    found = answers(files["base"], llama / "adapter.gguf")
    with_adapter, without = found[: len(PROMPTS)], found[len(PROMPTS) :]
    assert with_adapter == merged
    assert len(without) == len(PROMPTS)
    assert without != merged


def test_an_adapter_with_other_tensors_is_refused(llama: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"lora_alpha": 1}), encoding="utf-8")
    tensors = load_file(llama / "adapter/adapter_model.safetensors")
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.zeros(4, 8)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(
        UserError, match=r"cannot apply an adapter that contains the tensor .*embedding_A"
    ):
        write_gguf_adapter(adapter, llama / "merged", tmp_path / "adapter.gguf")
    assert not (tmp_path / "adapter.gguf").exists()


def test_an_architecture_without_converter_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["OtherModel"]}', encoding="utf-8")
    with pytest.raises(UserError, match="no converter for its architecture OtherModel"):
        write_gguf_adapter(llama / "adapter", tmp_path, tmp_path / "adapter.gguf")
