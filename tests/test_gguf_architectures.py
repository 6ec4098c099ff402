"""Test that GGUF files of many architectures hold their whole model.

Each architecture is a tiny random model with biases, norms and scales that matter. The file is read
back by transformers and answers in llama.cpp.
"""

import json
import logging
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import pytest
import sentencepiece
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GemmaTokenizer, PreTrainedTokenizerBase

from bench.engines import by_llama_cpp
from bula.divergence import divergence_metrics, score_examples
from bula.errors import UserError
from bula.gguf_config import gguf_config
from bula.gguf_converters import LOGGERS, find_converter
from bula.gguf_export import (
    LIMITS_NATS,
    ModelMetadata,
    export,
    refuse_divergent,
    refuse_other_types,
)
from bula.gguf_files import check_gguf
from bula.gguf_tokenizer import write_pieces
from bula.models import load_model, load_tokenizer, save_model
from bula.prompts import Encoded, encode_prompt
from tests.pieces import piece_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
LOCAL_AND_GLOBAL = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 2.0},
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    "original_max_position_embeddings": 256,
}


# Return the folder of a case's model, or its file of a type.
Build = Callable[[str], Path]
Export = Callable[[str, str], Path]


class Case(NamedTuple):
    """A tiny model, llama.cpp's name of its architecture, and its settings."""

    model_type: str
    architecture: str
    settings: dict[str, Any]


CASES = {
    "llama": Case("llama", "llama", {}),
    "llama, all biases": Case("llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, yarn": Case("llama", "llama", {"rope_parameters": YARN}),
    "llama, linear": Case("llama", "llama", {"rope_parameters": LINEAR}),
    "llama, llama3": Case("llama", "llama", {"rope_parameters": LLAMA3}),
    "mistral": Case("mistral", "llama", {"sliding_window": None, "head_dim": 16}),
    "qwen2": Case("qwen2", "qwen2", {"rope_parameters": YARN}),
    "qwen3": Case("qwen3", "qwen3", {"head_dim": 32}),
    "smollm3": Case("smollm3", "smollm3", {"pad_token_id": 0}),
    "olmo2": Case("olmo2", "olmo2", {}),
    "cohere": Case("cohere", "command-r", {"logit_scale": 0.25}),
    "granite": Case(
        "granite",
        "granite",
        {
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 0.5,
        },
    ),
    "phi3": Case("phi3", "phi3", {"pad_token_id": 0, "sliding_window": None}),
    "phi3, long": Case("phi3", "phi3", {"pad_token_id": 0, "rope_parameters": LONG}),
    "gemma": Case("gemma", "gemma", {"head_dim": 32}),
    "gemma2": Case(
        "gemma2",
        "gemma2",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "attn_logit_softcapping": 20.0,
            "final_logit_softcapping": 10.0,
        },
    ),
    "gemma3": Case(
        "gemma3_text",
        "gemma3",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "num_hidden_layers": 7,
            "rope_parameters": LOCAL_AND_GLOBAL,
        },
    ),
}
METADATA = ModelMetadata(
    name="bula-teste",
    languages=["pt"],
    license="apache-2.0",
    license_link="",
    base_name="SmolLM2 135M Instruct",
    base_organization="HuggingFaceTB",
    base_url="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    tags=["medical", "lora"],
)
# Their converters demand a known byte-level vocabulary, which makes files and tests larger.
BYTE_LEVEL_MODELS = {"olmo2", "cohere"}


@pytest.fixture(scope="module")
def pieces() -> GemmaTokenizer:
    """Return a tokenizer of SentencePiece pieces that ends turns with <|im_end|>."""
    return piece_tokenizer(TEMPLATE, eos_token="<|im_end|>")


