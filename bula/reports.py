"""Write metrics/ and plots/, and refuse values that DVC cannot show.

All files in metrics/ and plots/ are written here. `dvc metrics diff` drops lists and nulls, and
shows NaN as a change every time. A plot whose rows differ in keys draws nothing.
"""

import json
import math
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

from bula.files import staged

Number = int | float
Scalar = Number | str | bool
Metrics = Mapping[str, Scalar | Mapping[str, Scalar]]


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Write metrics as sorted JSON, floats with six significant digits.

    A ValueError names the first value that DVC could not show.
    """
    _check_identities(str(path), metrics)
    written = {key: _metric(f"{path}:{key}", value) for key, value in metrics.items()}
    _write_json(path, written)


def _metric(where: str, value: Scalar | Mapping[str, Scalar]) -> object:
    """Return one entry of a metrics file, checked and rounded."""
    if not isinstance(value, Mapping):
        return _scalar(where, value)
    if not value:
        raise ValueError(f"{where}: the group has no figure")
    _check_identities(where, value)
    return _scalars(where, value, separator=".")


def write_plot(path: Path, rows: Sequence[Mapping[str, Scalar]]) -> None:
    """Write the table of a plot, one object per row.

    An empty table, and rows that differ in keys, raise a ValueError.
    """
    if not rows:
        raise ValueError(f"{path}: a plot without rows")
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError(f"{path}: all rows of a plot need the same keys")
    _write_json(path, [_scalars(str(path), row, separator=":") for row in rows])


def _scalars(where: str, values: Mapping[str, object], *, separator: str) -> dict[str, Scalar]:
    """Return all values of a mapping, checked and rounded."""
    return {key: _scalar(f"{where}{separator}{key}", value) for key, value in values.items()}


def _scalar(where: str, value: object) -> Scalar:
    """Return a value, with floats rounded.

    Lists, nulls, nested mappings, NaN and infinities raise a ValueError.
    """
    if not isinstance(value, Scalar):
        raise ValueError(f"{where}: {value!r} is not a scalar; DVC would drop it")
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        raise ValueError(f"{where}: {value!r}; DVC would show it as a change every time")
    return as_written(value)


def as_written(value: float) -> float:
    """Return a number rounded to the six significant digits of metrics files."""
    return float(f"{value:.6g}")


def _check_identities(where: str, metrics: Mapping[str, object]) -> None:
    """Check the identities between figures, before they are rounded."""
    _check_perplexity(where, metrics.get("perplexity"), metrics.get("bits_per_token"))
    _check_bits(where, metrics.get("bits_per_byte"), metrics.get("bits_per_character"))


def _check_perplexity(where: str, perplexity: object, bits: object) -> None:
    """Raise ValueError unless perplexity == 2 ** bits per token."""
    if not (isinstance(perplexity, Number) and isinstance(bits, Number)):
        return
    if not _same_perplexity(perplexity, bits):
        raise ValueError(f"{where}: perplexity {perplexity} is not 2 ** {bits} bits per token")


def _check_bits(where: str, per_byte: object, per_character: object) -> None:
    """Raise ValueError if bits per byte exceed bits per character."""
    if not (isinstance(per_byte, float) and isinstance(per_character, float)):
        return
    if per_byte > per_character:
        raise ValueError(
            f"{where}: {per_byte} bits per byte exceed {per_character} bits per character, "
            "but a UTF-8 character has at least one byte"
        )


def _same_perplexity(perplexity: float, bits: float) -> bool:
    """Return whether perplexity == 2 ** bits.

    The comparison is between logarithms, so that no large exponent overflows.
    """
    return perplexity > 0 and math.isclose(math.log2(perplexity), bits, rel_tol=1e-9, abs_tol=1e-9)


def _write_json(path: Path, content: object) -> None:
    """Write JSON with sorted keys and one value per line."""
    text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True)
    with staged(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def peak_memory_gb() -> float:
    """Return the largest resident memory of this process in GB (1e9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, and Linux counts kibibytes.
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return peak * unit / 1e9
