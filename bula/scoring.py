"""Batch encoded examples and compute the logits at their supervised tokens."""

from collections.abc import Iterator

import torch
from transformers import (
    PreTrainedModel,
)

from bula.prompts import Encoded

# Rows of the head's product made at once: 1,024 x 128,256 float32 logits of Llama 3.2 are 0.5 GB.
HEAD_CHUNK_ROWS = 1024


def unwrap_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def pad_batch(encoded: list[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels, right-padded: int64 tensors of shape (batch, longest)."""
    longest = max(len(item.input_ids) for item in encoded)
    rows = [(item.input_ids, item.labels, longest - len(item.input_ids)) for item in encoded]
    return {
        "input_ids": torch.tensor([ids + [pad_id] * gap for ids, _, gap in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * gap for ids, _, gap in rows]),
        "labels": torch.tensor([labels + [-100] * gap for _, labels, gap in rows]),
    }


def supervised_hidden(
    model: PreTrainedModel, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states at the positions that predict a supervised token, (n, hidden), and those tokens, (n,).

    The head is a quarter of a small model's work, so it is applied to these positions alone.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if "position_ids" not in inputs:
        # Right-padded and causal: no token that counts sees a padding token, so that the mask would only cost time.
        del inputs["attention_mask"]
    output = unwrap_adapter(model).model(**inputs, use_cache=False)
    targets = batch["labels"][:, 1:]
    mask = targets != -100
    return output.last_hidden_state[:, :-1][mask], targets[mask]


def batches_by_length(encoded: list[Encoded], batch_tokens: int) -> list[list[int]]:
    """Indices in batches of like length, longest first, each of at most `batch_tokens` padded tokens (or one item)."""
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i].input_ids), i))
    batches: list[list[int]] = []
    for index in order:
        longest = len(encoded[batches[-1][0]].input_ids) if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@torch.inference_mode()
def supervised_logits(
    model: PreTrainedModel, encoded: list[Encoded], pad_id: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits (n, vocabulary) in float32 and targets (n,) at the supervised tokens of one batch, HEAD_ROWS rows at a time.

    Rows follow the examples in their order, and each example's tokens in theirs.
    """
    batch = {name: tensor.to(model.device) for name, tensor in pad_batch(encoded, pad_id).items()}
    hidden, targets = supervised_hidden(model, batch)
    head = unwrap_adapter(model).get_output_embeddings()
    for start in range(0, len(targets), HEAD_CHUNK_ROWS):
        yield (
            head(hidden[start : start + HEAD_CHUNK_ROWS]).float(),
            targets[start : start + HEAD_CHUNK_ROWS],
        )
