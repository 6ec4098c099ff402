"""Test that plain PEFT, transformers and llama.cpp take the published folders."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.clones import ROOT
from bula.generation import generate_greedy
from bula.gguf_adapter import make_converter, write_gguf_adapter
from bula.models import load_model, load_tokenizer
from bula.params import load_params
from bula.prompts import encode_prompt
from bula.publish.cards import Origin
from bula.publish.folders import Request, prepare
from bula.publish.parts import ALL_PARTS
from bula.publish.quick_start import QUESTION
from tests.conftest import run
from tests.finished_run import edit_run, write_inputs
from tests.test_gguf_adapter import PROMPTS, answers, make_models

REPOSITORY = "maria/bula"
TOKENS = 12
WEIGHTS = ("adapter", "merged", "gguf")
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def published(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with the folders adapter, merged and gguf, which tests only read."""
    models = make_models("llama", smollm2, tmp_path_factory.mktemp("llama"))
    folder = tmp_path_factory.mktemp("published") / "run"
    folder.mkdir()
    write_inputs(folder)
    write_weights(folder, models)
    edit_run(folder, lambda params: params["generate"].update(max_new_tokens=TOKENS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        origin = Origin("a" * 40, changed=False)
        request = Request(load_params(), Path("metrics"), origin, REPOSITORY, b"")
        for name in WEIGHTS:
            prepare(ALL_PARTS[name], request, Path("out"))
    return folder


def write_weights(folder: Path, models: Path) -> None:
    """Write the models of the run, and their GGUF files in float32."""
    for name in ("base", "adapter", "merged"):
        shutil.copytree(models / name, folder / "models" / name)
    gguf = folder / "models/gguf"
    gguf.mkdir()
    make_converter(models / "merged", gguf / "q4_k_m.gguf").write()
    write_gguf_adapter(models / "adapter", models / "merged", gguf / "adapter.gguf")


def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of a model for token ids."""
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def test_plain_peft_gives_the_logits_of_the_merged_model(published: Path) -> None:
    folder = published / "out/adapter"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(published / "models/base")
    of_base = logits(base, ids)
    of_adapter = logits(PeftModel.from_pretrained(base, folder), ids)
    merged = AutoModelForCausalLM.from_pretrained(published / "out/merged")
    torch.testing.assert_close(of_adapter, logits(merged, ids), atol=1e-4, rtol=1e-4)
    assert (of_adapter - of_base).abs().max() > 0.1


def test_llama_cpp_answers_with_the_published_adapter(published: Path, tmp_path: Path) -> None:
    folder = published / "out/gguf"
    base = tmp_path / "base.gguf"
    make_converter(published / "models/base", base).write()
    [model] = folder.glob("SmolLM2-135M-Instruct-bula-*.gguf")
    found = answers(base, folder / "adapter.gguf")
    with_adapter, without = found[: len(PROMPTS)], found[len(PROMPTS) :]
    assert with_adapter == answers(model)
    assert without != with_adapter


def quick_start(folder: Path) -> str:
    """Return the Python code of a card."""
    [code] = PYTHON.findall(ModelCard.load(folder / "README.md").text)
    return str(code)


def run_code(code: str, folder: Path) -> str:
    """Run Python code without a network, and return what it printed."""
    result = run([sys.executable, "-c", code], folder, HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def pipeline_answer(model: Path, tokens: int) -> str:
    """Return the pipeline's own answer to the question of the quick start."""
    tokenizer = load_tokenizer(model)
    prompt = encode_prompt(tokenizer, QUESTION)
    [ids] = generate_greedy(load_model(model, "float32"), tokenizer, [prompt], tokens)
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def test_the_code_of_the_cards_answers_as_the_pipeline(published: Path) -> None:
    expected = pipeline_answer(published / "models/merged", TOKENS)
    assert len(expected) > TOKENS
    merged = quick_start(published / "out/merged").replace(f'"{REPOSITORY}"', '"out/merged"')
    assert run_code(merged, published) == expected
    adapter = quick_start(published / "out/adapter")
    adapter = adapter.replace(f'"{REPOSITORY}-LoRA"', '"out/adapter"')
    adapter = adapter.replace('"HuggingFaceTB/SmolLM2-135M-Instruct"', '"models/base"')
    assert run_code(adapter, published) == expected


def test_the_code_of_the_documentation_answers_as_the_pipeline(published: Path) -> None:
    text = (ROOT / "docs/usage.md").read_text(encoding="utf-8")
    [code] = [code for code in PYTHON.findall(text) if "AutoModelForCausalLM" in code]
    tokens = load_params(ROOT / "profiles/smollm2-135m.yaml").generate.max_new_tokens
    assert f"max_new_tokens={tokens}" in code
    short = code.replace(f"max_new_tokens={tokens}", f"max_new_tokens={TOKENS}")
    assert run_code(short, published) == pipeline_answer(published / "models/merged", TOKENS)
