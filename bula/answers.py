"""Define an answer, and remove a model's reasoning from it."""

from typing import NamedTuple

# The finish reason of an answer whose request failed every time.
FAILED = "failed"
# A reply with such a reason is incomplete. FAILED is our own mark, so no server may send it.
BROKEN_REASONS = (FAILED, "error", "abort")
# The tags around the reasoning that some models write before an answer.
REASONING_START = "<think>"
REASONING_END = "</think>"
# Token ids, one list per prompt.
Prompts = list[list[int]]


class Answer(NamedTuple):
    """One generated answer; its tokens include the end of turn and the reasoning.

    The finish reason is `stop` after an end token, `length` at the limit of new tokens, and
    `failed` if a server returned no answer.
    """

    text: str
    finish_reason: str
    completion_tokens: int
    reasoning_removed: bool = False
    """Whether the model wrote reasoning before this text."""


def without_reasoning(answer: Answer) -> Answer:
    """Return an answer without the blocks of reasoning before it.

    Reasoning without an end has used up the tokens of the answer, which is then empty and cut. Some
    chat templates write the start tag into the prompt, so an end tag alone also ends reasoning.
    """
    text = answer.text.lstrip()
    before, end, rest = text.partition(REASONING_END)
    starts = text.startswith(REASONING_START)
    if not starts and (not end or REASONING_START in before):
        return answer
    while rest.lstrip().startswith(REASONING_START):
        _, end, rest = rest.partition(REASONING_END)
    if end:
        return answer._replace(text=rest.strip(), reasoning_removed=True)
    return answer._replace(text="", finish_reason="length", reasoning_removed=True)
