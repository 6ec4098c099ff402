"""Compute the first tokens that rows share only once per batch.

Every prompt begins with the same system prompt: 56 of the demo corpus's 308 tokens per row. A batch
is therefore laid out as one packed row of the prefix and the rest of each row. Only attention needs
complete rows. In causal attention no token sees a later one, so the prefix has the same hidden
states in each row.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bula.scoring import UNSUPERVISED, Batch

# A shorter prefix saves less time than the copies to complete rows and back take.
MIN_SHARED_TOKENS = 16


class SharedPrefix(NamedTuple):
    """Layout of a batch of rows that begin with the same tokens."""

    length: int
    """Tokens of the prefix."""
    rows: int
    """Rows of the batch."""
    rest: int
    """Tokens of each row after the prefix, padding included."""

    def pack(self, x: Tensor) -> Tensor:
        """Turn complete rows (rows, length + rest, ...) into one packed row.

        The prefix is that of the first row. The shape is (1, length + rows * rest, ...).
        """
        prefix, rest = torch.split(x, [self.length, self.rest], dim=1)
        return torch.cat((prefix[0], rest.flatten(0, 1))).unsqueeze(0)

    def unpack(self, x: Tensor) -> Tensor:
        """Turn a packed row into complete rows, the inverse of `pack`."""
        prefix, rest = torch.split(x.squeeze(0), [self.length, self.rows * self.rest])
        repeated = prefix.expand(self.rows, *prefix.shape)
        return torch.cat((repeated, rest.view(self.rows, self.rest, *rest.shape[1:])), dim=1)


def find_shared_prefix(batch: Batch) -> SharedPrefix | None:
    """Return the layout of a batch, or None if rows share too few tokens.

    The prefix ends before the first position that predicts a supervised token.
    """
    ids = batch["input_ids"]
    rows, tokens = ids.shape
    if rows == 1 or "position_ids" in batch:
        return None
    same = (ids == ids[0]).all(0)
    predicts = (batch["labels"][:, 1:] != UNSUPERVISED).any(0)
    length = int((same[:-1] & ~predicts).long().cumprod(0).sum())
    if length < MIN_SHARED_TOKENS:
        return None
    return SharedPrefix(length, rows, tokens - length)


def shared_hidden(
    decoder: PreTrainedModel, batch: Batch, layout: SharedPrefix
) -> tuple[Tensor, Tensor]:
    """Return hidden states and targets of a batch with a shared prefix.

    The attention layers of the decoder receive the layout as the keyword `shared_prefix`.
    """
    ids = batch["input_ids"]
    positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    # transformers leaves a mask of four dimensions as it is, and the kernels ignore this one.
    unused_mask = torch.empty(1, 1, 0, 0, device=ids.device)
    output: Any = decoder(
        input_ids=layout.pack(ids),
        position_ids=layout.pack(positions),
        attention_mask=unused_mask,
        use_cache=False,
        shared_prefix=layout,
    )
    hidden: Tensor = output.last_hidden_state[0, layout.length :]
    rest = hidden.view(layout.rows, layout.rest, -1)
    targets = batch["labels"][:, layout.length + 1 :]
    supervised = targets != UNSUPERVISED
    return rest[:, :-1][supervised], targets[supervised]
