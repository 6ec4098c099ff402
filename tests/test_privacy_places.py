"""Test addresses of farms, plots, forms and roads, with invented values."""

import pytest

from bula.privacy import find_personal_data, redact


def redacted(text: str) -> str:
    """Return the text with placeholders for personal data."""
    return redact(text, find_personal_data(text))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Sítio Pedra Lisa, s/n, zona rural", "[ENDEREÇO], zona rural"),
        ("fica no Sítio Pedra Lisa, estrada do Cedro, km 7", "fica no [ENDEREÇO]"),
        ("chácara 7, núcleo rural Sobradinho", "[ENDEREÇO] Sobradinho"),
        ("Comunidade Boa Fé, Rio Verde, casa 4", "[ENDEREÇO]"),
        ("Ramal do Ouro, km 18, lote 22", "[ENDEREÇO]"),
        ("moro no Sítio Pedra Lisa", "moro no [ENDEREÇO]"),
        ("Localidade: Fazenda Três Morros", "Localidade: [ENDEREÇO]"),
        ("moro na fazenda com 3 irmãos", "moro na fazenda com 3 irmãos"),
        ("A comunidade terapêutica atende 30", "A comunidade terapêutica atende 30"),
    ],
)
def test_rural_places_are_found(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Lote 5, quadra 12",
        "Quadra: 12 Lote: 5 Casa: 3",
        "QD-12 LT-05",
        "Qd12Lt5",
        "Q. 10 L. 4",
        "ap 302 bl 4",
        "torre 2, apartamento 1104",
        "Bloco 5, Entrada A, apto 302",
        "casa 12 conjunto D",
        "quadra 405 Serra Azul conj 12 casa 3",
        "Condomínio Serra Azul, torre 3, ap 805",
        "cohab 2 bloco 15 ap 4",
        "EQS 108/109 bloco A",
        "SQN 205, K, 304",
        "qnb 14",
        "SHIN QL 4 conj. 3 cs. 5",
    ],
)
def test_plots_are_found_in_any_order(text: str) -> None:
    assert redacted(text) == "[ENDEREÇO]"


@pytest.mark.parametrize(
    "text",
    [
        "Lote 12, lote 13 e lote 14 foram recolhidos.",
        "Bloco 2, 3º andar, sala 5: ambulatório.",
        "Unidade 5, módulo 2",
        "L4-L5 e L5-S1 com hérnia",
        "EN 1500 kcal",
        "PA 120/80, lote 12",
        "Linha 3 do tratamento",
        "o nº 12 da fila",
    ],
)
def test_lots_rooms_and_vertebrae_are_no_plots(text: str) -> None:
    assert find_personal_data(text) == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("LOGRADOURO: R DO SOL\nNUMERO: 64\nBAIRRO: SÉ", "LOGRADOURO: [ENDEREÇO]\nBAIRRO: SÉ"),
        ("Endereço: Rua Sol\nNº: 45\nCompl.: casa 2", "Endereço: [ENDEREÇO]"),
        ("Rua: do Sol | Nº: 33 | Bairro: Sé", "Rua: [ENDEREÇO] | Bairro: Sé"),
        ("Logradouro: ____", "Logradouro: ____"),
    ],
)
def test_fields_of_a_form_are_one_address(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Rua do Sol, 71, 2º andar",
        "Rua do Sol, 71, segundo andar, apto 201",
        "Rua do Sol, 71, casa dos fundos",
        "Rua do Sol, 1500 - 302",
        "rua do sol 88 fundos",
        "rua do sol, sem número",
        "ALAMEDA DOS IPÊS, 1200, TORRE B, AP 1203",
        "Rodovia SC-999, km 9, nº 4.150",
        "BR 999, km 12,5",
        "r. joao bento n 55",
        "r. sete de maio 200",
        "rua vinte e dois de maio 300",
        "2ª Travessa São Bento, 15",
        "Psg. São Bento, 88",
        "número 45 da rua Chile",
        "rua 7, lote 12, quadra 3",
        "beco sem nome, casa 3",
    ],
)
def test_the_whole_street_address_is_found(text: str) -> None:
    assert redacted(text) == "[ENDEREÇO]"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("cep66999123", "cep[ENDEREÇO]"),
        ("C E P 50999-180", "C E P [ENDEREÇO]"),
        ("CEP 509 99-180", "CEP [ENDEREÇO]"),
        ("50999-180 (CEP)", "[ENDEREÇO] (CEP)"),
        ("Goiânia-GO 74999 120", "Goiânia-GO [ENDEREÇO]"),
    ],
)
def test_more_spellings_of_a_post_code_are_found(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "A passagem de sonda nasogástrica 12 é feita no hospital.",
        "Passagem de sonda vesical 14 hoje cedo.",
        "Teve largo excesso, 30 quilos no ano.",
        "Passagem difícil pela garganta, 28 horas depois urinar doía.",
        "Passagem tristeza falta uma 28 urinar.",
        "Largo alívio da dor depois de 12 dias.",
    ],
)
def test_everyday_words_are_no_streets(text: str) -> None:
    assert find_personal_data(text) == []


def test_everyday_words_with_a_capital_are_streets() -> None:
    text = (
        "Moro na Passagem São Pedro 40. Minha tia, no Largo da Ordem 15. Passagem Dois, 18, Belém."
    )
    assert redacted(text) == "Moro na [ENDEREÇO]. Minha tia, no [ENDEREÇO]. [ENDEREÇO], Belém."


@pytest.mark.parametrize("sign", ["sítio ", "lote 1 ", "Logradouro: ", "moro na ", "Q 1 ", "n 1 "])
def test_a_long_row_of_places_is_searched_in_linear_time(sign: str) -> None:
    find_personal_data(sign * 20_000 + "12")
