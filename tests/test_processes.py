"""Stages, servers and training exit with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench import kill
from bench.clones import ROOT
from bench.kill import count_survivors, is_working
from bula import gguf_export
from tests import conftest
from tests.conftest import run

only_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems have no parent-death signal"
)
CHILD = "import stages, sys, time; print('ready', flush=True); time.sleep(60)"
# The parent waits for its child, as dvc does.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"


def survivors_of_parent(child: str, how: signal.Signals, env: dict[str, str]) -> int:
    """Signal a parent and return how many of its children still run."""
    command = [sys.executable, "-c", PARENT.format(child=child)]
    env = env | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout and parent.stdout.readline() == "ready\n"
        process = psutil.Process(parent.pid).children()[0]
        os.kill(parent.pid, how)
        parent.wait()
        survivors = count_survivors([process], 10)
        if survivors:
            process.kill()
    return survivors


@only_linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_exits_when_dvc_is_killed(how: signal.Signals) -> None:
    assert survivors_of_parent(CHILD, how, os.environ | {"DVC_STAGE": "train"}) == 0


@pytest.mark.parametrize(("who", "code"), [("nobody", 0), ("this", 0), ("init", 1)])
def test_a_stage_exits_at_once_if_its_dvc_exited_before(who: str, code: int) -> None:
    parent = {"nobody": "", "this": str(os.getpid()), "init": "1"}[who]
    script = "import stages, os; print(os.environ.get('STAGE_PARENT'))"
    result = run([sys.executable, "-c", script], ROOT, STAGE_PARENT=parent)
    # The variable is removed, so that the stage's own children do not read it.
    assert (result.returncode, result.stdout) == (code, "" if code else "None\n")
    assert ("the parent process of this stage has exited" in result.stderr) == bool(code)


@only_linux
def test_training_started_by_hand_exits_with_its_launcher() -> None:
    child = f"import os; os.environ['STAGE_PARENT'] = str(os.getppid()); {CHILD}"
    env = dict(os.environ)
    env.pop("DVC_STAGE", None)
    assert survivors_of_parent(child, signal.SIGKILL, env) == 0


# A stand-in for vLLM's server: it checks its key and has a worker process.
VLLM = """
import http.server, os, subprocess, sys
subprocess.Popen([sys.executable, "-c", WORKER])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ours = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if ours else 401)
        self.end_headers()

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
SERVE = """
import pathlib, time
from bula import gguf_export, serving
serving.END_SECONDS = 2
settings = serving.VllmSettings(3, 64, "bfloat16", 0, 0.9, 1)
with serving.serve_vllm(pathlib.Path("model"), settings) as endpoints:
    print(len(endpoints), flush=True)
    input()
"""
SERVE_UNTIL_KILLED = SERVE.replace("input()", "time.sleep(60)")


def environment_with_stand_in(folder: Path, worker: str) -> dict[str, str]:
    """Return an environment in which vllm is the stand-in."""
    place = folder / "vllm/entrypoints/openai"
    place.mkdir(parents=True)
    (place / "api_server.py").write_text(f"WORKER = {worker!r}\n{VLLM}", encoding="utf-8")
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}


