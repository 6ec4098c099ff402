"""Translate a recorded table of results into Portuguese.

The stage compare writes the record in English. Questions and answers are Portuguese already. A test
checks that no English phrase of the record in this repository is left.
"""

import re

# Each phrase of a cell or of a sentence, with its translation.
PHRASES = (
    (r"\bdegenerate answers, %", "respostas degeneradas, %"),
    (r"\bperplexity\b", "perplexidade"),
    (r"\bquestion's worth, bits per character", "valor da pergunta, bits por caractere"),
    (r"\bbits per character\b", "bits por caractere"),
    (r"\((\d+) answers\)", r"(\1 respostas)"),
    (r"\((\d+) items, chance (\d+) %\)", r"(\1 itens, acaso \2 %)"),
    (r"\((\d+) items\)", r"(\1 itens)"),
    (r"\bjudge: accuracy, 1 to 3\b", "juiz: correção, 1 a 3"),
    (r"\bnot meaningful \((\d+) % loops\)", r"sem significado (\1 % de repetições)"),
    (r"\bwithheld: kappa\b", "omitido: kappa"),
    (r"^as (\w+)$", r"como \1"),
    (r"\bstock answer\b", "resposta padrão"),
    (r"\bnearest answer\b", "resposta mais próxima"),
    (r"\becho of the question\b", "eco da pergunta"),
    (r"\bcharacter (\d+)-gram\b", r"\1-grama de caracteres"),
    (r"\b(bz2|xz|gzip) compression\b", r"compressão \1"),
    (r"\*\*(\w+) is not surely better than\*\*", r"**\1 não é comprovadamente melhor que**"),
    (r"\*\*(\w+) does not beat\*\*", r"**\1 não supera**"),
    (r"\bthe resposta padrão on ROUGE-L\b", "a resposta padrão no ROUGE-L"),
    (r"\bthe (\d+-grama de caracteres) in\b", r"o \1 em"),
    (r"\bthe (compressão \w+) in\b", r"a \1 em"),
    (r"\bagainst\b", "contra"),
    (r"\bdifference\b", "diferença"),
    (r"\[([-+.\d]+), ([-+.\d]+)\]", r"[\1; \2]"),
    (r"(?<=\d)\.(?=\d)", ","),
)
ANSWERS = "| question |"
DEGENERATE = "*(degenerate)*"


def to_portuguese(record: str) -> str:
    """Return the Markdown of a recorded run with Portuguese labels and decimal commas.

    The table of questions and answers only gets another head and another mark.
    """
    figures, mark, answers = record.partition(ANSWERS)
    lines = [_line(line) for line in figures.splitlines(keepends=True)]
    head = mark.replace("question", "pergunta")
    return "".join(lines) + head + answers.replace(DEGENERATE, "*(degenerada)*")


def _line(line: str) -> str:
    """Return one line of the figures; each cell is translated on its own."""
    cells = [_cell(cell) for cell in line.split("|")]
    return "|".join(cells)


def _cell(cell: str) -> str:
    """Return a cell or a sentence in Portuguese, with the same spaces around it."""
    text = cell.strip()
    translated = text
    for pattern, replacement in PHRASES:
        translated = re.sub(pattern, replacement, translated)
    return cell.replace(text, translated) if text else cell
