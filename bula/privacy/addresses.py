"""Find streets with a number, blocks with a lot, and post codes."""

import re
from collections.abc import Iterator

from bula.privacy.fragments import ANY_CASE, LINK, STATES, VERBOSE, find_groups
from bula.privacy.given_names import ascii_words, word_set
from bula.privacy.kinds import Finding, Recogniser
from bula.privacy.places import ID, PART, PLACES, REST

# "AV" is a street unless it is atrioventricular or the acuity of an eye.
_AV = r"""
av
(?<!bloqueio[ ]av) (?<!bloqueios[ ]av) (?<!nó[ ]av) (?<!nodo[ ]av) (?<!fístula[ ]av)
(?<!fístulas[ ]av) (?<!condução[ ]av) (?<!malformação[ ]av) (?<!malformações[ ]av)
(?<!intervalo[ ]av) (?<!junção[ ]av) (?<!valva[ ]av) (?<!dissociação[ ]av)
(?!\.) (?! [ ]+ (?:Mobitz|Wenckebach|total|O[DE])\b )
"""
_STREET = rf"""
(?:
    [Rr]ua | RUA | [Aa]venida | AVENIDA | (?i:{_AV}) | [Aa][Vv]\. | (?i:travessa | alameda
    | tv\. | trav\. | pra[çc]a | pça\.? | rodovia | rod\. | estrada | estr\. | logradouro | viela
    | beco | ladeira | servid[ãa]o | vicinal | ruela | escadaria | lad\. | rod\b
      | psg\. | pass\. | alam\. | pç\. | est\. (?=[ ]d[aeo]s?[ ]) | anel[ ]vi[áa]rio )
    | [Ll]argo | [Pp]assagem | [Bb]oulevard | [Mm]arginal | [Aa]l\. | [Rr]amal
)
"""
# These words name health posts, towns and groups too, so they need more evidence.
_PLACE = r"(?: [Vv]ila | [Cc]onjunto | [Qq]uadra )"
_CAPITAL = r"(?: [A-ZÀ-Ý][\wÀ-ÿ.'-]* | \d{1,2}º?[ ]de[ ][A-Za-zç]+ )"
_NAME = rf"(?:d[aeo]s?[ ]){{0,2}} {_CAPITAL} (?: [ ] (?: {_CAPITAL} | d[aeo]s? | e ) ){{0,6}}"
_SIGN = r"""
(?:
    \# [ ]?
    | (?i: (?: pr[óo]ximo | perto | ao[ ]lado | em[ ]frente ) [ ] (?: ao | do ) [ ]
      n[º°o.]{1,2} [ ]? )
    | [Nn]o?[º°.] [º°o]? \.? :? [ ]? | (?i:n[úu]mero[ :]{1,2} | num\.?[ ] | nro?\.?[ ])
    | (?i:casa)[ ] | [Nn]o?[ ]? (?=\d)
)
"""
_NUMBER = r"""
    (?: \d{1,2}\.\d{3} | \d{1,5} ) (?: [ ]? -? [ ]? [A-H]\b )?
    # the apartment after the number of the house
    (?: /\d{2,4} \b (?!/) )?
"""
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
_SMALL_WORD = rf"""
(?:
    (?:d[aeo]s?[ ]|e[ ])? (?! {_STORY} \b) [a-zà-ÿ]['a-zà-ÿ]{{2,30}}
    | \d{{1,2}}[ ]de[ ][a-zç]{{4,9}}
)
"""
STREET_ADDRESS = re.compile(
    rf"""
    \b {_STREET} :? [ ]+
    (?:
        {_NAME} (?: [ ]?[,-][ ]? | [ ] ) (?: {_SIGN} | [Nn][o ]?[ ]? )?
        | \d{{1,3}} (?: {_SIGNED} | {_COMMA} (?= \d{{1,5}} {_CLOSED} ) )
    )
    {_NUMBER} {_NO_UNIT}
    """,
    VERBOSE,
)
# R. may be the first name of an author too, so a year is no number.
R_ADDRESS = re.compile(
    rf"""
    \b R (?: [.:] [ ]* (?: {_NAME} | \d{{1,3}} ) (?: {_COMMA} (?!{_YEAR}) | {_SIGNED} )
      {_NUMBER} {_NO_UNIT} (?!\()
    # without a comma the number ends the clause
    | \.? [ ]+ {_NAME} [ ,]{{1,2}} (?!{_YEAR}) \d{{1,5}} \b {_NO_UNIT} (?!\() {_CLOSED} )
    """,
    VERBOSE,
)
PLACE_ADDRESS = re.compile(
    rf"""
    \b {_PLACE} [ ]+
    (?:
        {_NAME} {_COMMA} (?!{_YEAR}) {_NUMBER} {_NO_UNIT} {_CLOSED}
        | (?: {_NAME} | \d{{1,3}} ) {_SIGNED} {_NUMBER} {_NO_UNIT}
    )
    """,
    VERBOSE,
)
SMALL_LETTER_ADDRESS = re.compile(
    rf"""
    \b (?: rua | avenida | {_AV} | av\. | travessa | alameda | praça | estrada | rodovia ) [ ]+
    {_SMALL_WORD} (?: [ ] {_SMALL_WORD} ){{0,3}}
    (?: {_COMMA} {_SIGN}? | [ ] {_SIGN} )
    {_NUMBER} {_NO_UNIT} {_CLOSED}
    """,
    ANY_CASE,
)
# A name in small letters and a number without a comma. A plural after the number is counted by it.
CLOSE_NUMBER_ADDRESS = re.compile(
    rf"""
    \b
    (?:
        (?: rua | avenida | {_AV} | av\. | travessa | trav?\.? | tv\.? | alameda | al\.
          | p(?:ra)?[çc]a\.? | estrada | ladeira | servid[ãa]o | beco | viela
          # everyday words: "passagem de sonda 12", "Passagem difícil, 28 horas"
          | (?: (?-i: Passagem | PASSAGEM ) (?! [ ] de\b ) | (?-i: Largo | LARGO ) )
            (?= [^\d\n]{{1,60}} \d{{1,5}} [a-d]? {_CLOSED} ) )
        [ ]+ (?: {_SMALL_WORD} | [a-z]\b )
        | r\.? [ ] d[aeo]s? [ ] {_SMALL_WORD}
        # "r. joao pessoa n 55"
        | (?<![\w.]) r\.? [ ] {_SMALL_WORD} (?: [ ] {_SMALL_WORD} ){{0,3}}
          (?= ,?[ ] n[º°o]?\.?[ ]? \d | (?:,|[ ](?<=\w[ ]))[ ]? \d{{1,5}} {_CLOSED} )
    )
    (?: [ ] {_SMALL_WORD} ){{0,3}} (?: [ ] | {_COMMA} ) {_SIGN}? (?: n[ ] )?
    (?!{_YEAR}) (?: \d{{2,5}} [a-d]? | \d{{1,2}}\.\d{{3}} ) \b {_NO_UNIT}
    (?! [ ]+ (?!fundos\b) [a-zà-ÿ]+s\b )
    """,
    ANY_CASE,
)
# A house without a number, and a place at a kilometre of a road.
NO_NUMBER_ADDRESS = re.compile(
    rf"""
    \b {_STREET} [ ]+ (?: {_NAME} | {_SMALL_WORD} (?: [ ] {_SMALL_WORD} ){{0,3}} )
    (?:
        (?: [ ] \d{{1,3}} )? [ ]?[,-]?[ ]?
          (?i: s [ ]? [/.]? [ ]? n [º°o]? | s/[ ]?n[úu]mero | sem [ ] n[úu]mero ) (?!\w)
        | (?<=\w) [ ]?[,-]?[ ]? (?i: km | quil[ôo]metro ) \.? [ ]? \d{{1,4}} (?:[,.]\d{{1,3}})? \b
    )
    """,
    VERBOSE,
)
_QUADRA = r"(?: quadra | qdr?a?\.? | q\. )"
BLOCK_ADDRESS = re.compile(
    rf"""
    \b
    (?:
        {_QUADRA} [ ]? {ID} (?: [ ,]{{1,2}} {_SMALL_WORD} (?: [ ] {_SMALL_WORD} ){{0,2}} )?
        {PART}{{1,4}}
    )
    """,
    ANY_CASE,
)
# A street and a part of the plot: "rua 24 norte, lote 5", "rua das flores casa 12".
PLOT_ADDRESS = re.compile(
    rf"""
    \b
    (?: rua | r\.? | av\.? | avenida | travessa | tv\.? | trav\.? | alameda | al\. | beco | viela
      | estrada | estr\.? | ladeira | servid[ãa]o | passagem | pra[çc]a | rodovia | rod\.? | via
      | anel [ ] vi[áa]rio | caminho | acesso )
    (?: [ ] (?: {_SMALL_WORD} | \d{{1,3}} | [a-z]\b | sem [ ] nome ) ){{1,4}}?
      {PART}{{1,4}} {_NO_UNIT}
    | \b caixa [ ] postal [ ] \d{{1,6}}
    | \b km \.? [ ]? \d{{1,4}} (?:[.,]\d{{1,3}})? [ ,]{{1,2}} d[ao] [ ]
      (?: estrada | rodovia | (?-i: BR | [A-Z]{{2}}) )\b (?: [ -]? \d{{3}} )?
    | \b (?: (?-i: BR | [A-Z]{{2}} ) | br ) [ -]? \d{{3}} [ ,-]{{1,3}} (?: no[ ] )? km \.? [ ]?
      \d{{1,4}} (?:[.,]\d{{1,3}})? (?!\w)
    """,
    ANY_CASE,
)
# The codes of Brasília's sectors.
_SUPER = r"(?: SQ[NS]W? | S?CL[NS]W? )"
_SECTOR = r"""
    (?:
        SCR[NS] | SHC[NS] | SHCGN | SHIGS | SH[IL][NS] | SHT[NS] | SGA[NS] | SEP[NS] | SMPW | SMDB
        | SMLN | SMAS | SRES | SOF[NS]? | SCIA | SAAN | SCE[NS] | QN[A-R] | QS[A-F]? | QI | QL
        | QE | QR | QC | QN | Q[MR]SW | CN[A-F] | CS[A-E] | CCSW | EQN[NS]? | EQS | AOS | AE
    )
"""
SECTOR_ADDRESS = re.compile(
    rf"""
    \b
    (?:
        (?: {_SUPER} | EQ[NS] ) [ ,-]{{1,2}} (?:quadra[ ])? \d{{3}} (?: /\d{{3}} )? \b
          (?: [ ,]{{1,2}} (?:bl(?:oco)?\.?[ ]?)? [a-k] \b [ ,]{{1,2}} \d{{3}} \b )? {PART}{{0,4}}
        # a code that has no other meaning
        | (?: EQN[NS]? | QN[A-R] | EQN[A-R] | CN[A-F] | SH[ICL][NS] (?: [ ,-]{{1,2}} Q[ILR] )?
          | SCR[NS] | SHCGN | Q[MR]SW | SMPW | SHIGS | SHCES ) [ ,-]{{1,2}}
          (?: quadra[ ] | q\.?[ ] )?
          \d{{1,4}} \b (?!/) {PART}{{0,4}}
        # any other code in capitals
        | (?-i: (?!P[AC]S?\b) [A-Z]{{2,5}} ) [ ] \d{{1,3}} (?: /\d{{1,2}} )? [ ,]{{1,2}}
          (?: conjunto | conj | cj | bloco | lote | casa | ch[áa]cara
            | ch ) \.? [ ]? {ID} {PART}{{0,4}}
        | (?: {_SECTOR} [ ,-]{{1,2}} ){{1,2}} (?: trecho[ ] | quadra[ ] )? \d{{1,4}} {PART}{{1,4}}
    )
    """,
    ANY_CASE,
)
# The word for an address, or the writer's home, and any place with a number.
LABELLED_ADDRESS = re.compile(
    rf"""
    \b
    (?:
        (?: endere[çc]o (?: [ ] (?: residencial | completo | d[aeo] [ ] \w+ ) )? | end
          | resid[êe]ncia )
        [ ]?\.? [ ]? : [ ]? \n? ([^\n;@\d\[\]]{{4,50}} (?!{_YEAR}) \d{{1,5}} \b) {_NO_UNIT}
        | (?: moro | mora | moramos | moram | resid[oe] | residente | mudei | mudamos ) [ ]
          (?: (?: n[ao] | em | à | [àa] | ao | p(?:r[ao])? | pra ) [ ] )
          ((?: (?! {_STORY} \b | (?: e | uma? | casa ) \b ) [^\W\d]{{1,20}} [ ,]{{1,2}} ){{2,6}}
           (?: {_SIGN} )? (?!{_YEAR}) \d{{2,5}} \b) {_NO_UNIT} (?! [ ]+ (?!fundos\b) [a-zà-ÿ]+s\b )
    )
    """,
    ANY_CASE,
)
STREETS = (
    *PLACES,
    LABELLED_ADDRESS,
    STREET_ADDRESS,
    R_ADDRESS,
    PLACE_ADDRESS,
    SMALL_LETTER_ADDRESS,
    CLOSE_NUMBER_ADDRESS,
    NO_NUMBER_ADDRESS,
    BLOCK_ADDRESS,
    PLOT_ADDRESS,
    SECTOR_ADDRESS,
)
# Every spelling beside the word. A committee of ethics (CEP) has opinions and projects.
CEP = re.compile(
    rf"""
    \b (?: CEPs? | C[. ]E[. ]P\.? | c[óo]digo [ ] postal ) (?![^\W\d_]) {LINK}
    (
        \d{{2}} [ ]?[.]?[ ]? \d{{3}} [ ]? (?:[-./][ ]?)? \d{{3}}
        # other groups right after the word
        | (?<=p[ ]) \d (?: [ .-]? \d ){{7}}
        # a digit too few or too many
        | \d{{5}} [ ]? - [ ]? \d{{2,4}}
    ) (?! [\d/-] )
    | (?<![\d.,-]) (\d{{5}} [ ]?-?[ ]? \d{{3}}) [ ]* (?: \( | [ ]é[ ]o[ ] (?:meu[ ])? ) [ ]? CEP \b
    """,
    ANY_CASE,
)
# After a city: "Recife, 50720-180".
CITY_CEP = re.compile(
    r"""
    [A-ZÀ-Ý][a-zà-ÿ]{2,} (?: [ ]?[,-][ ]? | [ ] ) (\d{2}\.?\d{3}-\d{3}) (?![\d-])
    | (?<![\d.,-]) (\d{2}\.?\d{3}-\d{3}) [ ]?[,-]?[ ] [A-ZÀ-Ý][a-zà-ÿ]{3,}
    """,
    VERBOSE,
)
BARE_CEP = re.compile(
    r"(?<![\d.,-]) (?: \d{5} [ ]?-[ ]? \d{3} | \d{2}\.\d{3}-\d{3} ) (?![\d-])",
    VERBOSE,
)
# After a city and its state, also without a hyphen.
STATE_CEP = re.compile(
    rf"[a-zA-ZÀ-ÿ]{{2}} [ ]? [(/,-] [ ]? (?:{STATES}) \b [ ,.)-]{{1,3}}"
    r" (\d{2} [. ]? \d{3} [ -]? \d{3}) (?![\d-])",
    VERBOSE,
)
CITY = re.compile(rf"[A-Za-zÀ-ÿ]{{2}} [ ]? (?: [(/,–-] [ ]? | [ ] ) (?:{STATES})\b", VERBOSE)
# Digits of a post code.
CEP_DIGITS = 8


