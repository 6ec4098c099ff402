"""No stage outlives the dvc that started it."""

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
from bench.kill import survivors, works
from stages import quantize
from tests import conftest
from tests.conftest import run

CHILD = "import stages, sys, time; print('ready', flush=True); time.sleep(60)"
# A parent that waits, as dvc does.
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_dvc(how: signal.Signals) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "DVC_STAGE": "train"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout and parent.stdout.readline() == "ready\n"
        child = psutil.Process(parent.pid).children()[0]
        os.kill(parent.pid, how)
        parent.wait()
        alive = survivors([child], 10)
        if alive:
            child.kill()
        assert alive == 0


@pytest.mark.parametrize(("who", "code"), [("nobody", 0), ("this", 0), ("init", 1)])
def test_a_stage_whose_dvc_ended_before_it_could_listen_ends(who: str, code: int) -> None:
    parent = {"nobody": "", "this": str(os.getpid()), "init": "1"}[who]
    script = "import stages, os; print(os.environ.get('STAGE_PARENT'))"
    result = run([sys.executable, "-c", script], ROOT, STAGE_PARENT=parent)
    # No process of the stage's own takes another's parent for its own.
    assert (result.returncode, result.stdout) == (code, "" if code else "None\n")
    assert ("what started this stage is gone" in result.stderr) == bool(code)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_training_started_by_hand_ends_with_its_launcher() -> None:
    child = f"import os; os.environ['STAGE_PARENT'] = str(os.getppid()); {CHILD}"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    env = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"} | {
        "PYTHONPATH": str(ROOT)
    }
    with subprocess.Popen(
        [sys.executable, "-c", script], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout and parent.stdout.readline() == "ready\n"
        child_process = psutil.Process(parent.pid).children()[0]
        parent.kill()
        parent.wait()
        alive = survivors([child_process], 10)
        if alive:
            child_process.kill()
        assert alive == 0


# What vLLM's server is to this project: a module that asks for its key, with a worker that outlives a careless end.
VLLM = """
import http.server, os, subprocess, sys
subprocess.Popen([sys.executable, "-c", WORKER])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ours = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if ours else 401)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
SERVE = """
import pathlib, time
from bula import serving
serving.END_SECONDS = 2
with serving.serve_vllm(pathlib.Path("model"), 3, 64) as endpoints:
    print(len(endpoints), flush=True)
    input()
"""


def stand_in(folder: Path, worker: str) -> dict[str, str]:
    """An environment in which vllm is the module above."""
    place = folder / "vllm/entrypoints/openai"
    place.mkdir(parents=True)
    (place / "api_server.py").write_text(f"WORKER = {worker!r}\n{VLLM}", encoding="utf-8")
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_vllms_server_ends_when_the_stage_is_killed(tmp_path: Path) -> None:
    env = stand_in(tmp_path, "")
    script = SERVE.replace("input()", "time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-c", script], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as stage:
        assert stage.stdout and stage.stdout.readline() == "3\n"
        server = [child for child in psutil.Process(stage.pid).children() if works(child)]
        stage.kill()
        stage.wait()
        assert server
        assert survivors(server, 10) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_llama_cpp_ends_when_the_stage_is_killed(tiny: Path, tmp_path: Path) -> None:
    quantize.convert(tiny, "bf16", tmp_path / "tiny.gguf")
    script = SERVE.replace("input()", "time.sleep(60)").replace("serve_vllm", "serve_llama_cpp")
    script = script.replace('"model"', repr(str(tmp_path / "tiny.gguf")))
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as stage:
        assert stage.stdout and int(stage.stdout.readline()) >= 1
        servers = [child for child in psutil.Process(stage.pid).children() if works(child)]
        stage.kill()
        stage.wait()
        assert servers
        assert survivors(servers, 10) == 0


def test_vllms_workers_end_with_the_block_even_if_they_will_not(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    worker = f"""
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(deaf)!r}).touch()
time.sleep(60)
"""
    env = stand_in(tmp_path, worker)
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env=env,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as stage:
        assert stage.stdin and stage.stdout and stage.stdout.readline() == "3\n"
        while not deaf.exists():
            time.sleep(0.05)
        tree = psutil.Process(stage.pid).children(recursive=True)
        stage.communicate("\n")
        assert len(tree) == 2
        assert survivors(tree, 10) == 0


def test_a_process_that_ended_is_no_survivor_before_anybody_waited_for_it() -> None:
    ended, works = (
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
        for seconds in (0, 60)
    )
    try:
        assert survivors([psutil.Process(ended.pid)], 30) == 0
        assert survivors([psutil.Process(works.pid)], 0) == 1
        assert psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE
    finally:
        works.kill()
        works.wait()
        ended.wait()


def test_an_aimed_kill_waits_past_what_the_kill_before_it_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / ".bula/checkpoints/0123456789abcdef/checkpoint-1"
    checkpoint.mkdir(parents=True)
    (tmp_path / "dvc.lock").write_text(LOCK, encoding="utf-8")
    script = f"sleep 1; rm -r {checkpoint}; sleep 0.5; touch {tmp_path}/trains; mkdir {checkpoint}; sleep 60"
    monkeypatch.setattr(kill, "COMMAND", ["sh", "-c", script])
    found = kill.kill(tmp_path, 0.2, signal.SIGKILL, aim=True)
    assert (tmp_path / "trains").exists()
    assert found["while_writing"] and not found["had_ended"] and not found["survivors"]


LOCK = """schema: '2.0'
stages:
  ingest:
    cmd: python -m stages.ingest
  train:
    cmd: python -m stages.train
"""


@pytest.mark.parametrize(
    ("now", "cut"),
    [
        (LOCK, False),
        (LOCK + "  merge:\n    cmd: a\n", False),
        ("", True),
        ("schema: '2.0'\n", True),
        (LOCK[:60], True),
    ],
)
def test_a_lock_that_a_kill_cut_short_is_put_back(now: str, cut: bool, tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(now, encoding="utf-8")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text("{" if cut else "{}", encoding="utf-8")
    assert kill.mend_lock(tmp_path, LOCK) == cut
    assert (tmp_path / ".dvc/tmp/rwlock").exists() != cut
    assert (tmp_path / "dvc.lock").read_text(encoding="utf-8") == (LOCK if cut else now)


def test_a_command_that_hangs_fails_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "HANGS_SECONDS", 2)
    # The second one holds the pipes after the first is killed.
    command = ["sh", "-c", "echo begun; sleep 60 & sleep 60"]
    with pytest.raises(pytest.fail.Exception, match="did not end in 2 seconds:\nbegun"):
        run(command, ROOT)
