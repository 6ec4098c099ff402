"""Test access to local servers, their life, and their failures."""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

import openai
import psutil
import pytest
import xllamacpp

from bula import gguf_export, llama_server, serving, vllm_guard
from bula.errors import UserError
from bula.serving import ON_CPU, WITHOUT_PROXY, Endpoint, Placement, VllmSettings

VLLM_SETTINGS = VllmSettings(
    parallel=2,
    context_tokens=64,
    dtype="bfloat16",
    seed=7,
    gpu_memory_share=0.5,
    gpus=1,
)


@pytest.fixture(scope="module")
def file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny-SECRET-PATH.gguf"
    gguf_export.convert(tiny, "bf16", path)
    return path


@pytest.fixture(scope="module")
def endpoint(file: Path) -> Iterator[Endpoint]:
    with serving.serve_llama_cpp(file, 1, 64) as [endpoint]:
        yield endpoint


def send(
    url: str, headers: dict[str, str], method: str = "GET", body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send a request, and return status, headers and body of the reply."""
    request = Request(url, body, headers, method=method)
    try:
        with WITHOUT_PROXY.open(request, timeout=20) as reply:
            return reply.status, dict(reply.headers), reply.read()
    except HTTPError as error:
        return error.code, dict(error.headers), error.read()


def root(endpoint: Endpoint) -> str:
    """Return the address of a server without the path of its API."""
    return endpoint.url.removesuffix("/v1")


def with_key(endpoint: Endpoint) -> dict[str, str]:
    """Return the headers of a request that has the correct key."""
    return {"Authorization": f"Bearer {endpoint.key}"}


without_the_key = pytest.mark.parametrize(
    "key",
    [
        {},
        {"Authorization": "Bearer local"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic Og=="},
    ],
    ids=["no key", "wrong key", "empty key", "basic authentication"],
)
GET_PATHS = ("props", "slots", "metrics", "v1/models", "models", "api/tags", "lora-adapters")
POST_PATHS = (
    "completion",
    "v1/completions",
    "v1/chat/completions",
    "tokenize",
    "detokenize",
    "apply-template",
    "embedding",
    "infill",
)


@without_the_key
@pytest.mark.parametrize("path", GET_PATHS)
def test_llama_cpp_refuses_get_requests_without_the_key(
    path: str, key: dict[str, str], endpoint: Endpoint
) -> None:
    status, _, _ = send(f"{root(endpoint)}/{path}", key)
    assert status in (401, 404)


@without_the_key
@pytest.mark.parametrize("path", POST_PATHS)
def test_llama_cpp_refuses_post_requests_without_the_key(
    path: str, key: dict[str, str], endpoint: Endpoint
) -> None:
    headers = {"Content-Type": "application/json", **key}
    content = b'{"prompt": [1], "content": "a"}'
    status, _, body = send(f"{root(endpoint)}/{path}", headers, "POST", content)
    assert status in (401, 404)
    assert b"SECRET" not in body


@without_the_key
def test_llama_cpp_shows_only_its_health_without_the_key(
    key: dict[str, str], endpoint: Endpoint
) -> None:
    status, _, _ = send(f"{root(endpoint)}/", key)
    assert status == 404
    _, _, body = send(f"{root(endpoint)}/health", key)
    assert body == b'{"status":"ok"}'


def test_llama_cpp_refuses_another_host_name_without_the_key(endpoint: Endpoint) -> None:
    status, _, _ = send(f"{root(endpoint)}/props", {"Host": "evil.example"})
    assert status == 401


@pytest.mark.parametrize(
    ("method", "path"), [("OPTIONS", "completion"), ("GET", "props"), ("GET", "health")]
)
def test_llama_cpp_allows_no_web_page(method: str, path: str, endpoint: Endpoint) -> None:
    asked = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    _, headers, _ = send(f"{root(endpoint)}/{path}", asked, method)
    assert headers.get("Access-Control-Allow-Origin", "") == ""
    assert headers.get("Access-Control-Allow-Credentials", "false") == "false"


def llama_servers() -> list[psutil.Process]:
    """Return the llama.cpp servers that this process started."""
    children = psutil.Process().children()
    return [child for child in children if "llama_server.py" in " ".join(child.cmdline())]


def test_llama_cpp_listens_only_on_loopback(endpoint: Endpoint) -> None:
    listening = set()
    for server in llama_servers():
        for connection in server.net_connections():
            if connection.status == psutil.CONN_LISTEN:
                listening.add(tuple(connection.laddr))
    port = int(root(endpoint).rpartition(":")[2])
    assert ("127.0.0.1", port) in listening
    assert {address for address, _ in listening} == {"127.0.0.1"}


def test_arguments_and_environment_of_llama_cpp_contain_no_key(endpoint: Endpoint) -> None:
    servers = llama_servers()
    assert servers
    for server in servers:
        assert endpoint.key not in " ".join([*server.cmdline(), *server.environ().values()])


def test_an_endpoint_shows_its_address_but_not_its_key(endpoint: Endpoint) -> None:
    # 32 random bytes in base64.
    assert len(endpoint.key) >= 43
    assert str(endpoint) == endpoint.url
    assert repr(endpoint) == endpoint.url


def test_the_correct_key_is_accepted(endpoint: Endpoint) -> None:
    status, _, body = send(f"{endpoint.url}/models", with_key(endpoint))
    assert status == 200
    assert json.loads(body)["data"]


def test_replies_do_not_contain_the_files_path(endpoint: Endpoint) -> None:
    _, _, models = send(f"{endpoint.url}/models", with_key(endpoint))
    with serving.open_client(endpoint) as client:
        reply = client.completions.create(model="x", prompt=[1], max_tokens=2)
    assert b"SECRET" not in models + reply.model_dump_json().encode()


def test_each_server_has_another_key(file: Path, endpoint: Endpoint) -> None:
    with serving.serve_llama_cpp(file, 1, 64) as [other]:
        assert other.key != endpoint.key
        status, _, _ = send(f"{other.url}/models", with_key(endpoint))
        assert status == 401


def test_servers_inherit_no_variable_of_openai(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY")
    before = set(psutil.Process().children())
    with serving.serve_llama_cpp(file, 1, 64):
        [child] = set(psutil.Process().children()) - before
        assert "sk-CANARY" not in str(child.environ())


def damage(file: Path, name: bytes, value: int, target: Path) -> Path:
    """Write a GGUF file with another 32-bit value of one key."""
    content = bytearray(file.read_bytes())
    at = content.index(name) + len(name) + 4
    content[at : at + 4] = struct.pack("<I", value)
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("name", "value"), [(b"llama.embedding_length", 0), (b"llama.attention.head_count", 0)]
)
def test_a_header_that_llama_cpp_refuses_raises_a_user_error(
    name: bytes, value: int, file: Path, tmp_path: Path
) -> None:
    broken = damage(file, name, value, tmp_path / "broken.gguf")
    with (
        pytest.raises(UserError, match=r"broken\.gguf: llama\.cpp stopped with "),
        serving.serve_llama_cpp(broken, 1, 64),
    ):
        pass


def test_the_error_for_an_abort_of_llama_cpp_shows_its_log(file: Path, tmp_path: Path) -> None:
    broken = damage(file, b"llama.block_count", 2**31 - 1, tmp_path / "broken.gguf")
    message = r"llama\.cpp stopped with signal 6 \(.*GGML_ASSERT"
    with pytest.raises(UserError, match=message) as error, serving.serve_llama_cpp(broken, 1, 64):
        pass
    # A debugger's output would show arguments.
    assert "LWP" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model \x1b[31m"])
def test_a_file_that_is_no_model_raises_a_user_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "no.gguf"
    file.write_bytes(content)
    message = r"no\.gguf: llama\.cpp stopped with exit code 1 \(.*gguf"
    with pytest.raises(UserError, match=message) as error, serving.serve_llama_cpp(file, 2, 64):
        pass
    assert "\x1b" not in str(error.value)


def test_a_missing_file_raises_a_user_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"none\.gguf: this file does not exist"),
        serving.serve_llama_cpp(tmp_path / "none.gguf", 1, 64),
    ):
        pass


def test_a_server_that_hangs_raises_a_user_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "START_SECONDS", 0)
    with (
        pytest.raises(UserError, match="did not answer within 0 s"),
        serving.serve_llama_cpp(file, 1, 64),
    ):
        pass


def test_a_server_killed_during_its_work_raises_a_user_error(file: Path) -> None:
    before = set(psutil.Process().children())
    with (
        pytest.raises(UserError, match=r"llama\.cpp stopped with signal 9"),
        serving.serve_llama_cpp(file, 1, 64) as [endpoint],
    ):
        [child] = set(psutil.Process().children()) - before
        child.kill()
        with serving.open_client(endpoint) as client:
            client.completions.create(model="x", prompt=[1], max_tokens=1)


OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU "
    "memory utilization (0.85, 67.2 GiB). Decrease GPU memory utilization",
    "ValueError: No available memory for the cache blocks. Try increasing",
    "max seq len (9000), (5.1 GiB KV cache is needed, which is larger than the available KV cache",
)


@pytest.mark.parametrize("log", OUT_OF_MEMORY, ids=["torch", "share", "cache", "length"])
def test_vllm_without_memory_says_what_to_change(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "vllm/entrypoints/openai"
    place.mkdir(parents=True)
    (place / "api_server.py").write_text(f"raise SystemExit({log!r})", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    message = r"vLLM stopped with exit code 1 .*ran out of memory: .*utilization`\): lower it"
    with (
        pytest.raises(UserError, match=message),
        serving.serve_vllm(Path("model"), VLLM_SETTINGS),
    ):
        pass


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("ggml_cuda: cudaMalloc failed: out of memory", 1),
        ("alloc_tensor_range: failed to allocate CUDA0 buffer of size 9", 1),
        ("terminate called after throwing an instance of 'std::bad_alloc'", -6),
        ("", -9),
    ],
    ids=["cuda", "buffer", "host", "killed by the kernel"],
)
def test_llama_cpp_without_memory_says_what_to_change(log: str, code: int) -> None:
    process: Any = SimpleNamespace(returncode=code)
    server = serving.Server("llama.cpp", Path("x.gguf"), "key", process, BytesIO(log.encode()))
    message = str(serving._exit_error(server))
    assert "It probably ran out of memory: lower `parallel`" in message
    assert "`gpu_servers` or `gpu_layers`" in message


def devices_of(*kinds: str) -> list[dict[str, Any]]:
    """Return the devices that llama.cpp lists, by the ends of their types' names."""
    types = xllamacpp.ggml_backend_dev_type
    return [{"type": getattr(types, f"GGML_BACKEND_DEVICE_TYPE_{kind}")} for kind in kinds]


@pytest.mark.parametrize(
    ("kinds", "found"),
    [(["CPU"], False), (["ACCEL", "CPU"], False), (["GPU", "CPU"], True), (["IGPU"], True)],
)
def test_a_gpu_is_found_among_the_devices(
    kinds: list[str], found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = devices_of(*kinds)
    monkeypatch.setattr(xllamacpp, "get_device_info", lambda: devices)
    assert llama_server.finds_gpu() is found


@pytest.mark.skipif(llama_server.finds_gpu(), reason="this build of llama.cpp has a GPU")
@pytest.mark.parametrize("layers", ["all", 2])
def test_layers_on_a_gpu_are_refused_without_one(layers: Any, file: Path) -> None:
    message = r"params\.yaml: `gpu_layers` asks for a GPU, .* finds none\. Install its CUDA build"
    with (
        pytest.raises(UserError, match=message),
        serving.serve_llama_cpp(file, 1, 64, placement=Placement(layers, 1)),
    ):
        pass


@pytest.mark.parametrize(("asked", "layers"), [(0, 0), (3, 3), ("all", 9999)])
def test_the_asked_layers_are_on_the_gpu_whatever_memory_is_free(asked: Any, layers: int) -> None:
    params = xllamacpp.CommonParams()
    llama_server.place_layers(params, asked)
    assert params.n_gpu_layers == layers
    # Without layers on the GPU, no matmul may go there.
    assert params.no_op_offload is (asked == 0)
    assert params.fit_params is False


@pytest.mark.parametrize(
    ("parallel", "placement", "count"),
    [
        (2, ON_CPU, 2),
        (64, ON_CPU, 16),
        (64, Placement("all", 8), 8),
        (64, Placement(4, 32), 16),
        (3, Placement("all", 8), 3),
    ],
)
def test_servers_on_a_gpu_are_limited_by_its_own_number(
    parallel: int, placement: Placement, count: int
) -> None:
    assert serving.count_servers(parallel, 16, placement) == count


def test_a_failed_connection_to_a_running_server_raises_a_user_error(file: Path) -> None:
    with (
        pytest.raises(UserError, match=r"a request to llama\.cpp failed"),
        serving.serve_llama_cpp(file, 1, 64),
    ):
        raise openai.APIConnectionError(request=None)  # type: ignore[arg-type]


class Impostor(ThreadingHTTPServer):
    """Answer with the given statuses in turn, and keep received keys."""

    daemon_threads = True

    def __init__(self, statuses: list[int]) -> None:
        """Start the server on a free port."""
        self.statuses = cycle(statuses)
        self.keys: list[str | None] = []
        super().__init__(("127.0.0.1", 0), ImpostorHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ImpostorHandler(BaseHTTPRequestHandler):
    server: Impostor

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self.send_response(next(self.server.statuses))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def impostor_with(statuses: list[int]) -> Iterator[Impostor]:
    """Run an impostor until the block ends."""
    with Impostor(statuses) as impostor:
        try:
            yield impostor
        finally:
            impostor.shutdown()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[str]"]:
    """Yield a child process that does nothing."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("statuses", [[200], [401], [404], [500], [401, 200, 200], [401, 401, 500]])
def test_a_server_with_a_wrong_key_check_is_refused(statuses: list[int]) -> None:
    with impostor_with(statuses) as impostor:
        endpoint = Endpoint(f"http://127.0.0.1:{impostor.server_port}/v1", "true-key")
        with pytest.raises(UserError, match="to no key, a wrong key and the correct key"):
            serving._check_authentication(endpoint)


def test_a_process_that_took_vllms_port_receives_no_request(
    sleeper: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "START_SECONDS", 1)
    server = serving.Server("vLLM", Path("model"), "true-key", sleeper, BytesIO())
    with impostor_with([200]) as impostor:
        port = impostor.server_port
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "true-key")
        with pytest.raises(UserError, match="vLLM did not answer within 1 s"):
            serving._wait_for_vllm(server, endpoint, port)
    assert impostor.keys == []


def test_a_missing_vllm_raises_a_user_error() -> None:
    message = (
        r"model: vLLM stopped with exit code 1 \(.*No module named 'vllm'.*"
        r"Check that vLLM is installed"
    )
    with pytest.raises(UserError, match=message), serving.serve_vllm(Path("model"), VLLM_SETTINGS):
        pass


def vllm_command() -> list[str]:
    """Return the command line of vLLM's server."""
    return serving._vllm_command(Path("models/merged"), VLLM_SETTINGS, 1234)


def test_vllm_is_found_beside_the_environment_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    own = repository / ".venv-vllm/bin/python"
    own.parent.mkdir(parents=True)
    own.touch()
    # A profile's clone has the code, and no environment.
    clone = repository / ".bula/profiles/other"
    clone.mkdir(parents=True)
    monkeypatch.chdir(clone)
    monkeypatch.setattr(serving, "ROOT", clone)
    monkeypatch.setattr(sys, "prefix", str(repository / ".venv"))
    assert vllm_command()[0] == str(own)
    own.unlink()
    assert vllm_command()[0] == sys.executable


@pytest.fixture
def vllm_options() -> dict[str, str]:
    """Return the options in the command line of vLLM's server."""
    # The command begins with the interpreter, -m, the module and an option without a value.
    parts = vllm_command()[4:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_vllm_listens_on_loopback_and_allows_no_web_page(vllm_options: dict[str, str]) -> None:
    assert vllm_options["--host"] == "127.0.0.1"
    assert vllm_options["--allowed-origins"] == "[]"


def test_vllm_computes_by_params_and_ignores_the_models_generation_settings(
    vllm_options: dict[str, str],
) -> None:
    assert "--no-enable-prefix-caching" in vllm_command()
    expected = {
        "--served-model-name": "merged",
        "--generation-config": "vllm",
        "--dtype": "bfloat16",
        "--seed": "7",
        "--max-num-seqs": "2",
        "--max-model-len": "64",
        "--gpu-memory-utilization": "0.5",
        "--tensor-parallel-size": "1",
    }
    assert expected.items() <= vllm_options.items()


def test_vllms_kernels_do_not_depend_on_the_batch() -> None:
    assert serving._vllm_environment("true-key")["VLLM_BATCH_INVARIANT"] == "1"


def test_vllm_runs_in_its_own_environment_if_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ROOT", tmp_path)
    assert vllm_command()[0] == sys.executable
    own = tmp_path / ".venv-vllm/bin/python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert vllm_command()[0] == str(own)


def test_vllm_loads_the_guard(vllm_options: dict[str, str]) -> None:
    module, _, name = vllm_options["--middleware"].rpartition(".")
    assert (module, name) == (vllm_guard.__name__, vllm_guard.require_key.__name__)


def test_vllms_key_is_in_its_environment_and_not_in_its_arguments() -> None:
    assert serving._vllm_environment("true-key")["VLLM_API_KEY"] == "true-key"
    assert "true-key" not in " ".join(vllm_command())


def test_vllm_can_import_the_guard_from_any_folder() -> None:
    guard = "bula.vllm_guard"
    script = f"import {guard}, inspect; print(inspect.iscoroutinefunction({guard}.require_key))"
    python_path = serving._vllm_environment("true-key")["PYTHONPATH"]
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd="/",
        env=os.environ | {"PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "True\n"


@pytest.mark.parametrize(
    ("authorization", "allowed"),
    [
        ("Bearer true-key", True),
        ("Bearer true-kez", False),
        ("true-key", False),
        ("", False),
        (None, False),
        ("Bearer tr\xfce", False),
    ],
)
def test_vllms_guard_answers_only_requests_with_the_key(
    authorization: str | None, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "true-key")
    headers = {} if authorization is None else {"authorization": authorization}
    sent: list[dict[str, Any]] = []

    async def reply(scope: Any, receive: Any, send: Any) -> None:
        await send({"status": 200})

    async def answer(request: Any) -> vllm_guard.Answer:
        return reply

    async def keep(message: dict[str, Any]) -> None:
        sent.append(message)

    async def ask() -> None:
        response = await vllm_guard.require_key(SimpleNamespace(headers=headers), answer)
        await response({}, None, keep)

    asyncio.run(ask())
    assert sent[0]["status"] == (200 if allowed else 401)


def test_a_port_of_another_process_is_not_a_childs_port(sleeper: "subprocess.Popen[str]") -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not serving._listens(sleeper, listener.getsockname()[1])