# A text without one of these words has no address.
WORDS = word_set(
    """
    acampamento al alam alameda aldeia assentamento av avenida bairro beco boulevard br
    ccsw cep cln clnw cls clsw cna cnb cnc cnd cne cnf colonia comunidade cond condominio corrego
    csa csb csc csd cse distrito edificio end endereco eqn eqnn eqns eqs escadaria est estancia estr
    estrada favela fazenda gleba granja haras jardim km ladeira largo linha logradouro lot
    loteamento marginal mora moram moramos moro morro mudamos mudei mutirao nucleo ocupacao parque
    pass passagem pc pca postal povoado pq praca psg qc qd qda qdr qe qi ql qmsw qn qna qnb qnc qnd
    qne qnf qng qnh qni qnj qnk qnl qnm qnn qno qnp qnq qnr qr qrsw qs qsa qsb qsc qsd qse qsf
    quadra quilombo ramal rancho recanto res reside residencia residencial residente resido rod
    rodovia rua ruela rural saan scen sces scia scln sclnw scls sclsw scrn scrs sepn seps seringal
    servidao setor sgan sgas shces shcgn shcn shcs shigs shin shis shln shls shtn shts sitio smas
    smdb smln smpw sof sofn sofs sqn sqnw sqs sqsw sres st tra trav travessa travessao tv vicinal
    viela vila village vl
    """
)
# These words have other meanings, so a number or a letter must follow.
PART_WORDS = word_set(
    """
    ae anel aos ap apartamento apto bl bloco casa ch chacara cj conj conjunto cs ed end l lote lt
    modulo q r torre
    """
)
PART_SIGN = re.compile(
    r"""
    \b (?: r | end | ed ) \b [.: ] | \b a (?: os | e ) [ ,-]{1,2} \d | \b anel [ ] vi
    | \b (?: q | l | lote | lt | casa | cs | bloco | bl | apto? | ap | apartamento | torre
        | conj(?:unto)? | cj | ch(?:[áa]cara)? | m[óo]dulo )
      [ .:]{0,2} (?: \d | (?-i:[A-Z])\b )
    """,
    ANY_CASE,
)
DIGIT = re.compile(r"\d")
# An address without a digit has one of these, as in "Rua do Sol, s/n" and "moro na Rua do Sol".
NO_DIGITS = re.compile(
    r"\bs[ ]?[/.]?[ ]?n | sem[ ]n | rural | agr[íi]cola | logradouro | \bmor[oae] | resid | endere"
    r" | \bend\b | localidade | domic | \bviv | quadra | \bq[ud]?\b | lote | bloco",
    ANY_CASE,
)
POST_CODE = re.compile(r"\d{2} (?: [ ]?[ .-][ ]? )? \d{3}", VERBOSE)
ORDINAL = re.compile(r"\b\d{1,2}[ªº°a][ ]$", VERBOSE)


