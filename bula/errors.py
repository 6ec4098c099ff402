"""Define errors that a user must fix, and print them as sentences.

A full disk and too little memory are such errors too, whichever library meets them. Any other
exception is a bug in this project or in a library, and keeps its traceback.
"""

import errno
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from bula.escaping import terminal

# Errors of the operating system that mean: this disk, quota or limit has no room for more bytes.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FIX_NO_ROOM = "make room on the disk or raise the limit, and run the command again"
# Many libraries raise an error of another class and keep only the text.
NO_ROOM_TEXT = re.compile(
    r"""
    No\ space\ left\ on\ device               # ENOSPC: tokenizers, safetensors, pyarrow
    | Disk\ quota\ exceeded                   # EDQUOT
    | File\ too\ large                        # EFBIG, a limit on the size of files
    | database\ or\ disk\ is\ full            # sqlite3, which diskcache uses
    | disk\ I/O\ error                        # sqlite3, at a limit on the size of files
    | PytorchStreamWriter\ failed             # torch.save
    | unexpected\ pos\ \d+\ vs\ \d+           # torch.save, when it closes the file
    | ^\d+\ requested\ and\ \d+\ written      # numpy's tofile, by which gguf writes tensors
    """,
    re.VERBOSE,
)
NO_MEMORY_TEXT = re.compile(
    r"""
    out\ of\ memory                           # CUDA, in torch and in other libraries
    | DefaultCPUAllocator                     # torch on a CPU
    | CUBLAS_STATUS_ALLOC_FAILED
    | std::bad_alloc                          # C++
    | Cannot\ allocate\ memory                # ENOMEM
    """,
    re.VERBOSE,
)
# Messages of libraries go on with advice that does not apply here.
REASON_CHARACTERS = 160


class UserError(Exception):
    """An error that the user must fix: where, what, and the fix."""

    def __init__(self, where: str | Path, what: str, fix: str) -> None:
        """Keep the three parts of the message.

        `where` names a file, a parameter or a stage.
        """
        super().__init__(str(where), what, fix)
        self.where = str(where)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        """Return the three parts as two sentences.

        If `what` has several lines, the fix starts on a new line.
        """
        gap = "\n" if "\n" in self.what else ". "
        fix = self.fix[:1].upper() + self.fix[1:]
        return f"{self.where}: {self.what}{gap}{fix}."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question in brackets about the most similar name.

    The text is empty if no known name is similar.
    """
    found = get_close_matches(name, known, n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error says that the disk has no room."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in NO_ROOM
    return bool(NO_ROOM_TEXT.search(str(error)))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or bool(NO_MEMORY_TEXT.search(str(error)))


def is_machine_error(error: BaseException) -> bool:
    """Return whether disk or memory caused an error, or an earlier error behind it."""
    return any(is_full_disk(cause) or is_out_of_memory(cause) for cause in _causes(error))


@contextmanager
def machine_errors(less_memory: str) -> Iterator[None]:
    """Turn a full disk or a lack of memory into a UserError.

    `less_memory` says how to need less memory. The error's class does not matter: the package
    tokenizers raises the class Exception itself.
    """

    def translate(kind: type[BaseException] | None, error: Any, trace: object) -> bool:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            found = _machine_error(error, less_memory)
            if found:
                raise found from error
        return False

    with ExitStack() as stack:
        stack.push(translate)
        yield


def _machine_error(error: Exception, less_memory: str) -> UserError | None:
    """Return the UserError for an error of disk or memory, else None."""
    for cause in _causes(error):
        if is_full_disk(cause):
            name = getattr(cause, "filename", None) or "the disk"
            what = f"a file cannot be written ({_reason(cause)})"
            return UserError(name, what, FIX_NO_ROOM)
        if is_out_of_memory(cause):
            return UserError("params.yaml", f"memory ran out ({_reason(cause)})", less_memory)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that led to it, the last one first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """Return the first line of a library's message, shortened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:REASON_CHARACTERS]


def run_stage(command: Callable[..., Any], less_memory: str = "") -> None:
    """Run the command line of a stage.

    A UserError prints a sentence and exits with code 1. `less_memory` names the parameters that
    lower the stage's need of memory. Typer's own tracebacks are switched off, because they show the
    values of local variables.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    run_app(app, less_memory)


def run_app(app: Callable[[], Any], less_memory: str = "") -> None:
    """Call an application, and report a UserError as a sentence.

    The exit code is then 1.
    """
    larger = "use a machine with more memory"
    fix = f"{less_memory}, or {larger}" if less_memory else larger
    try:
        with machine_errors(fix):
            app()
    except UserError as error:
        raise SystemExit(terminal(str(error), lines=True)) from None
