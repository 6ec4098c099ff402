"""Generate greedy answers with transformers, in left-padded batches.

The generate stage, `python -m bula ask` and bench/engines.py share this code, so that they stop at
the same tokens and pad in the same way.
"""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bula.models import end_token_ids


def batches_of_prompts(prompts: list[list[int]], batch_size: int) -> list[list[int]]:
    """Return the indices of the prompts in batches of similar length.

    The shortest prompts come first. Prompts of similar length need little padding.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    starts = range(0, len(order), batch_size)
    return [order[start : start + batch_size] for start in starts]


@torch.inference_mode()
def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    """Return the new token ids of each prompt.

    The prompts form one batch. An answer stops at its first end token, which is returned too, or
    after `max_new_tokens` tokens.
    """
    longest = max(len(prompt) for prompt in prompts)
    pad_id = tokenizer.pad_token_id
    end_ids = end_token_ids(tokenizer)
    ids = []
    mask = []
    for prompt in prompts:
        # Padding on the left puts the last token of every prompt next to its first new token.
        padding = longest - len(prompt)
        ids.append([pad_id] * padding + prompt)
        mask.append([0] * padding + [1] * len(prompt))
    output = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=end_ids,
        pad_token_id=pad_id,
    )
    new_ids = output[:, longest:].tolist()
    return [until_end(row, end_ids) for row in new_ids]


def until_end(ids: list[int], end_ids: list[int]) -> list[int]:
    """Return the ids up to and including the first end token.

    transformers pads the answers that stop before the longest answer of their batch.
    """
    for place, token in enumerate(ids):
        if token in end_ids:
            return ids[: place + 1]
    return ids
