"""The `contains` metric of bula_squad_completion: 1 if the answer occurs in the continuation, case ignored, else 0."""

from typing import Any


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, int]:
    """Score one continuation; `results` holds exactly one."""
    return {"contains": int(doc["value"].strip().casefold() in results[0].casefold())}
