"""Read all tensors of a GGUF file, and repair its tokenizer.

transformers 5.23 ignores tensors and settings of some GGUF files. The configuration here comes from
bula/gguf_config.py, and every tensor of the file reaches the model or is reported.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

from bula.gguf_config import Family, find_family, gguf_config
from bula.gguf_files import Items, check_gguf, read_gguf


def model_parts(file: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Return the configuration and the tensors of a GGUF file.

    They are the arguments `config` and `state_dict` of from_pretrained. The weights are unpacked to
    float32 and rounded to `dtype`. A tensor that the model lacks keeps its name in the file, so
    that from_pretrained reports it.
    """
    config = gguf_config(file)
    weights = _weights(file, find_family(file), config, dtype)
    return {"config": config, "state_dict": weights}


def _weights(
    file: Path, family: Family, config: PreTrainedConfig, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return a file's tensors by transformers' names."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    processor = family.processor(config=config.to_dict())
    # The mapping of the submodules takes seconds, and these families do not need it.
    without_children = SimpleNamespace(
        config=config, state_dict=empty.state_dict, named_children=list
    )
    names = get_gguf_hf_weights_map(without_children, processor)
    weights = {}
    for tensor in read_gguf(file).tensors:
        if tensor.name in family.rope_tensors:
            continue
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
        numbers = processor.process(numbers, tensor.name).weights
        name = names.get(tensor.name, tensor.name)
        weights[name] = torch.from_numpy(np.copy(numbers)).to(dtype)
    return weights


def rope_factors(file: Path) -> torch.Tensor | None:
    """Return the RoPE frequency factors of a GGUF file, or None.

    The shape is (head size / 2,).
    """
    if "rope_freqs.weight" not in check_gguf(file).tensors:
        return None
    tensors = {tensor.name: tensor.data for tensor in read_gguf(file).tensors}
    return torch.tensor(tensors["rope_freqs.weight"])


def apply_rope_factors(model: PreTrainedModel, file: Path) -> None:
    """Divide RoPE frequencies by a GGUF file's factors, in place.

    llama.cpp stores the RoPE scaling of Llama 3.1 and 3.2 as a tensor that transformers does not
    read. Without this repair, these models would be scored with the frequencies of Llama 3.0.
    """
    factors = rope_factors(file)
    if factors is None:
        return
    rotary = model.model.rotary_emb
    rotary.inv_freq = rotary.inv_freq / factors.to(rotary.inv_freq.device)
    rotary.original_inv_freq = rotary.inv_freq


def drop_unknown_tokens(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Remove added tokens that a GGUF file lacks, in place.

    transformers adds <|endoftext|> to Llama 3's tokenizer, after the last row of the embeddings. A
    text with this token would make the model read past the end of its weights.
    """
    last_added = max(tokenizer.added_tokens_decoder, default=0)
    if last_added < len(tokenizer) - 1:
        return
    tokens = check_gguf(file).fields["tokenizer.ggml.tokens"]
    if not isinstance(tokens, Items) or len(tokenizer) <= tokens.length:
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["id"] < tokens.length
    ]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