def _may_contain_address(text: str) -> bool:
    """Return whether a text has a word of an address, or a post code."""
    words = ascii_words(text)
    has_sign = not words.isdisjoint(WORDS) or POST_CODE.search(text) is not None
    if not has_sign and not words.isdisjoint(PART_WORDS):
        has_sign = PART_SIGN.search(text) is not None
    if not has_sign:
        return False
    return DIGIT.search(text) is not None or NO_DIGITS.search(text) is not None


def _streets(text: str) -> Iterator[Finding]:
    """Yield streets with a number, up to the apartment."""
    for pattern in STREETS:
        for finding in find_groups("address", pattern, text):
            rest = REST.match(text, finding.end)
            first = ORDINAL.search(text, max(0, finding.start - 4), finding.start)
            start = first.start() if first else finding.start
            yield Finding("address", start, rest.end() if rest else finding.end)


def _find(text: str) -> Iterator[Finding]:
    """Yield streets with a number, and post codes.

    A post code without the word CEP counts only in a text with a street, or with a city and its
    state.
    """
    if not _may_contain_address(text):
        return
    streets = list(_streets(text))
    yield from streets
    for pattern in (CEP, CITY_CEP, STATE_CEP):
        yield from find_groups("address", pattern, text)
    if streets or CITY.search(text):
        yield from find_groups("address", BARE_CEP, text)


RECOGNISER = Recogniser(_find)
