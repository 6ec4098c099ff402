"""Test the repair of text: HTML, character references and mojibake."""

import pytest

from stages.preprocess.clean import repair_text
from stages.preprocess.html import html_to_text


@pytest.mark.parametrize(
    ("text", "expected", "repairs"),
    [
        ("NÃO TOME SOZINHO", "NÃO TOME SOZINHO", []),
        ("VocÃª estÃ¡ com dor no coraÃ§Ã£o", "Você está com dor no coração", ["mojibake_repaired"]),
        (
            "<p>Beba <b>água</b>.</p><ul><li>Um</li><li>Dois</li></ul>",
            "Beba água.\nUm\nDois",
            ["html_stripped"],
        ),
        ("Dói<br>muito<script>alert(1)</script>", "Dói\nmuito", ["html_stripped"]),
        ("Pressão &lt; 12 por 8 &eacute; boa", "Pressão < 12 por 8 é boa", ["html_stripped"]),
        ("Se a pressão for <120 e a glicose >80", "Se a pressão for <120 e a glicose >80", []),
        ("Na\u0303o\u200b  dói?\r\n", "Não dói?", []),
        ("<b>" * 300 + "fim do texto", "fim do texto", ["html_stripped"]),
        (
            "<html><body><p>a</p></body></html><p>Minha pergunta</p>",
            "a\nMinha pergunta",
            ["html_stripped"],
        ),
        (
            "Dói<br>se TFG<baixa procure. E >2 litros",
            "Dói\nse TFG<baixa procure. E >2 litros",
            ["html_stripped"],
        ),
        ("&lt;p&gt;Beba &amp;amp; descanse&lt;/p&gt;", "Beba & descanse", ["html_stripped"]),
        ("Ele disse “AMANHÃ”, doutor", "Ele disse “AMANHÃ”, doutor", []),
        ("<!-- nada -->", "", ["html_stripped"]),
        ("Duas semanas, R&amp;D e &nada;", "Duas semanas, R&D e &nada;", ["html_stripped"]),
        ("Nada muda em &nada;", "Nada muda em &nada;", []),
    ],
)
def test_text_is_repaired_and_every_repair_is_named(
    text: str, expected: str, repairs: list[str]
) -> None:
    assert repair_text(text) == (expected, repairs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nos dias 1 e 2.<p>5 dias depois, volte</p>", "nos dias 1 e 2.\n5 dias depois, volte"),
        ("Dose de 1,<div>5 mg à noite</div>", "Dose de 1,\n5 mg à noite"),
        ("Dose de 1</div>5 mg à noite", "Dose de 1\n5 mg à noite"),
        ("Tome 1/<p>2 comprimido</p>", "Tome 1/\n2 comprimido"),
        ("Beba água.<p>Descanse", "Beba água.\nDescanse"),
        ("Sintomas:<ul><li>Febre", "Sintomas:\nFebre"),
        ("Dose<table><tr><td>1</td><td>2</td></tr></table>5 mg", "Dose\n1\n2\n5 mg"),
        ("1<dl><dt>2<dd>3</dl>4<select><option>5<option>6</select>", "1\n2\n3\n4\n5\n6"),
        ("1<blockquote>2</blockquote>3<section>4</section>5<ol><li>6</ol>7", "1\n2\n3\n4\n5\n6\n7"),
        ("<p>Um</p>\n  <p>Dois</p>Três<br><br>Quatro", "Um\n\nDois\nTrês\n\nQuatro"),
    ],
)
def test_every_block_element_is_on_a_separate_line(text: str, expected: str) -> None:
    assert repair_text(text) == (expected, ["html_stripped"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parace<span class=x>tamol</span>", "paracetamol"),
        ("<b>D</b>or e <b>f</b>ebre", "Dor e febre"),
        ("Dose: 1<!-- -->5<!-- --> mg", "Dose: 15 mg"),
        ("1<img src='a>b.png'/>5 mg", "1 5 mg"),
    ],
)
def test_inline_elements_leave_nothing_and_images_leave_a_space(text: str, expected: str) -> None:
    assert repair_text(text) == (expected, ["html_stripped"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10<sup>6</sup> UFC, 10<sup>-3</sup> mg", "10^6 UFC, 10^-3 mg"),
        ("10<sup><b>6</b></sup> UFC", "10^6 UFC"),
        ("Marca<sup></b>® a<sup><br>, b<sup>", "Marca® a\n, b"),
        ("1<sup>o</sup> dia, Marca<sup>®</sup>, H<sub>2</sub>O", "1o dia, Marca®, H2O"),
        (
            "1<sup>1</sup>/<sub>2</sub> comprimido, 1<sup>3</sup>&frasl;<sub>4</sub>",
            "1 1/2 comprimido, 1 3⁄4",
        ),
    ],
)
def test_powers_ordinals_and_fractions_keep_their_meaning(text: str, expected: str) -> None:
    assert repair_text(text) == (expected, ["html_stripped"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "<!DOCTYPE html><html lang=pt-BR><head><title>Dor</title></head>"
            "<body>Sim</body></html>",
            "Dor\nSim",
        ),
        (
            '<p class=MsoNormal style="margin:0"id=x>Beba<br clear=all />água<input disabled></p>',
            "Beba\nágua",
        ),
        ("Dói 1 <!-- e 2, <b>3</b>\x1e4", "Dói 1 e 2, 3 4"),
        ("Dói<style>p {}</style> 1 <script>alert(1)", "Dói 1"),
        ("Dói \ud83d <b>muito</b>\x00hoje", "Dói \ud83d muito hoje"),
    ],
)
def test_pages_and_damaged_html_are_stripped(text: str, expected: str) -> None:
    assert repair_text(text) == (expected, ["html_stripped"])


