"""Test the preprocess stage: shards, workers and the files that it writes."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from bench.clones import edit_params
from bula.errors import UserError
from bula.params import FilesSource, load_params
from bula.records import SET_NAMES, Row, read_rows
from stages.preprocess import __main__ as stage
from stages.preprocess import shards
from stages.preprocess.card import as_table, names_notice
from stages.preprocess.splits import SPLITS
from tests.conftest import leftovers, write_jsonl
from tests.test_preprocess import (
    ANSWER,
    NEARLY,
    OTHER,
    PERSONAL,
    QUESTION,
    row,
    settings,
    synthetic,
)


def prepare(workspace: Path, tiny: Path, rows: list[Row]) -> None:
    """Write raw rows, benchmark items and a tokenizer for the stage."""
    (workspace / "models/base").symlink_to(tiny)
    write_jsonl(workspace / "data/raw/demo.jsonl", rows)
    for task in load_params().ingest.benchmarks:
        source = Path("data/demo/benchmarks") / f"{task.name.removeprefix('bula_')}.jsonl"
        items = list(read_rows(source))
        write_jsonl(workspace / f"data/benchmarks/{task.name}.jsonl", items)


def rows_of_all_splits(count: int) -> list[Row]:
    """Return `count` rows for each split."""
    return [row(split=split, line=line) for split in SPLITS for line in range(count)]


def read_metrics(workspace: Path, name: str) -> dict[str, Any]:
    """Return a metrics file."""
    text = (workspace / f"metrics/{name}.json").read_text(encoding="utf-8")
    metrics: dict[str, Any] = json.loads(text)
    return metrics


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- shards and workers ---


def test_shards_contain_every_line_once_for_any_size(tmp_path: Path) -> None:
    lines = [b"x" * n + b"\n" for n in (1, 5, 0, 30, 2, 2, 9)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    for size in range(1, 60):
        pieces = shards.cut([tmp_path / "a.jsonl"], size)
        read = [line for piece in pieces for line in shards.shard_lines(piece)]
        assert read == lines


def test_two_processes_and_a_cluster_of_two_write_the_same_bytes_as_one_process(
    workspace: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import LocalCluster

    rows = [*synthetic(120, 5), row(QUESTION, ANSWER), row(NEARLY, ANSWER)]
    rows += [row(NEARLY, f"{ANSWER} Melhoras."), row(QUESTION, OTHER, "A")]
    rows += [row(PERSONAL), row("?")]
    prepare(workspace, tiny, [r | {"line": line} for line, r in enumerate(rows, start=1)])
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(shards.cut, "__defaults__", (20_000,))
    written = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        monkeypatch.setenv(shards.SCHEDULER, cluster.scheduler_address)
        for workers, scheduler in ((1, "none"), (2, "none"), (1, "dask")):
            compute: dict[str, Any] = {"workers": workers, "scheduler": scheduler}
            compute |= {"tracker": "none", "loader_workers": 0}
            change = functools.partial(dict.update, compute=compute)
            edit_params(workspace / "params.yaml", change)
            stage.main()
            files = contents(workspace / "data/clean") | contents(workspace / "metrics")
            files["quarantine"] = (workspace / "data/quarantine.jsonl").read_bytes()
            written.append(files)
    assert written[0] == written[1] == written[2]
    assert len(list(read_rows(workspace / "data/quarantine.jsonl"))) >= 3


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("", "does not name a scheduler"),
        ("tcp://10.0.0.5:8786", "must be reached over TLS"),
        ("tcp://localhost.example.org:8786", "must be reached over TLS"),
        ("ws://127.0.0.1:8786", "must be reached over TLS"),
        ("8786", "must be reached over TLS"),
    ],
)
def test_a_scheduler_on_another_machine_is_refused_without_tls(
    address: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A scheduler sends pickles, which can run any code.
    monkeypatch.setenv(shards.SCHEDULER, address)
    with pytest.raises(UserError, match=f"^DASK_SCHEDULER_ADDRESS: .*{what}"):
        shards.scheduler_address()


@pytest.mark.parametrize(
    "address",
    ["tls://10.0.0.5:8786", "tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://localhost:8786"],
)
def test_a_scheduler_over_tls_or_on_this_machine_is_accepted(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(shards.SCHEDULER, address)
    assert shards.scheduler_address() == address


# --- files ---


@pytest.fixture
def finished(workspace: Path, tiny: Path) -> Path:
    """Return the workspace after preprocess, where one row was refused."""
    refused = row("Sem resposta aqui?", None, line=9)
    prepare(workspace, tiny, [*rows_of_all_splits(3), refused])
    stage.main()
    return workspace


def test_the_stage_writes_splits_card_and_evidence_and_leaves_no_other_file(
    finished: Path,
) -> None:
    rows = ("contamination", "dev", "few_shot", "overlap", "train")
    files = ["README.md", *(f"{name}.jsonl" for name in rows)]
    sets = [f"validation/{name}.jsonl" for name in SET_NAMES]
    assert list(contents(finished / "data/clean")) == files + sets
    assert leftovers(finished) == []


def test_the_stage_writes_and_counts_refused_rows(finished: Path) -> None:
    refused = list(read_rows(finished / "data/quarantine.jsonl"))
    metrics = read_metrics(finished, "preprocess")
    assert refused[0]["reason"] == "answer is missing"
    assert metrics["quarantine"] == {"rows": 1, "answer_is_missing": 1}
    assert metrics["train"]["examples"] == 3


def test_the_stage_writes_the_matrix_of_all_sets_and_benchmarks(finished: Path) -> None:
    matrix = read_metrics(finished, "contamination")
    benchmarks = {task.name for task in load_params().ingest.benchmarks}
    assert matrix.keys() == benchmarks.union(SET_NAMES)


@pytest.fixture
def closed(workspace: Path, tiny: Path) -> Path:
    """Return the workspace after preprocess of a closed source."""

    def close(params: dict[str, Any]) -> None:
        source = params["ingest"]["sources"][0]
        source["license"] = "proprietary"
        source["redistribution"] = "forbidden"

    edit_params(workspace / "params.yaml", close)
    prepare(workspace, tiny, [*rows_of_all_splits(2), row(PERSONAL)])
    stage.main()
    return workspace


def test_the_card_warns_of_closed_sources_and_counts_personal_data(closed: Path) -> None:
    card = (closed / "data/clean/README.md").read_text(encoding="utf-8")
    notice = "Contains rows of demo, which may not be redistributed. Do not push it publicly."
    assert f"**{notice}**" in card
    assert "| demo | demo | proprietary | forbidden | not stated | 15 |" in card
    assert "Rows with personal data: 1 (rule `redact`). Findings: cpf 1, address 1." in card


def test_the_card_loads_as_a_data_set(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    cache = str(closed / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", closed / "cache")
    loaded = datasets.load_dataset(str(closed / "data/clean"), cache_dir=cache)
    sizes = {name: len(split) for name, split in loaded.items()}
    assert sizes == {"train": 3, "dev": 2} | dict.fromkeys(SET_NAMES, 2)


def test_the_card_warns_of_names() -> None:
    source = FilesSource.model_validate(
        {
            "kind": "files",
            "name": "clinic_1",
            "path": "data/sources/a.csv",
            "names": "present",
            "encoding": "utf-8",
            "columns": {"question": "q", "answer": "a", "specialty": "", "kind": ""},
            "filter": {},
            "limit": 0,
            "role": "train",
            "license": "cc0-1.0",
            "redistribution": "allowed",
        }
    )
    params = settings()
    ingest = params.ingest.model_copy(update={"sources": [source]})
    notice = "**Rows of clinic_1 contain people's names, and not all were removed.**\n\n"
    assert names_notice(params) == ""
    assert names_notice(params.model_copy(update={"ingest": ingest})) == notice


def test_a_table_of_the_card_shows_text_literally() -> None:
    table = as_table(("a",), [("x|y <b>\n# z",)])
    assert table == "| a |\n| --- |\n| x\\|y &lt;b&gt; \\# z |\n\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "raw/demo.jsonl",
            "{broken\n",
            "demo.jsonl: it contains a line that ingest did not write. "
            "Run `dvc repro --force ingest`",
        ),
        ("raw/demo.jsonl", '{"question": "a"}\n', "it contains a line that ingest did not write"),
        ("raw/demo.jsonl", "", "data/raw/demo.jsonl: the file is empty. Run `dvc repro ingest`"),
        ("raw/other.jsonl", "", "data/raw: 1 files there belong to no source of params.yaml. Run"),
        ("benchmarks/bula_medmcqa.jsonl", "", "bula_medmcqa.jsonl: the file is empty"),
        ("benchmarks/bula_medmcqa.jsonl", None, "the file does not exist"),
    ],
)
def test_an_input_that_ingest_did_not_write_is_an_error_before_any_output(
    file: str, content: str | None, message: str, workspace: Path, tiny: Path
) -> None:
    prepare(workspace, tiny, rows_of_all_splits(1))
    path = workspace / "data" / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        stage.main()
    assert message in str(caught.value)
    assert not (workspace / "data/clean").exists()
    assert leftovers(workspace) == []


def test_an_empty_validation_set_is_an_error_before_any_output(workspace: Path, tiny: Path) -> None:
    prepare(workspace, tiny, [row(split=split) for split in SPLITS if split != "E"])
    message = r"no examples left for E; none of the 6 rows was refused\. Add rows, or add a source"
    with pytest.raises(UserError, match=message):
        stage.main()
    assert not (workspace / "data/clean").exists()
    assert not (workspace / "metrics").exists()
    assert leftovers(workspace) == []


def limit_train(workspace: Path, limit: int) -> None:
    """Set preprocess.train_limit."""
    edit_params(workspace / "params.yaml", lambda p: p["preprocess"].update(train_limit=limit))


def test_rows_beyond_the_limit_are_counted(workspace: Path, tiny: Path) -> None:
    prepare(workspace, tiny, rows_of_all_splits(5))
    limit_train(workspace, 2)
    stage.main()
    train = read_metrics(workspace, "preprocess")["train"]
    assert train["examples"] == 2
    assert train["beyond_limit"] == 3


def test_train_is_limited_to_the_first_rows_by_id(workspace: Path, tiny: Path) -> None:
    prepare(workspace, tiny, rows_of_all_splits(10))
    limit_train(workspace, 4)
    stage.main()
    ids = [r["id"] for r in read_rows(workspace / "data/clean/train.jsonl")]
    assert len(ids) == 4
    assert ids == sorted(ids)
