"""Test `bula ask` as a user runs it: arguments, pipes, signals and terminals."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.clones import ROOT
from bula import ask_terminal
from bula.commands.ask import ask, read_questions, refuse_no_model
from bula.emergency.answers import CVV, DISCLAIMER, SAMU
from bula.errors import UserError
from tests.conftest import COMMAND_TIMEOUT_SECONDS, run, user_environment

ASK = [sys.executable, "-m", "bula", "ask"]


@pytest.fixture
def models(workspace: Path, tiny: Path) -> Path:
    """Return a workspace whose base and tuned models are the two-layer model."""
    for name in ("base", "merged"):
        (workspace / "models" / name).symlink_to(tiny)
    return workspace


def pipe(folder: Path, text: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `bula ask` with a text on its standard input."""
    return subprocess.run(
        [*ASK, *arguments],
        cwd=folder,
        env=user_environment(),
        input=text,
        text=True,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
    )


def test_one_question_is_answered_and_the_warning_stays_out_of_a_pipe(models: Path) -> None:
    result = run([*ASK, "Posso tomar sol?"], models)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert DISCLAIMER not in result.stdout
    assert DISCLAIMER in result.stderr
    assert "loaded in" not in result.stderr


def test_each_line_of_standard_input_is_a_question(models: Path) -> None:
    one = pipe(models, "Posso tomar sol?\n")
    two = pipe(models, "Posso tomar sol?\n\nPosso tomar sol?\n")
    assert (one.returncode, two.returncode) == (0, 0)
    assert two.stdout == one.stdout * 2


def test_emergencies_are_answered_without_a_model(workspace: Path) -> None:
    result = pipe(workspace, "Quero me matar.\n")
    assert (result.returncode, result.stdout) == (0, f"{CVV}\n\n")
    # This question also gets a model's answer, and there is no model.
    result = pipe(workspace, "Estou com dor no peito.\n")
    assert result.returncode == 1
    assert result.stdout == f"{SAMU}\n\n"
    assert "models/merged: it does not exist" in result.stderr


def test_bytes_that_are_not_utf_8_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    question = "Dor no peito e aflição?".encode("latin-1").decode("utf-8", "surrogateescape")
    with pytest.raises(UserError, match="it has bytes that are not UTF-8"):
        ask(question)
    # Words that the rules recognise are answered first.
    assert capsys.readouterr().out == f"{SAMU}\n\n"


def test_an_emergency_precedes_the_answer(models: Path) -> None:
    result = pipe(models, "Estou com dor no peito.\n")
    assert result.stdout.startswith(f"{SAMU}\n\n")
    assert len(result.stdout) > len(SAMU) + 3


def test_compare_prints_both_variants_one_after_the_other_in_a_pipe(models: Path) -> None:
    result = pipe(models, "Posso tomar sol?\n", "--compare")
    assert result.returncode == 0
    base, tuned = result.stdout.split("Modelo ajustado:\n")
    # Both models are the same here.
    assert base == f"Modelo de base:\n{tuned}"


def test_a_style_changes_the_prompt(models: Path) -> None:
    plain = pipe(models, "Posso tomar sol?\n")
    post = pipe(models, "Posso tomar sol?\n", "--style", "post")
    assert post.returncode == 0
    assert post.stdout != plain.stdout


