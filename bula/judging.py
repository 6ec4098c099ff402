"""Ask an LLM judge about rows, and return one verdict per row."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from bula.api_keys import key_for
from bula.errors import UserError
from bula.files import sha256_file
from bula.judge_attacks import looks_like_attack
from bula.judge_batch import ask_by_batch
from bula.judge_client import Session, ask, connect
from bula.judge_dialects import FIRST, read_dialect, record_dialect, to_request
from bula.judge_ledger import (
    DIALECTS,
    LEDGER,
    Known,
    clear_mark,
    ledger_key,
    ledger_line,
    ledger_writer,
    lock_ledger,
    read_ledger,
    read_pulled,
    settle_mark,
    spent_usd,
    write_mark,
)
from bula.judge_limits import (
    OutOfMoneyError,
    Reserve,
    Usage,
    likely_tokens,
    make_budget,
    make_pace,
    prices_of,
    to_usd,
    total,
)
from bula.judge_outcomes import Failure, Outcome, describe_failures, judge_error, priced
from bula.judge_pending import pending_usd
from bula.judge_prompt import Message, Verdict, to_messages
from bula.params import Judge, Params
from bula.privacy import find_personal_data, redact
from bula.records import Row
from bula.reports import Scalar
from bula.serving import Endpoint, Placement, serve_llama_cpp

if TYPE_CHECKING:
    import openai

# Messages by the ledger key of their verdict.
Prompts = dict[str, list[Message]]
# Verdicts or failures by ledger key.
Results = dict[str, Verdict | Failure]
# Prompts that wait for a call.
Todo = deque[tuple[str, list[Message]]]
Receive = Callable[[str, Outcome], None]

VERDICTS = Path("data/verdicts")
# Enough for the rubric, three texts of 110 words and the verdict, in an English vocabulary.
CONTEXT_TOKENS = 2048
# An answer without a letter needs no judge.
EMPTY = Verdict(reason="A resposta está vazia.", accuracy=1, style=1)
KEPT = "the verdicts so far are kept, and a later run asks only for the rest"
FIX = (
    "check judge.base_url, judge.model and that the server works; no output was written, and "
    f"{KEPT}"
)


class Judged(NamedTuple):
    """The verdict rows, and what the calls took."""

    rows: list[Row]
    failures: list[Failure]
    speed: dict[str, Scalar]
    """Figures that two runs cannot repeat, for metrics/speed."""


def verdicts_or_error(rows: list[Row], params: Params, folder: Path) -> Judged:
    """Return one verdict row per row.

    Raise UserError if the share of failed calls exceeds `judge.max_failed_share`, so that no mean
    of the other verdicts is written.
    """
    judged = judge_rows(rows, params, folder)
    failed = sum("failed" in row for row in judged.rows)
    if failed and failed >= len(rows):
        what = f"all {len(rows)} calls failed: {describe_failures(judged.failures)}"
        raise judge_error(params.judge, what, FIX)
    if failed / len(rows) > params.judge.max_failed_share:
        what = (
            f"{failed} of {len(rows)} calls failed, more than judge.max_failed_share allows: "
            f"{describe_failures(judged.failures)}"
        )
        raise judge_error(params.judge, what, FIX)
    return judged


def judge_rows(
    rows: list[Row],
    params: Params,
    folder: Path,
    ledger: Path = LEDGER,
    pulled: Path = VERDICTS,
) -> Judged:
    """Return one verdict row per row (id, split, question, reference, answer).

    A verdict row contains the scores, or `failed` with the reason. Equal prompts are sent once,
    and empty answers never. A row with a number `repeat` gets another verdict. `folder`
    contains the local judge, and `pulled` the outputs of earlier runs. Raise UserError if the judge
    cannot be used.
    """
    settings = params.judge
    with _endpoints(settings, folder) as (endpoints, identity), _turn(settings, ledger):
        if not settings.batch:
            # Prompts of a pending batch would be paid twice, so its verdicts come first.
            asyncio.run(ask_by_batch(endpoints[0], {}, settings, ledger))
        known = read_ledger(ledger, settings.model)
        _report_unpriced(known, settings)
        prompts, keys = _prompts(rows, settings, identity)
        found = _look_up(prompts, known, read_pulled(pulled))
        new = {key: messages for key, messages in prompts.items() if key not in found}
        started = time.perf_counter()
        calls = _ask_all(endpoints, new, settings, known, ledger)
        answered, attacks = asyncio.run(_beside(calls, rows))
        seconds = time.perf_counter() - started
        after = read_ledger(ledger, settings.model)
    results = found | {key: outcome.result for key, outcome in answered.items()}
    written = []
    for row, key, is_attack in zip(rows, keys, attacks, strict=True):
        judged = results[key] if key else EMPTY
        about: Row = {"attack_like": True} if is_attack else {}
        written.append(_verdict_row(row, key, judged, settings.model) | about)
    failures = [result for key in keys if isinstance(result := results.get(key), Failure)]
    speed = _speed(list(answered.values()), after, seconds, settings)
    return Judged(written, failures, {**speed, "known": len(found)})


def _report_unpriced(known: Known, settings: Judge) -> None:
    """Print how many calls of earlier versions count at today's prices."""
    if to_usd(known.unpriced_usage, prices_of(settings)) > 0:
        count = f"{known.unpriced} calls of earlier versions"
        print(f"judge: {count} have no recorded price, so today's prices count", flush=True)


