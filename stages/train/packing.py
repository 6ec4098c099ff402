"""Keep packed examples apart where no FlashAttention does it.

TRL packs several examples into one row, with positions that restart at each example. transformers
derives from these positions a mask in which no example sees another.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from bula.errors import UserError
from bula.scoring import find_decoder


def keep_rows_apart(collator: DataCollatorForLanguageModeling) -> None:
    """Let TRL's collator keep each packed row a row of the batch.

    For packing the collator joins the rows into one. FlashAttention gains from that, but the mask
    of other attention kernels grows with the square of the row.
    """
    collator.padding_free = False
    collator.return_position_ids = True


@torch.no_grad()
def refuse_mixed_examples(model: PreTrainedModel) -> None:
    """Raise UserError if the model mixes packed examples.

    The model runs two rows of two examples each. The second example is the same in both rows, so
    its hidden states must be the same, too.
    """
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]], device=model.device)
    first = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]], device=model.device)
    second = torch.tensor([[8, 7, 6, 5, 5, 6, 7, 8]], device=model.device)
    model.eval()
    decoder = find_decoder(model)
    states = []
    for ids in (first, second):
        output = decoder(input_ids=ids, position_ids=positions, use_cache=False)
        states.append(output.last_hidden_state[:, 4:])
    if not torch.allclose(states[0], states[1], rtol=1e-3, atol=1e-3):
        what = f"train.packing is true, and {type(model).__name__} mixes packed examples"
        raise UserError("params.yaml", what, "set train.packing to false")


def drop_padding_mask(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch without its padding mask if it has position ids.

    transformers separates packed examples by their positions only where no other mask is present.
    Padding lies on the right, where no supervised token sees it.
    """
    kept = dict(inputs)
    if "position_ids" in kept:
        kept.pop("attention_mask", None)
    return kept
