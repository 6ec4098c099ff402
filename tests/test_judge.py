"""The judge against a real HTTP server of the OpenAI form, and against llama.cpp."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bula.params import Params, load_params
from bula.records import read_rows, write_rows
from stages import calibrate, judge, quantize
from tests.conftest import edit_params, leftovers


class Server(ThreadingHTTPServer):
    """Answers chat completions from a list of contents (or HTTP status codes), in turn, and keeps the requests."""

    daemon_threads = True

    def __init__(self, replies: list[str | int]) -> None:
        self.replies, self.requests = replies, []  # type: ignore[var-annotated]
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self.server.replies[len(self.server.requests) % len(self.server.replies)]
        self.server.requests.append(body)
        content = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}],
        }
        data = json.dumps(content if isinstance(reply, str) else {"error": {"message": "no"}}).encode()
        self.send_response(200 if isinstance(reply, str) else reply)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def verdict(accuracy: int, style: int) -> str:
    return json.dumps({"reason": "Correta.", "accuracy": accuracy, "style": style})


ROWS: list[dict[str, Any]] = [
    {"id": f"{n}", "split": "A", "question": f"Pergunta {n}?", "reference": "Sim.", "answer": f"Talvez {n}."} for n in range(4)
]


@pytest.fixture
def api(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a server with given replies and gives params that point to it, one call at a time."""
    servers: list[Server] = []
    monkeypatch.setenv("OPENAI_API_KEY", "test")

    def start(replies: list[str | int]) -> tuple[Params, Server]:
        server = Server(replies)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        point_to(workspace, server.url)
        return load_params(), server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def point_to(workspace: Path, url: str) -> None:
    def edit(params: dict[str, Any]) -> None:
        params["ingest"]["judge"] = {"kind": "api", "license": "terms"}
        params["judge"] |= {"base_url": url, "model": "judge-1", "parallel": 1, "retries": 0}

    edit_params(workspace / "params.yaml", edit)


def test_verdicts_carry_scores_reason_and_judge(api: Any, workspace: Path) -> None:
    params, server = api([verdict(3, 2)])
    rows = judge.judge_rows(ROWS[:1], params, workspace / "models/judge")
    assert rows == [{"id": "0", "split": "A", "judge": "judge-1", "reason": "Correta.", "accuracy": 3, "style": 2}]
    sent = server.requests[0]
    assert sent["temperature"] == 0
    schema = sent["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"]["accuracy"]["enum"] == [1, 2, 3]
    assert next(iter(schema["schema"]["properties"])) == "reason"
    assert "Talvez 0." in sent["messages"][1]["content"]


@pytest.mark.parametrize("bad", ["no JSON", verdict(4, 1), 500, 429])
def test_a_failed_call_is_counted_and_never_scored(bad: str | int, api: Any, workspace: Path) -> None:
    params, _ = api([verdict(3, 3), bad, verdict(1, 2)])
    rows = judge.judge_rows(ROWS[:3], params, workspace / "models/judge")
    assert ["failed" in row for row in rows] == [False, True, False]
    figures = judge.summarise(rows, params.judge)
    assert (figures["items"], figures["scored"], figures["failed"]) == (3, 2, 1)
    assert figures["accuracy_mean"] == 2.0
    # Scores 3 and 1: standard deviation sqrt(2), over sqrt(2).
    assert figures["accuracy_stderr"] == pytest.approx(1.0)
    assert (figures["style_1_share"], figures["style_2_share"], figures["style_3_share"]) == (0.0, 0.5, 0.5)
    assert figures["trustworthy"] is False


def test_a_verdict_is_paid_for_once(api: Any, workspace: Path) -> None:
    params, server = api([verdict(3, 3)])
    first = judge.judge_rows(ROWS, params, workspace / "models/judge")
    assert len(server.requests) == 4
    assert judge.judge_rows(ROWS, params, workspace / "models/judge") == first
    assert len(server.requests) == 4
    changed = [{**ROWS[0], "answer": "Outra."}]
    judge.judge_rows(changed, params, workspace / "models/judge")
    assert len(server.requests) == 5
    # The same words in two rows of one run are one question to the judge, and two verdicts.
    alike = [{**ROWS[0], "id": name, "answer": "Igual."} for name in ("a", "b")]
    assert [row["id"] for row in judge.judge_rows(alike, params, workspace / "models/judge")] == ["a", "b"]
    assert len(server.requests) == 6


def test_verdicts_survive_a_run_that_breaks_halfway(api: Any, workspace: Path) -> None:
    params, server = api([verdict(3, 3), verdict(2, 2), 401])
    with pytest.raises(ConnectionError):
        judge.judge_rows(ROWS, params, workspace / "models/judge")
    server.replies[2] = verdict(1, 1)
    before = len(server.requests)
    rows = judge.judge_rows(ROWS[:2], params, workspace / "models/judge")
    assert [row["accuracy"] for row in rows] == [3, 2]
    assert len(server.requests) == before


