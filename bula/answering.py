"""Answer prompts with the engine of a variant, by params.yaml's decoding rules.

transformers answers for a model directory, in batches of prompts of similar length, or one vLLM
server on a GPU. llama.cpp servers answer for a GGUF file, each one request at a time. The prompt
travels as token ids, and with it vLLM's end tokens, so that every engine sees exactly the prompt of
training and stops at the same tokens. Any other server receives messages (bula/api_answers.py).
Finished answers survive a kill (bula/answer_ledger.py).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tqdm import tqdm

from bula.answer_key import fingerprint
from bula.answer_ledger import append_answers, batch_key, open_ledger, read_ledger
from bula.api_answers import RequestError, ask_chat, chat_fields, connect, use_server
from bula.errors import UserError
from bula.files import sha256_values
from bula.hardware import precision_settings
from bula.models import end_token_ids, load_model
from bula.params import Decoding, Params, Variant
from bula.privacy import Finding, redact
from bula.prompts import has_system_role, to_messages
from bula.records import Turn
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
    from transformers import PreTrainedTokenizerBase

RERUN = "check that the machine has free memory, and run the stage again"
ASK_AGAIN = "check that the server works and accepts these requests, and run the stage again"
# A request that fails is sent again after 1 s, and then after 2 s.
ATTEMPTS = 3
PAUSE_SECONDS = 1.0
# The finish reason of an answer whose request failed every time.
FAILED = "failed"
# Starts servers for a model, a number of concurrent requests, and the tokens of the longest.
Serve = Callable[[Path, int, int], AbstractContextManager[list[Endpoint]]]
# Token ids, one list per prompt.
Prompts = list[list[int]]
# The same prompts as messages, for servers that apply their own chat template.
Chats = list[list[dict[str, str]]]
# Personal data, one list per answer.
Findings = list[list[Finding]]


class Answer(NamedTuple):
    """One generated answer; its tokens include the end of turn.

    The finish reason is `stop` after an end token, `length` at the limit of new tokens, and
    `failed` if a server returned no answer.
    """

    text: str
    finish_reason: str
    completion_tokens: int


class Answered(NamedTuple):
    """The answers to all prompts, in their order."""

    answers: list[Answer]
    new_tokens: int
    """Tokens that this run generated; a killed run generated the others."""


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


def to_chats(
    tokenizer: PreTrainedTokenizerBase,
    questions: Iterable[tuple[str, Sequence[Turn] | None]],
    shots: Sequence[Turn],
) -> Chats:
    """Return the messages of each question after few-shot examples and its earlier turns."""
    has_system = has_system_role(tokenizer)
    chats = []
    for question, history in questions:
        turns = [*shots, *(history or [])]
        chats.append(to_messages(question, turns, has_system=has_system))
    return chats


@contextmanager
def answer(
    stage: str,
    variant: Variant,
    params: Params,
    tokenizer: PreTrainedTokenizerBase,
    asked: Asked,
) -> Iterator[Answered]:
    """Yield the answers of the variant's engine.

    `stage` is STAGE@VARIANT. The finished answers of a killed run are used again. They are deleted
    after the block, which writes the outputs of the stage. Raise UserError if more than
    `generate.max_failed_share` of the requests to a server fail, or if another process runs the
    same stage.
    """
    from bula.generation import batches_of_prompts

    with open_ledger(stage, fingerprint(variant, params), params.variants) as ledger:
        size = params.generate.batch_size if variant.engine == "transformers" else 1
        places = batches_of_prompts(asked.prompts, size)
        batches = [[asked.prompts[index] for index in batch] for batch in places]
        found = read_answers(ledger)
        new = [batch for batch in batches if batch_key(batch) not in found]
        keep = partial(append_answers, ledger)
        if variant.engine == "transformers":
            generated = answer_locally(Path(variant.model), params, tokenizer, new, keep)
        else:
            servers = servers_of(variant, params, asked.prompts)
            fields = request_fields(variant, params, end_token_ids(tokenizer), asked)
            prompts = [prompt for [prompt] in new]
            generated = [[given] for given in answer_by_server(servers, prompts, fields, keep)]
        for batch, answers in zip(new, generated, strict=True):
            found[batch_key(batch)] = answers
        yield Answered(in_order(places, batches, found), count_tokens(generated))


def read_answers(ledger: FileIO) -> dict[str, list[Answer]]:
    """Return the finished answers of a killed run, by the key of their batch."""
    lines = read_ledger(ledger)
    return {key: [Answer(*parts) for parts in answers] for key, answers in lines.items()}


def in_order(
    places: list[list[int]], batches: list[Prompts], found: dict[str, list[Answer]]
) -> list[Answer]:
    """Return the answers of all batches in the order of the prompts."""
    answers: dict[int, Answer] = {}
    for batch, asked in zip(places, batches, strict=True):
        answers.update(zip(batch, found[batch_key(asked)], strict=True))
    return [answers[index] for index in range(len(answers))]


def count_tokens(batches: list[list[Answer]]) -> int:
    """Return the number of tokens of all answers."""
    return sum(given.completion_tokens for answers in batches for given in answers)


def answer_locally(
    path: Path,
    params: Params,
    tokenizer: PreTrainedTokenizerBase,
    batches: list[Prompts],
    keep: Keep,
) -> list[list[Answer]]:
    """Return the answers of transformers to each batch of prompts."""
    import torch

    from bula.generation import generate_batch

    if not batches:
        return []
    model = load_model(path, params.dtype)
    end_ids = end_token_ids(tokenizer)
    limits = params.generate
    found = []
    for batch in tqdm(batches, desc="generate", unit="batch"):
        if limits.decoding.temperature:
            # A seed per batch, so that a resumed run draws the same tokens.
            torch.manual_seed(draw_seed(params.sampling_seed, batch))
        generated = generate_batch(model, tokenizer, batch, limits.max_new_tokens, limits.decoding)
        answers = [to_answer(tokenizer, ids, end_ids) for ids in generated]
        keep(batch, answers)
        found.append(answers)
    return found


def draw_seed(seed: int, batch: Prompts) -> int:
    """Return the seed with which the answers to a batch are drawn."""
    return int(sha256_values(seed, batch)[:7], 16)


def to_answer(tokenizer: PreTrainedTokenizerBase, ids: list[int], end_ids: list[int]) -> Answer:
    """Return the answer that consists of the generated ids."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    stopped = bool(ids) and ids[-1] in end_ids
    reason = "stop" if stopped else "length"
    return Answer(text.strip(), reason, len(ids))


