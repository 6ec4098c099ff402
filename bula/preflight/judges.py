"""Ask each server that judges or answers for one token.

Such a call proves address, key, model and fields of the request together.
"""

import asyncio
import fcntl
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import openai
from pydantic import ValidationError

from bula.api_keys import key_for
from bula.errors import UserError
from bula.judge_client import ADDRESS, Reply, connect, may_be_billed, refusal
from bula.judge_dialects import FIRST, Dialect, next_dialect, read_dialect, to_request
from bula.judge_ledger import (
    DIALECTS,
    FAILURES,
    LOCK,
    append_rows,
    failure_line,
    read_ledger,
    settle_mark,
    spent_usd,
)
from bula.judge_limits import UNUSED, Usage, prices_of, to_usd, worst_case
from bula.judge_pending import pending_usd
from bula.judge_prompt import Message
from bula.judge_words import server_words
from bula.params import ApiBackend, Judge, Params
from bula.preflight.checks import NETWORK_SECONDS, Check, NotCheckedError
from bula.serving import Endpoint

# Shorter than the limit of a check, so that a late call is still charged.
REQUEST_SECONDS = NETWORK_SECONDS - 0.5
MESSAGES: list[Message] = [{"role": "user", "content": "1"}]
# No request left this machine.
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout)
# The ledger names these calls by this reason.
REASON = "Preflight"
RATE_LIMIT = 429
# Statuses of a request with a field that the server does not know.
REFUSED = (400, 422)
# Two checks of this process would refuse each other the lock of the ledger.
ONE_JUDGE = threading.Lock()
COUNTED = ", and the call counts in max_usd"
# A model that thinks first needs more than one token, and says so.
TOO_SHORT = re.compile(r"(max_tokens|max_completion_tokens|output limit).*reached")


class Called(NamedTuple):
    """The reply to one request."""

    status: int
    words: str
    """The server's own words about an error, masked."""
    usage: Usage | None
    """None if the server names no usage."""


def server_checks(params: Params, ledger: Path) -> list[Check]:
    """Return one check per server that judges, answers or scores."""
    checks: list[Check] = []
    names = ("judge", "judge.second")
    for key, judge in zip(names, params.judge.judges, strict=False):
        if judge.base_url != "local":
            name = f"{judge.model} at {judge.base_url}"
            run = partial(check_judge, key, judge, ledger)
            # The second judge is asked after the first one.
            seconds = NETWORK_SECONDS * (len(checks) + 1)
            checks.append(Check(f"{key}.base_url", name, run, True, seconds))
    for name, variant in params.variants.items():
        if variant.base_url and variant.served_model:
            where = f"variants.{name}.base_url"
            told = f"{variant.served_model} at {variant.base_url}"
            run = partial(check_server, variant.base_url, variant.served_model, params.judge)
            checks.append(Check(where, told, run, network=True))
    backend = params.benchmark.backend
    if isinstance(backend, ApiBackend):
        told = f"{backend.model} at {backend.base_url}"
        run = partial(check_completions, backend, params.judge)
        checks.append(Check("benchmark.backend.base_url", told, run, network=True))
    return checks


def key_checks(params: Params) -> list[Check]:
    """Return one check per address that may need a key."""
    addresses: dict[str, str] = {}
    for key, judge in zip(("judge", "judge.second"), params.judge.judges, strict=False):
        if judge.base_url != "local":
            addresses[f"{key}.base_url"] = judge.base_url
    for name, variant in params.variants.items():
        if variant.base_url:
            addresses[f"variants.{name}.base_url"] = variant.base_url
    if isinstance(params.benchmark.backend, ApiBackend):
        addresses["benchmark.backend.base_url"] = params.benchmark.backend.base_url
    return [Check(key, f"key for {url}", partial(_find_key, url)) for key, url in addresses.items()]


def _find_key(url: str) -> str:
    """Find the key of an address, without sending it."""
    key_for(url)
    return "it is known"


def check_judge(key: str, settings: Judge, ledger: Path) -> str:
    """Ask a judge for one token, and record the cost in the ledger.

    The calls count in `judge.max_usd`. Raise UserError if the judge cannot be used.
    """
    one_token = _short_call(settings, settings.base_url, settings.model)
    with _free_ledger(ledger):
        known = read_dialect(ledger.with_name(DIALECTS), settings)
        dialect: Dialect | None = known or FIRST
        tried: list[Dialect] = []
        while dialect is not None and dialect not in tried:
            tried.append(dialect)
            request = to_request(one_token, MESSAGES, dialect)
            worst = worst_case(request, one_token)
            _refuse_empty_budget(key, settings, ledger, worst)
            called = _call_and_charge(one_token, request, worst, ledger)
            # Another request follows only if the server refused a field.
            dialect = next_dialect(dialect, called.words) if called.status in REFUSED else None
    return _judge_status(called, settings)


