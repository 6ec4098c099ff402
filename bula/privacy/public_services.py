"""Keep the addresses, telephones and profiles of public services.

Short numbers (136, 192, 188) and 0800 numbers are no findings of bula/privacy/phones.py.
"""

import re

from bula.privacy.fragments import ANY_CASE
from bula.privacy.given_names import GIVEN_NAMES, fold
from bula.privacy.kinds import Finding
from bula.privacy.names import WORD

# The text before an address in which a public body is searched.
REACH = 90
BODY = re.compile(
    r"""
    \b
    (?:
        minist[ée]rio [ ] d[aeo]s? | esplanada [ ] dos [ ] minist[ée]rios | anvisa | fiocruz
          | butantan
        | secretaria [ ] (?: (?:municipal|estadual|nacional)[ ] )? d[ae]s? [ ] \w+
        | ouvidoria | defensoria | procon | prefeitura | inss | conselho [ ] (?: federal
        | regional )
        | cia?tox | ceatox | centro [ ] de [ ] informa[çc] | disque | samu | cvv | bombeiros | inca
        | funda[çc][ãa]o [ ] oswaldo [ ] cruz
    )
    \b
    # no sentence end and no word of the writer
    (?: (?! \b (?: moro | mora | resid | meu | minha | eu | sou
      | endere[çc]o [ ] d[ae] [ ] paciente )
        | [.!?] [ ] (?= [A-ZÀ-Ý] ) | \n\n ) . ){0,80}? $
    """,
    ANY_CASE | re.DOTALL,
)
PROFILE = re.compile(
    r"""
    @ (?: min\w*saude | anvisa | fiocruz | govbr | gov | sus | cvv | samu | inca | opas | oms
      | who | unicef
        | butantan | conass | conasems | prefeitura | governo | cfm | cofen | hemo | media | import
        | \w* (?: oficial | saude[._]?gov ) $ )
    """,
    ANY_CASE,
)
GOVERNMENT = re.compile(r"@ [\w.-]* (?: gov | jus | leg | mp ) \.br $", ANY_CASE)


def is_public(text: str, finding: Finding) -> bool:
    """Return whether a finding belongs to a public service, so that it stays."""
    value = text[finding.start : finding.end]
    if finding.kind == "handle":
        return PROFILE.match(value) is not None
    if finding.kind == "email":
        parts = [fold(part) for part in WORD.findall(value.split("@")[0])]
        return GOVERNMENT.search(value) is not None and GIVEN_NAMES.isdisjoint(parts)
    if finding.kind in ("address", "phone"):
        return BODY.search(text[max(0, finding.start - REACH) : finding.start]) is not None
    return False
