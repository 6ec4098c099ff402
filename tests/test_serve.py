"""Test `bula serve`: who reaches it, what it passes on, and how it ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from bench.clones import ROOT
from bula import gguf_export
from bula.__main__ import app
from bula.api_gate import BadRequestError, plain_messages, prepare, with_system_prompt
from bula.commands.serve import KEY, choose_key
from bula.errors import UserError
from bula.local_web import address, bind, is_loopback
from bula.params import load_params
from bula.prompts import SYSTEM_PROMPT
from bula.serving import WITHOUT_PROXY
from tests.conftest import user_environment

QUESTION = {"role": "user", "content": "Posso tomar sol?"}
OWN_KEY = "a-key-of-twenty-signs"


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small GGUF file and params.yaml."""
    path = tmp_path_factory.mktemp("served")
    gguf_export.convert(tiny, "bf16", path / "tiny.gguf")
    text = (ROOT / "profiles/smollm2-135m.yaml").read_text(encoding="utf-8")
    (path / "params.yaml").write_text(text, encoding="utf-8")
    return path


def start(folder: Path, **environment: str) -> "tuple[subprocess.Popen[str], list[str]]":
    """Start a server on a free port, and return it with the lines that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bula", "serve", "--model", "tiny.gguf", "--port", "0"],
        cwd=folder,
        env=user_environment() | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if "Ctrl-C" in line:
            break
    return process, lines


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Press Ctrl-C, and return exit code and standard error."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.fixture(scope="module")
def printed(folder: Path) -> Iterator[list[str]]:
    """Return what a server prints, which runs until the module's last test."""
    process, lines = start(folder)
    yield lines
    assert end(process)[0] == 130


@pytest.fixture
def client(printed: list[str]) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=printed[0].split()[-1], api_key=printed[1].split()[-1], max_retries=0
    )


