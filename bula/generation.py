"""Generate greedy answers with transformers, in left-padded batches."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bula.models import end_token_ids


@torch.inference_mode()
def generate_greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
) -> list[list[int]]:
    """Return the new token ids of each prompt, the end-of-turn token included.

    The prompts form one batch. Prompts of equal length need no padding, so sort them by length.
    """
    longest = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id
    ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    ends = end_token_ids(tokenizer)
    output = model.generate(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=pad,
    )
    return [_until_end(row[longest:].tolist(), ends) for row in output]


def _until_end(ids: list[int], ends: list[int]) -> list[int]:
    """Return the ids up to and including the first end token."""
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1]
    return ids
