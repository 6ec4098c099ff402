"""Ask servers for answers: vLLM, llama.cpp, or any OpenAI-compatible server.

vLLM and llama.cpp receive the prompt as token ids. Any other server receives messages
(bula/api_answers.py). Each distinct prompt is asked once. A failed request is sent again, and too
many failures stop the stage.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tqdm import tqdm

from bula.answers import FAILED, Answer, Prompts, without_reasoning
from bula.api_answers import (
    RequestError,
    ask_chat,
    chat_fields,
    check_finish_reason,
    connect,
    use_server,
)
from bula.errors import UserError
from bula.files import sha256_values
from bula.params import Decoding, Params, Variant
from bula.serving import (
    Endpoint,
    Lend,
    Placement,
    VllmSettings,
    client_pool,
    open_client,
    serve_llama_cpp,
    serve_vllm,
)

if TYPE_CHECKING:
    import openai

RERUN = "check that the machine has free memory, and run the stage again"
ASK_AGAIN = "check that the server works and accepts these requests, and run the stage again"
# A request that fails is sent again after 1 s, and then after 2 s.
ATTEMPTS = 3
PAUSE_SECONDS = 1.0
# So many requests in a row without an answer show that the server is gone.
STOP_AFTER = 10
# The same prompts as messages, for servers that apply their own chat template.
Chats = list[list[dict[str, str]]]
# Starts servers for a model, a number of concurrent requests, and the tokens of the longest.
Serve = Callable[[Path, int, int], AbstractContextManager[list[Endpoint]]]
# Starts the servers of a model.
Start = Callable[[], AbstractContextManager[list[Endpoint]]]
# Returns the fields of the request for a prompt.
Fields = Callable[[list[int]], dict[str, Any]]
# Returns the answer of a model, by its name, to one prompt with the fields of the request.
Complete: TypeAlias = "Callable[[openai.OpenAI, str, list[int], dict[str, Any]], Answer]"
# Receives the answers to a batch of prompts as soon as they are complete.
Keep = Callable[[Prompts, list[Answer]], None]


class Asked(NamedTuple):
    """The prompts of one stage, as token ids and as messages."""

    prompts: Prompts
    chats: Chats


class Servers(NamedTuple):
    """The servers of one model, and how they are used."""

    name: str
    """Name of the model in requests and in errors."""
    start: Start
    """Starts the servers."""
    parallel: int
    """Concurrent requests."""
    questions: Counter[tuple[int, ...]]
    """Number of questions with each prompt."""
    most_failures: int
    """Largest number of questions that may have no answer."""
    complete: Complete
    """Sends one request."""
    connect: Callable[[Endpoint], openai.OpenAI]
    """Opens the client of an endpoint."""
    fix: str
    """Advice after too many failures."""


class Failures(NamedTuple):
    """The failed requests of one run."""

    reasons: list[str]
    """One reason per question without an answer."""
    in_a_row: list[str]
    """The reasons since the last answer, without refusals of single questions."""
    answered: threading.Event
    """Set after the first answer."""
    stop: threading.Event
    """Set when no further request may start."""


def servers_of(variant: Variant, params: Params, prompts: Prompts) -> Servers:
    """Return the servers that answer the prompts.

    The context has room for the longest prompt and a complete answer.
    """
    limits = params.generate
    questions = Counter(map(tuple, prompts))
    most_failures = count_allowed(limits.max_failed_share, len(prompts))
    if variant.engine == "openai":
        start: Start = partial(use_server, str(variant.base_url), limits.parallel)
        name = f"{variant.served_model} at {variant.base_url}"
        return Servers(
            name,
            start,
            limits.parallel,
            questions,
            most_failures,
            complete_chat,
            connect,
            ASK_AGAIN,
        )
    path = Path(variant.model)
    context_tokens = max(map(len, prompts)) + limits.max_new_tokens
    placement = Placement(limits.gpu_layers, limits.gpu_servers)
    serve: Serve = partial(serve_llama_cpp, placement=placement)
    if variant.engine == "vllm":
        serve = vllm_server(params)
    start = partial(serve, path, limits.parallel, context_tokens)
    return Servers(
        path.name, start, limits.parallel, questions, most_failures, complete, open_client, RERUN
    )


def count_allowed(share: float, total: int) -> int:
    """Return how many of `total` questions may fail: at most this share.

    At least one question needs an answer, because a variant without any answer has no figure.
    """
    # Like the judge, compare the quotients: the product 0.29 * 100 is below 29.
    return sum(failed / total <= share for failed in range(1, total))


def request_fields(variant: Variant, params: Params, end_ids: list[int], asked: Asked) -> Fields:
    """Return the function that builds the fields of a request.

    The fields state the decoding rules in the engine's own words.
    """
    if variant.engine == "openai":
        return api_fields(variant, params, asked)
    limits = params.generate
    rules = limits.decoding
    fields: dict[str, Any] = {
        "max_tokens": limits.max_new_tokens,
        "temperature": rules.temperature,
    }
    if variant.engine == "vllm":
        fields["repetition_penalty"] = rules.repetition_penalty
        # vLLM itself only knows the tokenizer's own end token.
        fields["stop_token_ids"] = end_ids
    else:
        fields |= llama_cpp_rules(rules)

    def of_prompt(prompt: list[int]) -> dict[str, Any]:
        own = {"seed": draw_seed(params.sampling_seed, [prompt])}
        if variant.engine == "llama.cpp":
            # Every token of prompt and answer, where llama.cpp's default is the last 64.
            own["repeat_last_n"] = len(prompt) + limits.max_new_tokens
        return fields | own

    return of_prompt


def api_fields(variant: Variant, params: Params, asked: Asked) -> Fields:
    """Return the function that builds the body of a request to any server."""
    fields = chat_fields(variant, params.generate)
    pairs = zip(asked.prompts, asked.chats, strict=True)
    chats = {tuple(prompt): chat for prompt, chat in pairs}

    def of_prompt(prompt: list[int]) -> dict[str, Any]:
        body = fields | {"messages": chats[tuple(prompt)]}
        if params.generate.decoding.temperature:
            body["seed"] = draw_seed(params.sampling_seed, [prompt])
        return body

    return of_prompt


def draw_seed(seed: int, batch: Prompts) -> int:
    """Return the seed with which the answers to a batch are drawn."""
    return int(sha256_values(seed, batch)[:7], 16)


def llama_cpp_rules(rules: Decoding) -> dict[str, Any]:
    """Return llama.cpp's words for the decoding rules.

    A GGUF file can contain other rules (`general.sampling.*`), so each of them is switched off.
    """
    return {
        "repeat_penalty": rules.repetition_penalty,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "samplers": ["penalties", "temperature"],
        "mirostat": 0,
        "dynatemp_range": 0,
    }


def answer_by_server(
    servers: Servers, prompts: Prompts, fields: Fields, keep: Keep
) -> list[Answer]:
    """Return the answers of OpenAI-compatible servers to distinct prompts.

    Raise UserError as soon as too many requests failed. Requests that have begun end first, and
    their answers are kept.
    """
    if not prompts:
        return []
    failures = Failures([], [], threading.Event(), threading.Event())
    with (
        servers.start() as endpoints,
        client_pool(endpoints, servers.connect) as lend,
        ThreadPoolExecutor(servers.parallel) as pool,
    ):

        def ask(prompt: list[int]) -> Answer:
            if failures.stop.is_set():
                return Answer("", FAILED, 0)
            try:
                found = ask_repeatedly(lend, servers, prompt, fields(prompt), failures.stop)
            except RequestError as error:
                count_failure(servers, failures, prompt, error)
                return Answer("", FAILED, 0)
            found = without_reasoning(found)
            keep([prompt], [found])
            failures.answered.set()
            failures.in_a_row.clear()
            return found

        futures = [pool.submit(ask, prompt) for prompt in prompts]
        try:
            done = as_completed(futures)
            for future in tqdm(done, total=len(prompts), desc="generate", unit="answer"):
                future.result()
        finally:
            failures.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        return [future.result() for future in futures]


def count_failure(
    servers: Servers, failures: Failures, prompt: list[int], error: RequestError
) -> None:
    """Count the questions of a failed request.

    Raise UserError, and let no further request start, if too many questions have no answer or if
    STOP_AFTER requests in a row failed.
    """
    if failures.stop.is_set():
        return
    failures.reasons.extend([str(error)] * servers.questions[tuple(prompt)])
    # A server that has answered, and now refuses one question for good, still works.
    if error.wait is not None or not failures.answered.is_set():
        failures.in_a_row.append(str(error))
    what = describe_failures(servers, failures)
    if what:
        failures.stop.set()
        fix = f"{servers.fix}; it keeps the finished answers and asks for the others"
        raise UserError(f"the server of {servers.name}", what, fix)


def describe_failures(servers: Servers, failures: Failures) -> str:
    """Return why the stage must stop, or an empty text."""
    last = f"(the last one: {failures.reasons[-1]})"
    count = len(failures.reasons)
    if count > servers.most_failures:
        allowed = f"generate.max_failed_share allows {servers.most_failures}"
        return f"{count} questions have no answer {last}, and {allowed}"
    if len(failures.in_a_row) >= STOP_AFTER:
        return f"{len(failures.in_a_row)} requests in a row have no answer {last}"
    return ""


def ask_repeatedly(
    lend: Lend,
    servers: Servers,
    prompt: list[int],
    fields: dict[str, Any],
    stop: threading.Event,
) -> Answer:
    """Return the answer of a server, which may fail ATTEMPTS - 1 times.

    Raise RequestError without an answer, or if `stop` is set between two requests. A server of ours
    whose process has exited refuses every connection. That error is left to serve_llama_cpp and
    serve_vllm, which explain why their server is gone.
    """
    import openai

    for attempt in range(1, ATTEMPTS):
        wait = 0.0
        try:
            with lend() as client:
                return servers.complete(client, servers.name, prompt, fields)
        except RequestError as error:
            if error.wait is None:
                raise
            wait = error.wait
        except openai.APIConnectionError:
            pass
        if stop.wait(max(attempt * PAUSE_SECONDS, wait)):
            raise RequestError("the stage stops", None)
    with lend() as client:
        return servers.complete(client, servers.name, prompt, fields)


def complete_chat(
    client: openai.OpenAI, model: str, prompt: list[int], fields: dict[str, Any]
) -> Answer:
    """Return the answer of any server; `fields` is the complete request."""
    return Answer(*ask_chat(client, fields))


def complete(
    client: openai.OpenAI, model: str, prompt: list[int], fields: dict[str, Any]
) -> Answer:
    """Return the answer of a server to one prompt.

    Raise RequestError if the request fails or its reply contains no answer, and
    openai.APIConnectionError if there is no connection.
    """
    import openai

    try:
        reply = client.completions.create(model=model, prompt=prompt, extra_body=fields)
    except openai.APITimeoutError as error:
        raise RequestError(type(error).__name__) from error
    except openai.APIConnectionError:
        raise
    except (openai.OpenAIError, json.JSONDecodeError) as error:
        # Only the type is shown, because the error's message may repeat the prompt.
        raise RequestError(type(error).__name__) from error
    # The client does not validate the shape of a reply.
    choices = getattr(reply, "choices", None)
    if not choices or not isinstance(choices[0].text, str):
        raise RequestError("a reply contains no answer")
    first = choices[0]
    check_finish_reason(first.finish_reason)
    return Answer(
        text=first.text.strip(),
        finish_reason=str(first.finish_reason),
        completion_tokens=reply.usage.completion_tokens if reply.usage else 0,
    )


def vllm_server(params: Params) -> Serve:
    """Return the function that starts vLLM for a model."""

    def serve(
        path: Path, parallel: int, context_tokens: int
    ) -> AbstractContextManager[list[Endpoint]]:
        settings = VllmSettings(
            parallel=parallel,
            context_tokens=context_tokens,
            dtype=params.dtype,
            seed=params.sampling_seed,
            gpu_memory_share=params.generate.gpu_memory_share,
            gpus=1,
        )
        return serve_vllm(path, settings)

    return serve