class Servers(NamedTuple):
    """The servers of one model, and how they are used."""

    name: str
    """Name of the model in requests and in errors."""
    start: Start
    """Starts the servers."""
    parallel: int
    """Concurrent requests."""
    most_failures: int
    """Largest number of requests that may fail."""
    complete: Complete
    """Sends one request."""
    connect: Callable[[Endpoint], openai.OpenAI]
    """Opens the client of an endpoint."""
    fix: str
    """Advice after too many failures."""


def servers_of(variant: Variant, params: Params, prompts: Prompts) -> Servers:
    """Return the servers that answer the prompts.

    The context has room for the longest prompt and a complete answer.
    """
    limits = params.generate
    most_failures = int(limits.max_failed_share * len(prompts))
    if variant.engine == "openai":
        start: Start = partial(use_server, str(variant.base_url), limits.parallel)
        name = f"{variant.served_model} at {variant.base_url}"
        return Servers(
            name, start, limits.parallel, most_failures, complete_chat, connect, ASK_AGAIN
        )
    path = Path(variant.model)
    context_tokens = max(map(len, prompts)) + limits.max_new_tokens
    placement = Placement(limits.gpu_layers, limits.gpu_servers)
    serve: Serve = partial(serve_llama_cpp, placement=placement)
    if variant.engine == "vllm":
        serve = vllm_server(params)
    start = partial(serve, path, limits.parallel, context_tokens)
    return Servers(path.name, start, limits.parallel, most_failures, complete, open_client, RERUN)


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
    """Return the answers of OpenAI-compatible servers.

    Raise UserError if too many requests fail.
    """
    if not prompts:
        return []
    failures: list[str] = []
    with (
        servers.start() as endpoints,
        client_pool(endpoints, servers.connect) as lend,
        ThreadPoolExecutor(servers.parallel) as pool,
    ):

        def ask(prompt: list[int]) -> Answer:
            try:
                found = ask_repeatedly(lend, servers, prompt, fields(prompt))
            except RequestError as error:
                failures.append(str(error))
                refuse_failures(servers, failures)
                return Answer("", FAILED, 0)
            keep([prompt], [found])
            return found

        answers = pool.map(ask, prompts)
        return list(tqdm(answers, total=len(prompts), desc="generate", unit="answer"))