@contextmanager
def _free_ledger(ledger: Path) -> Iterator[None]:
    """Hold the judge's lock, so that no other process pays at the same time.

    The mark of a killed run is counted first, because each recorded call makes its loss smaller.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ONE_JUDGE, ledger.with_name(LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotCheckedError("another run uses the judge at this moment") from None
        settle_mark(ledger)
        yield


def _refuse_empty_budget(key: str, settings: Judge, ledger: Path, worst: Usage) -> None:
    """Raise UserError if the next call could exceed `max_usd`."""
    recorded = spent_usd(read_ledger(ledger, settings.model), settings)
    paid = recorded + pending_usd(ledger, settings)
    if settings.max_usd and paid + to_usd(worst, prices_of(settings)) > settings.max_usd:
        what = f"{paid:.4f} of {settings.max_usd} dollars are spent, too much for one more call"
        raise UserError(f"{key}.max_usd", what, f"raise {key}.max_usd in params.yaml")


def _call_and_charge(
    settings: Judge, request: dict[str, Any], worst: Usage, ledger: Path
) -> Called:
    """Send a request, and record its usage in the ledger.

    A call with an unknown usage costs its worst case. A refusal costs nothing.
    """
    cost = UNUSED
    try:
        called = asyncio.run(_call(settings, ADDRESS, request))
        cost = worst if called.usage is None else called.usage
    except (openai.APIConnectionError, TimeoutError) as error:
        if not isinstance(error.__cause__, NEVER_SENT):
            cost = worst
        raise _silent(settings.base_url, error) from error
    finally:
        if cost != UNUSED:
            usd = to_usd(cost, prices_of(settings))
            line = failure_line("", settings.model, REASON, cost, usd)
            append_rows(ledger.with_name(FAILURES), [line])
    return called


async def _call(settings: Judge, address: str, request: dict[str, Any]) -> Called:
    """Send one request; raise TimeoutError after REQUEST_SECONDS."""
    endpoint = _endpoint(settings.base_url)
    async with asyncio.timeout(REQUEST_SECONDS), connect(endpoint, settings) as client:
        try:
            reply = await client.post(address, cast_to=httpx2.Response, body=request)
        except openai.APIStatusError as error:
            return _refused(client, error, request)
    return Called(reply.status_code, *_read_body(reply.content, address))


def _endpoint(url: str) -> Endpoint:
    """Return the endpoint of an address; `key_checks` reports a missing key."""
    try:
        return Endpoint(url, key_for(url))
    except UserError:
        raise NotCheckedError("there is no key to try") from None


def _refused(
    client: openai.AsyncOpenAI, error: openai.APIStatusError, request: dict[str, Any]
) -> Called:
    """Return the reply of a server that refuses a request.

    Raise UserError if it refuses the key, or redirects.
    """
    status = error.status_code
    stopped = refusal(client, status)
    if stopped is not None:
        raise stopped from error
    words = server_words(error.body, client.api_key, request.get("messages", []))
    return Called(status, words, None if may_be_billed(status) else UNUSED)


def _read_body(content: bytes, address: str) -> tuple[str, Usage | None]:
    """Return what is wrong with a reply, and its usage if known."""
    if address != ADDRESS:
        return "", UNUSED
    try:
        return "", Reply.model_validate_json(content).used
    except ValidationError:
        return "its reply is no chat completion", None


def _silent(url: str, error: Exception) -> UserError:
    """Return the error of a server that does not answer."""
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        what = f"no answer in {REQUEST_SECONDS:g} s"
    else:
        what = f"it cannot be reached ({error.__cause__ or error})"
    fix = "check the address, the network and that the server runs"
    return UserError(f"the server at {url}", what, fix)


def _judge_status(called: Called, settings: Judge) -> str:
    """Return what a reply proves. Raise UserError if the server cannot be used."""
    status = called.status
    where = f"the server at {settings.base_url}"
    said = f": {called.words}" if called.words else ""
    if status == RATE_LIMIT and "quota" not in called.words:
        return "it knows the key, and is busy (HTTP 429)"
    if status < 300 and not said:
        return f"it answered{COUNTED}"
    if status == 400 and TOO_SHORT.search(called.words):
        return "it knows the key and the model, which needs more than one token"
    if status < 300:
        raise UserError(where, called.words, "write the address up to and including /v1")
    if status == 404:
        what = f"it does not know the model {settings.model} or the address (HTTP 404{said})"
        raise UserError(where, what, "correct the model's name or the address in params.yaml")
    fix = "read the server's words, and check key, account and model"
    raise UserError(where, f"it refuses a call (HTTP {status}{said})", fix)


def check_server(url: str, model: str, judge: Judge) -> str:
    """Ask the server of a variant for one token."""
    request = {"model": model, "messages": MESSAGES, "max_tokens": 1}
    return _ask(_short_call(judge, url, model), ADDRESS, request)


def check_completions(backend: ApiBackend, judge: Judge) -> str:
    """Ask the server of lm-eval for one token by the API that it uses."""
    request = {"model": backend.model, "prompt": "1", "max_tokens": 1}
    settings = _short_call(judge, backend.base_url, backend.model)
    return _ask(settings, "/completions", request)


def _short_call(judge: Judge, url: str, model: str) -> Judge:
    """Return settings with which the judge's client asks one server for one token."""
    changes = {"base_url": url, "model": model, "max_tokens": 1, "parallel": 1}
    return judge.model_copy(update={**changes, "timeout_seconds": REQUEST_SECONDS})


def _ask(settings: Judge, address: str, request: dict[str, Any]) -> str:
    """Send one request, and return what it proves."""
    try:
        called = asyncio.run(_call(settings, address, request))
    except (openai.APIConnectionError, TimeoutError) as error:
        raise _silent(settings.base_url, error) from error
    text = _judge_status(called, settings)
    return text.removesuffix(COUNTED)
