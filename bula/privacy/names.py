"""Find names of people by lists of names and by cues.

A given name of the list counts beside a cue ("minha mãe", "Dra.", ", 34 anos") or before a surname.
Another word with a capital letter counts only after a cue that a name must follow ("me chamo").
Names of places, diseases and institutions ("Hospital Ana Nery", "doença de Wilson") stay.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from bula.privacy.fragments import ANY_CASE
from bula.privacy.given_names import GIVEN_NAMES, SURNAMES, WORDS, ascii_words, fold, word_set
from bula.privacy.kinds import Finding, Recogniser

# The text before a name in which a cue is searched.
CUE_REACH = 60
MOST_WORDS = 7
KNOWN = GIVEN_NAMES | SURNAMES
PLAIN_NAMES = GIVEN_NAMES - WORDS
# Second names that are written as an initial.
ABBREVIATIONS = {*"abcdefghijklmnopqrstuvwxyz", "ap", "aparec", "fco", "ma", "mª"}
PARTICLES = {"da", "de", "do", "das", "dos", "e", "del", "di"}
# Surnames that are common words in small letters.
SURNAME_WORDS = {
    *("costa", "dias", "leite", "luz", "vale", "rego", "paz", "lago", "porto", "penha", "cruz"),
    *("campos", "neves", "rios", "lira", "lobo", "leal", "gama", "serra", "pinto", "porto", "sa"),
    *("bastos", "gentil", "franco", "franca", "madeira", "pimenta", "jardim", "sena", "mota"),
    *("matos", "ramos", "pontes", "prates", "couto", "borba", "braga", "assis", "rosa", "torres"),
}
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")

_RELATIVE = r"""
    (?: filh[oa] | m[ãa]e | pai | av[óôo] | v[óôo]v?[óôo]? | irm[ãa]o? | ti[oa] | net[oa] | sogr[oa]
      | prim[oa] | cunhad[oa] | sobrinh[oa] | marido | espos[oa] | mulher | companheir[oa]
      | namorad[oa] | noiv[oa] | enteado | enteada | nora | genro | madrinha | padrinho
      | beb[êe] | bb
      | ca[çc]ula | g[êe]me[oa]s? | amig[oa] | vizinh[oa] | patr[ãa]o | patroa | chefe | colega
      | afilhad[oa] | bisnet[oa] | bisav[óôo] | madrasta | padrasto | ex )
"""
_PROFESSION = r"""
    (?: paciente | pcte? | pac | usu[áa]ri[oa] | cliente | benefici[áa]ri[oa] | titular | dependente
      | menor | crian[çc]a | menin[oa] | garot[oa] | idos[oa] | senhora? | gestante | pu[ée]rpera
      | alun[oa] | funcion[áa]ri[oa] | servidora? | trabalhadora? | segurad[oa] | acompanhante
      | cuidadora? | respons[áa]vel | m[ée]dic[oa] | doutora? | enfermeir[oa] | t[ée]cnic[oa]
      | farmac[êe]utic[oa] | dentista | psic[óo]log[oa] | nutricionista | nutri | fisioterapeuta
      | fisio | fonoaudi[óo]log[oa] | fono | terapeuta | psiquiatra | cardiologista | pediatra
      | ginecologista | neurologista | ortopedista | dermatologista | cl[íi]nic[oa] | cirurgi[ãa]o?
      | obstetra | advogad[oa] | procuradora? | assistente[ ]social | agente(?:[ ]comunit[áa]ria)?
      | professora? | prof | profa | secret[áa]ri[oa] | recepcionista | atendente | motorista
      | solicitante | requerente | autora? | declarante | testemunha | perit[oa] | residente
      | bab[áa]
      | pastora? | padre | porteiro | tec | farm | psic | fono | acomp | resp | recep
      | mes[áa]ri[oa] | gerente | diretora? | conselheir[oa] | viajante | moradora? | visitante
      | motorista | coordenadora? | vigilante | bombeir[oa] | massagista )
"""
# "falar c/", "recado p/", "conversei com a".
_TALK_TO = r"""
    \b (?: falar? | falei | consultei | conversei | conversar | passei | tratar | recado | avisa
      | ligar? | contato | combinei ) [ ] (?: com | pra | para | c/ | p/ ) [ ]? (?: [ao] [ ] )?
