"""Exit without a traceback on Ctrl-C and on a closed pipe."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# The exit code that shells use for a program that Ctrl-C ended.
INTERRUPTED = 128 + signal.SIGINT


@contextmanager
def clean_exit() -> Iterator[None]:
    """Turn Ctrl-C into exit code 130, and a closed pipe into exit code 0.

    The child processes of the block have ended by then.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # Python flushes standard output once more when it exits.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        raise SystemExit(0) from None
