r"""Replace escapes that were written as letters, such as \n and \u00e7.

A text that was escaped twice still has the escapes of JSON or Python after it was read once. Not
every backslash is an escape: a text with LaTeX or with a path of Windows is left as it is.
"""

import re

# An escape, and all backslashes before it: each further escaping doubles them.
ESCAPE = re.compile(
    r"""
    # A backslash in place of a slash is none: sim\não, manhã\tarde\noite.
    (?! (?<=[^\W\d_]) \\ (?: não | noites? | tardes? ) (?![^\W\d_]) )
    \\+ (?:
        # A pair of surrogates, which is one character.
        u (?P<high> [dD][89abAB][0-9a-fA-F]{2} ) \\+ u (?P<low> [dD][c-fC-F][0-9a-fA-F]{2} )
        # A character by its number; half a pair is none.
        | u (?P<four> (?![dD][89a-fA-F]) [0-9a-fA-F]{4} )
        | x (?P<two> [0-9a-fA-F]{2} )
        | U (?P<eight> 000[01][0-9a-fA-F]{4} )
        # A line feed, a carriage return, a tab, a quote or a slash.
        | (?P<sign> [nrt"'/] )
    )
    """,
    re.VERBOSE,
)
SIGNS = {"n": "\n", "r": "\r", "t": "\t"}
# Commands of LaTeX, among them all usual ones that begin like an escape.
COMMANDS = """
alpha approx bar beta begin bf cdot circ cos degree delta Delta div dot end epsilon eta exp frac
gamma Gamma ge geq hat in infty int it kappa lambda Lambda ldots left leftarrow leq lim ln log
mathbf mathrm mu nabla ne neg neq newline ni nolimits not notin nu omega Omega over overline phi pi
pm prod propto psi rangle rceil rfloor rho right rightarrow rm sigma Sigma sim sin sqrt sum tan tau
text textbf textit textrm theta Theta tilde times tiny to top triangle underline varepsilon vec xi
zeta
"""
LATEX = re.compile(
    rf"""
    # A command, then no further letter.
    \\ (?: {"|".join(COMMANDS.split())} ) (?![a-zA-ZÀ-ÿ])
    # A command with an argument in braces: \frac{{1}}{{2}}.
    | \\ [a-zA-Z]+ \s* \{{
    # A formula: \( ... \) or \[ ... \].
    | \\ [(\[]
    """,
    re.VERBOSE,
)
WINDOWS_PATH = re.compile(
    r"""
    # A drive: C:\temp.
    (?<![a-zA-Z]) [a-zA-Z] : \\
    # A server: \\name\folder.
    | \\\\ [\w.-]+ \\+ (?!["'/]) [\w.-]{2,}
    """,
    re.VERBOSE,
)


def repair_escapes(text: str) -> str:
    """Return the text with characters in place of its escapes.

    A text with LaTeX or a path of Windows is returned unchanged.
    """
    if "\\" not in text or not ESCAPE.search(text) or _is_markup(text):
        return text
    return ESCAPE.sub(_character, text)


def keeps_escapes(text: str) -> bool:
    """Return whether `repair_escapes` leaves escapes, since they may be LaTeX or a path."""
    return "\\" in text and bool(ESCAPE.search(text)) and _is_markup(text)


def _is_markup(text: str) -> bool:
    """Return whether a text has LaTeX or a path of Windows."""
    return bool(LATEX.search(text) or WINDOWS_PATH.search(text))


def _character(match: re.Match[str]) -> str:
    """Return the character of an escape."""
    if sign := match["sign"]:
        return SIGNS.get(sign, sign)
    if match["high"]:
        pair = bytes.fromhex(match["high"] + match["low"])
        return pair.decode("utf-16-be")
    number = match["four"] or match["two"] or match["eight"]
    return chr(int(number, 16))
