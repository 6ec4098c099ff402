"""Define the patterns by which bula/privacy.py finds personal data.

The patterns are verbose, so a space is written as [ ]. Names in capitals without a leading
underscore are complete patterns; the other names are fragments of them.
"""

import re

_VERBOSE = re.VERBOSE
_ANY_CASE = re.IGNORECASE | re.VERBOSE

_STATES = "AC|AL|AP|AM|BA|CE|DF|ES|GO|MA|MT|MS|MG|PA|PB|PR|PE|PI|RJ|RN|RS|RO|RR|SC|SP|SE|TO"
# Many forms put the value on the line below its name.
_NEXT_LINE = r"""
    (?: (?:[ ]n[º°.])? [ ]?: | (?<=[Dd]ata[ ]de[ ]nascimento) | (?<=DATA[ ]DE[ ]NASCIMENTO) )
    [ ]{0,3} \r?\n [ ]{0,8}
"""

# Documents. Up to three signs of punctuation and spaces may stand between the groups of digits.
_GAP = r"[ .,_\-/]{0,3}"
_NO_DIGIT_BEFORE = r"(?<!\d)(?<!\d[.,])"
CPF = re.compile(
    rf"{_NO_DIGIT_BEFORE} (\d{{3}} {_GAP} \d{{3}} {_GAP} \d{{3}} {_GAP} \d{{2}}) (?!\d)",
    _VERBOSE,
)
# After the word CPF a gap may follow any digit.
NAMED_CPF = re.compile(
    rf"\bCPF\b [^\d\n]{{0,12}} (\d (?:{_GAP} \d){{10}}) (?!\d)",
    _ANY_CASE,
)
CNPJ = re.compile(
    rf"""
    {_NO_DIGIT_BEFORE} (?<![A-Z])
    (
        [\dA-Z]{{2}} {_GAP} [\dA-Z]{{3}} {_GAP} [\dA-Z]{{3}} {_GAP} [\dA-Z]{{4}} {_GAP} \d{{2}}
    )
    (?!\d)
    """,
    _VERBOSE,
)
CNS = re.compile(
    rf"""
    {_NO_DIGIT_BEFORE}
    ([1-25-9]\d{{2}} {_GAP} \d{{4}} {_GAP} \d{{4}} {_GAP} \d{{4}})
    (?!\d)
    """,
    _VERBOSE,
)

# E-mail.
_MAILBOX = r"(?<![\w.+%-]) [\w.+%-]+"
EMAIL = re.compile(rf"{_MAILBOX} @ [\w-]+ (?:\.[\w-]+)* \.[A-Za-z]{{2,}}", _VERBOSE)
SPACED_EMAIL = re.compile(
    rf"""
    {_MAILBOX}
    (?:
        # a space after the sign: a common ending
        [ ]?@[ ] (?:[\w-]+\.){{1,3}} (?:com|net|org|br)\b
        # a space only before the sign: a common provider, because "@nome" is a profile
        | [ ]@ (?:gmail|hotmail|outlook|yahoo|icloud|uol|bol|terra) \.com (?:\.br)?\b
    )
    """,
    _ANY_CASE,
)

# CRM, the registration of a physician, and RG, the identity card.
CRM = re.compile(
    rf"""
    # the word, and a state before the number
    \bCRMM? [ ./:-]{{0,6}}
    (?: \((?:{_STATES})\) | (?:{_STATES})\b )? (?:{_STATES})?
    [ ./:nNº°ro-]{{0,8}}
    (?:
        # the number of a state's council, such as 52-12345-6
        \d{{2}} [ .-] \d{{4,6}} -\d
        | \d [\d.]{{1,9}} \d (?:-\d{{1,4}})?
    )
    # a state after the number
    (?: [ ]? [/-]? [ ]? \(? (?:{_STATES})\b \)? )?
    """,
    _ANY_CASE,
)
_RG_NAME = r"""
(?:
    \bR\.?G\.? | \b[Ii]dentidade | \b[Rr]egistro[ ][Gg]eral
    | \bIDENTIDADE | \bREGISTRO[ ]GERAL | \b[Rr]g
)
"""
_ISSUER = rf"(?: [ ,/-]{{0,3}} SSP [ /-]{{0,3}} (?:{_STATES})\b )?"
RG = re.compile(
    rf"""
    {_RG_NAME}
    # not a short count, such as "RG 12"
    (?! [ ]* \d{{1,3}}\b (?!\.) )
    (?: [^\d\n]{{0,20}}? | (?:{_NEXT_LINE}) )
    (
        # groups of digits, such as MG-12.345.678-9
        (?: (?:{_STATES}) [ -]{{0,3}} )?
        \d{{1,3}} \.? \d{{3}} \.? \d{{3}} (?: [ ]?-[ ]? [\dXx]{{1,2}} )? \b {_ISSUER}
        # digits without groups
        | \d{{5,10}} [\dXx]? (?: -[\dXx]{{1,2}} )? \b {_ISSUER}
    )
    """,
    _VERBOSE,
)

