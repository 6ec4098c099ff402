"""Repair what transformers misreads in GGUF files."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bula.gguf_files import read_gguf


def rope_factors(file: Path) -> torch.Tensor | None:
    """Return the RoPE frequency factors stored in a GGUF file, (head size / 2,), or None."""
    for tensor in read_gguf(file).tensors:
        if tensor.name == "rope_freqs.weight":
            return torch.tensor(tensor.data)
    return None


def apply_rope_factors(model: PreTrainedModel, file: Path) -> None:
    """Divide the rotary frequencies by the factors that a GGUF file has for them, in place.

    llama.cpp keeps the scaling of Llama 3.1 and 3.2 as a tensor, which transformers 5.23 does not read: it would score these
    models with the frequencies of Llama 3.0.
    """
    if (factors := rope_factors(file)) is not None:
        rotary = model.model.rotary_emb
        rotary.inv_freq = rotary.inv_freq / factors.to(rotary.inv_freq.device)
        rotary.original_inv_freq = rotary.inv_freq


def drop_unknown_tokens(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Forget added tokens that a GGUF file does not hold, in place.

    transformers 5.23 gives Llama 3's an <|endoftext|> beyond the last row of the embeddings: a text with these words would be read
    past the end of the weights, under this variant alone.
    """
    if max(tokenizer.added_tokens_decoder, default=0) < len(tokenizer) - 1:
        return
    size = len(read_gguf(file).fields["tokenizer.ggml.tokens"].data)
    if len(tokenizer) > size:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < size]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
