"""Judge rows in another process, which tests kill or run beside a second one."""

import multiprocessing
import os
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from pathlib import Path

from bula import judge_batch_api
from bula.errors import UserError
from bula.judging import judge_rows
from bula.params import load_params
from bula.records import Row

# Seconds after which a process counts as stuck. A busy machine takes a minute to start one.
PATIENCE = 300
SPAWN = multiprocessing.get_context("spawn")


def numbered_rows(start: int, end: int) -> list[Row]:
    """Return rows whose answers differ by their numbers."""
    row = {"id": "0", "split": "A", "question": "Pergunta 0?", "reference": "Sim."}
    return [{**row, "answer": f"Resposta {number}."} for number in range(start, end)]


def _judge(workspace: Path, rows: list[Row], ends: "Queue[str]") -> None:
    """Judge rows, and send the message of the error that ended the run."""
    os.chdir(workspace)
    judge_batch_api.FIRST_POLL = 0.01
    try:
        judge_rows(rows, load_params(), Path("models/judge"))
    except UserError as error:
        ends.put(str(error))
    else:
        ends.put("all judged")


def start_judge(workspace: Path, rows: list[Row]) -> tuple[SpawnProcess, "Queue[str]"]:
    """Start a process that judges rows; return it, and the queue of its end."""
    ends: Queue[str] = SPAWN.Queue()
    process = SPAWN.Process(target=_judge, args=(workspace, rows, ends))
    process.start()
    return process, ends
