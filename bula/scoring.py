"""Batch encoded examples and compute the logits at their supervised tokens.

Training and scoring share this code, so that both see the same padding and the same positions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from bula.errors import UserError
from bula.prompts import Encoded

# Rows per matmul of the head: 1,024 rows of Llama 3.2's 128,256 float32 logits take 0.5 GB.
HEAD_CHUNK_ROWS = 1024
# Tokens of a comparison of two ways to compute logits.
PROBE_TOKENS = 3
# Both ways run the same matmuls on the same values, so they differ by a few roundings at most.
PROBE_ROUNDINGS = 8
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


def find_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part of a model that computes the last hidden states.

    Raise UserError if transformers finds no such part.
    """
    base = unwrap_adapter(model)
    decoder = base.get_decoder()
    if decoder is base:
        raise _unknown_head(base, "has no decoder apart from its head")
    return decoder


def _unknown_head(model: PreTrainedModel, what: str) -> UserError:
    """Return the UserError for a model whose head cannot be applied alone."""
    fix = "choose a base model of another architecture"
    return UserError(model.name_or_path or "the model", f"{type(model).__name__} {what}", fix)


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
    output = find_decoder(model)(**inputs, use_cache=False)
    targets = batch["labels"][:, 1:]
    supervised = targets != UNSUPERVISED
    hidden = output.last_hidden_state[:, :-1]
    return hidden[supervised], targets[supervised]


@contextmanager
def replaced_forward(layer: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward function of a layer."""
    attributes = vars(layer)
    had_own = "forward" in attributes
    own = layer.forward
    layer.forward = function
    try:
        yield
    finally:
        # The class defines the forward function unless a library has already replaced it.
        del layer.forward
        if had_own:
            layer.forward = own


@dataclass
class _GivenHidden(MoeModelOutputWithPast):  # type: ignore[misc]
    """Output of a decoder, with every optional part that a forward function may read."""

    cross_attentions: None = None
    cache_params: None = None


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return the logits (n, vocabulary) of last hidden states (n, width).

    The model's own forward function computes them after a decoder that returns `hidden`, so a
    scale, bias, or softcap of the architecture is applied. Raise UserError if that function does
    not call the decoder exactly once.
    """
    base = unwrap_adapter(model)
    calls = 0

    def return_hidden(*_: Any, **__: Any) -> _GivenHidden:
        nonlocal calls
        calls += 1
        return _GivenHidden(last_hidden_state=hidden.unsqueeze(0))

    ids = torch.zeros(1, len(hidden), dtype=torch.int64, device=hidden.device)
    with replaced_forward(find_decoder(base), return_hidden):
        # A call of the model would run its hooks again inside its forward pass.
        logits: Tensor = base.forward(input_ids=ids, use_cache=False).logits
    if calls != 1:
        raise _unknown_head(base, f"calls its decoder {calls} times in a forward pass")
    return logits.squeeze(0)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Check that `head_logits` returns the model's own logits.

    Raise UserError if it does not.
    """
    base = unwrap_adapter(model)
    was_training = base.training
    # Dropout would change the hidden states between the two passes.
    base.eval()
    ids = torch.arange(PROBE_TOKENS, device=base.device).unsqueeze(0)
    own = base.forward(input_ids=ids, use_cache=False).logits[0].float()
    hidden = find_decoder(base)(input_ids=ids, use_cache=False).last_hidden_state[0]
    found = head_logits(base, hidden).float()
    base.train(was_training)
    tolerance = PROBE_ROUNDINGS * torch.finfo(base.dtype).eps
    apart = (found - own).abs().max()
    # The negation refuses NaN, too.
    if not apart <= tolerance * own.abs().max():
        raise _unknown_head(base, "returns other logits when its head is applied alone")


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
    for start in range(0, len(targets), HEAD_CHUNK_ROWS):
        rows = slice(start, start + HEAD_CHUNK_ROWS)
        logits = head_logits(model, hidden[rows])
        yield logits.float(), targets[rows]
