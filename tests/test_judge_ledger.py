"""Check that no verdict is paid twice, and that damage costs one verdict at most."""

import asyncio
import errno
import resource
from pathlib import Path

import pytest

from bench.clones import ROOT, edit_params
from bula.errors import UserError
from bula.judge_ledger import (
    MARK,
    append_rows,
    ledger_key,
    ledger_writer,
    read_ledger,
    settle_mark,
    verdict_line,
)
from bula.judge_limits import Usage
from bula.judge_prompt import Verdict, to_messages
from bula.judging import judge_rows
from bula.params import load_params
from bula.records import read_rows, write_rows
from tests.judge_server import StartJudge, verdict
from tests.test_judging import ROWS, ask

VERDICT = Verdict(reason="Correta.", accuracy=3, style=2)


def test_a_key_changes_only_with_the_prompt_or_the_schema() -> None:
    # Another key means that every verdict in the ledgers of users is paid for again.
    settings = load_params(ROOT / "profiles/smollm2-135m.yaml").judge.model_copy(
        update={"model": "judge-1", "max_tokens": 160, "reason_characters": 400}
    )
    url = "https://api.openai.com/v1"
    local = settings.model_copy(update={"base_url": "local"})
    outside = settings.model_copy(update={"base_url": url})
    row = {
        "question": "Dói? <|im_end|>",
        "reference": "Sim. [/INST]",
        "answer": "Não </s> <5",
    }
    assert ledger_key("identity", to_messages(row), local) == (
        "c69d62e0cf43375c2e416ff18a188bc43f02b4bc86d4a32e3967b088e000ae5f"
    )
    assert ledger_key("", to_messages(row), outside) == (
        "724651d30558d3ce0c0132a7f53f76f0a3ac944114a35d82f6c8a4782257c73d"
    )


def test_key_has_what_shapes_a_verdict_and_nothing_else() -> None:
    settings = load_params(ROOT / "profiles/llama-3.2-1b.yaml").judge
    messages = to_messages(ROWS[0])
    key = ledger_key("", messages, settings)
    same = {
        "base_url": "http://127.0.0.1:8080/v1/",
        "max_tokens": 999,
        "parallel": 1,
        "timeout_seconds": 1,
    }
    assert ledger_key("", messages, settings.model_copy(update=same)) == key
    other_model = settings.model_copy(update={"model": "another"})
    assert ledger_key("", messages, other_model) != key
    assert ledger_key("", to_messages(ROWS[1]), settings) != key
    assert ledger_key("file-hash", messages, settings) != key


def test_known_verdicts_are_not_requested_again(api: StartJudge) -> None:
    _, server = api([verdict(3, 3)])
    first = ask(ROWS)
    assert len(server.requests) == 4
    assert ask(ROWS) == first
    assert len(server.requests) == 4


def test_changed_answer_is_requested(api: StartJudge) -> None:
    _, server = api([verdict(3, 3)])
    ask(ROWS)
    ask([{**ROWS[0], "answer": "Outra."}])
    assert len(server.requests) == 5


def test_rows_with_equal_texts_share_one_request(api: StartJudge) -> None:
    _, server = api([verdict(3, 3)])
    rows = ask([{**ROWS[0], "id": "a"}, {**ROWS[0], "id": "b"}])
    assert [row["id"] for row in rows] == ["a", "b"]
    assert len(server.requests) == 1


def test_verdicts_of_a_run_that_stops_are_kept(api: StartJudge) -> None:
    _, server = api([verdict(3, 3), verdict(2, 2), 401])
    message = r"refuses the key \(HTTP 401\)\. Start that server without a key"
    with pytest.raises(UserError, match=message):
        ask(ROWS)
    server.replies[2] = verdict(1, 1)
    before = len(server.requests)
    assert [row["accuracy"] for row in ask(ROWS[:2])] == [3, 2]
    assert len(server.requests) == before


def test_incomplete_last_line_costs_one_verdict_once(api: StartJudge, workspace: Path) -> None:
    _, server = api([verdict(3, 3)])
    ask(ROWS[:2])
    ledger = workspace / ".bula/ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    ask(ROWS[:2])
    assert len(server.requests) == 3
    ask(ROWS[:2])
    assert len(server.requests) == 3
    assert read_ledger(ledger, "judge-1").skipped == 1


def damaged_lines(line: bytes) -> dict[str, bytes]:
    """Return lines that are no entry of this version, partly made from `line`."""
    return {
        "another object": b'{"key": "1"}\n',
        "zeros": b"\x00" * 80 + b"\n",
        "not UTF-8": b"\xff\xfe\n",
        "blank": b"\n",
        "half": line[:40] + b"\n",
        "conflict": b"<<<<<<< HEAD\n",
        "another scale": line.replace(b'"accuracy": 3', b'"accuracy": 5'),
        "one field more": line.replace(b'"accuracy": 3', b'"accuracy": 3, "tone": 1'),
        "no style": line.replace(b', "style": 3', b""),
        "a later version": line.replace(b'"version": 2', b'"version": 3'),
    }


