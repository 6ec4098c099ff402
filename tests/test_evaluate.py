"""Test the parts of `bula evaluate`; tests/test_pipeline.py runs it as a whole."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bench.clones import ROOT
from bula.commands.evaluate import copy_model, place, refuse_unusable, write_params
from bula.compared_files import write_untrained
from bula.errors import UserError
from bula.params import is_trained, load_params
from stages.compare.header import header

BASE = {"base": {"model": "models/base", "engine": "transformers"}}
RECEIVED = {"friend": {"model": "models/received/friend", "engine": "transformers"}}
TRAINED = (
    "metrics/train.json",
    "metrics/template.json",
    "metrics/merge.json",
    "metrics/quantize.json",
)


def test_params_score_the_model_beside_the_base(tmp_path: Path) -> None:
    file = tmp_path / "folder/params.yaml"
    write_params(file, ROOT / "params.yaml", BASE | RECEIVED)
    params = load_params(file)
    assert list(params.variants) == ["base", "friend"]
    assert [pair.name for pair in params.compare.pairs] == ["friend_minus_base"]
    assert params.review.gates == []
    assert not is_trained(params)
    assert is_trained(load_params(ROOT / "params.yaml"))


def test_missing_parameters_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the file is missing"):
        write_params(tmp_path / "params.yaml", tmp_path / "other.yaml", BASE)


def test_compare_reads_no_file_of_training(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    write_untrained(tmp_path / "dvc.yaml")
    yaml = YAML(typ="safe")
    before = yaml.load(ROOT / "dvc.yaml")["stages"]["compare"]["deps"]
    after = yaml.load(tmp_path / "dvc.yaml")["stages"]["compare"]["deps"]
    assert set(TRAINED) <= set(before) - set(after)
    assert "metrics/controls.json" in after
    assert "stages/compare/__main__.py" in after


def test_the_header_says_that_nothing_was_trained(tmp_path: Path) -> None:
    write_params(tmp_path / "params.yaml", ROOT / "params.yaml", BASE | RECEIVED)
    text = header(tmp_path / "metrics", load_params(tmp_path / "params.yaml"))
    assert "- training: none in this run\n- machine: device cpu\n" in text


def test_a_folder_and_a_file_have_places_by_name() -> None:
    assert place(Path("x/their-adapter"), "friend") == Path("models/received/friend")
    assert place(Path("x/q8.gguf"), "friend") == Path("models/received/friend.gguf")


def test_a_model_is_copied_with_all_files(tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "deep").mkdir(parents=True)
    (source / "deep/config.json").write_text("{}", encoding="utf-8")
    copy_model(source, tmp_path / "clone/models/received/friend")
    copied = tmp_path / "clone/models/received/friend/deep/config.json"
    assert copied.read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize(
    ("name", "what"),
    [("base", "base is the untrained model"), ("Meu Modelo", "has other signs")],
)
def test_a_name_that_the_tables_cannot_have_is_refused(
    tmp_path: Path, name: str, what: str
) -> None:
    with pytest.raises(UserError, match=what):
        refuse_unusable(tmp_path, name)


def test_a_missing_or_strange_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it does not exist"):
        refuse_unusable(tmp_path / "nowhere", "friend")
    config = {"peft_type": "IA3"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="it is not a LoRA adapter"):
        refuse_unusable(tmp_path, "friend")
