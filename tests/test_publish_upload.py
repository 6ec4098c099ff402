"""Test the upload of `bula publish` against a local stand-in.

No test reaches the real hub. The stand-in takes large files by git LFS, and the hub by Xet too.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import run
from tests.finished_run import record, write_inputs
from tests.hub_stand_in import TOKEN, HubStandIn, hub_stand_in

ROWS = "datasets/maria/bula-dataset"


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    """Return a running stand-in for the hub."""
    with hub_stand_in() as server:
        yield server


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recorded run without weights, which tests only copy."""
    folder = tmp_path_factory.mktemp("rows") / "run"
    folder.mkdir()
    write_inputs(folder)
    record(folder, ["data/clean"])
    return folder


@pytest.fixture
def recorded(rows: Path, tmp_path: Path) -> Path:
    """Return a recorded run that has only a data set."""
    shutil.copytree(rows, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def publish(folder: Path, hub: HubStandIn, *arguments: str, token: str = TOKEN) -> tuple[int, str]:
    """Run the command, and return its exit code and its output."""
    command = [sys.executable, "-m", "bula", "publish", "--repo-id", "maria/bula"]
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": token,
        "HF_HOME": str(folder.parent / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    result = run([*command, "--part", "dataset", *arguments], folder, **environment)
    return result.returncode, result.stdout + result.stderr


def test_the_hub_gets_exactly_the_prepared_files(recorded: Path, hub: HubStandIn) -> None:
    code, output = publish(recorded, hub, "--private")
    assert (code, hub.private) == (0, {ROWS: True}), output
    assert f"publish: uploaded {hub.url}/{ROWS}/commit/" in output
    folder = recorded / ".bula/publish/dataset"
    expected = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert hub.files == {ROWS: expected}
    # The hub's own check of the card comes before the repository and the files.
    assert hub.requests[0] == "POST /api/validate-yaml"
    assert "POST /api/repos/create" in hub.requests[1:]


def test_a_private_upload_never_goes_to_a_public_repository(
    recorded: Path, hub: HubStandIn
) -> None:
    hub.private[ROWS] = False
    code, output = publish(recorded, hub, "--private")
    assert code == 1
    assert "the repository exists and is public, so nothing was uploaded" in output
    assert hub.files == {}
    code, output = publish(recorded, hub)
    assert (code, list(hub.files)) == (0, [ROWS]), output


def test_a_card_that_the_hub_refuses_creates_nothing(recorded: Path, hub: HubStandIn) -> None:
    hub.metadata_error = '"license" must be one of'
    code, output = publish(recorded, hub)
    assert code == 1
    assert "README.md: the hub refuses its metadata" in output
    assert (hub.private, hub.files) == ({}, {})


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_wrong", "the hub answered 401"), ("", "there is no token")],
)
def test_an_upload_without_the_right_token_is_refused(
    token: str, message: str, recorded: Path, hub: HubStandIn
) -> None:
    code, output = publish(recorded, hub, token=token)
    assert code == 1
    assert message in output
    assert "Traceback" not in output
    assert hub.files == {}


def test_a_hub_that_cannot_be_reached_is_named(recorded: Path, hub: HubStandIn) -> None:
    hub.shutdown()
    hub.server_close()
    code, output = publish(recorded, hub)
    assert code == 1
    assert "maria/bula-dataset: the hub cannot be reached" in output


def test_a_dry_run_asks_the_hub_nothing(recorded: Path, hub: HubStandIn) -> None:
    code, output = publish(recorded, hub, "--dry-run")
    assert (code, hub.requests) == (0, []), output


SEND = """
from pathlib import Path
from bula.publish.folders import Prepared
from bula.publish.parts import ALL_PARTS
from bula.publish.upload import upload

part = ALL_PARTS["adapter"]
upload([Prepared(part, Path("adapter"), "maria/bula-LoRA", "")], private=True)
"""


def test_weights_arrive_by_git_lfs(tmp_path: Path, hub: HubStandIn) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    files = {
        "README.md": b"---\nlicense: mit\n---\n\n# Adapter\n",
        "adapter_model.safetensors": bytes(range(256)) * 100,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    result = run([sys.executable, "-c", SEND], tmp_path, **environment, HF_HUB_OFFLINE="0")
    assert result.returncode == 0, result.stderr
    assert hub.files == {"models/maria/bula-LoRA": files}
    assert list(hub.objects.values()) == [files["adapter_model.safetensors"]]
    assert hub.private == {"models/maria/bula-LoRA": True}
