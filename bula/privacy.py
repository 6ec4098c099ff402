"""Personal data of Brazil in text (LGPD, Lei 13.709/2018): found, verified where a check digit allows it, and masked.

preprocess looks through the rows that are trained and tested on, generate through what a model answers. Numbers with check
digits (CPF, CNPJ, CNS) count only if validate-docbr accepts them and telephones only if phonenumbers knows such a number, so
that a dose, a date or a lot number is not taken for a document. What has no check digit (RG, CRM, date of birth, address)
counts only beside the words that name it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import phonenumbers
from validate_docbr import CNPJ, CNS, CPF

# Where two findings overlap, the earlier kind stays: an eleven-digit CPF can read like a mobile number.
PERSONAL_DATA_KINDS = ("email", "cpf", "cnpj", "cns", "birth_date", "rg", "crm", "address", "phone")
PLACEHOLDER = {
    "email": "[E-MAIL]",
    "cpf": "[CPF]",
    "cnpj": "[CNPJ]",
    "cns": "[CNS]",
    "birth_date": "[DATA DE NASCIMENTO]",
    "rg": "[RG]",
    "crm": "[CRM]",
    "address": "[ENDEREÇO]",
    "phone": "[TELEFONE]",
}


class Finding(NamedTuple):
    """One piece of personal data: what it is, and where it stands (Python slice of the text)."""

    kind: str
    start: int
    end: int


# Word processors put hyphens, spaces and digits of many kinds; one for one, so that places in the text stay what they are.
PLAIN = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u3000\t", " ")
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
)
# A document's digits may be glued, or parted by up to three signs of punctuation and spaces; and no digit goes before.
GAP = r"[ .,_\-/]{0,3}"
START = r"(?<!\d)(?<!\d[.,])"
DOCUMENTS = (
    ("cpf", CPF(), re.compile(rf"{START}(\d{{3}}{GAP}\d{{3}}{GAP}\d{{3}}{GAP}\d{{2}})(?!\d)")),
    # Beside its name a CPF may be parted anywhere.
    (
        "cpf",
        CPF(),
        re.compile(rf"\bCPF\b[^\d\n]{{0,12}}(\d(?:{GAP}\d){{10}})(?!\d)", re.IGNORECASE),
    ),
    (
        "cnpj",
        CNPJ(),
        re.compile(
            rf"{START}(?<![A-Z])([\dA-Z]{{2}}{GAP}[\dA-Z]{{3}}{GAP}[\dA-Z]{{3}}{GAP}[\dA-Z]{{4}}{GAP}\d{{2}})(?!\d)"
        ),
    ),
    (
        "cns",
        CNS(),
        re.compile(rf"{START}([1-25-9]\d{{2}}{GAP}\d{{4}}{GAP}\d{{4}}{GAP}\d{{4}})(?!\d)"),
    ),
)
MAILBOX = r"(?<![\w.+%-])[\w.+%-]+"
EMAIL = re.compile(rf"{MAILBOX}@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{{2,}}")
# With spaces around the sign only a common ending counts, and without one after it only a common provider: "@nome" is a profile.
SPACED_EMAIL = re.compile(
    rf"{MAILBOX}(?:[ ]?@[ ](?:[\w-]+\.){{1,3}}(?:com|net|org|br)\b"
    rf"|[ ]@(?:gmail|hotmail|outlook|yahoo|icloud|uol|bol|terra)\.com(?:\.br)?\b)",
    re.IGNORECASE,
)

STATES = "AC|AL|AP|AM|BA|CE|DF|ES|GO|MA|MT|MS|MG|PA|PB|PR|PE|PI|RJ|RN|RS|RO|RR|SC|SP|SE|TO"
CRM = re.compile(
    rf"\bCRMM?[ ./:-]{{0,6}}(?:\((?:{STATES})\)|(?:{STATES})\b)?(?:{STATES})?[ ./:nNº°ro-]{{0,8}}"
    # The state's own number before it, as in 52-12345-6.
    rf"(?:\d{{2}}[ .-]\d{{4,6}}-\d|\d[\d.]{{1,9}}\d(?:-\d{{1,4}})?)"
    rf"(?:[ ]?[/-]?[ ]?\(?(?:{STATES})\b\)?)?",
    re.IGNORECASE,
)
# A form puts the value on the line below its name.
NEXT_LINE = r"(?:(?:[ ]n[º°.])?[ ]?:|(?<=[Dd]ata de nascimento)|(?<=DATA DE NASCIMENTO))[ ]{0,3}\r?\n[ ]{0,8}"
RG_NAME = (
    r"(?:\bR\.?G\.?|\b[Ii]dentidade|\b[Rr]egistro [Gg]eral|\bIDENTIDADE|\bREGISTRO GERAL|\b[Rr]g)"
)
ISSUER = rf"(?:[ ,/-]{{0,3}}SSP[ /-]{{0,3}}(?:{STATES})\b)?"
RG = re.compile(
    rf"{RG_NAME}(?![ ]*\d{{1,3}}\b(?!\.))(?:[^\d\n]{{0,20}}?|{NEXT_LINE})"
    rf"((?:(?:{STATES})[ -]{{0,3}})?\d{{1,3}}\.?\d{{3}}\.?\d{{3}}(?:[ ]?-[ ]?[\dXx]{{1,2}})?\b{ISSUER}"
    rf"|\d{{5,10}}[\dXx]?(?:-[\dXx]{{1,2}})?\b{ISSUER})",
)

MONTHS = "janeiro|fevereiro|março|abril|maio|junho|julho|agosto|setembro|outubro|novembro|dezembro"
DATE = (
    r"(?:(?<!\d)(?:0?[1-9]|[12]\d|3[01])[ ]?[/.-][ ]?(?:0?[1-9]|1[0-2])[ ]?[/.-][ ]?(?:\d{4}|\d{2})(?![\d/])"
    r"|(?<!\d)(?:19|20)\d{2}[-/](?:0[1-9]|1[0-2])[-/](?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?<!\d)(?:0?[1-9]|[12]\d|3[01])(?: de |[ /.-])"
    r"(?:jan|fev|mar|abr|mai|jun|jul|ago|set|out|nov|dez)\.?(?: de |[ /.-])(?:\d{4}|\d{2})(?!\d)"
    rf"|(?<!\d)(?:[1-9]|0[1-9]|[12]\d|3[01]|1º)[º°]?(?: do?e?)? (?:{MONTHS})(?:(?:,| de)? (?:de )?\d{{4}}| de \d{{2}})(?!\d))"
)
NOT_DUE = "".join(
    rf"(?<!{words} )"
    for words in (
        "previsão de",
        "previsão do",
        "provável de",
        "provável do",
        "prevista do",
        "prevista para o",
    )
)
BIRTH = (
    rf"(?=[dn]){NOT_DUE}(?<!recém-)(?<!recém )(?:nascid[oa]s?|nasci|nasceu|nasceram|nascimento|data[ ]de[ ]nasc|dt\.?[ ]?nasc"
    r"|(?<![^\W_])nasc\b|nasc\.|\bd\.?[ ]?n\.?(?=[ :.=]))"
)
# What comes between birth and the date of something else; but not the "e" of a label ("nascimento e sexo:"), of "nascida e criada"
# and of a name ("Hospital e Maternidade").
OTHER_EVENT = (
    r"(?:\be (?!(?:foi )?(?:criad|registrad)|(?-i:[A-ZÀ-Ý])|[^:\d\n]{0,30}:)"
    r"|\baté\b|(?-i:\balta\b)|\bvacina|\btom(?:ou|ei)\b|\breceb|\bprevis|\bprováve)"
)
BIRTH_BEFORE = re.compile(
    rf"{BIRTH}(?!\w)(?:(?:(?!{OTHER_EVENT})[^\d.;!?\n]){{0,40}}?|(?: em)?{NEXT_LINE})({DATE})"
    rf"|\bd\.n\.[ :]{{0,3}}({DATE})|(?<!recém-)(?<!recém )nasc\.(?:(?!{OTHER_EVENT})[^\d\n]){{0,12}}({DATE})",
    re.IGNORECASE,
)
BIRTH_AFTER = re.compile(
    rf"({DATE})[^\d.;!?\n]{{0,25}}?(?:data de nascimento|nascimento\b)", re.IGNORECASE
)

# Between bloqueio and Mobitz, AV is atrioventricular; before OD and OE it is the acuity of an eye.
AV_AFTER = "bloqueio|bloqueios|nó|nodo|fístula|fístulas|condução|malformação|malformações|intervalo|junção|valva|dissociação"
AV = (
    "av"
    + "".join(rf"(?<!{word} av)" for word in AV_AFTER.split("|"))
    + r"(?!\.)(?![ ]+(?:Mobitz|Wenckebach|total|O[DE])\b)"
)
STREET = (
    rf"(?:[Rr]ua|RUA|[Aa]venida|AVENIDA|(?i:{AV})|[Aa][Vv]\.|[Tt]ravessa|TRAVESSA|[Tt]v\.|[Tt]rav\.|[Aa]lameda|[Pp]raça|[Pp]ça\.?"
    r"|[Rr]odovia|[Rr]od\.|[Ee]strada|[Ee]str\.|[Ll]argo|[Bb]eco|[Vv]iela|[Ll]adeira)"
)
# Words that name health posts, towns and groups too; and R. may be the first name of an author.
PLACE = r"(?:[Vv]ila|[Cc]onjunto|[Qq]uadra)"
INITIAL = r"R\."
CAPITAL = r"(?:[A-ZÀ-Ý][\wÀ-ÿ.'-]*|\d{1,2}º? de [A-Za-zç]+)"
NAME = rf"(?:d[aeo]s?[ ]){{0,2}}{CAPITAL}(?:[ ](?:{CAPITAL}|d[aeo]s?|e)){{0,6}}"
SIGN = r"(?:[Nn]o?[º°.][º°o]?\.?:?[ ]?|[Nn]úmero[ :]{1,2}|[Nn]um\.?[ ]|[Cc]asa[ ])"
NUMBER = r"(?:\d{1,2}\.\d{3}|\d{1,5})(?:[ ]?-?[ ]?[A-D]\b)?"
# A number with a unit, an ordinal, or people and things that are counted is none of a house.
NO_NUMBER = (
    r"(?![\d/º°ª%]|[.,]\d|:[ ]?\d|[ ]?(?:h|horas?|min|minutos?|vez|vezes|anos?|dias?|semanas?|mês|meses|km|metros|mmHg|bpm|UI|[mk]g|mcg"
    r"|[µg]g?|m[lL]|graus?|doses?|comprimidos?|cápsulas?|gotas?|ampolas?|sessões|casos?|pessoas|pacientes|participantes)\b)"
)
YEAR = r"(?:19|20)\d{2}(?!\d)"
COMMA = r"[ ]?,[ ]?"
SIGNED = rf"(?:(?:[ ]?[,-][ ]?|[ ]){SIGN}|{COMMA}[Nn][ ])"
# The number closes the clause, or what follows belongs to an address.
CLOSED = r"(?=[ ]*(?:$|[.,;:!?)\n-]|(?:e|ap|apt|apto|apartamento|bairro|bl|bloco|casa|fundos|centro|em|no|na|cep|jardim|jd|vila|sala|loja)\b))"
# A street in small letters: the words of its name are none that tell a story.
STORY = (
    r"(?:ontem|hoje|agora|que|com|sem|para|pra|por|tod[oa]s?|sempre|quando|onde|mas|então|depois|antes|muit[oa]s?|dias?|noite|manhã|tarde|cedo"
    r"|sozinh[oa]s?|perto|longe|aqui|ali|está|estava|estou|foi|fui|fica|faz|chega|tenho|tem|teve|desde|cerca|uns|umas|mais|menos|quase|durante|até)"
)
SMALL_WORD = rf"(?:d[aeo]s?[ ])?(?!{STORY}\b)[a-zà-ÿ]{{3,30}}"
ADDRESSES = (
    re.compile(
        rf"\b{STREET}[ ]+(?:{NAME}(?:[ ]?[,-][ ]?|[ ])(?:{SIGN}|[Nn][o ]?[ ]?)?|\d{{1,3}}{SIGNED}){NUMBER}{NO_NUMBER}"
    ),
    re.compile(rf"\b{INITIAL}[ ]+{NAME}(?:{COMMA}(?!{YEAR})|{SIGNED}){NUMBER}{NO_NUMBER}(?!\()"),
    re.compile(
        rf"\b{PLACE}[ ]+(?:{NAME}{COMMA}(?!{YEAR}){NUMBER}{NO_NUMBER}{CLOSED}|(?:{NAME}|\d{{1,3}}){SIGNED}{NUMBER}{NO_NUMBER})"
    ),
    re.compile(
        rf"\b(?:rua|avenida|{AV}|av\.|travessa|alameda|praça|estrada|rodovia)[ ]+{SMALL_WORD}(?:[ ]{SMALL_WORD}){{0,3}}"
        rf"(?:{COMMA}{SIGN}?|[ ]{SIGN}){NUMBER}{NO_NUMBER}{CLOSED}",
        re.IGNORECASE,
    ),
)
CEP = re.compile(r"\bCEP[^\d\n]{0,12}(\d{2}\.?\d{3}-?\d{3})(?!\d)", re.IGNORECASE)
# Without the word, five digits, a hyphen and three are a post code only where a street or a city with its state stands too.
BARE_CEP = re.compile(r"(?<![\d.,-])\d{5}-\d{3}(?![\d-])")
CITY = re.compile(rf"[a-zà-ÿ] ?[/,–-] ?(?:{STATES})\b")

NAMED = (
    ("birth_date", BIRTH_BEFORE),
    ("birth_date", BIRTH_AFTER),
    ("rg", RG),
    ("crm", CRM),
    ("address", CEP),
)

PHONE_WORD = (
    r"(?:telefones?|tel\b\.?|fones?\b|celular(?:es)?|cel\b\.?|whats(?:app)?|wpp|wa\.me/|zap|ligue|ligar|liga|chama[rm]?"
    r"|contatos?|recado|ramal|meu n[úu]mero)"
)
LOCAL = r"(?:9[ .-]?)?\d{4}[ .-]?\d{4}"
LOCAL_PHONE = re.compile(rf"{PHONE_WORD}([^\d\n]{{0,30}}?)(?<!\d)({LOCAL})(?![\d-])", re.IGNORECASE)
BEFORE_PHONE = re.compile(rf"{PHONE_WORD}[^\d\n]{{0,30}}$", re.IGNORECASE)
# A second number after the first: "99999-8888 ou 98888-7777".
NEXT_PHONE = re.compile(rf"[ ]?(?:ou|e|/|,)[ ]?({LOCAL})(?![\d-])", re.IGNORECASE)
# Written as a telephone: an area code in brackets or a country code, or a hyphen or space before the last four digits.
PHONE_FORM = re.compile(r"^\+|^\(|\d{4}[ .-]\d{4}$")
# An area code, the 9 of a mobile number and eight digits need no word that names them, if none names something else.
MOBILE = re.compile(r"(?:55[ ]?)?0?[1-9]{2}[ -]?9[ ]?\d{8}")
OTHER_NAME = re.compile(
    r"(?:\b(?:lote|protocolo|pedido|registro|código|nota|cpf|cnpj|cns|rg|sus|série|serial|matrícula|processo|guia|cartão|carteirinha"
    r"|prontuário|identificador|etiqueta|rastreio|barras|ean|id|autorização|senha|boleto|inscrição|amostra|parecer)\b"
    r"[^\d\n.,;!?]{0,25}(?:\bn\.[ ]?)?|[\w/=-]|\d[.,])$",
    re.IGNORECASE,
)
# Eight digits in a row beside a word for telephone that are a count or a code all the same.
COUNTED = re.compile(
    r"\b(?:plaquetas|leucócitos|hemácias|células|contagem|carga viral|lote|protocolo|pedido|registro|código|nota)\b",
    re.IGNORECASE,
)
# Numbers for the whole country belong to services, as 0800 does.
SERVICE = re.compile(r"3003|400\d")
YEARS = re.compile(r"(?:19|20)\d{2}[ .-](?:19|20)\d{2}$")
MEASURED = re.compile(
    r"[ ]?(?:c[óo]pias|UI\b|U/|m[gLl]\b|mc?g\b|/ ?[a-zµ]|%|mm|células|cel/|unidades|k?cal\b|calorias|passos|reais)"
)


def find_personal_data(text: str) -> list[Finding]:
    """Personal data of a text, in order, without overlaps; spans leave out the word that names them, but for CRM."""
    plain = text.translate(PLAIN)
    digits = sum(map(plain.count, "0123456789"))
    if not digits and "@" not in plain:
        return []
    found: list[Finding] = []
    for finding in sorted(_candidates(plain, digits), key=lambda f: f.start):
        if found and finding.start < found[-1].end:
            # Where findings overlap, the first kind gets the whole stretch: half a number left over is a number still.
            last = found.pop()
            finding = Finding(
                min(last.kind, finding.kind, key=PERSONAL_DATA_KINDS.index),
                last.start,
                max(last.end, finding.end),
            )
        found.append(finding)
    return found


def _candidates(text: str, digits: int) -> Iterator[Finding]:
    """Everything that any rule finds, overlaps included; a rule that needs more digits than the text has is not tried."""
    if "@" in text:
        for form in (EMAIL, SPACED_EMAIL):
            yield from (Finding("email", *match.span()) for match in form.finditer(text))
    if digits >= 11:
        for kind, document, pattern in DOCUMENTS:
            for match in pattern.finditer(text):
                if document.validate(re.sub(r"[^\dA-Z]", "", match.group(1))):
                    yield Finding(kind, *match.span(1))
    if digits >= 3:
        for kind, pattern in NAMED:
            for match in pattern.finditer(text):
                group = next((n for n, value in enumerate(match.groups(), start=1) if value), 0)
                # A date is one by its form: "8 de março de 85" has three digits.
                if kind == "birth_date" or sum(c.isdigit() for c in match.group(group)) >= 4:
                    yield Finding(kind, *match.span(group))
    addresses = (
        [Finding("address", *match.span()) for form in ADDRESSES for match in form.finditer(text)]
        if digits
        else []
    )
    yield from addresses
    if digits >= 8:
        if addresses or CITY.search(text):
            yield from (Finding("address", *match.span()) for match in BARE_CEP.finditer(text))
        yield from _phones(text)


def _phones(text: str) -> Iterator[Finding]:
    """Telephones: what phonenumbers accepts and is written like one or called one, and local numbers that are called one."""
    for match in LOCAL_PHONE.finditer(text):
        gap, local = match.groups()
        code = re.fullmatch(r"\d{8}", local) and COUNTED.search(gap)
        if (
            not code
            and not SERVICE.match(local)
            and not YEARS.match(local)
            and not MEASURED.match(text, match.end())
        ):
            yield from _with_next(text, *match.span(2))
    # Toll-free numbers (0800) have eleven digits too, but belong to services, never to a person.
    for number in phonenumbers.PhoneNumberMatcher(text, "BR", phonenumbers.Leniency.VALID):
        # The longest word and what may follow it: to look through all that goes before takes quadratic time.
        before = text[max(0, number.start - 45) : number.start]
        mobile = MOBILE.fullmatch(number.raw_string) and not OTHER_NAME.search(before)
        written = mobile or BEFORE_PHONE.search(before) or PHONE_FORM.search(number.raw_string)
        national = str(number.number.national_number)
        long_enough = len(national) >= 10 or number.raw_string.startswith("+")
        if (
            written
            and long_enough
            and not re.match(r"[3589]00", national)
            and not MEASURED.match(text, number.end)
        ):
            yield from _with_next(text, number.start, number.end)


def _with_next(text: str, start: int, end: int) -> Iterator[Finding]:
    """A telephone, and the local number that is given beside it."""
    yield Finding("phone", start, end)
    if more := NEXT_PHONE.match(text, end):
        yield Finding("phone", *more.span(1))


def redact(text: str, findings: list[Finding]) -> str:
    """The text with each finding replaced by the placeholder of its kind, such as [CPF]."""
    for finding in sorted(findings, key=lambda f: f.start, reverse=True):
        text = text[: finding.start] + PLACEHOLDER[finding.kind] + text[finding.end :]
    return text