def kill_serving_stage(script: str, env: dict[str, str]) -> tuple[int, int, int]:
    """Kill a stage that serves a model.

    Return the numbers of endpoints, of servers, and of servers that survive.
    """
    with subprocess.Popen(
        [sys.executable, "-c", script], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as stage:
        assert stage.stdout
        endpoints = int(stage.stdout.readline())
        children = psutil.Process(stage.pid).children()
        servers = [child for child in children if is_working(child)]
        stage.kill()
        stage.wait()
        return endpoints, len(servers), count_survivors(servers, 10)


@only_linux
def test_the_vllm_server_exits_when_the_stage_is_killed(tmp_path: Path) -> None:
    env = environment_with_stand_in(tmp_path, "")
    endpoints, servers, survivors = kill_serving_stage(SERVE_UNTIL_KILLED, env)
    assert endpoints == 3
    assert servers > 0
    assert survivors == 0


@only_linux
def test_the_llama_cpp_servers_exit_when_the_stage_is_killed(tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    gguf_export.convert(tiny, "bf16", model)
    call = f"serve_llama_cpp(pathlib.Path({str(model)!r}), 3, 64)"
    script = SERVE_UNTIL_KILLED.replace('serve_vllm(pathlib.Path("model"), settings)', call)
    endpoints, servers, survivors = kill_serving_stage(script, dict(os.environ))
    assert endpoints >= 1
    assert servers > 0
    assert survivors == 0


def test_vllm_workers_that_ignore_sigterm_are_killed_after_the_block(tmp_path: Path) -> None:
    ignoring = tmp_path / "ignoring"
    worker = f"""
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(ignoring)!r}).touch()
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env=environment_with_stand_in(tmp_path, worker),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as stage:
        assert stage.stdin and stage.stdout and stage.stdout.readline() == "3\n"
        while not ignoring.exists():
            time.sleep(0.05)
        tree = psutil.Process(stage.pid).children(recursive=True)
        stage.communicate("\n")
        assert len(tree) == 2
        assert count_survivors(tree, 10) == 0


def sleep(seconds: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])


def test_a_zombie_process_is_not_a_survivor() -> None:
    exited = sleep(0)
    running = sleep(60)
    try:
        assert count_survivors([psutil.Process(exited.pid)], 30) == 0
        assert count_survivors([psutil.Process(running.pid)], 0) == 1
        assert psutil.Process(exited.pid).status() == psutil.STATUS_ZOMBIE
    finally:
        running.kill()
        running.wait()
        exited.wait()


def test_an_aimed_kill_ignores_checkpoints_that_an_earlier_kill_left_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / ".bula/checkpoints/0123456789abcdef/checkpoint-1"
    checkpoint.mkdir(parents=True)
    training = tmp_path / "training"
    (tmp_path / "dvc.lock").write_text(LOCK, encoding="utf-8")
    steps = [
        "sleep 1",
        f"rm -r {checkpoint}",
        "sleep 0.5",
        f"touch {training}",
        f"mkdir {checkpoint}",
        "sleep 60",
    ]
    monkeypatch.setattr(kill, "COMMAND", ["sh", "-c", "; ".join(steps)])
    found = kill.kill(tmp_path, 0.2, signal.SIGKILL, aim=True)
    assert training.exists()
    assert found["while_writing"]
    assert not found["had_ended"]
    assert not found["survivors"]


LOCK = """schema: '2.0'
stages:
  ingest:
    cmd: python -m stages.ingest
  train:
    cmd: python -m stages.train
"""


@pytest.mark.parametrize(
    ("now", "is_truncated"),
    [
        (LOCK, False),
        (LOCK + "  merge:\n    cmd: a\n", False),
        ("", True),
        ("schema: '2.0'\n", True),
        (LOCK[:60], True),
    ],
)
def test_a_truncated_dvc_lock_is_restored(now: str, is_truncated: bool, tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(now, encoding="utf-8")
    assert kill.repair_dvc(tmp_path, LOCK) == is_truncated
    restored = LOCK if is_truncated else now
    assert (tmp_path / "dvc.lock").read_text(encoding="utf-8") == restored


@pytest.mark.parametrize(("content", "is_kept"), [("{}", True), ("{", False)])
def test_an_rwlock_that_is_not_json_is_deleted(content: str, is_kept: bool, tmp_path: Path) -> None:
    rwlock = tmp_path / ".dvc/tmp/rwlock"
    rwlock.parent.mkdir(parents=True)
    rwlock.write_text(content, encoding="utf-8")
    (tmp_path / "dvc.lock").write_text(LOCK, encoding="utf-8")
    kill.repair_dvc(tmp_path, LOCK)
    assert rwlock.exists() == is_kept


def test_a_command_that_hangs_fails_with_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "COMMAND_TIMEOUT_SECONDS", 2)
    # The background process holds the pipes open after the shell is killed.
    command = ["sh", "-c", "echo begun; sleep 60 & sleep 60"]
    with pytest.raises(pytest.fail.Exception, match="did not exit within 2 seconds:\nbegun"):
        run(command, ROOT)
