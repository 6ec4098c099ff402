"""Read a cell with the messages of a conversation as turns."""

import json
from typing import Any

from bula.records import Row
from stages.ingest.reading import NOT_UTF_8, SURROGATE

ROLES = ("user", "assistant")
# Roles of ShareGPT's messages, which have the keys `from` and `value`.
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
# Fields by which a message is more than its text.
CALLS = ("tool_calls", "function_call")


def read_turns(cells: list[object]) -> list[Row] | str:
    """Return the turns of a conversation, or why it is refused.

    Each cell has messages, and those of the second cell follow those of the first.
    A system message at the start is dropped, because the project has its own system prompt. The
    reason has no words of the conversation.
    """
    messages: list[Any] = []
    for cell in cells:
        part = parse_messages(cell)
        if not isinstance(part, list):
            return f"{type(cell).__name__} and not a list of messages"
        messages += part
    for message in messages:
        if reason := _unusable_message(message):
            return reason
    messages = _without_system(messages)
    roles = [message["role"] for message in messages]
    if not roles or roles != list(ROLES) * (len(roles) // 2):
        return "user and assistant do not alternate up to an answer"
    return _pair_messages(messages)


def parse_messages(cell: object) -> object:
    """Return the messages of a list, or of its JSON text in a table.

    Each has role and content. Another cell is returned unchanged.
    """
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return [_plain_message(message) for message in cell] if isinstance(cell, list) else cell


def _plain_message(message: Any) -> Any:
    """Return a message of ShareGPT's form with role and content."""
    if not isinstance(message, dict) or "from" not in message or "role" in message:
        return message
    role = message["from"]
    name = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
    return message | {"role": name, "content": message.get("value")}


def _without_system(messages: list[Row]) -> list[Row]:
    """Return the messages after a system message at the start."""
    has_system = bool(messages) and messages[0]["role"] == "system"
    return messages[1:] if has_system else messages


def _pair_messages(messages: list[Row]) -> list[Row]:
    """Return the turns of alternating messages of user and assistant."""
    turns = []
    for question, answer in zip(messages[::2], messages[1::2], strict=True):
        turns.append({"question": question["content"], "answer": answer["content"]})
    return turns


def _unusable_message(message: Any) -> str:
    """Return why a message cannot be used, or an empty string."""
    if not isinstance(message, dict):
        return "a message is not an object"
    if any(message.get(name) for name in CALLS):
        return "a message calls a tool"
    if message.get("role") not in ("system", *ROLES):
        return "a message has another role than system, user or assistant"
    if message.get("weight") == 0:
        return "a message has the weight 0"
    return _unusable_content(message.get("content"))


def _unusable_content(content: object) -> str:
    """Return why the content of a message cannot be used, or an empty string."""
    if not isinstance(content, str):
        return "the content of a message is not text"
    if not content.strip():
        return "a message is empty"
    return NOT_UTF_8 if SURROGATE.search(content) else ""
