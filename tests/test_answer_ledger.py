import os
import subprocess
import sys
from pathlib import Path

import pytest

from bula.answer_ledger import (
    PersonalDataError,
    append_answers,
    batch_key,
    delete_removed,
    open_ledger,
    read_ledger,
)
from bula.errors import UserError

STAGE = "generate@base"
PROMPTS = [[1, 2]]
ANSWERS = [("Sim.", "stop", 2, False)]


def leave(folder: Path, stage: str, fingerprint: str) -> Path:
    """Leave the file of a run that stopped after one answer."""
    names = ["base", "tuned", "old"]
    with pytest.raises(KeyboardInterrupt), open_ledger(stage, fingerprint, names, folder) as ledger:
        append_answers(ledger, PROMPTS, ANSWERS)
        raise KeyboardInterrupt
    return folder / stage / f"{fingerprint}.jsonl"


def test_answers_stay_until_the_block_ends_without_an_error(tmp_path: Path) -> None:
    file = leave(tmp_path, STAGE, "a")
    with open_ledger(STAGE, "a", ["base"], tmp_path) as ledger:
        assert read_ledger(ledger) == {batch_key(PROMPTS): ANSWERS}
        assert file.exists()
    assert not file.exists()


def test_answers_with_forbidden_personal_data_are_deleted(tmp_path: Path) -> None:
    file = tmp_path / STAGE / "a.jsonl"
    with pytest.raises(PersonalDataError), open_ledger(STAGE, "a", ["base"], tmp_path) as ledger:
        append_answers(ledger, PROMPTS, ANSWERS)
        assert file.exists()
        raise PersonalDataError("generate@base", "personal data", "redact it")
    assert not file.exists()


def test_only_the_user_can_read_the_answers_under_any_umask(tmp_path: Path) -> None:
    (tmp_path / "answers" / STAGE).mkdir(parents=True, mode=0o755)
    older = tmp_path / "answers" / STAGE / "a.jsonl"
    older.touch(mode=0o644)
    before = os.umask(0)
    try:
        file = leave(tmp_path / "answers", STAGE, "a")
        new = leave(tmp_path / "answers", "safety@base", "a")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (file, new)] == [0o600, 0o600]
    folders = (tmp_path / "answers", file.parent, new.parent)
    assert [path.stat().st_mode & 0o777 for path in folders] == [0o700] * 3


HOLD = """
import sys
from pathlib import Path
from bula.answer_ledger import open_ledger
with open_ledger(sys.argv[1], sys.argv[2], ["base"], Path(sys.argv[3])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_neither_shares_nor_deletes_a_living_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, STAGE, "a", str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        message = r"generate@base/a\.jsonl: another process answers the same questions .* Wait for"
        with pytest.raises(UserError, match=message):
            leave(tmp_path, STAGE, "a")
        # A run with other parameters goes on, and neither run deletes the other's answers.
        with open_ledger(STAGE, "b", ["base"], tmp_path):
            assert (tmp_path / STAGE / "a.jsonl").exists()
        delete_removed([], tmp_path)
        assert (tmp_path / STAGE / "a.jsonl").exists()
        process.communicate()
    assert process.returncode == 0
    assert list((tmp_path / STAGE).iterdir()) == []


def test_a_killed_process_releases_its_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, STAGE, "a", str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    with open_ledger(STAGE, "a", ["base"], tmp_path) as ledger:
        assert read_ledger(ledger) == {}


def test_answers_of_other_runs_and_of_removed_variants_are_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_run = leave(tmp_path, STAGE, "a")
    kept = leave(tmp_path, "generate@tuned", "a")
    removed = leave(tmp_path, "safety@old", "a")
    with open_ledger(STAGE, "b", ["base", "tuned"], tmp_path):
        pass
    assert not other_run.exists()
    assert kept.exists()
    assert not removed.parent.exists()
    said = capsys.readouterr().out
    assert said == f"{removed.parent}: deleted, params.yaml has no such variant\n"


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    file = leave(tmp_path, STAGE, "a")
    file.write_bytes(b'{"key": 1}\n' + file.read_bytes() + b'{"key": "b", "answ')
    complete = file.read_bytes().count(b"\n")
    with open_ledger(STAGE, "a", ["base"], tmp_path) as ledger:
        assert read_ledger(ledger) == {batch_key(PROMPTS): ANSWERS}
        append_answers(ledger, [[3]], ANSWERS)
        assert read_ledger(ledger).keys() == {batch_key(PROMPTS), batch_key([[3]])}
        assert file.read_bytes().count(b"\n") == complete + 1