async def _beside(
    calls: Awaitable[dict[str, Outcome]], rows: list[Row]
) -> tuple[dict[str, Outcome], list[bool]]:
    """Return the outcomes of calls, and whether each answer looks like an attack.

    The answers are searched while the calls wait, because a search takes a sixth of the work of a
    call.
    """
    return await asyncio.gather(calls, _find_attacks(rows))


async def _find_attacks(rows: list[Row]) -> list[bool]:
    """Return whether each answer looks like an attack, and let calls proceed in between."""
    found = []
    for row in rows:
        found.append(looks_like_attack(row["answer"]))
        await asyncio.sleep(0)
    return found


def _prompts(rows: list[Row], settings: Judge, identity: str) -> tuple[Prompts, list[str]]:
    """Return the prompts by key, and the key of each row.

    An empty answer has no key.
    """
    prompts = {}
    keys = []
    for row in rows:
        if not row["answer"].strip():
            keys.append("")
            continue
        messages = to_messages(row)
        key = ledger_key(identity, messages, settings, row.get("repeat", 0))
        keys.append(key)
        prompts[key] = messages
    return prompts, keys


def _look_up(prompts: Prompts, known: Known, pulled: dict[str, Verdict]) -> Results:
    """Return the verdicts that need no call: from the ledger, or from pulled outputs."""
    found: Results = {}
    for key in prompts:
        verdict = known.verdicts.get(key) or pulled.get(key)
        if verdict is not None:
            found[key] = verdict
    return found


def _speed(
    outcomes: list[Outcome], known: Known, seconds: float, settings: Judge
) -> dict[str, Scalar]:
    """Return the figures of the calls, which differ between runs.

    `known` is the ledger after the calls.
    """
    usage = total([outcome.usage for outcome in outcomes])
    return {
        "seconds": seconds,
        "calls": len(outcomes),
        "calls_per_second": len(outcomes) / seconds,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "usd": math.fsum(outcome.usd for outcome in outcomes),
        "usd_all_runs": spent_usd(known, settings),
        "ledger_lines_unpriced": known.unpriced,
        "ledger_lines_skipped": known.skipped,
    }


@contextmanager
def _endpoints(settings: Judge, folder: Path) -> Iterator[tuple[list[Endpoint], str]]:
    """Yield the endpoints and the identity of the judge.

    The identity is the hash of a local judge's model file, or an empty text. Each server of a local
    judge answers one prompt at a time.
    """
    if settings.base_url == "local":
        file = folder / "judge.gguf"
        placement = Placement(settings.gpu_layers, settings.parallel)
        with serve_llama_cpp(
            file, settings.parallel, CONTEXT_TOKENS, placement=placement
        ) as endpoints:
            yield endpoints, sha256_file(file)
    else:
        yield [Endpoint(settings.base_url, key_for(settings.base_url))], ""


@contextmanager
def _turn(settings: Judge, ledger: Path) -> Iterator[None]:
    """Hold a context in which no other process calls a judge at an address.

    The limits of money and of rates would otherwise hold for each process alone. A local judge has
    neither. The mark of a killed run is counted first. It stays after Ctrl-C, because a second one
    ends the calls before their usage is recorded.
    """
    if settings.base_url == "local":
        yield
        return
    with lock_ledger(ledger):
        settle_mark(ledger)
        try:
            yield
        except UserError:
            clear_mark(ledger)
            raise
        clear_mark(ledger)


async def _ask_all(
    endpoints: list[Endpoint], prompts: Prompts, settings: Judge, known: Known, ledger: Path
) -> dict[str, Outcome]:
    """Return the outcome of each prompt, by one batch or by single calls."""
    if settings.batch:
        return await ask_by_batch(endpoints[0], prompts, settings, ledger)
    return await _ask_singly(endpoints, prompts, settings, known, ledger)


async def _ask_singly(
    endpoints: list[Endpoint], prompts: Prompts, settings: Judge, known: Known, ledger: Path
) -> dict[str, Outcome]:
    """Return the outcome of each prompt, and append each to the ledger.

    Raise UserError if no call can succeed, if too many failed in a row, or if the money could run
    out.
    """
    found: dict[str, Outcome] = {}
    recent: deque[Outcome] = deque(maxlen=settings.stop_after_failures)
    with _open_session(prompts, settings, known, ledger) as session:
        async with ledger_writer() as write, AsyncExitStack() as stack:
            clients = []
            for endpoint in endpoints:
                clients.append(await stack.enter_async_context(connect(endpoint, settings)))
            progress = stack.enter_context(tqdm(total=len(prompts), desc="judge", unit="verdict"))

            def receive(key: str, outcome: Outcome) -> None:
                found[key] = outcome
                recent.append(outcome)
                progress.update()
                write(*ledger_line(key, outcome, settings, ledger))
                _stop_if_hopeless(recent, settings)

            await _ask_in_parallel(clients, session, deque(prompts.items()), receive)
    return found