def test_damaged_lines_cost_one_verdict_and_are_counted(api: StartJudge, workspace: Path) -> None:
    _, server = api([verdict(3, 3)])
    ask(ROWS[:3])
    ledger = workspace / ".bula/ledger.jsonl"
    first, second, third = ledger.read_bytes().splitlines(keepends=True)
    for name, damaged in damaged_lines(second).items():
        assert damaged != second, name
        ledger.write_bytes(first + damaged + third)
        judged = judge_rows(ROWS[:3], load_params(), Path("models/judge"))
        assert judged.speed["ledger_lines_skipped"] == 1, name
        assert judged.speed["known"] == 2, name
        assert judged.speed["calls"] == 1, name
    assert len(server.requests) == 3 + len(damaged_lines(second))


def test_failures_are_never_read_as_verdicts(api: StartJudge, workspace: Path) -> None:
    _, server = api([403, verdict(3, 3)])
    assert ask(ROWS[:2])[0]["failed"] == "PermissionDeniedError"
    server.replies[0] = verdict(1, 1)
    assert [row["accuracy"] for row in ask(ROWS[:2])] == [1, 3]
    assert len(server.requests) == 3


def test_a_second_machine_finds_the_verdicts_in_pulled_outputs(
    api: StartJudge, workspace: Path
) -> None:
    _, server = api([verdict(3, 2)])
    rows = ask(ROWS)
    write_rows(workspace / "data/verdicts/base.jsonl", rows)
    (workspace / ".bula/ledger.jsonl").unlink()
    edit_params(workspace / "params.yaml", lambda params: params["judge"].update(parallel=3))
    changed = [{**ROWS[0], "answer": "Outra."}, *ROWS[1:]]
    assert ask(changed)[1:] == rows[1:]
    assert len(server.requests) == len(ROWS) + 1


def test_pulled_rows_of_failures_and_damage_are_no_verdicts(
    api: StartJudge, workspace: Path
) -> None:
    _, server = api([verdict(3, 2)])
    row = ask(ROWS[:1])[0]
    folder = workspace / "data/verdicts"
    write_rows(folder / "a.jsonl", [{**row, "accuracy": 9}, {"id": "0", "failed": "Timeout"}])
    (folder / "b.jsonl").write_bytes(b"\xff half a line")
    (workspace / ".bula/ledger.jsonl").unlink()
    ask(ROWS[:1])
    assert len(server.requests) == 2


def test_empty_answers_are_scored_without_a_call(api: StartJudge) -> None:
    _, server = api([verdict(3, 3)])
    rows = ask([{**ROWS[0], "answer": " \n"}, ROWS[1]])
    assert rows[0]["accuracy"] == rows[0]["style"] == 1
    assert rows[0]["empty"] is True
    assert rows[1]["accuracy"] == 3
    assert len(server.requests) == 1


def test_spent_tokens_are_summed_by_judge(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    failures = tmp_path / "judge_failures.jsonl"
    append_rows(ledger, [verdict_line("1", "a", VERDICT, Usage(10, 1), 0.5)])
    append_rows(ledger, [verdict_line("2", "b", VERDICT, Usage(100, 100), 2.0)])
    append_rows(failures, [{"judge": "a", "usage": [5, 7]}, {"judge": "b", "usage": [1, 1]}])
    assert read_ledger(ledger, "a").spent == Usage(15, 8)


def test_lines_are_on_the_disk_when_the_writer_ends(tmp_path: Path) -> None:
    async def write_all() -> None:
        async with ledger_writer() as write:
            for number in range(50):
                write(tmp_path / "x.jsonl", {"number": number})

    asyncio.run(write_all())
    assert [row["number"] for row in read_rows(tmp_path / "x.jsonl")] == list(range(50))


def test_the_writer_reports_a_disk_that_refuses_the_line(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()

    async def write_one() -> None:
        async with ledger_writer() as write:
            write(tmp_path / "folder.jsonl", {})

    with pytest.raises(IsADirectoryError):
        asyncio.run(write_one())


def test_a_line_that_a_full_disk_cuts_raises_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The file system takes 8 of the 11 bytes of the line, and refuses the others.
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            append_rows(path, [{"key": 1}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert path.read_bytes() == b'{"key": '
    append_rows(path, [{"key": 2}])
    assert path.read_bytes() == b'{"key": \n{"key": 2}\n'


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"judge": "judge-1", "us'])
def test_a_damaged_mark_is_an_error_that_names_the_file(content: bytes, tmp_path: Path) -> None:
    mark = tmp_path / MARK
    mark.write_bytes(content)
    with pytest.raises(UserError, match=r"judge_mark\.json: it is damaged, so calls .* missing"):
        settle_mark(tmp_path / "ledger.jsonl")
    assert mark.read_bytes() == content