def test_the_openai_client_gets_an_answer(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["bula"]
    messages: Any = [QUESTION]
    reply = client.chat.completions.create(model="bula", messages=messages, max_tokens=5)
    assert reply.choices[0].message.content
    assert reply.usage
    assert reply.usage.completion_tokens == 5


def test_the_openai_client_gets_a_stream(client: openai.OpenAI) -> None:
    messages: Any = [QUESTION]
    whole = client.chat.completions.create(model="bula", messages=messages, max_tokens=5)
    stream = client.chat.completions.create(
        model="bula", messages=messages, max_tokens=5, stream=True
    )
    pieces = [part.choices[0].delta.content or "" for part in stream if part.choices]
    assert sum(map(bool, pieces)) > 1
    assert "".join(pieces) == whole.choices[0].message.content


def test_a_control_token_does_not_end_the_turn(client: openai.OpenAI) -> None:
    def count(content: str) -> int:
        messages: Any = [{"role": "user", "content": content}]
        reply = client.chat.completions.create(model="bula", messages=messages, max_tokens=1)
        assert reply.usage
        return reply.usage.prompt_tokens

    # As text, <|im_end|> has several tokens; as a control token it has one.
    assert count("Dói?<|im_end|>") - count("Dói?") > 2


def test_the_printed_curl_command_works(printed: list[str]) -> None:
    command = "\n".join(printed[2:5]).replace("-d '{", '-d \'{"max_tokens": 3, ')
    result = subprocess.run(
        ["bash", "-c", f"{command} -sS --noproxy '*'"], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("key", ["wrong", ""])
def test_a_request_without_the_key_is_refused(printed: list[str], key: str) -> None:
    url = printed[0].split()[-1]
    client = openai.OpenAI(base_url=url, api_key=key or "none", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    messages: Any = [QUESTION]
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="bula", messages=messages)


def test_health_is_open_and_other_paths_are_not_there(client: openai.OpenAI) -> None:
    root = str(client.base_url).removesuffix("/v1/")
    with WITHOUT_PROXY.open(f"{root}/health", timeout=10) as reply:
        assert reply.read() == b'{"status":"ok"}'
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="bula", prompt="x")


def test_a_field_that_the_server_does_not_know_is_named(client: openai.OpenAI) -> None:
    messages: Any = [QUESTION]
    with pytest.raises(openai.BadRequestError, match="does not know the field 'grammar'"):
        client.chat.completions.create(
            model="bula", messages=messages, extra_body={"grammar": "root ::= [a]"}
        )


def test_a_key_of_the_environment_is_used_and_not_printed(folder: Path) -> None:
    process, lines = start(folder, **{KEY: OWN_KEY})
    client = openai.OpenAI(base_url=lines[0].split()[-1], api_key=OWN_KEY, max_retries=0)
    assert [model.id for model in client.models.list()] == ["bula"]
    assert OWN_KEY not in "".join(lines)
    code, errors = end(process)
    assert code == 130
    assert OWN_KEY not in errors
    assert "Traceback" not in errors


def refused(*arguments: str) -> str:
    """Return the message with which `bula serve` refuses its arguments."""
    result = CliRunner().invoke(app, ["serve", "--model", "tiny.gguf", *arguments])
    assert isinstance(result.exception, UserError)
    return str(result.exception)


def test_other_machines_need_a_flag_and_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    assert "Add --public, and set BULA_API_KEY" in refused("--host", "0.0.0.0")
    needs = "a server for other machines needs a key of your own"
    assert needs in refused("--host", "0.0.0.0", "--public")
    monkeypatch.setenv(KEY, OWN_KEY)
    assert "Add --public" in refused("--host", "192.0.2.1")
    assert choose_key("0.0.0.0", public=True) == OWN_KEY
    assert choose_key("127.0.0.1", public=False) == OWN_KEY
    monkeypatch.setenv(KEY, "short")
    assert "a key needs at least 20 ASCII characters" in refused()


def test_only_gguf_files_are_served() -> None:
    result = CliRunner().invoke(app, ["serve", "--model", "models/merged"])
    assert "llama.cpp serves only GGUF files" in str(result.exception)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.2", False),
        ("example.org", False),
    ],
)
def test_loopback_addresses_are_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_a_port_that_is_taken_is_named() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert address(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(UserError, match=f"127.0.0.1:{port}: the server cannot listen there"):
            bind("127.0.0.1", port)


# Requests


def prepared(body: dict[str, Any]) -> dict[str, Any]:
    """Return the request for llama.cpp."""
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    return prepare(json.dumps(body).encode(), params, has_system=True)


def test_open_fields_take_the_decoding_of_params_yaml() -> None:
    found = prepared({"messages": [QUESTION]})
    assert (found["max_tokens"], found["temperature"]) == (256, 0)
    assert found["repeat_penalty"] == 1
    assert found["messages"] == [{"role": "system", "content": SYSTEM_PROMPT}, QUESTION]
    found = prepared({"messages": [QUESTION], "max_completion_tokens": 9, "temperature": 0.5})
    assert "max_tokens" not in found
    assert (found["max_completion_tokens"], found["temperature"]) == (9, 0.5)


def test_a_field_of_null_is_open() -> None:
    found = prepared({"messages": [QUESTION], "max_tokens": None, "seed": None})
    assert found["max_tokens"] == 256
    assert "seed" not in found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"temperature": NaN}', "not JSON"),
        (b'{"temperature": 1e999}', "not JSON"),
        (b'{"user": "\\ud800"}', "not JSON"),
        (b"{}", "not a list of messages"),
        (b'{"messages": []}', "not a list of messages"),
        (b'{"messages": [1]}', "needs one of the roles"),
        (b'{"messages": [{"role": "tool", "content": "x"}]}', "needs one of the roles"),
        (b'{"messages": [{"role": "user", "content": [{}]}]}', "needs one of the roles"),
    ],
)
def test_a_body_that_is_no_chat_is_refused(body: bytes, message: str) -> None:
    params = load_params(ROOT / "profiles/smollm2-135m.yaml")
    with pytest.raises(BadRequestError, match=message):
        prepare(body, params, has_system=True)


def test_control_tokens_are_broken_in_all_messages() -> None:
    own = {"role": "system", "content": "</s>"}
    messages = plain_messages([own, QUESTION | {"content": "a<|im_end|>"}])
    assert [message["content"] for message in messages] == ["< /s>", "a< |im_end|>"]


def test_the_system_prompt_is_the_first_paragraph_without_a_system_role() -> None:
    assert with_system_prompt([QUESTION], has_system=False) == [
        {"role": "user", "content": f"{SYSTEM_PROMPT}\n\n{QUESTION['content']}"}
    ]
    own = {"role": "system", "content": "Seja breve."}
    assert with_system_prompt([own, QUESTION], has_system=True) == [own, QUESTION]
    assert with_system_prompt([own, QUESTION], has_system=False) == [
        {"role": "user", "content": f"Seja breve.\n\n{QUESTION['content']}"}
    ]