@contextmanager
def _open_session(
    prompts: Prompts, settings: Judge, known: Known, ledger: Path
) -> Iterator[Session]:
    """Yield what all calls share, and record the dialect that they found.

    Nothing is recorded after an error, because an error of this file would hide that of the ledger.
    """
    record = ledger.with_name(DIALECTS)
    recorded = read_dialect(record, settings)
    session = Session(
        settings=settings,
        pace=make_pace(settings, _largest_call(prompts, settings)),
        reserve=_budget(settings, known, ledger),
        stopped=asyncio.Event(),
        dialects=[] if recorded is None else [recorded],
    )
    yield session
    if session.dialects and session.dialects[-1] != recorded:
        record_dialect(record, settings, session.dialects[-1])


def _largest_call(prompts: Prompts, settings: Judge) -> int:
    """Return the estimated tokens of the largest call, if a rate depends on them."""
    if settings.tokens_per_minute == 0:
        return 1
    requests = [to_request(settings, messages, FIRST) for messages in prompts.values()]
    return max((likely_tokens(request, settings) for request in requests), default=1)


def _budget(settings: Judge, known: Known, ledger: Path) -> Reserve:
    """Return the budget of a run, beside earlier runs and pending batches."""
    spent = spent_usd(known, settings) + pending_usd(ledger, settings)

    def mark(usage: Usage) -> None:
        if settings.base_url != "local":
            possible = total([known.spent, usage])
            write_mark(ledger, settings.model, possible, prices_of(settings))

    return make_budget(settings, spent, mark)


async def _ask_in_parallel(
    clients: list[openai.AsyncOpenAI], session: Session, todo: Todo, receive: Receive
) -> None:
    """Ask about all prompts, `judge.parallel` at a time.

    Each server of a local judge answers one prompt at a time. Raise the first UserError.
    """
    errors: list[UserError] = []

    async def work(client: openai.AsyncOpenAI, most: int) -> None:
        try:
            for _ in range(most):
                if todo and not session.stopped.is_set():
                    await _ask_next(client, session, todo, receive)
        except UserError as error:
            errors.append(error)
            # The other calls finish, because cancelling one may leave a half-open connection.
            session.stopped.set()

    if not session.dialects:
        # The first call finds the fields that the server accepts, and the others use them.
        await work(clients[0], 1)
    copies = 1 if session.settings.base_url == "local" else session.settings.parallel
    async with _started(work(client, len(todo)) for client in clients * copies) as tasks:
        await asyncio.gather(*tasks)
    if errors:
        raise errors[0]


async def _ask_next(
    client: openai.AsyncOpenAI, session: Session, todo: Todo, receive: Receive
) -> None:
    """Ask about the next prompt of `todo`."""
    key, messages = todo.popleft()
    prices = prices_of(session.settings)
    used: list[Usage] = []
    try:
        result = await ask(client, session, messages, used)
    except OutOfMoneyError:
        what = f"the next call could cost more than is left of {session.settings.max_usd} dollars"
        fix = f"raise it, or lower judge.items_per_set; {KEPT}"
        raise UserError("judge.max_usd", what, fix) from None
    except asyncio.CancelledError:
        # The requests may be billed, so their usage must reach the ledger.
        if used:
            receive(key, priced(Failure("Cancelled"), total(used), prices))
        raise
    receive(key, priced(result, total(used), prices))


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


def _stop_if_hopeless(recent: deque[Outcome], settings: Judge) -> None:
    """Raise UserError if no later call is likely to succeed."""
    failures = [outcome.result for outcome in recent if isinstance(outcome.result, Failure)]
    if failures and failures[-1] is recent[-1].result and failures[-1].is_final:
        if failures[-1].error is not None:
            raise failures[-1].error
        what = f"no money is left: {describe_failures(failures[-1:])}"
        raise judge_error(settings, what, FIX)
    if len(failures) == settings.stop_after_failures:
        what = f"{len(failures)} calls in a row failed: {describe_failures(failures)}"
        raise judge_error(settings, what, FIX)


def _verdict_row(row: Row, key: str, result: Verdict | Failure, judge: str) -> Row:
    """Return the row that is written about one verdict or failed call.

    Another machine finds the verdict by its key.
    """
    about = {"id": row["id"], "split": row["split"], "judge": judge}
    if isinstance(result, Failure):
        return about | {"failed": result.reason}
    # Redact the reason too: a model may write text that looks like personal data.
    reason = redact(result.reason, find_personal_data(result.reason))
    scores = {"reason": reason, "accuracy": result.accuracy, "style": result.style}
    return about | scores | ({"key": key} if key else {"empty": True})
