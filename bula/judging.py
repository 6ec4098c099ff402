"""Ask an LLM judge about rows, and return one verdict per row."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bula.api_keys import key_for
from bula.errors import UserError
from bula.files import sha256_file
from bula.judge_client import ask, connect
from bula.judge_ledger import LEDGER, append_verdict, ledger_key, read_ledger
from bula.judge_prompt import Message, Verdict, to_messages
from bula.params import Judge, Params
from bula.privacy import find_personal_data, redact
from bula.records import Row
from bula.serving import Endpoint, Placement, serve_llama_cpp

# Messages by the ledger key of their verdict.
Prompts = dict[str, list[Message]]
# Verdicts, or the names of failures, by ledger key.
Results = dict[str, Verdict | str]

# Enough for the rubric, three texts of 110 words and the verdict, in an English vocabulary.
CONTEXT_TOKENS = 2048
# Failures that probably repeat with every later call.
PERSISTENT_FAILURES = {"APIConnectionError", "PermissionDeniedError", "NotFoundError"}
# A run stops after this many persistent failures without a verdict.
CALLS_BEFORE_STOP = 10


def verdicts_or_error(rows: list[Row], params: Params, folder: Path) -> list[Row]:
    """Return one verdict row per row.

    Raise UserError if every call failed.
    """
    verdicts = judge_rows(rows, params, folder)
    if all("failed" in verdict for verdict in verdicts):
        what = f"all {len(verdicts)} calls failed ({verdicts[0]['failed']})"
        raise _unusable(what, params.judge)
    return verdicts


def judge_rows(rows: list[Row], params: Params, folder: Path, ledger: Path = LEDGER) -> list[Row]:
    """Return one verdict row per row (id, split, question, reference, answer).

    A verdict row contains the scores, or `failed` with the reason. Equal prompts are sent once.
    `folder` contains the local judge. Raise UserError if the judge cannot be used.
    """
    known = read_ledger(ledger)
    with _endpoints(params.judge, folder) as (endpoints, identity):
        keys = []
        prompts = {}
        for row in rows:
            messages = to_messages(row)
            key = ledger_key(identity, messages, params.judge)
            keys.append(key)
            prompts[key] = messages
        found: Results = {key: known[key] for key in prompts if key in known}
        new = {key: messages for key, messages in prompts.items() if key not in known}

        def keep(key: str, verdict: Verdict) -> None:
            append_verdict(ledger, key, params.judge.model, verdict)

        trusted = bool(found)
        answered = asyncio.run(_ask_all(endpoints, new, params.judge, keep, trusted=trusted))
    results = found | answered
    return [
        _verdict_row(row, results[key], params.judge.model)
        for row, key in zip(rows, keys, strict=True)
    ]


@contextmanager
def _endpoints(settings: Judge, folder: Path) -> Iterator[tuple[list[Endpoint], str]]:
    """Yield the endpoints and the identity of the judge.

    The identity is the URL, or the hash of a local judge's model file.
    """
    if settings.base_url == "local":
        file = folder / "judge.gguf"
        placement = Placement(settings.gpu_layers, settings.parallel)
        with serve_llama_cpp(
            file, settings.parallel, CONTEXT_TOKENS, placement=placement
        ) as endpoints:
            yield endpoints, sha256_file(file)
    else:
        endpoint = Endpoint(settings.base_url, key_for(settings.base_url))
        yield [endpoint] * settings.parallel, settings.base_url


async def _ask_all(
    endpoints: list[Endpoint],
    prompts: Prompts,
    settings: Judge,
    keep: Callable[[str, Verdict], None],
    *,
    trusted: bool,
) -> Results:
    """Return the result of each prompt.

    An endpoint answers one prompt at a time. `keep` receives each verdict as soon as it arrives.
    Raise UserError if no call can succeed. A `trusted` judge returned verdicts before, so its
    failures concern single prompts.
    """
    todo = deque(prompts.items())
    found: Results = {}
    errors: list[UserError] = []

    def receive(key: str, result: Verdict | str) -> None:
        found[key] = result
        progress.update()
        if isinstance(result, Verdict):
            keep(key, result)
        elif not trusted:
            _stop_if_hopeless(list(found.values()), settings)

    async def work(endpoint: Endpoint) -> None:
        try:
            await _ask_endpoint(endpoint, settings, todo, receive)
        except UserError as error:
            errors.append(error)
            # The other calls finish, because cancelling one may leave a half-open connection.
            todo.clear()

    with tqdm(total=len(prompts), desc="judge", unit="verdict") as progress:
        async with _started(work(endpoint) for endpoint in endpoints) as tasks:
            await asyncio.gather(*tasks)
    if errors:
        raise errors[0]
    return found


async def _ask_endpoint(
    endpoint: Endpoint,
    settings: Judge,
    todo: deque[tuple[str, list[Message]]],
    receive: Callable[[str, Verdict | str], None],
) -> None:
    """Ask one endpoint about prompts until `todo` is empty."""
    async with connect(endpoint, settings) as client:
        while todo:
            key, messages = todo.popleft()
            result = await ask(client, settings, messages)
            receive(key, result)


@asynccontextmanager
async def _started(
    work: Iterable[Coroutine[Any, Any, None]],
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Start tasks, and cancel those that still run after the block.

    The block ends when all tasks have closed their connections.
    """
    tasks = [asyncio.create_task(part) for part in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _stop_if_hopeless(results: list[Verdict | str], settings: Judge) -> None:
    """Raise UserError if the first calls all failed persistently."""
    if len(results) != CALLS_BEFORE_STOP:
        return
    failures = [result for result in results if isinstance(result, str)]
    if len(failures) == len(results) and PERSISTENT_FAILURES.issuperset(failures):
        raise _unusable(f"the first {len(results)} calls failed ({results[0]})", settings)


def _unusable(what: str, settings: Judge) -> UserError:
    """Return the error of a judge that returns no verdict."""
    where = f"the judge {settings.model} at {settings.base_url}"
    fix = "check judge.base_url, judge.model and that the server works; no output was written"
    return UserError(where, what, fix)


def _verdict_row(row: Row, result: Verdict | str, judge: str) -> Row:
    """Return the row that is written about one verdict or failed call."""
    about = {"id": row["id"], "split": row["split"], "judge": judge}
    if isinstance(result, str):
        return about | {"failed": result}
    # Redact the reason too: a model may write text that looks like personal data.
    reason = redact(result.reason, find_personal_data(result.reason))
    return about | {"reason": reason, "accuracy": result.accuracy, "style": result.style}