# Date of birth.
_MONTHS = "janeiro|fevereiro|março|abril|maio|junho|julho|agosto|setembro|outubro|novembro|dezembro"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DATE = rf"""
(?:
    # 12/03/1985
    (?<!\d) {_DAY} [ ]?[/.-][ ]? (?:0?[1-9]|1[0-2]) [ ]?[/.-][ ]? (?:\d{{4}}|\d{{2}}) (?![\d/])
    # 1985-03-12
    | (?<!\d) (?:19|20)\d{{2}} [-/] (?:0[1-9]|1[0-2]) [-/] (?:0[1-9]|[12]\d|3[01]) (?!\d)
    # 12 mar 1985
    | (?<!\d) {_DAY} (?: [ ]de[ ] | [ /.-] )
    (?:jan|fev|mar|abr|mai|jun|jul|ago|set|out|nov|dez) \.?
    (?: [ ]de[ ] | [ /.-] ) (?:\d{{4}}|\d{{2}}) (?!\d)
    # 12 de março de 1985
    | (?<!\d) (?:[1-9]|0[1-9]|[12]\d|3[01]|1º) [º°]? (?: [ ]do?e? )? [ ] (?:{_MONTHS})
    (?: (?: , | [ ]de )? [ ] (?:de[ ])? \d{{4}} | [ ]de[ ]\d{{2}} ) (?!\d)
)
"""
# An expected date of birth belongs to a pregnancy.
_NOT_EXPECTED = r"""
(?<!previsão[ ]de[ ]) (?<!previsão[ ]do[ ])
(?<!provável[ ]de[ ]) (?<!provável[ ]do[ ])
(?<!prevista[ ]do[ ]) (?<!prevista[ ]para[ ]o[ ])
"""
_BORN = rf"""
(?=[dn]) {_NOT_EXPECTED} (?<!recém-) (?<!recém[ ])
(?:
    nascid[oa]s? | nasci | nasceu | nasceram | nascimento | data[ ]de[ ]nasc
    | dt\.?[ ]?nasc | (?<![^\W_])nasc\b | nasc\. | \bd\.?[ ]?n\.?(?=[ :.=])
)
"""
# These words say that a date belongs to another event. An "e" does not if it is part of a label
# ("nascimento e sexo:"), of "nascida e criada" or of a name ("Hospital e Maternidade").
_OTHER_EVENT = r"""
(?:
    \be[ ] (?! (?:foi[ ])? (?:criad|registrad) | (?-i:[A-ZÀ-Ý]) | [^:\d\n]{0,30}: )
    | \baté\b | (?-i:\balta\b) | \bvacina | \btom(?:ou|ei)\b | \breceb | \bprevis | \bprováve
)
"""
BIRTH_BEFORE_DATE = re.compile(
    rf"""
    {_BORN} (?!\w)
    (?: (?: (?!{_OTHER_EVENT}) [^\d.;!?\n] ){{0,40}}? | (?:[ ]em)? (?:{_NEXT_LINE}) )
    ({_DATE})
    # abbreviations with a full stop
    | \bd\.n\. [ :]{{0,3}} ({_DATE})
    | (?<!recém-) (?<!recém[ ]) nasc\. (?: (?!{_OTHER_EVENT}) [^\d\n] ){{0,12}} ({_DATE})
    """,
    _ANY_CASE,
)
BIRTH_AFTER_DATE = re.compile(
    rf"({_DATE}) [^\d.;!?\n]{{0,25}}? (?: data[ ]de[ ]nascimento | nascimento\b )",
    _ANY_CASE,
)

