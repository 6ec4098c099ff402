"""Compare the tokens and the answers of llama.cpp with those of transformers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bula.errors import UserError
from bula.generation import generate_greedy
from bula.models import end_token_ids
from bula.prompts import has_system_role, render_text, to_chat
from bula.serving import open_client, serve_llama_cpp
from stages.dry_run.trial import ANSWER_TOKENS, OTHER_BASE, PAIRS, Trial

# llama.cpp rounds activations to bfloat16, which moves a logit by about 1 % of the logits' spread.
TIE_SHARE = 0.1

# Sends a body to a path of a server, and returns the reply.
Ask = Callable[[str, dict[str, Any]], Any]


def check_tokens(trial: Trial, ask: Ask) -> None:
    """Raise UserError if llama.cpp splits a chat into other tokens."""
    has_system = has_system_role(trial.tokenizer)
    for question, answer in PAIRS:
        chat = to_chat(question, answer, has_system=has_system)
        text = render_text(trial.tokenizer, chat, prompt=False)
        wanted = trial.tokenizer(text, add_special_tokens=False)["input_ids"]
        body = {"content": text, "add_special": False, "parse_special": True}
        found = ask("/tokenize", body)["tokens"]
        if wanted != found:
            place = first_difference(wanted, found)
            here = trial.tokenizer.decode(wanted[place : place + 1])
            start = f"from token {place + 1} on ({here!r})"
            what = f"llama.cpp splits a chat into other tokens than the tokenizer, {start}"
            raise UserError("bf16.gguf", what, OTHER_BASE)


def check_answers(trial: Trial, model: PreTrainedModel, ask: Ask) -> int:
    """Compare the greedy tokens of llama.cpp and transformers.

    Return the number of tokens. Two tokens with nearly equal
    logits count as equal, since rounding then decides. Raise UserError at the first other
    difference.
    """
    compared = 0
    for prompt in [item.prompt for item in trial.encoded]:
        found = answer(trial, ask, prompt)
        [generated] = generate_greedy(model, trial.tokenizer, [prompt], ANSWER_TOKENS)
        wanted = with_one_end(trial.tokenizer, generated)
        refuse_other_answer(model, prompt, wanted, found)
        compared += len(wanted)
    return compared


def with_one_end(tokenizer: PreTrainedTokenizerBase, answer: list[int]) -> list[int]:
    """Return an answer whose end token, if it has one, is the tokenizer's own."""
    if answer and answer[-1] in end_token_ids(tokenizer):
        return [*answer[:-1], int(tokenizer.eos_token_id)]
    return answer


@contextmanager
def open_llama_cpp(trial: Trial, file: Path, adapters: Sequence[Path] = ()) -> Iterator[Ask]:
    """Yield a function that sends a request to llama.cpp and returns its reply.

    `adapters` are added to the model in `file`.
    """
    context_tokens = max(len(item.prompt) for item in trial.encoded) + ANSWER_TOKENS
    with (
        serve_llama_cpp(file, 1, context_tokens, float32=True, adapters=adapters) as [endpoint],
        open_client(endpoint) as client,
    ):
        address = endpoint.url.removesuffix("/v1")

        def ask(path: str, body: dict[str, Any]) -> Any:
            return client.post(f"{address}{path}", cast_to=object, body=body)

        yield ask


def answer(trial: Trial, ask: Ask, prompt: list[int]) -> list[int]:
    """Return the greedy answer of llama.cpp."""
    body = {
        "prompt": prompt,
        "n_predict": ANSWER_TOKENS,
        "temperature": 0,
        "return_tokens": True,
    }
    return tokens_of(trial.tokenizer, ask("/completion", body))


def tokens_of(tokenizer: PreTrainedTokenizerBase, reply: dict[str, Any]) -> list[int]:
    """Return the tokens of a reply, with an end token that llama.cpp leaves out."""
    ids = list(reply["tokens"])
    if reply["stop_type"] == "limit":
        return ids
    if ids and ids[-1] in end_token_ids(tokenizer):
        ids.pop()
    return [*ids, int(tokenizer.eos_token_id)]


@torch.inference_mode()
def refuse_other_answer(
    model: PreTrainedModel, prompt: list[int], wanted: list[int], found: list[int]
) -> None:
    """Raise UserError unless two answers are equal up to a tie."""
    if wanted == found:
        return
    place = first_difference(wanted, found)
    ids = torch.tensor([prompt + wanted[:place]]).to(model.device)
    if place == min(len(wanted), len(found)):
        what = f"llama.cpp answers with {len(found)} tokens, transformers with {len(wanted)}"
        raise UserError("bf16.gguf", what, OTHER_BASE)
    logits = model(input_ids=ids).logits[0, -1]
    gap = float(logits[wanted[place]] - logits[found[place]])
    limit = TIE_SHARE * float(logits.std())
    # A comparison with NaN is false.
    if not gap <= limit:
        logit = f"its logit is {gap:.2g} below the largest (limit {limit:.2g})"
        what = f"llama.cpp prefers another token than transformers at token {place + 1}: {logit}"
        raise UserError("bf16.gguf", what, OTHER_BASE)


def first_difference(first: list[int], second: list[int]) -> int:
    """Return the number of equal tokens before the first difference."""
    shorter = min(len(first), len(second))
    places = [place for place in range(shorter) if first[place] != second[place]]
    return min(places, default=shorter)