"""
# A cue that a name must follow, so an unknown word with a capital letter is a name too.
STRONG_CUE = re.compile(
    rf"""
    (?:
        \b (?: dr | dra | drª | sr | sra | srª | srta | prof | profa | enf | enfª
          | exm[oa] ) [.ªa]{{0,2}}
        | \b (?: me [ ] chamo | meu [ ] nome [ ] (?:completo[ ])? (?: é | e | eh ) | chama-se )
        | \b (?: que[ ] )? se [ ] chama(?:va)? | \b o[ ]nome[ ]d(?:el[ea]|[oa][ ]\w+)[ ](?:é|e|eh)
        | \b assinad[oa] (?: [ ] \w+ )? [ ] (?: por | pel[oa] )
        | \b (?: nome | paciente | pac | assinatura | ass ) (?: [ ] (?: completo | social | civil
          | d[aeo]s? [ ] \w+ ) )? [ ]? \.? (?: [:=] | \n )
        | \b (?: {_PROFESSION} | {_RELATIVE} ) (?: [ ] \w+ )? [ ]? :
    )
    [ \n]{{0,3}} $
    """,
    ANY_CASE,
)
# A cue beside which a name of the list counts.
CUE = re.compile(
    rf"""
    (?:
        \b (?: {_RELATIVE} | {_PROFESSION} ) (?: [ ] (?: mais[ ]\w+ | legal | t[ée]cnic[oa]
          | de[ ]plant[ãa]o
          | respons[áa]vel | assistente | d[oae][ ]posto
          | chamad[oa] ) )? [ ]? [,(-]? [ ]? (?: d\.[ ] | [oa][ ] )?
        | \b (?: dona | d\. | seu | seo | dn\. | nome | prezad[oa] | car[oa] | querid[oa]
        | chamad[oa] | att?[.,]? | ass\.? ) [ :]{{0,2}}
        | \b (?: sou | aqui | fala | falo | eu ) (?: [ ] (?: é | e | eh
        | quem [ ] fala [ ] é ) )? [ ,]{{1,2}} (?: [ao] [ ] )?
        | \b (?: com | por | para | pra | pro | pel[oa] | d[ao] | procurar | chama[r]? | avisar )
          [ ] (?: [ao] [ ] )? (?: dona | seu | sra?\.? | dra?\.? ) [ ]
        | {_TALK_TO}
        | \b (?: atenciosamente | obrigad[oa] | grat[oa] | abra[çc]os? | abs | bjs? | cordialmente )
          [ ,.!\n-]{{1,4}}
        | \b (?: rn | conta | beb[êe] | parto | cadastro | ficha | prontu[áa]rio
        | carteirinha | cart[ãa]o | assinatura | filh[oa] | m[ãa]e | pai | espos[oa] | laudo
        | exames? | resultado | nome
        | pedido | caso ) [ ] de [ ]
        | \b quem [ ] \w+ [ ] (?: é | e | eh | foi ) [ ] (?: [ao] [ ] )?
        | ~ [ ]?
        | \b (?: oi | ol[áa] ) [ ,]{{1,3}} (?: sou [ ] [ao]? [ ]? )?
        | \b (?: respons[áa]vel | realizado | feito | aplicad[oa] | atendid[oa]
        | operad[oa] ) [ ] (?: por | pel[oa] ) [ ]
    )
    $
    """,
    ANY_CASE,
)
# Cues after which one unknown word with a capital letter is a name.
NEAR_CUE = re.compile(
    rf"""
    \b
    (?:
        (?: meu | minha | seu | sua | nosso | nossa | [oa] | d[oa] | pel[oa] | com | à | ao
          | pr[ao] ) [ ]
          (?: {_RELATIVE} | {_PROFESSION} ) [ ]? ,? [ ] (?: dona [ ] | d\. [ ] | seu [ ] )?
        | (?: falar? | falei | conversei | conversar | recado | avisa | combinei )
          [ ] (?: com | pra | para | c/ | p/ ) [ ]? (?: [ao] [ ] )?
        | dona [ ] | aqui [ ] (?: é | e | eh ) [ ] [ao] [ ] | sou [ ] [ao] [ ]
    )
    $
    """,
    ANY_CASE,
)
TITLE = re.compile(
    r"\b (?: dra? | drª | sra? | srª | srta | profa? ) (?: \.ª? | ª )? [ ] $", ANY_CASE
)
_INTRODUCTION = r"\b (?: me [ ] chamo | meu [ ] nome [ ] (?:completo[ ])? (?: é | e | eh ) ) [ ]"
INTRODUCTION = re.compile(_INTRODUCTION, ANY_CASE)
INTRODUCTION_BEFORE = re.compile(rf"{_INTRODUCTION} $", ANY_CASE)
# An article before a given name.
ARTICLE = re.compile(
    r"(?<![\w]) (?: [ao] | d[ao] | com | p?[rp]a | para | pel[ao] | e | segundo | que ) [ ] $",
    ANY_CASE,
)
# "de" or "em" before a name without a cue is mostly that of a disease or a place.
OF = re.compile(r"\b (?: de | em ) [ ] $", ANY_CASE)
PLACE = re.compile(r"\b (?i: de | em ) [ ] Dona [ ] $", re.VERBOSE)
# An office after "Sr." or "Sra.": "Sra. Diretora".
OFFICE = re.compile(r"(?:[dst]ora?|[áa]ri[oa]|ista|eir[oa]|ente|eit[oa]|istr[oa]|legad[oa]|efe)$")
CAPITAL_INSIDE = re.compile(
    r"[^\W\d_.!?] [,:(=]? \s [A-ZÀ-Ý][a-zà-ÿ] | [:=(] [A-ZÀ-Ý][a-zà-ÿ]", re.VERBOSE
)
DIMINUTIVE = re.compile(r"(?<=\w{3})z?inh[oa]$")
# An age or a document after a name.
CUE_AFTER = re.compile(
    r"""
    \.? [ ]? [,(;-]? [ ]{0,2}
    (?:
        \d{1,2} [/.] \d{1,2} [/.] (?:19|20)\d{2}
        # "rita (irmã)"
        | (?<=\() (?: irm[ãa]o? | m[ãa]e | pai | filh[oa] | espos[oa] | marido | ti[oa] | av[óôo]
          | vizinh[oa] | amig[oa] | net[oa] | cunhad[oa] ) \b
        | (?: de[ ] | com[ ] | tem[ ] )? \d{1,3} [ ]? (?: anos? | a\b | meses ) | cpf \b | rg \b
          | : | tel\b | cel\b | fone | whats | insta\b | c\.p\.f | nis \b
        | portadora? | inscrit[oa] | nascid[oa] | dn \b | crm | coren | filh[oa] [ ] de
    )
    """,
    ANY_CASE,
)
# Words before a name that make it the name of a place, a disease or an institution.
INSTITUTION = re.compile(
    r"""
    \b
    (?i:
        hospital | hosp | funda[çc][ãa]o | instituto | inst | lei | rua | r | av | avenida
        | pra[çc]a | ubs | upa | esf | psf | caps | cl[íi]nica | escola | universidade | faculdade
        | pr[êe]mio | maternidade | centro | casa | col[ée]gio | s[ãa]o | santa | santo
        | nossa [ ] senhora | doen[çc]a | s[íi]ndrome | sinal | m[ée]todo | manobra | teste
        | escala | [íi]ndice | classifica[çc][ãa]o | bairro | jardim | vila | cidade | munic[íi]pio
        | posto | laborat[óo]rio | farm[áa]cia | edif[íi]cio | parque | editora | programa
        | projeto | rodovia | travessa | alameda | estrada | largo | ladeira | conjunto
        | residencial | condom[íi]nio | tumor | ligamento | tend[ãa]o | reflexo | cirurgia
        | opera[çc][ãa]o | crit[ée]rios? | ponto | anel | [áa]rea | lago | rio | serra | porto
        | hotel | marca | fratura | regra | f[óo]rmula | col[áa]geno | cateter | sonda | linha
        | ministr[oa] | secretaria | epilepsia | paralisia | anemia | mal | febre | v[íi]rus
        | dieta | posi[çc][ãa]o | marechal | coronel | padre | frei | governador | presidente
        | senador | dom | duque | bar[ãa]o | visconde | (?-i: Irm[ãa] | Irmão ) | ambulat[óo]rio
        | pronto[- ]socorro | hemocentro | policl[íi]nica | ministro
    )
    \.? [ ]
    (?: (?i: d[aeo]s? | dra? \.? | prof \.? | e | est[áa]dual | municipal | regional ) [ ]
      | [A-ZÀ-Ý][\wÀ-ÿ]* [ ] ){0,3} $
    """,
    re.VERBOSE,
)
PUBLIC_NAMES = {
    *("oswaldo cruz", "osvaldo cruz", "carlos chagas", "maria da penha", "vital brasil"),
    *("vital brazil", "adolfo lutz", "emilio ribas", "anna nery", "ana nery", "drauzio varella"),
    *("nise da silveira", "paulo freire", "machado de assis"),
    *("zilda arns", "getulio vargas", "santos dumont", "monteiro lobato", "jesus cristo"),
    *("joao pessoa", "fernando de noronha", "francisco beltrao", "joao monlevade"),
    *("luis eduardo magalhaes", "antonio carlos", "julio de castilhos", "jose de alencar"),
}
# Without accents and full stops.
TITLES = word_set("dr dra sr sra srta prof profa")
# Words of forms, which end a name.
LABELS = word_set(
    """
    cel celular cep cid cnpj cns convenio coren cpf crf crm cro data dn email end endereco exame
    exames hospital idade laudo leito mae material medica medico nis oab pai pis prontuario
    responsavel rg sexo sus tel telefone ubs upa
    """
)
# Words with a capital letter after a cue that are no names.
NO_NAMES = LABELS | word_set(
    """
    amil anvisa caps cras deus farmacia hapvida ministerio ouvidoria prefeitura recepcao samu
    secretaria
    a aids alzheimer amoxicilina apresenta as atencao atesto autista avc boa bom brasil
    cardiologista chikungunya cirurgiao clinica clinico com comercial como consulta covid crohn
    da de declaro dengue desconhecido deu deus diabetica diabetico dipirona dm do doutor doutora
    down dpoc dr dra e ela ele em encaminho enfermeira enfermeiro estou eu evolui favor feminino
    generico geral glicemia google gostaria ha has hiv house ibuprofeno ignorado ja jesus
    losartana masculino medicamento metformina meu minha na nao nascimento no nome o obs ola
    omeprazol onde oral os paciente paracetamol parkinson pediatra plano por porque posso
    preciso prescrevo pressao produto prof profa quais qual quando que queria refere relata
    remedio resultado saude se sem senhor senhora sim sinvastatina solicita solicito sr sra srta
    tdah tea tenho tipo toc um uma unimed uso zika
    """
)
# Given names that are also names of places, of diseases or of signs, so they need a cue.
EPONYMS = word_set(
    """
    adolfo alice belmiro carolina catarina charles edson ester franklin georgia helena hugo
    israel jackson jordao luzia messias michel natalia nelson paulo robert romeu salvador stella
    victoria virginia washington wilson
    """
)


class Word(NamedTuple):
    """A word of a text and its place."""

    text: str
    start: int
    end: int
    folded: str

    @property
    def is_capital(self) -> bool:
        """Whether the word begins with a capital letter."""
        return self.text[0].isupper()

    @property
    def is_title(self) -> bool:
        """Whether only the first letter is a capital."""
        return self.is_capital and not self.text.isupper()


def _may_contain_name(text: str) -> bool:
    """Return whether a text has a sign of a name."""
    words = ascii_words(text)
    if not PLAIN_NAMES.isdisjoint(words) or not TITLES.isdisjoint(words):
        return True
    return CAPITAL_INSIDE.search(text) is not None or INTRODUCTION.search(text) is not None


def _find(text: str) -> Iterator[Finding]:
    """Yield the names of people."""
    if not _may_contain_name(text):
        return
    matches = WORD.finditer(text)
    words = [Word(m[0], m.start(), m.end(), fold(m[0])) for m in matches]
    place = 0
    while place < len(words):
        name, is_proved = _name_at(text, words, place)
        if is_proved:
            yield Finding("name", name[0].start, name[-1].end)
        place += len(name) or 1


def _is_given(word: str) -> bool:
    """Return whether a word is a given name of the list, or its diminutive."""
    if word in GIVEN_NAMES:
        return True
    stem = DIMINUTIVE.sub("", word)
    return stem != word and any(stem + end in GIVEN_NAMES for end in ("", "o", "a", "e"))


def _name_at(text: str, words: list[Word], place: int) -> tuple[list[Word], bool]:
    """Return the words of a possible name, and whether a person has it.

    The list is empty if no name starts here.
    """
    first = words[place]
    is_given = _is_given(first.folded)
    if not is_given and not _may_start(text, first):
        return [], False
    before = text[max(0, first.start - CUE_REACH) : first.start]
    is_strong = STRONG_CUE.search(before) is not None
    name = words[place : place + _extent(words, place, text, is_strong)]
    if (
        INSTITUTION.search(before)
        or PLACE.search(before)
        or " ".join(word.folded for word in name) in PUBLIC_NAMES
    ):
        return name, False
    if is_given and (first.is_capital or first.folded not in WORDS):
        return name, is_strong or _is_given_name(text, name, before)
    is_proved = _is_unknown_name(name, before, is_strong)
    return name if is_proved else [], is_proved


def _may_start(text: str, first: Word) -> bool:
    """Return whether a word outside the list may start a name."""
    if first.folded in NO_NAMES or len(first.text) == 1:
        return False
    if not first.is_capital:
        return INTRODUCTION_BEFORE.search(text, max(0, first.start - 24), first.start) is not None
    before = text[max(0, first.start - 8) : first.start]
    if TITLE.search(before):
        return True
    return bool(before) and not before.endswith((". ", "! ", "? "))


def _is_given_name(text: str, name: list[Word], before: str) -> bool:
    """Return whether a given name of the list has a surname or a cue."""
    first = name[0]
    is_ambiguous = first.folded in WORDS | EPONYMS
    if CUE.search(before) or CUE_AFTER.match(text, name[-1].end):
        return True
    if OF.search(before):
        return False
    if len(name) > 1 and (name[-1].folded in KNOWN or (first.is_title and not is_ambiguous)):
        return True
    # "ELISA" in a sentence of small letters is a test.
    if is_ambiguous or (first.text.isupper() and not before.isupper()):
        return False
    if ARTICLE.search(before):
        return True
    return first.is_title


def _is_unknown_name(name: list[Word], before: str, is_strong: bool) -> bool:
    """Return whether cues prove that words outside the list are a name."""
    first = name[0]
    if INTRODUCTION_BEFORE.search(before):
        return True
    if not first.is_title:
        return is_strong and sum(word.folded in KNOWN for word in name) > 1
    if TITLE.search(before):
        return len(name) > 1 or not OFFICE.search(first.folded)
    if is_strong:
        return len(name) > 1
    if NEAR_CUE.search(before):
        return True
    # Two surnames are mostly the authors of an article.
    if len(name) < 2 or name[-1].folded not in SURNAMES - SURNAME_WORDS:
        return False
    if first.folded in SURNAMES or OF.search(before):
        return False
    return not INSTITUTION.search(f"{before}{first.text} ")


def _extent(words: list[Word], place: int, text: str, is_strong: bool) -> int:
    """Return the number of words that belong to a name."""
    first = words[place]
    length = 1
    while length < MOST_WORDS and place + length < len(words):
        if _is_last_initial(words[place + length], first, text):
            length += 1
            continue
        step = 2 if _needs_next(words[place + length], text) else 1
        last = place + length + step - 1
        if last >= len(words) or not _continues(text, words, place, last, step):
            break
        if not _fits(words[last], first, is_strong):
            break
        length += step
    return length


def _is_last_initial(word: Word, first: Word, text: str) -> bool:
    """Return whether an initial with a full stop ends a name ("Ingrid M.")."""
    if len(word.text) > 1 or not (word.is_capital and first.is_capital):
        return False
    is_near = text[word.start - 1] == " " and text[word.start - 2].isalpha()
    is_near = is_near or text[word.start - 2 : word.start] == ". "
    following = text[word.end + 1 : word.end + 3].strip()
    return is_near and text[word.end : word.end + 1] == "." and not following[:1].isupper()


def _needs_next(word: Word, text: str) -> bool:
    """Return whether a word belongs to a name only before another word."""
    if word.folded in PARTICLES:
        return True
    return word.folded in ABBREVIATIONS and text[word.end : word.end + 1] == "."


def _continues(text: str, words: list[Word], place: int, last: int, step: int) -> bool:
    """Return whether only spaces and full stops of initials separate the words."""
    for one, other in zip(
        words[last - step : last], words[last - step + 1 : last + 1], strict=True
    ):
        between = text[one.end : other.start]
        is_initial = one.folded in ABBREVIATIONS and between in (". ", ".")
        if between != " " and not is_initial:
            return False
    return True


def _fits(word: Word, first: Word, is_strong: bool) -> bool:
    """Return whether a later word has the capital letters of the first."""
    if word.folded in LABELS:
        return False
    if first.is_title:
        return word.is_title or (word.is_capital and len(word.text) == 1)
    if first.is_capital:
        return word.is_capital and (is_strong or word.folded in KNOWN)
    return word.folded in KNOWN and (is_strong or word.folded not in SURNAME_WORDS)


RECOGNISER = Recogniser(_find)