def refuse_failures(servers: Servers, failures: list[str]) -> None:
    """Raise UserError if more requests failed than may fail."""
    if len(failures) > servers.most_failures:
        what = (
            f"{len(failures)} requests have no answer (the last one: {failures[-1]}), and "
            f"generate.max_failed_share allows {servers.most_failures}"
        )
        fix = f"{servers.fix}; it keeps the finished answers and asks for the others"
        raise UserError(f"the server of {servers.name}", what, fix)


def ask_repeatedly(
    lend: Lend, servers: Servers, prompt: list[int], fields: dict[str, Any]
) -> Answer:
    """Return the answer of a server, which may fail ATTEMPTS - 1 times.

    A server of ours whose process has exited refuses every connection. That error is left to
    serve_llama_cpp and serve_vllm, which explain why their server is gone.
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
        time.sleep(max(attempt * PAUSE_SECONDS, wait))
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


def redact_answers(stage: str, answers: list[Answer], found: Findings, rule: str) -> list[Answer]:
    """Return the answers with placeholders for personal data.

    `stage` is STAGE@VARIANT, for the error. `found` contains the personal data of each answer.
    `rule` is privacy.answers of params.yaml: redact or fail. Raise UserError if there is personal
    data and the rule is fail.
    """
    if rule == "fail" and any(found):
        kinds = sorted(count_kinds(found))
        variant = stage.partition("@")[2]
        fault = f"answers of {variant} contain personal data ({', '.join(kinds)})"
        what = f"{fault}, and privacy.answers is fail"
        fix = "nothing was written; set privacy.answers to redact, or use another model"
        raise UserError(stage, what, fix)
    redacted = []
    for original, findings in zip(answers, found, strict=True):
        text = redact(original.text, findings)
        redacted.append(original._replace(text=text))
    return redacted


def count_kinds(found: Findings) -> Counter[str]:
    """Return the number of findings per kind of personal data."""
    kinds: Counter[str] = Counter()
    for findings in found:
        kinds.update(finding.kind for finding in findings)
    return kinds


def settings(variant: Variant, params: Params) -> dict[str, str | int]:
    """Return few-shot examples, engine, precision and layers on a GPU, for the metrics."""
    found: dict[str, str | int] = {"engine": variant.engine, "few_shot": variant.few_shot}
    if variant.engine == "transformers":
        return found | precision_settings(params.dtype)
    if variant.engine == "vllm":
        return found | {"dtype": params.dtype, "compute_dtype": params.dtype}
    # The file and llama.cpp's kernels determine the precision, or a server that is not ours.
    own = "the engine's own"
    found |= {"dtype": own, "compute_dtype": own}
    if variant.engine == "openai":
        return found | {"served_model": str(variant.served_model), "other_decoding_rules": own}
    if params.generate.gpu_layers != 0:
        found["gpu_layers"] = str(params.generate.gpu_layers)
    return found
