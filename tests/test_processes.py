"""No stage outlives the dvc that started it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import ROOT

CHILD = "import stages, sys, time; print('ready', flush=True); time.sleep(60)"
# A parent like dvc's: it starts the command through a shell and waits.
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_dvc(how: signal.Signals) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "DVC_STAGE": "train"}
    with subprocess.Popen([sys.executable, "-c", PARENT], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout and parent.stdout.readline() == "ready\n"
        child = psutil.Process(parent.pid).children()[0]
        os.kill(parent.pid, how)
        parent.wait()
        deadline = time.monotonic() + 10
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.05)
        alive = child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        if alive:
            child.kill()
        assert not alive
