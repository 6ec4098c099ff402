"""Check prepared folders by the hub's own rules that need no network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, DatasetCard, ModelCard, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from bula.errors import UserError
from bula.publish.folders import CARD, Prepared

# Sizes that the hub's documentation states: 50 GB for a file.
MOST_FILE_BYTES = 50 * 1000**3
CARD_CLASSES: dict[str, type[Any]] = {"model": ModelCard, "dataset": DatasetCard}
FIX = "this is an error of the pipeline: report it with this message"


def check_folder(prepared: Prepared) -> int:
    """Check card, names and sizes of a folder, and return its bytes.

    Raise UserError for the first problem.
    """
    check_card(prepared.folder / CARD, prepared.part.repo_type)
    return sum(_checked_size(prepared.folder, file) for file in _files(prepared.folder))


def check_card(file: Path, repo_type: str) -> None:
    """Raise UserError unless the hub's library reads a card and writes the same metadata."""
    try:
        metadata = metadata_load(file)
        card = CARD_CLASSES[repo_type].load(file)
    except ValueError as error:
        raise UserError(file, f"the hub cannot read its metadata ({error})", FIX) from error
    if not metadata or metadata != card.data.to_dict():
        raise UserError(file, "the hub would read other metadata than were written", FIX)
    if index := metadata.get("model-index"):
        name, results = model_index_to_eval_results(index)
        if eval_results_to_model_index(name, results) != index:
            raise UserError(file, "the hub would read other results than were written", FIX)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, hidden ones included, in order."""
    yield from sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def _checked_size(folder: Path, file: Path) -> int:
    """Return the bytes of a file; raise UserError if the hub would refuse it."""
    if file.is_symlink() or any(part.startswith(".") for part in file.relative_to(folder).parts):
        raise UserError(file, "links and hidden files are not published", "delete it")
    try:
        name = file.relative_to(folder).as_posix()
        size = int(CommitOperationAdd(name, file).upload_info.size)
    except ValueError as error:
        raise UserError(file, f"the hub refuses this file ({error})", FIX) from error
    if size > MOST_FILE_BYTES:
        what = f"it has {size} bytes, and the hub takes {MOST_FILE_BYTES} a file"
        raise UserError(file, what, "save the model in smaller parts")
    return size
