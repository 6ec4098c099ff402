"""Render a model's chat template once in a bounded child process.

A template is a program: it may loop for ever, fill the memory, or reach for secrets. The child runs
it in transformers' sandbox, with a timer of the kernel and a bounded address space. This file is
also the child's program, `python -I stages/models/template.py`: it reads a JSON object from its
standard input, prints what goes wrong, and imports nothing of this project.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# A chat of two short messages; the longest known template writes 5,000 characters around them.
MOST_CHARACTERS = 1_000_000
MEMORY_BYTES = 1_000_000_000
# Most characters of an error's message that are repeated.
MESSAGE_CHARACTERS = 300
# Python and transformers start in 2 s; a busy machine takes longer.
START_SECONDS = 120
# The child needs no key and no token of the user.
ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")

Chat = list[dict[str, str]]


def check_template(
    where: str, template: str, variables: Mapping[str, Any], chats: list[Chat], seconds: int
) -> None:
    """Render `chats` by a template in a child process.

    Raise UserError if rendering fails, or takes more than `seconds`. All chats but the first one
    are complete; the first one stops where the assistant's turn starts.
    """
    from bula.errors import UserError
    from bula.prompts import FIX
    from bula.records import json_line

    job = {"template": template, "variables": dict(variables), "chats": chats, "seconds": seconds}
    slow = f"its chat template takes longer than {seconds} s (ingest.limits.template_seconds)"
    try:
        child = _run_child(json_line(job), START_SECONDS + seconds)
    except subprocess.TimeoutExpired as error:
        raise UserError(where, slow, FIX) from error
    if child.returncode == -signal.SIGALRM:
        raise UserError(where, slow, FIX)
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or ["no message"]
        message = lines[-1][:MESSAGE_CHARACTERS]
        what = f"rendering its chat template crashed the child process ({message})"
        raise UserError(where, what, FIX)
    if problem := child.stdout.strip():
        raise UserError(where, f"its chat template cannot be rendered ({problem})", FIX)


def _run_child(job: str, seconds: int) -> "subprocess.CompletedProcess[str]":
    """Run this file as a program and return its output."""
    from bula.processes import end_with_parent

    return subprocess.run(
        [sys.executable, "-I", str(Path(__file__))],
        input=job,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        preexec_fn=end_with_parent,
    )


def _bound_memory() -> None:
    """Let this process map at most MEMORY_BYTES more."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _find_problem(job: dict[str, Any]) -> str:
    """Render all chats and return what goes wrong.

    Return an empty text if nothing goes wrong.
    """
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    if sys.platform == "linux":
        _bound_memory()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(job["seconds"])
    expected: tuple[type[Exception], ...] = (TemplateError, ArithmeticError, AttributeError)
    expected += (LookupError, MemoryError, RecursionError, TypeError, ValueError)
    for number, chat in enumerate(job["chats"]):
        try:
            texts, _ = render_jinja_template(
                [chat],
                chat_template=job["template"],
                add_generation_prompt=number == 0,
                **job["variables"],
            )
        except expected as error:
            lines = str(error).strip().splitlines() or ["no message"]
            return f"{type(error).__name__}: {lines[0][:MESSAGE_CHARACTERS]}"
        if len(texts[0]) > MOST_CHARACTERS:
            return f"it writes more than {MOST_CHARACTERS} characters for a short question"
    return ""


if __name__ == "__main__":
    print(_find_problem(json.load(sys.stdin)))
