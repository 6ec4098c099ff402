"""write_metrics and write_plot: the only writers of metrics/ and plots/, which refuse what DVC would drop in silence.

`dvc metrics diff` loses lists and nulls and shows NaN as a change for ever; a plot whose rows differ in keys draws nothing.
"""

import json
import math
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

from bula.files import staged

Scalar = int | float | str | bool
Metrics = Mapping[str, Scalar | Mapping[str, Scalar]]


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Write metrics as sorted JSON, floats with six significant digits; ValueError names what DVC could not show."""
    clean: dict[str, object] = {}
    _check_identities(str(path), metrics)
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            if not value:
                raise ValueError(f"{path}:{key}: holds no figure")
            _check_identities(f"{path}:{key}", value)
            clean[key] = {
                name: _scalar(f"{path}:{key}.{name}", item) for name, item in value.items()
            }
        else:
            clean[key] = _scalar(f"{path}:{key}", value)
    _write_json(path, clean)


def write_plot(path: Path, rows: Sequence[Mapping[str, Scalar]]) -> None:
    """Write one long table; ValueError if it is empty or its rows differ in keys."""
    if not rows:
        raise ValueError(f"{path}: a plot without rows")
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError(f"{path}: all rows of a plot need the same keys")
    _write_json(
        path, [{key: _scalar(f"{path}:{key}", value) for key, value in row.items()} for row in rows]
    )


def _scalar(where: str, value: object) -> Scalar:
    """The value as it is written; ValueError for lists, nulls, NaN, infinities and deeper nesting."""
    if not isinstance(value, int | float | str | bool):
        raise ValueError(f"{where}: {value!r} is no scalar; DVC would drop it")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value!r}; DVC would show it as a change for ever")
        return as_written(value)
    return value


def as_written(value: float) -> float:
    """The number with the six significant digits that a metrics file has of it."""
    return float(f"{value:.6g}")


def _check_identities(where: str, metrics: Mapping[str, object]) -> None:
    """perplexity == 2 ** bits_per_token, and bits_per_byte <= bits_per_character, before rounding."""
    perplexity, bits = metrics.get("perplexity"), metrics.get("bits_per_token")
    if (
        isinstance(perplexity, int | float)
        and isinstance(bits, int | float)
        and not _same_perplexity(perplexity, bits)
    ):
        raise ValueError(f"{where}: perplexity {perplexity} is not 2 ** {bits} bits a token")
    byte, character = metrics.get("bits_per_byte"), metrics.get("bits_per_character")
    if isinstance(byte, float) and isinstance(character, float) and byte > character:
        raise ValueError(
            f"{where}: {byte} bits a byte exceed {character} bits a character, which cannot be"
        )


def _same_perplexity(perplexity: float, bits: float) -> bool:
    """perplexity == 2 ** bits, compared as logarithms so that no large exponent overflows."""
    return perplexity > 0 and math.isclose(math.log2(perplexity), bits, rel_tol=1e-9, abs_tol=1e-9)


def _write_json(path: Path, content: object) -> None:
    """Write JSON that reads well in git: sorted keys, one value a line."""
    with staged(path) as temporary:
        temporary.write_text(
            json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n",
            encoding="utf-8",
        )


def peak_memory_gb() -> float:
    """Largest resident memory of this process so far, in GB (1e9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if os.uname().sysname == "Darwin" else 1024) / 1e9
