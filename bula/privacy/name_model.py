"""Find names of people by the token classifier of `privacy.names`."""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

from bula.errors import UserError
from bula.params import DirectoryModel, HubModel, NoModel
from bula.privacy.kinds import Finding

# Labels of people in the data sets HAREM, LeNER-Br, CoNLL and WikiNEuRal.
PERSON = {"PER", "PERSON", "PESSOA", "PES", "NOME", "NAME", "PATIENT", "DOCTOR"}
# A part of a text that a classifier of 512 tokens reads completely, in characters.
PART = 800


def load_finder(
    source: HubModel | DirectoryModel | NoModel,
) -> Callable[[str], list[Finding]] | None:
    """Return the search for names by a model, or None without a model.

    Raise UserError if the model cannot be loaded or has no label for people.
    """
    if isinstance(source, NoModel):
        return None
    if isinstance(source, HubModel):
        return _finder(source.id, source.revision)
    return _finder(source.path, None)


@lru_cache(maxsize=1)
def _finder(name: str, revision: str | None) -> Callable[[str], list[Finding]]:
    """Return the search by one model, which each worker loads once."""
    from transformers import pipeline

    where = "privacy.names"
    try:
        classify = pipeline(
            "token-classification",
            model=name,
            revision=revision,
            aggregation_strategy="simple",
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError) as error:
        fix = "name a directory or a repository of a token classifier with safetensors"
        raise UserError(where, f"{name} cannot be loaded ({error})", fix) from error
    labels = {_label(label) for label in classify.model.config.id2label.values()}
    if not labels & PERSON:
        what = f"{name} has no label for people: {', '.join(sorted(labels))}"
        raise UserError(where, what, f"name a model with one of {', '.join(sorted(PERSON))}")
    return lambda text: find_names(text, classify)


def find_names(text: str, classify: Callable[[str], list[dict[str, Any]]]) -> list[Finding]:
    """Return the names that a token classifier finds, part by part.

    `classify` returns groups with entity_group, start and end, as transformers' pipeline does.
    """
    found = []
    for start, end in pairwise(_cuts(text)):
        for group in classify(text[start:end]):
            if _label(group["entity_group"]) in PERSON:
                found.append(Finding("name", start + group["start"], start + group["end"]))
    return found


def _label(label: str) -> str:
    """Return a label without the place in the entity ("B-PER" to "PER")."""
    return label.split("-")[-1].upper()


def _cuts(text: str) -> list[int]:
    """Return where parts of at most PART characters start and end, at spaces."""
    cuts = [0]
    while len(text) - cuts[-1] > PART:
        space = text.rfind(" ", cuts[-1] + 1, cuts[-1] + PART)
        cuts.append(space if space > 0 else cuts[-1] + PART)
    return [*cuts, len(text)]
