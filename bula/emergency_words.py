"""Read messages with typing errors, and build the patterns of emergencies."""

import re

from bula.safety_patterns import any_of

# Up to four words of one sentence, written as " ... " in a phrase.
GAP = r" (?:[^\s.;!?]+ ){0,4}?"
# Words that several phrases share, written as <name> in a phrase.
WORDS = {
    "cannot": r"(?:(?:nao|mal|nem) (?:\w+ ){0,2}?conseg\w+|nao da para)",
    "hard": r"(?:dificuldades?|dificil|ruim|cansad[oa]|sofrendo|lutando|esforco)",
    "past": r"(?:ou|ei|ado|ada|ando|aram|ava)",
    "pale": r"(?:ciano\w+|rox(?:inh)?[oa]s?|arroxead[oa]s?|azul|azulad[oa]s?|azuis|cinzent[oa]s?)",
    "swollen": r"(?:inch(?:ou|aram|and[oa]|ad[oa]s?)|fech(?:ou|and[oa])|trav(?:ou|ando))",
    "slurred": r"(?:enrol|embol|arrast|embaralh|pastos|engrol|trav)\w+",
    "child": r"(?:bebe|nene|nenem|crianca|filh(?:inh)?[oa]|net[oa]|sobrinh[oa]|menin[oa])",
    "many": (
        r"(?:[1-9]\d+|dez|doze|quinze|vinte|trinta|quarenta|cinquenta|cem|duzias? de|punhado de"
        r"|muit[oa]s|vari[oa]s|tod[oa]s [oa]s|um monte de|mao cheia de)"
    ),
    "pills": r"(?:comprimid\w+|capsulas?|remedios?|pilulas?|calmantes?)",
    "drug": (
        r"(?:paracetamol|tylenol|dipirona|dorflex|rivotril|clonazepam|diazepam|amitriptilina"
        r"|fluoxetina|sertralina|quetiapina|dramin|ibuprofeno|insulina|propranolol|digoxina)"
    ),
    "swallowed": (
        r"(?:tom(?:ei|ou|aram|ado|ando)|beb(?:i|eu|eram)|engol(?:i|iu|iram)|inger(?:i|iu)"
        r"|mord(?:i|eu)|lamb(?:i|eu)|com(?:i|eu|ido|eram)|chup(?:ou|ei)|mastig(?:ou|ei)"
        r"|(?:pos|botou|colocou) na boca)"
    ),
    "poison": (
        r"(?:veneno|chumbinho|raticida|mata.rato|inseticida|pesticida|herbicida|formicida"
        r"|agrotoxico|agua sanitaria|q-?boa|cloro|soda(?: caustica)?|desentupidor|diabo verde"
        r"|detergente|desinfetante|pinho sol|creolina|alvejante|amaciante|sabao em po|querosene"
        r"|gasolina|thinner|tiner|aguarras|solvente|removedor|acetona|metanol|naftalina|tinta"
        r"|alcool (?:em gel|de limpeza|de posto|70)|produto de limpeza|pilhas?|baterias?|imas?"
        r"|comigo.ninguem.pode|espirradeira|mamona|cogumelo)"
    ),
    "amount": (
        r"(?:cartelas?|(?:meio|meia|um|o|a|uma) (?:frasco|vidro)|frascos|vidrinhos?"
        r"|(?:caixa|cartela|frasco|vidro|pote) (?:inteir[oa]|tod[oa]))"
    ),
}
# Common spellings of messages, and the spelling that the patterns use.
SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Repeated letters: muuuito
        (r"([a-z])\1{2,}", r"\1"),
        # Short words
        (r"\b(?:n|naum|nau)\b", "nao"),
        (r"\b(?:oq|o q)\b", "o que"),
        (r"\b(?:q|qe|ki)\b", "que"),
        (r"\btah?\b", "esta"),
        (r"\bt(?:o|ou|ow)\b", "estou"),
        (r"\btava\b", "estava"),
        (r"\btao (?=com|sem|fic|pass|rox|azu|inch)", "estao "),
        (r"\b(?:pra|p/) ?(?=\w)", "para "),
        (r"\bpro\b", "para o"),
        (r"\bpros\b", "para os"),
        (r"\bpras\b", "para as"),
        (r"\bm(?:t|to|ta|tos|tas|uitu)\b", "muito"),
        (r"\bhj\b", "hoje"),
        (r"\bag(?:r|ra)\b", "agora"),
        (r"\bdps\b", "depois"),
        (r"\b(?:qro|kero)\b", "quero"),
        (r"\baxo\b", "acho"),
        # Typing errors by sound
        (r"\bcon[sc][ei]g", "conseg"),
        (r"\benfart", "infart"),
        (r"\bco[mn]vul[sc]", "convuls"),
        (r"\b(?:em|in|im)gas", "engas"),
        (r"\b(?:em|in|im)goli", "engoli"),
        (r"\bemchad", "inchad"),
        (r"\b(?:inx|enx)(?=ad|ou|an)", "inch"),
        (r"\br(?:isp[ie]|espe)r(?=[aoe])", "respir"),
        (r"\bd[ei][sz]mai", "desmai"),
        (r"\bsang(?:ui|e|uie)\b", "sangue"),
        (r"\bcabe(?:sa|ssa)\b", "cabeca"),
        (r"\bpresao\b", "pressao"),
        (r"\b(?:suisid|suiscid|sucid)", "suicid"),
    )
)


def spell(text: str) -> str:
    """Return plain text with the common spellings of messages replaced."""
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    return text


def phrases(text: str) -> re.Pattern[str]:
    """Return a pattern that matches any phrase of a list.

    Each line is one regular expression, and a line that starts with | continues it. A comment
    starts with #, <name> is an entry of WORDS, and " ... " stands for up to four words.
    """
    joined = re.sub(r"\n +\|", "|", text)
    lines = (line.partition("#")[0].strip() for line in joined.splitlines())
    return any_of(*(_expand(line) for line in lines if line))


def _expand(phrase: str) -> str:
    """Return a phrase as a regular expression."""
    for name, pattern in WORDS.items():
        phrase = phrase.replace(f"<{name}>", pattern)
    return phrase.replace(" ... ", GAP)
