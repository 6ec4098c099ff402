"""Read and write files of labels."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from bula.errors import UserError
from bula.labels.records import LABEL, Label
from bula.records import read_rows, write_rows

# Advice for a damaged or missing file of labels.
IMPORT = "import the raters' files again by `python -m bula labels import`, or run `dvc pull`"


def read_labels(paths: Iterable[Path]) -> list[Label]:
    """Return the labels of some files, in order.

    Raise UserError if a file is missing or damaged, or if one rater's judgement of one item occurs
    twice.
    """
    labels: list[Label] = []
    for path in paths:
        labels += _read_file(path)
    seen: set[tuple[str, ...]] = set()
    for label in labels:
        key = label_key(label)
        if key in seen:
            what = f"{label.rater} of kit {label.kit} judges {key[-1]} twice"
            raise UserError("labels.files", what, "keep each judgement in one file only")
        seen.add(key)
    return labels


def _read_file(path: Path) -> list[Label]:
    """Return the labels of one file."""
    if not path.is_file():
        raise UserError(path, "the file does not exist", IMPORT)
    labels = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            labels.append(LABEL.validate_python(row))
        except ValidationError as error:
            what = f"the row is no label ({faults_of(error)})"
            raise UserError(f"{path}:{number}", what, IMPORT) from None
    return labels


def label_key(label: Label) -> tuple[str, ...]:
    """Return what only one label may have: kit, rater, type and the id in the kit."""
    judged = label.item if label.type == "answer" else label.pair
    return label.kit, label.rater, label.type, judged


def write_labels(path: Path, labels: Sequence[Label]) -> None:
    """Write labels, sorted so that equal labels give equal bytes."""
    ordered = sorted(labels, key=label_key)
    write_rows(path, ordered)


def faults_of(error: ValidationError) -> str:
    """Return the wrong fields with their faults, and none of their content."""
    faults = []
    for fault in error.errors(include_input=False, include_url=False):
        # The first place is the type of the row, and the form of a model has none.
        field = ".".join(str(part) for part in fault["loc"] if part not in ("answer", "pair"))
        faults.append(f"{field}: {fault['msg']}" if field else fault["msg"])
    return "; ".join(faults)
