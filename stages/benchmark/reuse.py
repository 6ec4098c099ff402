"""Look up the scores of a variant with the same model.

Tasks have prompts of their own, so few-shot examples change no score of equal weights. The first
variant of a model keeps its rows in .bula/scores/VARIANT/FINGERPRINT.jsonl, and the others read
them there. A second file has the hash of the rows. If the rows are missing or damaged, the stage
scores the items.
"""

import os
import shutil
from importlib.metadata import version
from pathlib import Path

from bula.escaping import terminal
from bula.files import sha256_file, sha256_values, staged
from bula.params import Params, scored_as, variant_of
from bula.records import Row, read_rows, write_rows
from stages.benchmark.items import Items
from stages.benchmark.scores import score_settings

# DVC runs an experiment in a copy that it deletes; DVC_ROOT is the repository itself even there.
KEPT = Path(os.environ.get("DVC_ROOT", "")) / ".bula/scores"
CODE = Path(__file__).parents[2]
LIBRARIES = ("datasets", "tokenizers", "torch", "transformers")


def kept_path(variant: str, tasks: Path, items: Items, params: Params) -> Path | None:
    """Return the file of the rows that variants of one model share.

    Return None if no other variant has this model, or if a foreign server scores, which may serve
    another model tomorrow.
    """
    model = variant_of(params, variant).model
    models = [other.model for other in params.variants.values()]
    if models.count(model) == 1 or params.benchmark.backend.kind == "openai":
        return None
    name = fingerprint(Path(model), tasks, items, params)
    return KEPT / scored_as(params, variant) / f"{name}.jsonl"


def fingerprint(model: Path, tasks: Path, items: Items, params: Params) -> str:
    """Return a hash of everything that shapes the rows of a model."""
    documents = {name: [item.document for item in members] for name, members in items.items()}
    return sha256_values(
        params.benchmark.model_dump(mode="json"),
        score_settings(params),
        params.sampling_seed,
        params.device,
        documents,
        [version(name) for name in LIBRARIES],
        _hashes(model, "*"),
        _hashes(tasks, "*.yaml"),
        _hashes(tasks, "*.py"),
        _hashes(CODE / "bula", "*.py"),
        _hashes(CODE / "stages/benchmark", "*.py"),
    )


def _hashes(path: Path, pattern: str) -> list[list[str]]:
    """Return the name and hash of a file, or of matching files."""
    files = [file for file in path.rglob(pattern) if file.is_file()] if path.is_dir() else [path]
    return [[str(file), sha256_file(file)] for file in sorted(files)]


def find_rows(variant: str, kept: Path, params: Params) -> list[Row]:
    """Return the kept rows under the name of a variant, or nothing.

    The first variant of a model always scores the items. Damaged rows are deleted, and a line says
    so.
    """
    if scored_as(params, variant) == variant or not kept.exists():
        return []
    if is_damaged(kept):
        delete(kept)
        delete(hash_path(kept))
        name = terminal(str(kept))
        print(f"benchmark: {name} was damaged and is deleted; the items are scored again")
        return []
    return [row | {"variant": variant} for row in read_rows(kept)]


def hash_path(kept: Path) -> Path:
    """Return the file with the hash of the kept rows."""
    return kept.with_suffix(".sha256")


def is_damaged(kept: Path) -> bool:
    """Return whether the kept rows differ from those that were written."""
    try:
        return hash_path(kept).read_text(encoding="ascii") != sha256_file(kept)
    except (OSError, UnicodeDecodeError):
        return True


def delete(path: Path) -> None:
    """Delete a file, or a folder in its place."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def keep_rows(variant: str, kept: Path, rows: list[Row], params: Params) -> None:
    """Keep the rows of the first variant of a model.

    The rows of its earlier runs are deleted.
    """
    if scored_as(params, variant) != variant:
        return
    write_rows(kept, rows)
    with staged(hash_path(kept)) as temporary:
        temporary.write_text(sha256_file(kept), encoding="ascii")
    for other in kept.parent.iterdir():
        if other not in (kept, hash_path(kept)):
            delete(other)
