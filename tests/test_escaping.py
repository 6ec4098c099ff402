"""Check that other people's text is shown as text, never as markup."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bula.escaping import JOINER, markdown, terminal

RENDER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render
HOSTILE = {
    "image": "![x](http://evil.example/t.png)",
    "reference image": "![x][y]",
    "link": "[clique](javascript:alert(1))",
    "link definition": "[x]: http://evil.example",
    "autolink": "<https://evil.example>",
    "bare address": "veja https://evil.example/x?y=1&z=2 e ftp://evil.example",
    "www": "veja www.evil.example/x_y_",
    "e-mail": "escreva para maria.silva@evil.example ou w@.example",
    "mention": "@octocat e @org/equipe, leiam #123, GH-45 e dono/repo#6",
    "script": "<script>alert(1)</script>",
    "svg": "<svg onload=alert(1)>",
    "comment": "texto <!-- some",
    "unclosed tag": "<img src=x onerror='alert(1)'",
    "custom element": "<x-y onclick=alert(1)>q</x-y>",
    "entity": "&lt;b&gt; &#60;i&#62; &amp;",
    "table": "| a | b |",
    "escaped pipe": r"a \| b \\| c |",
    "heading": "# Título",
    "closed heading": "Título ##",
    "underlined heading": "===",
    "rule": "---",
    "rule of stars": "* * *",
    "list": "- um",
    "plus list": "+ um",
    "numbered list": "1. um",
    "numbered list with bracket": "23) um",
    "quote": "> [!WARNING] texto",
    "task": "- [x] feito",
    "code": "`código` e ``mais``",
    "fence": "```html",
    "tilde fence": "~~~",
    "strikethrough": "~~não~~ tome ~isto~",
    "emphasis": "**muito** _bem_ __assim__ *x*_y_",
    "formula": r"$\href{javascript:alert(1)}{x}$ e $$y$$",
    "footnote": "texto[^1] e [^1]: nota",
    "backslashes": "\\\\*x\\* \\",
    "indented": "    código",
}


def joined(text: str) -> str:
    """Return the text with single spaces and without joiners."""
    return " ".join(text.replace(JOINER, "").split())


def split_tags(page: str) -> tuple[set[str], str]:
    """Return the names of a page's tags, and the page's text."""
    tags = set(re.findall(r"</?([a-zA-Z!][^\s>/]*)", page))
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    return tags, text


def table_cells(text: str) -> list[str]:
    """Return the rendered cells of a table row with the text."""
    page = RENDER(f"| a | b |\n|---|---|\n| {markdown(text)} | fim |\n")
    cells = re.findall(r"<td>(.*?)</td>", page, re.DOTALL)
    return [joined(html.unescape(cell)) for cell in cells]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_markdown_shows_hostile_text_literally(text: str) -> None:
    tags, shown = split_tags(RENDER(markdown(text)))
    assert tags == {"p"}
    assert joined(shown) == joined(text)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_stays_in_its_cell(text: str) -> None:
    page = RENDER(f"| a | b |\n|---|---|\n| {markdown(text)} | fim |\n")
    tags, _ = split_tags(page)
    assert tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert table_cells(text) == [joined(text), "fim"]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_stays_in_its_heading(text: str) -> None:
    tags, shown = split_tags(RENDER(f"Antes.\n\n### A: {markdown(text)}\n\nDepois."))
    assert tags == {"p", "h3"}
    assert joined(shown) == f"Antes. A: {joined(text)} Depois."


def test_line_breaks_in_a_text_cannot_start_a_section() -> None:
    forged = "Dói?\n\n## Paired differences\n\n| a | b |\n|---|---|\n| 1 | 2 |\r# x\u2028# y\x85# z"
    tags, shown = split_tags(RENDER(markdown(forged)))
    assert tags == {"p"}
    assert joined(shown) == "Dói? ## Paired differences | a | b | |---|---| | 1 | 2 | # x # y # z"


@pytest.mark.parametrize("sign", ["@octocat", "maria@evil.example", "#123", "GH-45", "dono/repo#6"])
def test_github_finds_no_name_or_number_to_link(sign: str) -> None:
    # GitHub searches the rendered text, where a backslash is already gone.
    _, shown = split_tags(RENDER(markdown(sign)))
    assert re.search(r"@\w|#\d|GH-\d", shown) is None


def test_addresses_are_broken_for_autolinks() -> None:
    assert markdown("https://a.example www.a.example") == r"https\://a\.example www\.a\.example"


def test_ordinary_text_stays_readable_in_the_source() -> None:
    text = "Não: beba água (2 a 3 litros), pré-diabético ou não! 37,5 °C."
    more = "E o bula_medmcqa? \"Sim\" - 50%; 'ok'."
    assert markdown(f"{text} {more}") == f"{text} {more}"


@given(st.text(alphabet="\\`*_{}[]()#+-.!|~:@/=\"'$^<>&; \n\ta1é", max_size=40))
def test_a_random_mixture_of_signs_is_never_markup(text: str) -> None:
    shown = joined(text)
    if not shown:
        return
    assert split_tags(RENDER(f"x {markdown(text)}"))[0] == {"p"}
    page = RENDER(markdown(text))
    assert (page[:3], page[-5:]) == ("<p>", "</p>\n")
    assert joined(html.unescape(page[3:-5])) == shown
    assert table_cells(text) == [shown, "fim"]


HIDDEN_CHARACTERS = {
    "escape": "\x1b",
    "8-bit control sequence": "\x9b",
    "bell": "\x07",
    "backspace": "\x08",
    "delete": "\x7f",
    "zero-width space": "\u200b",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "byte order mark": "\ufeff",
    "soft hyphen": "\u00ad",
    "tag letter": "\U000e0041",
    "hangul filler": "\u3164",
    "lone surrogate": "\ud800",
}


@pytest.mark.parametrize("character", HIDDEN_CHARACTERS.values(), ids=HIDDEN_CHARACTERS)
def test_a_hidden_character_is_shown_as_a_replacement(character: str) -> None:
    assert terminal(f"a{character}b") == "a\ufffdb"
    assert markdown(f"a{character}b") == "a\ufffdb"


@pytest.mark.parametrize("line_end", ["\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_text_for_a_terminal_stays_on_one_line(line_end: str) -> None:
    assert terminal(f"erro{line_end}tudo certo") == "erro\ufffdtudo certo"
    assert terminal("a\tb") == "a b"


def test_text_for_a_terminal_keeps_line_feeds_on_request() -> None:
    assert terminal("um\ndois\r\x1b[2J", lines=True) == "um\ndois\ufffd\ufffd[2J"