# Addresses. "AV" is a street unless it is atrioventricular or the acuity of an eye.
_AV = r"""
av
(?<!bloqueio[ ]av) (?<!bloqueios[ ]av) (?<!nó[ ]av) (?<!nodo[ ]av) (?<!fístula[ ]av)
(?<!fístulas[ ]av) (?<!condução[ ]av) (?<!malformação[ ]av) (?<!malformações[ ]av)
(?<!intervalo[ ]av) (?<!junção[ ]av) (?<!valva[ ]av) (?<!dissociação[ ]av)
(?!\.) (?! [ ]+ (?:Mobitz|Wenckebach|total|O[DE])\b )
"""
_STREET = rf"""
(?:
    [Rr]ua | RUA | [Aa]venida | AVENIDA | (?i:{_AV}) | [Aa][Vv]\. | [Tt]ravessa | TRAVESSA
    | [Tt]v\. | [Tt]rav\. | [Aa]lameda | [Pp]raça | [Pp]ça\.? | [Rr]odovia | [Rr]od\.
    | [Ee]strada | [Ee]str\. | [Ll]argo | [Bb]eco | [Vv]iela | [Ll]adeira
)
"""
# These words name health posts, towns and groups too, so they need more evidence.
_PLACE = r"(?: [Vv]ila | [Cc]onjunto | [Qq]uadra )"
_CAPITAL = r"(?: [A-ZÀ-Ý][\wÀ-ÿ.'-]* | \d{1,2}º?[ ]de[ ][A-Za-zç]+ )"
_NAME = rf"(?:d[aeo]s?[ ]){{0,2}} {_CAPITAL} (?: [ ] (?: {_CAPITAL} | d[aeo]s? | e ) ){{0,6}}"
_SIGN = r"""
(?:
    [Nn]o?[º°.] [º°o]? \.? :? [ ]? | [Nn]úmero[ :]{1,2} | [Nn]um\.?[ ] | [Cc]asa[ ]
)
"""
_NUMBER = r"(?: \d{1,2}\.\d{3} | \d{1,5} ) (?: [ ]? -? [ ]? [A-D]\b )?"
# A number with a unit, an ordinal and a count are not the number of a house.
_NO_UNIT = r"""
(?!
    [\d/º°ª%] | [.,]\d | :[ ]?\d
    | [ ]?
    (?:
        h | horas? | min | minutos? | vez | vezes | anos? | dias? | semanas? | mês | meses | km
        | metros | mmHg | bpm | UI | [mk]g | mcg | [µg]g? | m[lL] | graus? | doses? | comprimidos?
        | cápsulas? | gotas? | ampolas? | sessões | casos? | pessoas | pacientes | participantes
    )\b
)
"""
_YEAR = r"(?:19|20)\d{2}(?!\d)"
_COMMA = r"[ ]?,[ ]?"
_SIGNED = rf"(?: (?: [ ]?[,-][ ]? | [ ] ) {_SIGN} | {_COMMA} [Nn][ ] )"
# The number ends the clause, or a word of an address follows.
_CLOSED = r"""
(?=
    [ ]*
    (?:
        $ | [.,;:!?)\n-]
        | (?:
            e | ap | apt | apto | apartamento | bairro | bl | bloco | casa | fundos | centro | em
            | no | na | cep | jardim | jd | vila | sala | loja
        )\b
    )
)
"""
# A street in small letters has a name without words that tell a story.
_STORY = r"""
(?:
    ontem | hoje | agora | que | com | sem | para | pra | por | tod[oa]s? | sempre | quando | onde
    | mas | então | depois | antes | muit[oa]s? | dias? | noite | manhã | tarde | cedo
    | sozinh[oa]s? | perto | longe | aqui | ali | está | estava | estou | foi | fui | fica | faz
    | chega | tenho | tem | teve | desde | cerca | uns | umas | mais | menos | quase | durante | até
)
"""
_SMALL_WORD = rf"(?:d[aeo]s?[ ])? (?! {_STORY} \b) [a-zà-ÿ]{{3,30}}"
STREET_ADDRESS = re.compile(
    rf"""
    \b {_STREET} [ ]+
    (?:
        {_NAME} (?: [ ]?[,-][ ]? | [ ] ) (?: {_SIGN} | [Nn][o ]?[ ]? )?
        | \d{{1,3}} {_SIGNED}
    )
    {_NUMBER} {_NO_UNIT}
    """,
    _VERBOSE,
)
# R. may be the first name of an author too, so a year is no number.
R_ADDRESS = re.compile(
    rf"\b R\. [ ]+ {_NAME} (?: {_COMMA} (?!{_YEAR}) | {_SIGNED} ) {_NUMBER} {_NO_UNIT} (?!\()",
    _VERBOSE,
)
PLACE_ADDRESS = re.compile(
    rf"""
    \b {_PLACE} [ ]+
    (?:
        {_NAME} {_COMMA} (?!{_YEAR}) {_NUMBER} {_NO_UNIT} {_CLOSED}
        | (?: {_NAME} | \d{{1,3}} ) {_SIGNED} {_NUMBER} {_NO_UNIT}
    )
    """,
    _VERBOSE,
)
SMALL_LETTER_ADDRESS = re.compile(
    rf"""
    \b (?: rua | avenida | {_AV} | av\. | travessa | alameda | praça | estrada | rodovia ) [ ]+
    {_SMALL_WORD} (?: [ ] {_SMALL_WORD} ){{0,3}}
    (?: {_COMMA} {_SIGN}? | [ ] {_SIGN} )
    {_NUMBER} {_NO_UNIT} {_CLOSED}
    """,
    _ANY_CASE,
)
CEP = re.compile(r"\bCEP [^\d\n]{0,12} (\d{2} \.? \d{3} -? \d{3}) (?!\d)", _ANY_CASE)
BARE_CEP = re.compile(r"(?<![\d.,-]) \d{5}-\d{3} (?![\d-])", _VERBOSE)
CITY = re.compile(rf"[a-zà-ÿ] [ ]? [/,–-] [ ]? (?:{_STATES})\b", _VERBOSE)