@pytest.mark.parametrize(
    ("text", "arguments"), [("", []), ("\n \n", []), ("x", [""]), ("x", [" "])]
)
def test_no_question_is_an_error(text: str, arguments: list[str]) -> None:
    result = pipe(ROOT, text, *arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert "bula ask: no question was given. Write it in quotes" in result.stderr


def test_a_path_without_a_model_is_refused_before_loading(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exist\. Name a model directory"):
        refuse_no_model(tmp_path / "nope")
    (tmp_path / "q4_k_m.gguf").touch()
    with pytest.raises(UserError, match="it is a folder of GGUF files"):
        refuse_no_model(tmp_path)
    refuse_no_model(tmp_path / "q4_k_m.gguf")
    # The loader says which stage writes a model of the pipeline.
    refuse_no_model(Path("models/merged"))


def test_a_person_may_leave_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = io.StringIO("")
    monkeypatch.setattr(prompt, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", prompt)
    assert list(read_questions(None)) == []


@pytest.mark.parametrize("is_wide", [False, True])
def test_an_answer_that_repeats_itself_is_marked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_wide: bool
) -> None:
    monkeypatch.setattr(ask_terminal, "_is_wide", lambda: is_wide)
    answers = {"base": "Beba água em pequenos goles.", "tuned": "Beba água. " * 9}
    streams = {name: iter([text]) for name, text in answers.items()}
    # The loop has 15 4-grams of words, of which two differ: a share of 1 - 2 / 15.
    ask_terminal.show_answers(streams, 0.5)
    shown = capsys.readouterr().out
    assert shown.count(ask_terminal.DEGENERATE) == 1
    start = "Modelo ajustado: " if is_wide else ""
    assert shown.endswith(f"\n{start}{ask_terminal.DEGENERATE}\n\n")


def test_a_closed_pipe_ends_the_command_quietly(models: Path) -> None:
    questions = "Posso tomar sol?\\n" * 50
    command = f"printf '{questions}' | {' '.join(ASK)} | head -1; echo ${{PIPESTATUS[1]}}"
    result = run(["bash", "-c", command], models)
    assert result.stdout.splitlines()[-1] == "0"
    assert result.stderr.strip() == DISCLAIMER


def test_ctrl_c_ends_the_command_quietly(models: Path) -> None:
    started = subprocess.Popen(
        ASK,
        cwd=models,
        env=user_environment(),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert started.stdin
    assert started.stdout
    print("Posso tomar sol?", file=started.stdin, flush=True)
    assert started.stdout.readline()
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    assert errors.strip() == DISCLAIMER


def on_terminal(folder: Path, columns: int, *arguments: str) -> str:
    """Return what `bula ask` shows on a terminal of this width."""
    main, terminal = pty.openpty()
    environment = {**user_environment(), "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(
        [*ASK, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            part = os.read(main, 4096)
        except OSError:
            # The terminal's last process is gone.
            break
        shown += part
    os.close(main)
    assert process.wait(timeout=60) == 0
    return shown.decode()


def test_a_terminal_shows_warning_and_loading_time(models: Path) -> None:
    shown = on_terminal(models, 80, "Posso tomar sol?")
    assert DISCLAIMER in shown.replace("\r\n", "\n")
    assert "ask: loaded in " in shown


def test_a_wide_terminal_shows_two_columns_and_a_narrow_one_does_not(models: Path) -> None:
    wide = on_terminal(models, 120, "Posso tomar sol?", "--compare")
    [heading, *_] = [line for line in wide.splitlines() if "Modelo de base" in line]
    assert "Modelo ajustado" in heading
    narrow = on_terminal(models, 80, "Posso tomar sol?", "--compare")
    [heading] = [line for line in narrow.splitlines() if "Modelo de base" in line]
    assert "Modelo ajustado" not in heading


def test_a_terminal_receives_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    ask_terminal.show_stream(iter(["a\x1b[2J", "a\x1b[2J[red]b"]))
    assert capsys.readouterr().out == "a\N{REPLACEMENT CHARACTER}[2J[red]b\n\n"


def test_an_answer_that_changes_starts_on_a_new_line(capsys: pytest.CaptureFixture[str]) -> None:
    ask_terminal.show_stream(iter(["hm", "Sim", "Sim."]))
    assert capsys.readouterr().out == "hm\nSim.\n\n"


def test_an_empty_answer_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    ask_terminal.show_stream(iter([]))
    assert capsys.readouterr().out == f"{ask_terminal.EMPTY}\n\n"