@pytest.mark.parametrize(
    "text",
    [
        "Minha glicemia <em jejum> deu 99",
        "Se <a 100 e >a 60, ou PA <i e PA = 12 ou > 14",
        "Se <a meta=7% e >a anterior",
    ],
)
def test_words_in_angle_brackets_stay_text(text: str) -> None:
    assert repair_text(text)[0] == text


def test_an_unclosed_word_in_angle_brackets_stays_beside_real_tags() -> None:
    text = "<b>Mudar</b> <style de vida em 12 meses"
    assert repair_text(text)[0] == "Mudar <style de vida em 12 meses"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PA &lt;a média&gt; e &lt;a&gt; de 12", "PA <a média> e <a> de 12"),
        ("Nível &lt;script&gt; de 12", "Nível <script> de 12"),
        ("&lt;b&gt;Sim&lt;/b&gt;,&lt;br&gt;&lt;p class='x'&gt;12", "Sim,\n12"),
        ("Dor &lt;script&gt;alert(1)&lt;/script&gt; forte", "Dor forte"),
    ],
)
def test_an_escaped_inline_tag_counts_only_if_it_is_closed(text: str, expected: str) -> None:
    assert repair_text(text)[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tenho câncer. Ele disse “AMANHÃ” ontem", "Tenho câncer. Ele disse “AMANHÃ” ontem"),
        ("De MANHÃ\xa0e à noite", "De MANHÃ e à noite"),
        ("Minha IRMÃ\xa0tem dor, e a outra IRMÃ– não", "Minha IRMÃ tem dor, e a outra IRMÃ– não"),
        ("VocÃª disse “AMANHÃ” \U000f0000", "Você disse “AMANHÃ” \U000f0000"),
    ],
)
def test_mojibake_is_repaired_and_words_in_capitals_stay(text: str, expected: str) -> None:
    assert repair_text(text)[0] == expected


@pytest.mark.parametrize(
    "part",
    ["<!--", "<!-->", "<script>", "<style", "<b>", "<p>", '<a x="', "&lt;b&gt;", "<sup> ", "<a   "],
)
# One pass over a million characters takes seconds; a pass from every opening took hours.
@pytest.mark.timeout(60)
def test_a_field_full_of_openings_is_read_in_linear_time(part: str) -> None:
    assert "<p>" not in html_to_text(part * (1_000_000 // len(part)))