# Telephones.
_PHONE_WORD = r"""
(?:
    telefones? | tel\b\.? | fones?\b | celular(?:es)? | cel\b\.? | whats(?:app)? | wpp | wa\.me/
    | zap | ligue | ligar | liga | chama[rm]? | contatos? | recado | ramal | meu[ ]n[úu]mero
)
"""
_LOCAL = r"(?:9[ .-]?)? \d{4} [ .-]? \d{4}"
LOCAL_PHONE = re.compile(
    rf"{_PHONE_WORD} ([^\d\n]{{0,30}}?) (?<!\d) ({_LOCAL}) (?![\d-])",
    _ANY_CASE,
)
PHONE_WORD_BEFORE = re.compile(rf"{_PHONE_WORD} [^\d\n]{{0,30}} $", _ANY_CASE)
# A second number after the first, as in "99999-8888 ou 98888-7777".
NEXT_PHONE = re.compile(rf"[ ]? (?: ou | e | / | , ) [ ]? ({_LOCAL}) (?![\d-])", _ANY_CASE)
PHONE_FORM = re.compile(
    r"""
    # a country code, or an area code in brackets
    ^\+ | ^\(
    # a sign before the last four digits
    | \d{4} [ .-] \d{4} $
    """,
    _VERBOSE,
)
# Area code, the 9 of a mobile number and eight digits.
MOBILE = re.compile(r"(?:55[ ]?)? 0? [1-9]{2} [ -]? 9 [ ]? \d{8}", _VERBOSE)
# These words before a number say that it is no telephone.
OTHER_NAME_BEFORE = re.compile(
    r"""
    (?:
        \b
        (?:
            lote | protocolo | pedido | registro | código | nota | cpf | cnpj | cns | rg | sus
            | série | serial | matrícula | processo | guia | cartão | carteirinha | prontuário
            | identificador | etiqueta | rastreio | barras | ean | id | autorização | senha | boleto
            | inscrição | amostra | parecer
        )
        \b [^\d\n.,;!?]{0,25} (?: \bn\.[ ]? )?
        # a sign or a letter that touches the number
        | [\w/=-]
        | \d[.,]
    ) $
    """,
    _ANY_CASE,
)
# Eight digits after one of these words are a count or a code, also after a word for telephone.
COUNTED = re.compile(
    r"""
    \b
    (?:
        plaquetas | leucócitos | hemácias | células | contagem | carga[ ]viral | lote | protocolo
        | pedido | registro | código | nota
    )
    \b
    """,
    _ANY_CASE,
)
# Numbers of services, which are valid in all of Brazil.
SERVICE = re.compile(r"3003 | 400\d", _VERBOSE)
YEARS = re.compile(r"(?:19|20)\d{2} [ .-] (?:19|20)\d{2} $", _VERBOSE)
UNIT_AFTER = re.compile(
    r"""
    [ ]?
    (?:
        c[óo]pias | UI\b | U/ | m[gLl]\b | mc?g\b | /[ ]?[a-zµ] | % | mm | células | cel/ | unidades
        | k?cal\b | calorias | passos | reais
    )
    """,
    _VERBOSE,
)
