"""Remove greetings and thanks around a question, for comparisons only.

"Olá doutor, bom dia! Posso tomar dipirona? Obrigado" asks the same as "Posso tomar dipirona?". In a
short question the words of courtesy would outweigh the others. The kept rows keep them.
"""

import re

from stages.preprocess.minhash import strip_accents

_TITLE = r"(?: senhora? | srt?a? | dr[as]? | doutor(?:a|es|as)? )"
# Phrases that open a message.
_OPENING = rf"""
    (?: o+i+e* | ola+ | oie+ | opa | hello | hi | hey | dear | good[ ](?:morning|evening) )
        (?: [ ] (?: a[ ] )? (?: {_TITLE} | tod[oa]s ) )?
    | (?: muito[ ] )? (?: bom[ ]dia | boa[ ](?:tarde|noite) )
        (?: [ ] (?: a[ ]tod[oa]s | {_TITLE} ) )?
    | (?: (?: car | prezad | querid | estimad )[oa]s? [ ] )? {_TITLE}
    | (?: car[oa]s? | prezad[oa]s? | medic[oa]s? | pessoal | gente ) (?= [.] )
    | tudo[ ](?: bem | bom | certo | joia ) | como[ ](?: vai | esta ) (?: [ ]vo?ce )?
    | (?: desculpe? | com[ ]licenca | por[ ]favor | por[ ]gentileza | please )
    | (?: eu[ ] )? (?: gostaria | queria | quero | preciso ) (?: [ ](?: muito | so ) )?
        (?: [ ]de )? [ ] (?: saber | perguntar | tirar[ ]uma[ ]duvida ) (?: [ ]se )?
    | (?: eu[ ] )? (?: tenho | estou[ ]com ) [ ] uma [ ] (?: duvida | pergunta )
    | (?: so[ ] )? uma [ ] (?: duvida | pergunta )
    | (?: vo?ce[ ] )? (?: pode | poderia ) [ ] me [ ] (?: ajudar | dizer | informar | orientar )
        (?: [ ]se )?
    | (?: me [ ] (?: ajude | ajuda | diga | informe ) | saberia[ ]me[ ]dizer ) (?: [ ]se )?
"""
# Phrases that close a message.
_CLOSING = rf"""
    {_TITLE}
    | (?: (?: muito | muitissimo | desde[ ]ja ) [ ] )* (?: obrigad(?:[oa]|inh[oa])
        | brigad[oa] | obg | grat[oa] | agradec(?:o|id[oa]) | valeuz* | vlw | thanks | thank[ ]you )
        (?: [ ] (?: desde[ ]ja | pela[ ]ajuda | pela[ ]atencao | doutora? | dra? ) )*
    | (?: muito[ ]grat[oa] | desde[ ]ja )
    | (?: por[ ]favor | por[ ]gentileza | pfv | pf | please )
    | (?: um[ ] )? (?: abracos? | abs ) | att | atenciosamente | cordialmente
    | (?: fico[ ]no[ ]aguardo | aguardo (?: [ ](?: resposta | retorno ) )? )
    | (?: me[ ]ajudem? | alguem[ ]sabe | bom[ ]dia | boa[ ](?: tarde | noite ) )
    | (?: que[ ] )? deus [ ] (?: o | a | te | lhe )? [ ]? abencoe | fique[ ]com[ ]deus
"""
_THANKS = r"por[ ]favor | por[ ]gentileza | (?: muito[ ] )? obrigad[oa] | obg | pfv"
_OPTIONS = re.IGNORECASE | re.VERBOSE
OPENINGS = re.compile(rf"(?: [ .]* \b (?: {_OPENING} ) \b )+ (?= [ .] | $ )", _OPTIONS)
# Other closing phrases begin a sentence: "abraço" and "doutor" end questions too.
CLOSINGS = re.compile(
    rf"(?: (?: [.][ ] (?: {_CLOSING} ) | [ ] (?: {_THANKS} ) ) \b )+ [ .]* $", _OPTIONS
)
SIGNS = re.compile(r"[\W_]+")
# A name that redaction replaced.
NAME = "[NOME]"
# A longer question has so many words that courtesy does not matter.
LONGEST = 1000


def core(question: str) -> str:
    """Return the words of a question without greetings and thanks around it.

    A question of greetings alone, and a long question, stay as they are.
    """
    if len(question) > LONGEST:
        return question
    plain = strip_accents(question.replace(NAME, " "))
    # All signs become full stops, so that the patterns cannot match one text in many ways.
    plain = SIGNS.sub(_simple_sign, plain).strip()
    start = OPENINGS.match(plain)
    rest = plain[start.end() :] if start else plain
    end = CLOSINGS.search(rest)
    rest = rest[: end.start()] if end else rest
    return rest.strip(" .") or question


def _simple_sign(match: re.Match[str]) -> str:
    """Return a space for spaces, and a full stop for other signs."""
    return " " if match[0] == " " else ". "
