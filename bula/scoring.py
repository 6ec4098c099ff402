"""Batch encoded examples and compute the logits at their supervised tokens.

Training and scoring share this code, so that both see the same padding and the same positions.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bula.prompts import Encoded

# Rows per matmul of the head: 1,024 rows of Llama 3.2's 128,256 float32 logits take 0.5 GB.
HEAD_CHUNK_ROWS = 1024
# The label of a position that is not supervised, as in torch's cross-entropy loss.
UNSUPERVISED = -100


Batch = dict[str, Tensor]


def unwrap_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """Return the transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def pad_batch(encoded: list[Encoded], pad_id: int) -> Batch:
    """Return right-padded input_ids, attention_mask and labels.

    Each is an int64 tensor of shape (batch, longest).
    """
    ids = [item.input_ids for item in encoded]
    labels = [item.labels for item in encoded]
    mask = [[1] * len(row) for row in ids]
    return {
        "input_ids": _pad(ids, pad_id),
        "attention_mask": _pad(mask, 0),
        "labels": _pad(labels, UNSUPERVISED),
    }


def _pad(rows: list[list[int]], value: int) -> Tensor:
    """Return rows as one tensor, padded on the right with `value`."""
    longest = max(len(row) for row in rows)
    padded = []
    for row in rows:
        padding = [value] * (longest - len(row))
        padded.append(row + padding)
    return torch.tensor(padded)


def supervised_hidden(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return last hidden states and the supervised tokens that they predict.

    The shapes are (n, hidden) and (n,). The head is a quarter of a small model's work, so it is
    applied to these positions only.
    """
    inputs = dict(batch)
    del inputs["labels"]
    if "position_ids" not in inputs:
        # No supervised token sees padding on its right, so the mask would only cost time.
        del inputs["attention_mask"]
    output = unwrap_adapter(model).model(**inputs, use_cache=False)
    targets = batch["labels"][:, 1:]
    supervised = targets != UNSUPERVISED
    hidden = output.last_hidden_state[:, :-1]
    return hidden[supervised], targets[supervised]


def batches_by_length(encoded: list[Encoded], batch_tokens: int) -> list[list[int]]:
    """Return indices in batches of similar length, longest first.

    A batch has at most `batch_tokens` tokens, padding included. A longer item is its own batch.
    """
    lengths = [len(item.input_ids) for item in encoded]
    # The sort is stable: items of equal length keep their order.
    order = sorted(range(len(encoded)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        if batches and _fits(lengths, batches[-1], batch_tokens):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _fits(lengths: list[int], batch: list[int], batch_tokens: int) -> bool:
    """Return whether another item fits into a batch.

    The first item of the batch is the longest, and the other items are padded to its length.
    """
    longest = lengths[batch[0]]
    padded_tokens = (len(batch) + 1) * longest
    return padded_tokens <= batch_tokens


@torch.inference_mode()
def supervised_logits(
    model: PreTrainedModel, encoded: list[Encoded], pad_id: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float32 logits and targets of a batch's supervised tokens.

    Their shapes are (n, vocabulary) and (n,), with n at most HEAD_CHUNK_ROWS. Rows follow the order
    of the examples and of their tokens.
    """
    padded = pad_batch(encoded, pad_id)
    batch = {name: tensor.to(model.device) for name, tensor in padded.items()}
    hidden, targets = supervised_hidden(model, batch)
    head = unwrap_adapter(model).get_output_embeddings()
    for start in range(0, len(targets), HEAD_CHUNK_ROWS):
        rows = slice(start, start + HEAD_CHUNK_ROWS)
        logits = head(hidden[rows])
        yield logits.float(), targets[rows]