@pytest.fixture(scope="module")
def models(tiny: Path, pieces: GemmaTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function that builds the model of a case once, without GGUF files."""
    folder = tmp_path_factory.mktemp("models")
    byte_level = load_tokenizer(tiny)

    @cache
    def build(name: str) -> Path:
        # The name of a case has spaces and commas.
        path = folder / f"case-{list(CASES).index(name)}"
        case = CASES[name]
        tokenizer = byte_level if case.model_type in BYTE_LEVEL_MODELS else pieces
        save_random(case, tokenizer, path)
        return path

    return build


@pytest.fixture(scope="module")
def files(models: Build, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return a function that exports the model of a case once per type, with METADATA.

    The files lie outside the model's folder, where transformers would read its tokenizer.json.
    """
    folder = tmp_path_factory.mktemp("files")

    @cache
    def exported(name: str, kind: str) -> Path:
        model = models(name)
        file = folder / f"{model.name}-{kind}.gguf"
        export(model, kind, file, METADATA)
        return file

    return exported


def save_random(case: Case, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a model whose every parameter is random, also biases and norms."""
    settings = SHAPE | case.settings
    settings |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.model_type, **settings))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    save_model(model.to(torch.bfloat16), tokenizer, path)


def load(path: Path) -> Any:
    """Load a model in float32."""
    return load_model(path, "float32")


def divergence(first: Path, second: Path) -> float:
    """Return the mean KL over 3 rows of 120 random tokens, longer than every window."""
    torch.manual_seed(1)
    tokens = torch.randint(10, 500, (3, 120)).tolist()
    encoded = [Encoded(prompt=row[:1], completion=row[1:]) for row in tokens]
    reference = list(score_examples(load(first), encoded, 0))
    other = score_examples(load(second), encoded, 0)
    return float(divergence_metrics(reference, other)["kl_nats"])


@pytest.mark.parametrize("name", CASES)
def test_a_16_bit_file_has_its_architecture_and_the_logits_of_its_model(
    name: str, models: Build, files: Export
) -> None:
    file = files(name, "bf16")
    assert check_gguf(file).fields["general.architecture"] == CASES[name].architecture
    assert divergence(models(name), file) < 1e-6


@pytest.mark.parametrize("name", ["llama, all biases", "granite", "gemma3", "qwen3", "phi3"])
def test_an_8_bit_file_is_close_to_its_model(name: str, models: Build, files: Export) -> None:
    assert 0 < divergence(models(name), files(name, "q8_0")) < LIMITS_NATS["q8"]


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_answers_with_the_token_that_transformers_prefers(
    name: str, models: Build, files: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    model = models(name)
    tokenizer = load_tokenizer(model)
    prompt = encode_prompt(tokenizer, "Posso tomar dipirona com febre, água e chá?")
    [answer] = by_llama_cpp(files(name, "bf16"), tokenizer, [prompt], 1)
    encoded = Encoded(prompt=prompt, completion=answer[:1])
    [(logits, _)] = score_examples(load(model), [encoded], 0)
    # llama.cpp's attention is float16, which may swap two tokens that are nearly equal.
    assert logits.max() - logits[0, answer[0]] < 0.05 * (logits.max() - logits.median())


def test_every_converter_that_gguf_has_names_for_can_be_imported() -> None:
    """A converter's module also has classes for architectures that gguf lacks."""
    for architecture in ("Gemma3ForCausalLM", "GraniteForCausalLM", "Qwen3ForCausalLM"):
        converter = find_converter(architecture)
        assert gguf.MODEL_ARCH_NAMES[converter.model_arch] in architecture.lower()


def test_converters_show_no_harmless_warning(
    models: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    model = copy_with_config(models("llama"), tmp_path, {})
    state = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    # A pair of texts has a token between them that is neither [SEP] nor EOS.
    between = {"SpecialToken": {"id": "<odd>", "type_id": 0}}
    first, second = ({"Sequence": {"id": text, "type_id": 0}} for text in "AB")
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first],
        "pair": [first, between, second],
        "special_tokens": {"<odd>": {"id": "<odd>", "ids": [3], "tokens": ["<odd>"]}},
    }
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    export(model, "bf16", tmp_path / "a.gguf")
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_context_length(8)
    writer.add_context_length(16)
    assert [record.getMessage() for record in caplog.records] == []


def test_other_warnings_of_converters_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    find_converter("LlamaForCausalLM")
    caplog.set_level(logging.WARNING)
    for name in LOGGERS:
        logging.getLogger(name).warning("Unknown RoPE type: %s", "default")
        logging.getLogger(name).warning("Unknown RoPE type: %s", "spiral")
    shown = [record.getMessage() for record in caplog.records]
    assert shown == ["Unknown RoPE type: spiral"] * len(LOGGERS)


def test_an_architecture_without_a_converter_is_refused(models: Build, tmp_path: Path) -> None:
    model = copy_with_config(models("llama"), tmp_path, {"architectures": ["NovoForCausalLM"]})
    with pytest.raises(UserError, match="no converter for its architecture NovoForCausalLM"):
        export(model, "bf16", tmp_path / "a.gguf")


def test_a_model_that_its_converter_does_not_understand_is_refused(
    models: Build, tmp_path: Path
) -> None:
    model = copy_with_config(models("qwen3"), tmp_path, {"architectures": ["LlamaForCausalLM"]})
    with pytest.raises(UserError, match=r"converter for LlamaForCausalLM refuses it .*k_norm"):
        export(model, "bf16", tmp_path / "a.gguf")


def test_an_unknown_byte_level_tokenizer_is_refused(models: Build, tmp_path: Path) -> None:
    model = copy_with_config(models("olmo2"), tmp_path, {})
    state = (model / "tokenizer.json").read_text(encoding="utf-8")
    changed = json.loads(state)
    # Without its first merges, the tokenizer splits llama.cpp's trial text like no known model.
    changed["model"]["merges"] = changed["model"]["merges"][100:]
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(UserError, match="BPE pre-tokenizer was not recognized"):
        export(model, "bf16", tmp_path / "a.gguf")


def test_a_window_that_a_gguf_file_cannot_store_is_refused(models: Build, tmp_path: Path) -> None:
    model = copy_with_config(models("mistral"), tmp_path, {"sliding_window": 16})
    with pytest.raises(UserError, match="attention window of 16 tokens cannot be stored"):
        export(model, "bf16", tmp_path / "a.gguf")
    model = copy_with_config(models("mistral"), tmp_path / "long", {"sliding_window": 512})
    export(model, "bf16", tmp_path / "b.gguf")


def copy_with_config(model: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """Return a copy of a model with changes in its config.json."""
    copy = folder / "model"
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return copy


@pytest.mark.parametrize("kind", ["bf16", "q4_k_m"])
def test_a_file_tells_name_language_license_and_base(kind: str, files: Export) -> None:
    fields = gguf.GGUFReader(files("granite", kind)).fields
    expected = {
        "general.name": "bula-teste",
        "general.languages": ["pt"],
        "general.license": "apache-2.0",
        "general.tags": ["medical", "lora"],
        "general.base_model.count": 1,
        "general.base_model.0.name": "SmolLM2 135M Instruct",
        "general.base_model.0.organization": "HuggingFaceTB",
        "general.base_model.0.repo_url": METADATA.base_url,
    }
    assert {name: fields[name].contents() for name in expected} == expected


@pytest.mark.parametrize("name", ["granite", "gemma3"])
def test_auto_round_writes_architectures_whose_modules_name_new_ones(
    name: str, files: Export
) -> None:
    assert divergence(files(name, "bf16"), files(name, "q4_k_m")) < LIMITS_NATS["q4"]


def test_a_file_beyond_its_limit_is_refused() -> None:
    refuse_divergent("bf16", 0.0009)
    refuse_divergent("q4_k_m", 0.49)
    with pytest.raises(UserError, match=r"bf16\.gguf: .* merged model: KL 0\.0011"):
        refuse_divergent("bf16", 0.0011)
    with pytest.raises(UserError, match=r"q8_0\.gguf: .* 16-bit file: KL 0\.02"):
        refuse_divergent("q8_0", 0.02)
    with pytest.raises(UserError, match="KL nan nats"):
        refuse_divergent("q4_k_m", float("nan"))


def write_gguf(path: Path, architecture: str, keys: dict[str, Any]) -> Path:
    """Write a GGUF header of a model with one layer and one tensor."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_head_count(4)
    for name, value in keys.items():
        if isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_float32(name, value)
    writer.add_tensor("token_embd.weight", torch.zeros(8, 64).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_of_an_architecture_that_nobody_compared_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", "falcon", {})
    with pytest.raises(UserError, match="architecture falcon cannot be read here"):
        gguf_config(file)


def test_a_setting_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", "llama", {"llama.attention.clamp_kqv": 8.0})
    with pytest.raises(UserError, match=r"its setting attention\.clamp_kqv cannot be read"):
        gguf_config(file)


def test_an_unknown_rope_scaling_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", "llama", {"llama.rope.scaling.type": "dynamic"})
    with pytest.raises(UserError, match="RoPE scaling dynamic cannot be read"):
        gguf_config(file)


def test_a_file_names_its_rope_and_sizes(tmp_path: Path) -> None:
    keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    config = gguf_config(write_gguf(tmp_path / "a.gguf", "llama", keys))
    assert config.rope_parameters == LINEAR
    # 64 wide, 4 heads.
    assert config.head_dim == 16
    assert config.vocab_size == 8


def test_a_rope_factor_without_a_type_is_linear(tmp_path: Path) -> None:
    keys = {"llama.rope.scaling.factor": 4.0}
    config = gguf_config(write_gguf(tmp_path / "a.gguf", "llama", keys))
    assert config.rope_parameters == LINEAR


def test_pieces_have_the_order_of_the_merges(models: Build, tmp_path: Path) -> None:
    write_pieces(models("gemma"), tmp_path / "tokenizer.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = load_tokenizer(models("gemma"))
    for word in ("febre", "coração", "não\tuse", "água", "日"):
        assert model.encode(word) == tokenizer.encode(word, add_special_tokens=False)


def test_a_byte_level_tokenizer_has_no_pieces(models: Build, tmp_path: Path) -> None:
    write_pieces(models("olmo2"), tmp_path / "tokenizer.model")
    assert not (tmp_path / "tokenizer.model").exists()


def test_a_unigram_tokenizer_has_no_pieces(tmp_path: Path) -> None:
    state = {"model": {"type": "Unigram", "byte_fallback": True}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    write_pieces(tmp_path, tmp_path / "tokenizer.model")
    assert not (tmp_path / "tokenizer.model").exists()


@pytest.mark.parametrize("name", ["gemma", "gemma3", "olmo2"])
def test_a_file_keeps_the_tokenizer_of_its_model(name: str, models: Build, files: Export) -> None:
    expected = load_tokenizer(models(name))
    found = load_tokenizer(files(name, "bf16"))
    for text in ("A febre passou.\nBeba água,  não café!", "Olá, João: 日"):
        wanted = expected.encode(text, add_special_tokens=False)
        assert found.encode(text, add_special_tokens=False) == wanted
    assert found.eos_token == expected.eos_token


def write_tensor(path: Path, kind: gguf.GGMLQuantizationType, shape: tuple[int, ...]) -> Path:
    """Write a GGUF file with one tensor of a type that gguf can quantize."""
    writer = gguf.GGUFWriter(path, "llama")
    numbers = torch.zeros(shape).numpy()
    writer.add_tensor("a.weight", gguf.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


TYPES = gguf.GGMLQuantizationType
ALLOWED = [
    ("q8_0", TYPES.Q8_0, (4, 256)),
    ("q8_0", TYPES.F32, (256,)),
    # A row of 576 numbers, as SmolLM2 has, is no multiple of 256.
    ("q4_k_m", TYPES.Q5_0, (4, 576)),
    ("q4_k_m", TYPES.Q8_0, (4, 576)),
    # A row of 40 numbers is no multiple of 32.
    ("q4_k_m", TYPES.F16, (4, 40)),
]
REFUSED = [
    ("q8_0", TYPES.Q4_0, (4, 256)),
    ("q8_0", TYPES.F32, (4, 256)),
    ("q4_k_m", TYPES.Q5_0, (4, 512)),
    ("q4_k_m", TYPES.F16, (4, 576)),
    ("bf16", TYPES.F16, (4, 256)),
    ("q4_k_m", TYPES.F16, (256,)),
]


@pytest.mark.parametrize(("kind", "found", "shape"), ALLOWED)
def test_a_tensor_of_a_declared_type_is_accepted(
    kind: str, found: gguf.GGMLQuantizationType, shape: tuple[int, ...], tmp_path: Path
) -> None:
    refuse_other_types(kind, write_tensor(tmp_path / "a.gguf", found, shape))


@pytest.mark.parametrize(("kind", "found", "shape"), REFUSED)
def test_a_tensor_of_another_type_is_refused(
    kind: str, found: gguf.GGMLQuantizationType, shape: tuple[int, ...], tmp_path: Path
) -> None:
    file = write_tensor(tmp_path / "a.gguf", found, shape)
    with pytest.raises(UserError, match=rf"a\.weight is {found.name}, which is no part of {kind}"):
        refuse_other_types(kind, file)
