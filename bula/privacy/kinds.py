"""Define the kinds of personal data and their placeholders."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

PLACEHOLDER = {
    "email": "[E-MAIL]",
    "cpf": "[CPF]",
    "cnpj": "[CNPJ]",
    "cns": "[CNS]",
    "pis": "[PIS]",
    "cnh": "[CNH]",
    "voter": "[TÍTULO DE ELEITOR]",
    "passport": "[PASSAPORTE]",
    "pix": "[CHAVE PIX]",
    "birth_date": "[DATA DE NASCIMENTO]",
    "rg": "[RG]",
    "crm": "[CRM]",
    "council": "[REGISTRO PROFISSIONAL]",
    "health_plan": "[CARTEIRA DO PLANO]",
    "record": "[PRONTUÁRIO]",
    "address": "[ENDEREÇO]",
    "phone": "[TELEFONE]",
    "handle": "[PERFIL]",
    "name": "[NOME]",
}
# Where two findings overlap, the earlier kind wins: a CPF can look like a mobile number.
PERSONAL_DATA_KINDS = tuple(PLACEHOLDER)


class Finding(NamedTuple):
    """The kind and the place of personal data, as a slice of the text."""

    kind: str
    start: int
    end: int


class Recogniser(NamedTuple):
    """A search for one kind of personal data, and the evidence that it needs."""

    find: Callable[[str], Iterator[Finding]]
    """Yield the findings of a text, which may overlap."""
    digits: int = 0
    """The fewest digits of a text that can contain a finding; texts with fewer are skipped."""
    sign: str = ""
    """A sign without which a text contains no finding."""
