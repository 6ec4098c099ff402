"""Measure the rate of the judge's calls beside the ideal rate.

A server on this machine answers each request after 200 ms. The ideal is a program whose own work
takes no time: 64 calls in flight, each 200 ms long. Both run in turn, and the best of the rounds
counts, because other programs on the machine can only slow a round down.

    python -m bench.judge --verdicts 500
"""

import asyncio
import json
import math
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import typer

from bench.summary import show
from bula.judging import judge_rows
from bula.params import Params, load_params
from bula.records import Row

SECONDS = 0.2
IN_FLIGHT = 64
ROUNDS = 3
# Smallest share of the ideal rate.
GOAL = 0.85
ROOT = Path(__file__).resolve().parent.parent
VERDICT = json.dumps({"reason": "Correta.", "accuracy": 3, "style": 3})


def reply() -> bytes:
    """Return a complete HTTP response with a verdict."""
    choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": VERDICT}}
    usage = {"prompt_tokens": 700, "completion_tokens": 30}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection, each after SECONDS."""
    response = reply()
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            await asyncio.sleep(SECONDS)
            writer.write(response)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve(port_to: Connection) -> None:
    """Send the port of a new server, and serve until the process is stopped."""

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port_to.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def settings(port: int) -> Params:
    """Return the default parameters with a judge at this port."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    changes = {
        "base_url": f"http://127.0.0.1:{port}/v1",
        "model": "bench",
        "parallel": IN_FLIGHT,
        "timeout_seconds": 60,
    }
    return params.model_copy(update={"judge": params.judge.model_copy(update=changes)})


def rows(count: int) -> list[Row]:
    """Return rows with different answers of common length."""
    text = "Beba água, descanse e procure um posto de saúde se a febre durar dois dias. " * 6
    about = {"split": "A", "question": "Estou com febre. O que faço?", "reference": text}
    return [{**about, "id": str(number), "answer": f"{number}. {text}"} for number in range(count)]


async def sleep_all(count: int) -> None:
    """Wait as long as the calls of an ideal program take."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def call() -> None:
        async with slots:
            await asyncio.sleep(SECONDS)

    await asyncio.gather(*(call() for _ in range(count)))


def measure(params: Params, count: int) -> dict[str, float]:
    """Return the rates of the judge and of sleeps, and the judge's CPU time."""
    started = time.perf_counter()
    asyncio.run(sleep_all(count))
    slept = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger.jsonl"
        started = time.perf_counter()
        worked = time.process_time()
        judged = judge_rows(rows(count), params, Path(folder), ledger, Path(folder))
        seconds = time.perf_counter() - started
        worked = time.process_time() - worked
        lines = len(ledger.read_bytes().splitlines())
    if lines != count or judged.failures:
        raise RuntimeError(f"{lines} of {count} verdicts are in the ledger")
    return {
        "per_second": count / seconds,
        "sleeps_per_second": count / slept,
        "cpu_ms_per_verdict": 1000 * worked / count,
    }


def main(
    verdicts: Annotated[int, typer.Option(help="Number of verdicts per round.")] = 2000,
) -> None:
    """Measure the rate."""
    # A forked server would inherit the threads' locks and the signal handlers of this process.
    spawn = multiprocessing.get_context("spawn")
    receive, send = spawn.Pipe(duplex=False)
    server = spawn.Process(target=serve, args=(send,), daemon=True)
    server.start()
    params = settings(receive.recv())
    found = [measure(params, verdicts) for _ in range(ROUNDS)]
    server.kill()
    server.join()
    # The calls run in waves of IN_FLIGHT, and the last wave may be incomplete.
    ideal = verdicts / (math.ceil(verdicts / IN_FLIGHT) * SECONDS)
    best = max(round_["per_second"] for round_ in found)
    figures = {
        "verdicts": verdicts,
        "ideal_per_second": ideal,
        "sleeps_per_second": max(round_["sleeps_per_second"] for round_ in found),
        "per_second": best,
        "worst_per_second": min(round_["per_second"] for round_ in found),
        "share_of_ideal": best / ideal,
        "cpu_ms_per_verdict": min(round_["cpu_ms_per_verdict"] for round_ in found),
    }
    show("judge", figures, {"share_of_ideal": GOAL}, best / ideal >= GOAL)


if __name__ == "__main__":
    typer.run(main)
