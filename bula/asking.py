"""Stream answers to single questions, as evaluation prompts and decodes.

transformers answers for a model directory and llama.cpp for a GGUF file, as in the stage generate,
so a greedy answer is the same text there and here. Each stream yields the complete answer so far,
so that a page can show it as it is and a terminal can print what is new.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from bula.answers import REASONING_START, Answer, without_reasoning
from bula.errors import UserError
from bula.judge_prompt import as_data
from bula.params import Params, Variant
from bula.server_answers import Asked, draw_seed, request_fields
from bula.serving import Placement, count_servers, open_client, serve_llama_cpp

if TYPE_CHECKING:
    import openai
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Tokens of a prompt; a longer question is refused before the model reads it.
LONGEST_PROMPT = 1024
SHORTER = "ask in fewer words"
# `where` of the error for a question that is too long.
QUESTION = "the question"
# The end of a text whose last character lacks bytes.
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# Returns the stream of answers so far to a question.
Ask: TypeAlias = "Callable[[str], Iterator[str]]"


class Local(NamedTuple):
    """A model directory in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    params: Params
    tokens: int
    """Longest answer in tokens."""
    lock: threading.Lock
    """Held during an answer, because `generate` changes the model's configuration."""


class Served(NamedTuple):
    """A GGUF file that llama.cpp serves."""

    client: openai.OpenAI
    tokenizer: PreTrainedTokenizerBase
    variant: Variant
    params: Params


@contextmanager
def open_models(paths: Sequence[Path], params: Params, tokens: int) -> Iterator[list[Ask]]:
    """Load models, and yield one function per model that answers a question.

    `tokens` is the longest answer. Raise UserError if a model is missing or broken.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_open_model(path, params, tokens)) for path in paths]


@contextmanager
def _open_model(path: Path, params: Params, tokens: int) -> Iterator[Ask]:
    """Load one model, and yield the function that answers a question."""
    from bula.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(path)
    if path.suffix != ".gguf":
        model = load_model(path, params.dtype)
        yield partial(_ask_local, Local(model, tokenizer, params, tokens, threading.Lock()))
        return
    limits = params.generate.model_copy(update={"max_new_tokens": tokens})
    params = params.model_copy(update={"generate": limits})
    placement = Placement(limits.gpu_layers, limits.gpu_servers)
    context = LONGEST_PROMPT + tokens
    # llama.cpp's rounding depends on the threads, so a server has as many as one in evaluation.
    processors = len(os.sched_getaffinity(0))
    threads = processors // count_servers(limits.parallel, processors, placement)
    with (
        serve_llama_cpp(path, 1, context, placement=placement, threads=threads) as [endpoint],
        open_client(endpoint) as client,
    ):
        # A model on the command line may lie anywhere, which params.yaml does not allow.
        variant = Variant.model_construct(model=str(path), engine="llama.cpp")
        yield partial(_ask_served, Served(client, tokenizer, variant, params))


def encode_question(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Return the token ids of a prompt.

    The question has no control token in it. Raise UserError if the prompt has more than
    LONGEST_PROMPT tokens.
    """
    from bula.prompts import encode_prompt

    prompt = encode_prompt(tokenizer, as_data(question))
    if len(prompt) > LONGEST_PROMPT:
        what = f"it has {len(prompt)} tokens with its prompt, and {LONGEST_PROMPT} are allowed"
        raise UserError(QUESTION, what, SHORTER)
    return prompt


def visible(text: str) -> str:
    """Return the part of an unfinished answer that a reader may see.

    Reasoning and the bytes of half a character are held back.
    """
    text = text.rstrip(INCOMPLETE).strip()
    if text and REASONING_START.startswith(text):
        return ""
    return without_reasoning(Answer(text, "length", 0)).text


def together(streams: Sequence[Iterator[str]]) -> Iterator[list[str]]:
    """Yield the answers so far of several streams, each of which advances in turn."""
    texts = [""] * len(streams)
    running = dict(enumerate(streams))
    while running:
        for place, stream in list(running.items()):
            try:
                texts[place] = next(stream)
            except StopIteration:
                del running[place]
        yield list(texts)


def _ask_local(local: Local, question: str) -> Iterator[str]:
    """Yield the answer so far of transformers."""
    prompt = encode_question(local.tokenizer, question)
    ids: list[int] = []
    for token in _stream_ids(local, prompt):
        ids.append(token)
        yield visible(local.tokenizer.decode(ids, skip_special_tokens=True))


class _StoppedError(Exception):
    """Nobody reads the answer any more."""


class _Streamer:
    """Hand each new id from the thread that generates to the thread that reads."""

    def __init__(self) -> None:
        self.found: SimpleQueue[int | BaseException | None] = SimpleQueue()
        self.stop = threading.Event()
        self.has_prompt = False

    def put(self, ids: Any) -> None:
        """Receive the ids of the prompt, and then each new id."""
        if self.stop.is_set():
            raise _StoppedError
        if self.has_prompt:
            for token in ids.flatten().tolist():
                self.found.put(token)
        self.has_prompt = True

    def end(self) -> None:
        """Receive the end of the answer, which the thread itself reports."""


def _stream_ids(local: Local, prompt: list[int]) -> Iterator[int]:
    """Yield the ids of an answer; a reader who leaves stops the generation."""
    streamer = _Streamer()
    thread = threading.Thread(target=_generate, args=(local, prompt, streamer), daemon=True)
    thread.start()
    try:
        while True:
            found = streamer.found.get()
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        streamer.stop.set()
        thread.join()


def _generate(local: Local, prompt: list[int], streamer: _Streamer) -> None:
    """Generate one answer, and put None or the exception at its end."""
    import torch

    from bula.generation import generate_batch

    end: BaseException | None = None
    rules = local.params.generate.decoding
    try:
        with local.lock:
            if rules.temperature:
                torch.manual_seed(draw_seed(local.params.sampling_seed, [prompt]))
            generate_batch(local.model, local.tokenizer, [prompt], local.tokens, rules, streamer)
    except _StoppedError:
        pass
    except (
        ArithmeticError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # The reader's thread raises it.
        end = error
    finally:
        streamer.found.put(end)


def _ask_served(served: Served, question: str) -> Iterator[str]:
    """Yield the answer so far of llama.cpp.

    Raise UserError if the server refuses the request.
    """
    import openai

    prompt = encode_question(served.tokenizer, question)
    fields = request_fields(served.variant, served.params, [], Asked([prompt], []))(prompt)
    text = ""
    try:
        with served.client.completions.create(
            model="model", prompt=prompt, stream=True, extra_body=fields
        ) as stream:
            for chunk in stream:
                text += chunk.choices[0].text
                yield visible(text)
    except openai.APIConnectionError:
        # serve_llama_cpp says why its server is gone.
        raise
    except openai.OpenAIError as error:
        what = f"llama.cpp refused the question ({type(error).__name__})"
        raise UserError(served.variant.model, what, SHORTER) from error
