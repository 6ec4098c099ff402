"""Repair what transformers 5.23 misreads in GGUF files."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bula.gguf_files import read_gguf


def rope_factors(file: Path) -> torch.Tensor | None:
    """Return the RoPE frequency factors of a GGUF file, or None.

    The shape is (head size / 2,).
    """
    for tensor in read_gguf(file).tensors:
        if tensor.name == "rope_freqs.weight":
            return torch.tensor(tensor.data)
    return None


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
    size = len(read_gguf(file).fields["tokenizer.ggml.tokens"].data)
    if len(tokenizer) <= size:
        return
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < size]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
