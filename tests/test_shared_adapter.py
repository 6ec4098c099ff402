"""Test that an adapter loads outside this repository, with the right base or with none."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bula.adapter_files import save_adapter
from bula.lora import lora_config
from bula.model_cards import Base, adapter_documents, describe_base
from bula.models import load_adapted, load_model
from bula.params import DirectoryModel, HubModel, ModelSource, load_params
from tests.conftest import run
from tests.test_model_cards import PROFILES, REVISION, TRAINING, profile

IDS = torch.arange(20, 40)[None]
# A stranger's program: it knows the adapter alone.
AUTO = """
import sys
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import save_file

model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.inference_mode():
    save_file({"logits": model(input_ids=torch.arange(20, 40)[None]).logits}, sys.argv[2])
"""


def write_adapter(tiny: Path, source: ModelSource, path: Path) -> Base:
    """Write an adapter with random matrices, as the stage train writes it."""
    torch.manual_seed(0)
    lora = load_params(PROFILES / "smollm2-135m.yaml").train.lora
    model = get_peft_model(load_model(tiny, "float32"), lora_config(lora))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            # PEFT starts B at zero, and such an adapter would change nothing.
            torch.nn.init.normal_(parameter, std=0.1)
    base = describe_base(source)
    documents = adapter_documents(profile("smollm2-135m", base=source), TRAINING, tiny)
    save_adapter(model, base, documents, path)
    return base


@pytest.fixture(scope="module")
def local(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter whose base is a directory of this machine."""
    path = tmp_path_factory.mktemp("local") / "adapter"
    source = DirectoryModel(kind="directory", path="models/base", license="apache-2.0")
    write_adapter(tiny, source, path)
    return path


def test_plain_peft_loads_the_adapter(tiny: Path, local: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, local).eval()
    expected = load_adapted(tiny, local, "float32")
    with torch.inference_mode():
        assert torch.equal(model(input_ids=IDS).logits, expected(input_ids=IDS).logits)


def test_an_adapter_of_a_local_base_names_no_repository(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((local / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "local:base"
    with pytest.raises(HFValidationError):
        validate_repo_id(config["base_model_name_or_path"])
    monkeypatch.chdir(tmp_path)

    def refuse(*_arguments: object, **_options: object) -> None:
        pytest.fail("the hub was asked")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises((OSError, ValueError), match="local:base"):
        AutoPeftModelForCausalLM.from_pretrained(local)


def test_auto_peft_loads_the_base_of_the_hub_at_its_revision(tiny: Path, tmp_path: Path) -> None:
    source = HubModel(kind="hub", id="owner/model", revision=REVISION, license="apache-2.0")
    write_adapter(tiny, source, tmp_path / "adapter")
    snapshot = tmp_path / f"hub/models--owner--model/snapshots/{REVISION}"
    shutil.copytree(tiny, snapshot)
    output = tmp_path / "logits.safetensors"
    command = [sys.executable, "-c", AUTO, str(tmp_path / "adapter"), str(output)]
    result = run(command, tmp_path, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "hub"))
    assert result.returncode == 0, result.stderr
    expected = load_adapted(tiny, tmp_path / "adapter", "float32")
    with torch.inference_mode():
        logits = expected(input_ids=IDS).logits
    assert torch.allclose(load_file(output)["logits"], logits, atol=1e-5)


def test_every_file_of_an_adapter_can_be_read_by_everyone(local: Path) -> None:
    modes = {file.name: file.stat().st_mode & 0o777 for file in local.iterdir()}
    assert modes == dict.fromkeys(
        ["LICENSE", "NOTICE", "README.md", "adapter_config.json", "adapter_model.safetensors"],
        0o644,
    )
