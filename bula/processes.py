"""Tie a child process of this project to the life of its parent."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
# Loaded here, because between fork and exec a child must do as little as it can.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends (prctl(2), Linux only)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
