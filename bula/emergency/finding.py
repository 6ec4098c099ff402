"""Recognise emergencies in questions, and answer them before any model does.

Rules read the words, and bula/emergency/meaning.py reads the meaning. Neither knows medicine. In
doubt they warn: a warning too many costs a reader one line, and a missed emergency can cost a life.
`python -m bench.emergency` measures them.
"""

import re

from bula.emergency import ages, body, harm
from bula.emergency import patterns as signs
from bula.emergency.answers import ANSWERS, Emergency
from bula.emergency.meaning import read_meaning
from bula.emergency.signs import ACUTE, DEATH, ENOUGH, INTENT, MEANS, STRONG, WEAK, WISH
from bula.emergency.thoughts import THOUGHTS
from bula.emergency.wishes import WISHES
from bula.emergency.words import spell
from bula.safety import plain
from bula.safety_patterns import CLAUSE_END, SENTENCE_END

CLASSES = (*body.CLASSES, *harm.CLASSES)
# A denial stands at most this many characters before a symptom, which keeps the time linear.
DENIAL_REACH = 200
PAIRS = (
    *signs.PAIRS,
    *body.TOGETHER,
    *harm.TOGETHER,
    *ages.TOGETHER,
)


def find_emergency(question: str) -> Emergency:
    """Return which emergency service a question needs, by its words and by its meaning.

    Meaning finds what is said in other words. It overrules the words only where they name a symptom
    and a short message surely needs nobody: a thought of death that the words name always counts.
    """
    words = find_by_words(question)
    if words == "cvv":
        return words
    meaning = read_meaning(question)
    if words == "samu" and not meaning.sure:
        return words
    return meaning.need


def find_by_words(question: str) -> Emergency:
    """Return which emergency service a question needs, by the rules alone.

    `cvv` is a thought of death or self-harm, and stands above `samu`. A symptom that the question
    denies or tells as over does not count, and neither does a disease of the past or of a
    definition.
    """
    text = spell(plain(question))
    parts = SENTENCE_END.split(text)
    if _thinks_of_death(text) or any(map(_wishes_death, parts)):
        return "cvv"
    if any(map(_needs_care, parts)) or _has_pair(text) or _weigh(text) >= ENOUGH:
        return "samu"
    return "none"


def answer_emergency(question: str) -> str:
    """Return the text that must precede any model's answer, or an empty text."""
    return ANSWERS[find_emergency(question)]


def model_may_answer(question: str) -> bool:
    """Return whether a model may answer a question at all.

    No model answers a question about suicide or self-harm.
    """
    return find_emergency(question) != "cvv"


def _thinks_of_death(text: str) -> bool:
    """Return whether a question has a phrase of death or of self-harm."""
    return any(pattern.search(text) for pattern in (THOUGHTS, *WISHES))


def _wishes_death(sentence: str) -> bool:
    """Return whether a sentence names a wish for death, or a plan."""
    wish = DEATH.search(sentence) and WISH.search(sentence)
    plan = MEANS.search(sentence) and INTENT.search(sentence)
    return bool(wish or plan)


def _weigh(text: str) -> int:
    """Return the sum of the weights of all groups of signs in a question.

    A question about a matter or about the past weighs nothing.
    """
    if _is_over(text) or _is_general(text):
        return 0
    strong = sum(group.search(text) is not None for group in STRONG)
    weak = sum(group.search(text) is not None for group in WEAK)
    return 2 * strong + weak + int(ACUTE.search(text) is not None)


def _has_pair(text: str) -> bool:
    """Return whether two signs occur that are an emergency only together."""
    if _is_over(text) or _is_general(text):
        return False
    return any(_states(text, first) and _states(text, second) for first, second in PAIRS)


def _states(text: str, pattern: re.Pattern[str]) -> bool:
    """Return whether a text has a sign that it does not deny."""
    return any(not _is_denied(text, found) for found in pattern.finditer(text))


def _needs_care(sentence: str) -> bool:
    """Return whether a sentence states an event, a symptom or an acute disease."""
    if _is_over(sentence) or _is_general(sentence):
        return False
    return signs.CERTAIN.search(sentence) is not None or _has_sign(sentence)


def _has_sign(sentence: str) -> bool:
    """Return whether a sentence states a symptom or an acute disease."""
    if any(_states(sentence, pattern) for pattern in (signs.FELT, *CLASSES)):
        return True
    if signs.OLD.search(sentence):
        return False
    return any(not _is_asked_about(sentence, found) for found in signs.NAMED.finditer(sentence))


def _is_general(text: str) -> bool:
    """Return whether a question is about a matter, and not about a person."""
    return signs.MATTER.search(text) is not None and signs.PERSONAL.search(text) is None


def _is_over(text: str) -> bool:
    """Return whether a text tells of the past only."""
    return signs.OVER.search(text) is not None and signs.NOW.search(text) is None


def _is_denied(sentence: str, found: re.Match[str]) -> bool:
    """Return whether a denial stands right before a symptom, in its clause."""
    before = sentence[max(0, found.start() - DENIAL_REACH) : found.start()]
    clause = CLAUSE_END.split(before)[-1]
    return signs.DENIED.search(clause) is not None


def _is_asked_about(sentence: str, found: re.Match[str]) -> bool:
    """Return whether a question only asks about a disease.

    It asks what the disease is or how to prevent it.
    """
    before = sentence[max(0, found.start() - DENIAL_REACH) : found.start()]
    return signs.ASKED_ABOUT.search(before) is not None or _is_denied(sentence, found)