def test_a_ledger_cut_short_by_a_full_disk_loses_its_last_line_alone(api: Any, workspace: Path) -> None:
    params, server = api([verdict(3, 3)])
    judge.judge_rows(ROWS[:2], params, workspace / "models/judge")
    ledger = workspace / ".bula/ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    judge.judge_rows(ROWS[:2], params, workspace / "models/judge")
    assert len(server.requests) == 3
    assert len(list(read_rows(ledger))) == 2


def test_openai_is_sent_no_schema_keyword_that_it_refuses(api: Any, workspace: Path) -> None:
    params, server = api([verdict(3, 3)])
    judge.judge_rows(ROWS[:1], params, workspace / "models/judge")
    assert "maxLength" not in json.dumps(server.requests[0])
    local = params.judge.model_copy(update={"base_url": "local"})
    assert judge.verdict_type(local).model_json_schema()["properties"]["reason"]["maxLength"] == local.reason_characters


def test_a_gold_file_without_scores_is_a_sentence(workspace: Path) -> None:
    write_rows(workspace / "data/demo/gold.jsonl", [{"id": "1", "area": "A", "question": "Q?"}])
    with pytest.raises(SystemExit, match=r"data/demo/gold\.jsonl holds a row that is no gold answer"):
        calibrate.main()


def answers(workspace: Path) -> None:
    same = {"answer": "Sim.", "generated": "Não.", "variant": "base"}
    rows = [{"id": f"{s}{n}", "split": s, "question": f"Pergunta {n} de {s}?"} | same for s in "ABCDE" for n in range(3)]
    write_rows(workspace / "data/answers/base.jsonl", rows)


def test_a_url_that_refuses_connections_is_a_sentence_and_no_output(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    point_to(workspace, f"http://127.0.0.1:{port}/v1")
    answers(workspace)
    with pytest.raises(SystemExit, match=f"the judge judge-1 at http://127.0.0.1:{port}/v1 cannot be used: Connection error"):
        judge.main("base")
    assert not (workspace / "data/verdicts").exists()
    assert not (workspace / "metrics").exists()
    assert leftovers(workspace) == []


def test_a_missing_key_is_a_sentence(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    point_to(workspace, "http://127.0.0.1:9/v1")
    answers(workspace)
    with pytest.raises(SystemExit, match="OPENAI_API_KEY is not set"):
        judge.main("base")


def test_calls_that_all_fail_are_no_result(api: Any, workspace: Path) -> None:
    api(["no JSON"])
    answers(workspace)
    with pytest.raises(SystemExit, match="all 5 calls to the judge judge-1 failed"):
        judge.main("base")
    assert not (workspace / "metrics").exists()


def test_the_stage_judges_the_first_answers_of_each_set(api: Any, workspace: Path) -> None:
    _, server = api([verdict(2, 3)])
    answers(workspace)
    edit_params(workspace / "params.yaml", lambda p: p["judge"].update(items_per_set=2))
    judge.main("base")
    assert [row["id"] for row in read_rows(workspace / "data/verdicts/base.jsonl")] == [f"{s}{n}" for s in "ABCDE" for n in (0, 1)]
    # Each of them is paid for.
    assert len(server.requests) == 10
    assert "Referência:\nSim.\n\nResposta a avaliar:\nNão." in server.requests[0]["messages"][1]["content"]


def test_calibrate_measures_agreement_with_the_author(api: Any, workspace: Path) -> None:
    gold = list(read_rows(workspace / "data/demo/gold.jsonl"))[:3]
    api([verdict(row["accuracy"], 4 - row["style"]) for row in gold])
    calibrate.main()
    figures = json.loads((workspace / "metrics/calibrate.json").read_text(encoding="utf-8"))
    assert figures["accuracy_equal_share"] == 1.0
    assert figures["style_equal_share"] == pytest.approx(sum(row["style"] == 2 for row in gold) / 3, abs=1e-6)
    assert figures["items"] == figures["scored"] == 3
    assert figures["author_kappa_accuracy"] == (1.0 if len({row["accuracy"] for row in gold}) > 1 else 0.0)


def test_llama_cpp_obeys_the_schema(workspace: Path, tiny: Path) -> None:
    (workspace / "models/judge").mkdir()
    quantize.convert(tiny, "bf16", workspace / "models/judge/judge.gguf")
    rows = judge.judge_rows(ROWS[:2], load_params(), workspace / "models/judge")
    # A random model may run out of tokens within its reason; what it does say must follow the schema.
    for row in rows:
        assert row.get("failed") in (None, "LengthFinishReasonError")
        assert "failed" in row or (row["accuracy"] in (1, 2, 3) and row["style"] in (1, 2, 3))
