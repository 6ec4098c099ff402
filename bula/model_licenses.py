"""Describe the licenses of base models, and their terms.

Some licenses ask for acceptance before a model is fetched, and most ask for a notice wherever
derived weights go. The texts are short: each license's own page says everything.
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from bula.errors import UserError
from bula.params import (
    ApiModel,
    DirectoryModel,
    HubModel,
    JudgeSource,
    WheelModel,
    WheelsModel,
)

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
    variable: str = ""
    """Environment variable of a user's acceptance, or an empty text if none is asked for."""
    built_with: str = ""
    """Text that pages about derived weights must show, or an empty text."""
    name_prefix: str = ""
    """Text with which names of derived weights must begin, or an empty text."""


def _llama(name: str, page: str, *, product: str, name_prefix: str) -> ModelLicense:
    """Return one of Meta's licenses for Llama 3 and later, with its names."""
    built_with = f"Built with {product}"
    return ModelLicense(
        name=f"{name} Community License",
        url=f"https://www.llama.com/{page}/license/",
        notice=(
            f"{name} is licensed under the {name} Community License, Copyright © Meta "
            "Platforms, Inc. All Rights Reserved."
        ),
        duties=(
            "The use policy of Meta applies. Whoever distributes derived weights adds the license "
            f'and its notice, shows "{built_with}", and starts the name of the model with '
            f'"{name_prefix}".'
        ),
        duties_pt=(
            "Vale a política de uso da Meta. Quem distribui pesos derivados inclui a licença e o "
            f'aviso dela, mostra "{built_with}" e começa o nome do modelo com "{name_prefix}".'
        ),
        built_with=built_with,
        name_prefix=name_prefix,
    )


# The variables are constants here, so that no string of params.yaml can choose one. Llama's hub
# repositories ask for acceptance themselves.
LICENSES = {
    "apache-2.0": ModelLicense(
        name="Apache License 2.0",
        url="https://www.apache.org/licenses/LICENSE-2.0",
        notice="Licensed under the Apache License, Version 2.0. The weights were modified.",
        duties="Copies carry the license, and modified files say that they were modified.",
        duties_pt="Cópias levam a licença, e arquivos modificados dizem que foram modificados.",
    ),
    "llama2": ModelLicense(
        name="Llama 2 Community License",
        url="https://ai.meta.com/llama/license/",
        notice=(
            "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta "
            "Platforms, Inc. All Rights Reserved."
        ),
        duties=(
            "The use policy of Meta applies. Whoever distributes derived weights adds the license "
            "and its notice."
        ),
        duties_pt=(
            "Vale a política de uso da Meta. Quem distribui pesos derivados inclui a licença e o "
            "aviso dela."
        ),
    ),
    "llama3": _llama("Meta Llama 3", "llama3", product="Meta Llama 3", name_prefix="Llama-3"),
    "llama3.1": _llama("Llama 3.1", "llama3_1", product="Llama", name_prefix="Llama"),
    "llama3.2": _llama("Llama 3.2", "llama3_2", product="Llama", name_prefix="Llama"),
    "llama3.3": _llama("Llama 3.3", "llama3_3", product="Llama", name_prefix="Llama"),
    "llama4": _llama("Llama 4", "llama4", product="Llama", name_prefix="Llama"),
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
    "health-ai-developer-foundations": ModelLicense(
        name="Health AI Developer Foundations Terms of Use",
        url="https://developers.google.com/health-ai-developer-foundations/terms",
        notice=(
            "HAI-DEF is provided under and subject to the Health AI Developer Foundations Terms of "
            "Use found at https://developers.google.com/health-ai-developer-foundations/terms"
        ),
        duties=(
            "Google's prohibited use policy applies, and clinical use needs the authorizations of "
            "health authorities. Whoever distributes the model or derived weights passes on these "
            "restrictions, a copy of the terms and a notice, and marks modified files."
        ),
        duties_pt=(
            "Vale a política de usos proibidos do Google, e o uso clínico exige autorização das "
            "autoridades de saúde. Quem distribui o modelo ou pesos derivados repassa essas "
            "restrições, uma cópia dos termos e um aviso, e marca os arquivos modificados."
        ),
        variable="BULA_ACCEPT_HAI_DEF_TERMS",
    ),
}

# A model with such a name and another license in params.yaml would skip the consent. Gemma 4 has
# another license.
NAMES = {
    "health-ai-developer-foundations": re.compile("(med|tx)gemma", re.IGNORECASE),
    "gemma": re.compile(
        r"""
        (?<!med)(?<!tx)gemma[-_.\ ]?v?(2b|7b|[123])
        | (code|data|embedding|function|pali|recurrent|shield|t5|vault)gemma
        """,
        re.VERBOSE | re.IGNORECASE,
    ),
}


def model_license(identifier: str) -> ModelLicense:
    """Return the license with this identifier in params.yaml.

    An unknown identifier is its own name, without address, notice and duties.
    """
    unknown = ModelLicense(identifier, "", "", "", "")
    return LICENSES.get(identifier.lower(), unknown)


def refuse_unaccepted_terms(sources: Iterable[JudgeSource]) -> None:
    """Raise a UserError if a model's license asks for a consent that is missing.

    Models that are on this machine, or behind an API, are not fetched.
    """
    for source in sources:
        if not isinstance(source, ApiModel | DirectoryModel):
            _refuse_unaccepted(_names(source), source.license)


def _names(source: WheelModel | WheelsModel | HubModel) -> list[str]:
    """Return all names of a model that is fetched, the most important one first."""
    if isinstance(source, HubModel):
        return [source.id]
    parts = source.parts if isinstance(source, WheelsModel) else [source]
    names = [name for part in parts for name in (part.package, part.member)]
    return [*names, source.hub_id]


def _refuse_unaccepted(names: list[str], identifier: str) -> None:
    """Raise a UserError with the terms of a model, unless they are accepted."""
    for expected, pattern in NAMES.items():
        found = next(filter(pattern.search, names), None)
        if found and identifier.lower() != expected:
            what = f"params.yaml says that its license is {identifier}"
            raise UserError(found, what, f"set license: {expected}, the license of this family")
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
    raise UserError(names[0], "\n".join(lines), fix)
