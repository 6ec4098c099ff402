"""Compute the `contains` metric of bula_squad_completion."""

from typing import Any


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, int]:
    """Return whether the expected value occurs in the continuation.

    Case is ignored. lm-eval passes exactly one continuation in `results`.
    """
    expected = doc["value"].strip().casefold()
    continuation = results[0].casefold()
    return {"contains": int(expected in continuation)}
