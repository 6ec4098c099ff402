"""Rebuild a model's configuration from the header of a GGUF file.

transformers 5.23 reads some keys of a header and ignores the others: biases, RoPE scaling, soft
caps, scales and windows. Here every key of the model is read, or the file is refused.
"""

from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_gguf_pytorch_utils import (
    Gemma2TensorProcessor,
    LlamaTensorProcessor,
    TensorProcessor,
)

from bula.errors import UserError
from bula.gguf_files import Header, Value, check_gguf, read_gguf

Settings = dict[str, Any]
ANOTHER_FILE = "use the model's directory, or another GGUF file"
# llama.cpp's keys after the name of the architecture, and transformers' names for them.
SHARED_KEYS = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
# The functions below read or check these keys.
OTHER_KEYS = {
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
TOKEN_KEYS = {
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.unknown_token_id": "unk_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}
ATTENTION_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias")
MLP_BIASES = ("ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")
# llama.cpp and transformers use this base if a file names no other.
ROPE_BASE = 10_000.0
# Numbers of layers of the 27B models, whose attention llama.cpp scales by the width of a head's
# share of the model; it scales the smaller models by the width of a head.
LARGE_GEMMA_LAYERS = {"gemma2": 46, "gemma3": 62}


class Family(NamedTuple):
    """Describe the GGUF files of one architecture.

    `keys` are further keys with transformers' names. `processor` undoes the converter's changes of
    values: Llama's order of query and key rows, and Gemma's 1 + weight in norms. `rope_tensors` are
    tensors that no parameter of the model receives.
    """

    model_type: str
    keys: dict[str, str]
    processor: type[TensorProcessor] = TensorProcessor
    rope_tensors: frozenset[str] = frozenset()
    has_attention_bias: bool = False
    has_mlp_bias: bool = False


FREQUENCY_FACTORS = frozenset({"rope_freqs.weight"})
LONG_ROPE_FACTORS = frozenset({"rope_factors_long.weight", "rope_factors_short.weight"})
GEMMA_WINDOW = {
    "attention.sliding_window": "sliding_window",
    "final_logit_softcapping": "final_logit_softcapping",
}
GRANITE_SCALES = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
COHERE_KEYS = {
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "logit_scale": "logit_scale",
}
# The architectures whose files are proven to be read with the logits of the converted model.
FAMILIES = {
    "llama": Family("llama", {}, LlamaTensorProcessor, FREQUENCY_FACTORS, True, True),
    "granite": Family(
        "granite", GRANITE_SCALES, LlamaTensorProcessor, FREQUENCY_FACTORS, True, True
    ),
    "smollm3": Family("smollm3", {}, LlamaTensorProcessor, FREQUENCY_FACTORS, True, True),
    "qwen2": Family("qwen2", {}),
    "qwen3": Family("qwen3", {}, has_attention_bias=True),
    "olmo2": Family("olmo2", {}, has_attention_bias=True),
    "command-r": Family("cohere", COHERE_KEYS, has_attention_bias=True),
    "phi3": Family(
        "phi3",
        {"attention.sliding_window": "sliding_window", "rope.scaling.attn_factor": ""},
        rope_tensors=LONG_ROPE_FACTORS,
    ),
    "gemma": Family("gemma", {}, Gemma2TensorProcessor),
    "gemma2": Family(
        "gemma2",
        GEMMA_WINDOW | {"attn_logit_softcapping": "attn_logit_softcapping"},
        Gemma2TensorProcessor,
    ),
    "gemma3": Family(
        "gemma3_text", GEMMA_WINDOW | {"rope.freq_base_swa": ""}, Gemma2TensorProcessor
    ),
}


def find_family(file: Path) -> Family:
    """Return the family of a GGUF file, or raise UserError if unreadable."""
    name = str(check_gguf(file).fields["general.architecture"])
    if name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        what = f"GGUF files of the architecture {name} cannot be read here (only {known})"
        raise UserError(file, what, "use the model's directory")
    return FAMILIES[name]


def gguf_config(file: Path) -> PreTrainedConfig:
    """Return the configuration of the model in a GGUF file.

    Raise a UserError if the file has a setting that would be lost.
    """
    family = find_family(file)
    header = check_gguf(file)
    prefix = f"{header.fields['general.architecture']}."
    keys = {
        name.removeprefix(prefix): value
        for name, value in header.fields.items()
        if name.startswith(prefix)
    }
    unknown = keys.keys() - SHARED_KEYS.keys() - family.keys.keys() - OTHER_KEYS
    if unknown:
        what = f"its setting {min(unknown)} cannot be read here and would be lost"
        raise UserError(file, what, ANOTHER_FILE)
    settings = _named(keys, SHARED_KEYS | family.keys)
    settings |= _named(header.fields, TOKEN_KEYS)
    settings |= _from_tensors(header, family)
    if "general.name" in header.fields:
        settings["_model_name_or_path"] = header.fields["general.name"]
    settings |= _heads(file, family, keys)
    settings["rope_parameters"] = _rope_parameters(file, family, keys)
    settings |= _gemma_settings(family, keys)
    if not settings.get("sliding_window", 1):
        # llama.cpp's converter writes 0 for a model without a window.
        settings["sliding_window"] = None
    return AutoConfig.for_model(family.model_type, **settings)


def _named(keys: dict[str, Value], names: dict[str, str]) -> Settings:
    """Return the values of the keys that have a name in transformers."""
    return {new: keys[old] for old, new in names.items() if new and old in keys}


def _from_tensors(header: Header, family: Family) -> Settings:
    """Return the settings that only the names and shapes of the tensors tell."""
    _, rows = header.tensors["token_embd.weight"]
    settings = {
        "vocab_size": rows,
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    if family.has_attention_bias:
        settings["attention_bias"] = _ends_any(header, ATTENTION_BIASES)
    if family.has_mlp_bias:
        settings["mlp_bias"] = _ends_any(header, MLP_BIASES)
    if family.model_type == "cohere":
        settings["use_qk_norm"] = _ends_any(header, ("attn_q_norm.weight",))
    return settings


def _ends_any(header: Header, endings: tuple[str, ...]) -> bool:
    """Return whether a tensor's name has one of the endings."""
    return any(name.endswith(endings) for name in header.tensors)


def _head_size(keys: dict[str, Value]) -> int:
    """Return the width of an attention head."""
    # check_gguf_model has checked that these are positive integers.
    share = _integer(keys, "embedding_length") // _integer(keys, "attention.head_count")
    return _integer(keys, "attention.key_length", _integer(keys, "rope.dimension_count", share))


def _integer(keys: dict[str, Value], name: str, default: int = 0) -> int:
    """Return an integer, or the default for a missing key or an array."""
    value = keys.get(name, default)
    return value if isinstance(value, int) else default


def _heads(file: Path, family: Family, keys: dict[str, Value]) -> Settings:
    """Return the size of a head; refuse sizes that transformers has no setting for."""
    size = _head_size(keys)
    share = _integer(keys, "embedding_length") // _integer(keys, "attention.head_count")
    rotated = _integer(keys, "rope.dimension_count", size)
    if family.model_type == "phi3":
        return {}
    if _integer(keys, "attention.value_length", size) != size or rotated != size:
        what = "its keys, values and rotated dimensions have different sizes"
        raise UserError(file, what, ANOTHER_FILE)
    if family.model_type == "llama" or size != share or "attention.key_length" in keys:
        return {"head_dim": size}
    return {}


def _rope_parameters(file: Path, family: Family, keys: dict[str, Value]) -> Settings:
    """Return transformers' RoPE parameters, by layer type for Gemma 3."""
    rope = _scaling(file, keys)
    rope["rope_theta"] = keys.get("rope.freq_base", ROPE_BASE)
    if family.model_type == "phi3":
        share = _integer(keys, "embedding_length") // _integer(keys, "attention.head_count")
        rope["partial_rotary_factor"] = _integer(keys, "rope.dimension_count", share) / share
        rope |= _long_rope(file, keys)
    if family.model_type == "gemma3_text":
        local = keys.get("rope.freq_base_swa", ROPE_BASE)
        window = {"rope_type": "default", "rope_theta": local}
        return {"full_attention": rope, "sliding_attention": window}
    return rope


def _scaling(file: Path, keys: dict[str, Value]) -> Settings:
    """Return the kind of RoPE scaling and its numbers.

    The frequency factors of Llama 3 are a tensor, which bula/gguf_repairs.py applies.
    """
    # As in llama.cpp, a factor without a type is linear.
    default = "linear" if "rope.scaling.factor" in keys else "none"
    kind = keys.get("rope.scaling.type", default)
    numbers = {
        "rope.scaling.factor": "factor",
        "rope.scaling.original_context_length": "original_max_position_embeddings",
        "rope.scaling.yarn_beta_fast": "beta_fast",
        "rope.scaling.yarn_beta_slow": "beta_slow",
    }
    if kind == "none" or kind == "longrope":
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": keys.get("rope.scaling.factor", 1.0)}
    if kind == "yarn":
        return {"rope_type": "yarn"} | _named(keys, numbers)
    raise UserError(file, f"its RoPE scaling {kind} cannot be read here", ANOTHER_FILE)


def _long_rope(file: Path, keys: dict[str, Value]) -> Settings:
    """Return the settings of Phi 3's long RoPE, or none."""
    if not check_gguf(file).tensors.keys() >= LONG_ROPE_FACTORS:
        return {}
    tensors = {tensor.name: tensor.data for tensor in read_gguf(file).tensors}
    return {
        "rope_type": "longrope",
        "long_factor": tensors["rope_factors_long.weight"].tolist(),
        "short_factor": tensors["rope_factors_short.weight"].tolist(),
        "attention_factor": keys.get("rope.scaling.attn_factor", 1.0),
        "original_max_position_embeddings": keys["rope.scaling.original_context_length"],
    }


def _gemma_settings(family: Family, keys: dict[str, Value]) -> Settings:
    """Return the attention scale of Gemma 2 and 3, which llama.cpp derives, too."""
    name = family.model_type.removesuffix("_text")
    if name not in LARGE_GEMMA_LAYERS:
        return {}
    scale = _head_size(keys)
    if keys["block_count"] == LARGE_GEMMA_LAYERS[name]:
        scale = _integer(keys, "embedding_length") // _integer(keys, "attention.head_count")
    return {"query_pre_attn_scalar": scale}
