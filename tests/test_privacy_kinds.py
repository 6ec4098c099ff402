"""Test everyday spellings of each kind of personal data, with invented values."""

import pytest

from bula.privacy import find_personal_data, redact


def redacted(text: str) -> str:
    """Return the text with placeholders for personal data."""
    return redact(text, find_personal_data(text))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        # 111.444.777-35 is valid: these have another digit, one digit less and two more.
        ("o cpf dela é 111.444.777-36", "o cpf dela é [CPF]"),
        ("CPF nº 11144477-3", "CPF nº [CPF]"),
        ("CPF: 1114447773512", "CPF: [CPF]"),
        ("111.444.777-36 é o CPF do titular", "[CPF] é o CPF do titular"),
        ("CNPJ 11.222.333/0001-82", "CNPJ [CNPJ]"),
        ("Qual o CPF? 111444777 36", "Qual o CPF? [CPF]"),
        ("cartão do SUS 700 1234 5678 901", "cartão do SUS [CNS]"),
        ("PIS/PASEP 120.12345.67-8", "PIS/PASEP [PIS]"),
        ("o NIT, 12012345678, venceu", "o NIT, [PIS], venceu"),
        ("12012345678 (NIS)", "[PIS] (NIS)"),
        ("carteira de motorista 12345678901", "carteira de motorista [CNH]"),
        (
            "título eleitoral, zona 12: 0123 4567 8901",
            "título eleitoral, zona 12: [TÍTULO DE ELEITOR]",
        ),
        ("Passaporte\nAB 123456", "Passaporte\n[PASSAPORTE]"),
        ("Meu Rg e 1234567 ssp df", "Meu Rg e [RG]"),
        ("c p f 111 444 777 36", "c p f [CPF]"),
        ("CIC 111.444.777-36", "CIC [CPF]"),
        ("RG M-1.234.567", "RG [RG]"),
        ("RG 1.234.567-8, expedido pela SSP/BA", "RG [RG]"),
        ("C.I. nº 1234567, órgão emissor: IFP", "C.I. nº [RG]"),
        ("o antigo era 1.234.567-SSP/PR", "o antigo era [RG]"),
        ("t. eleitor n 012345678901", "t. eleitor n [TÍTULO DE ELEITOR]"),
        ("pass. FX123456", "pass. [PASSAPORTE]"),
        ("carta de motorista 12345678901", "carta de motorista [CNH]"),
        ("N.I.S.: 12012345679", "N.I.S.: [PIS]"),
        # 700 1234 5678 9012 is not valid, and the word names only the first number.
        ("CNS 700 1234 5678 9012 e 700 1234 5678 9013", "CNS [CNS] e [CNS]"),
    ],
)
def test_a_named_document_is_found_with_any_digits(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "O CPF saiu em 12/03/2024 às 10:30.",
        "CPF e telefone do SAC: 0800 722 6001.",
        "Leve CPF, RG e 2 fotos 3x4.",
        "O título de 2023 tem 12 páginas.",
        "O PIS foi pago em 15/02/2024, R$ 1.412,00.",
        "Passaporte da vacina: 3 doses.",
        "Em 2024 havia 156454011 eleitores, e cada eleitor vota 2 vezes.",
        "pass. 2 vezes, lote 20240101",
        "IC 12345678",
    ],
)
def test_other_numbers_near_the_name_of_a_document_stay(text: str) -> None:
    assert find_personal_data(text) == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("COREN/BA 234.567-TE fez o curativo", "[REGISTRO PROFISSIONAL] fez o curativo"),
        ("a OAB dele é OAB-GO nº 45.678", "a OAB dele é [REGISTRO PROFISSIONAL]"),
        ("psicóloga, CRP 09/12345", "psicóloga, [REGISTRO PROFISSIONAL]"),
        ("meu cro é 12345", "meu [REGISTRO PROFISSIONAL]"),
        ("CRM é 12345", "[CRM]"),
        ("crm da doutora: 112930 SP", "[CRM]"),
        ("crp/rj 05-48112", "[REGISTRO PROFISSIONAL]"),
        ("COREN da enfermeira: 123456", "[REGISTRO PROFISSIONAL]"),
        ("CRO-SP CD 12345", "[REGISTRO PROFISSIONAL]"),
        ("CRFa 2ª região 12345", "[REGISTRO PROFISSIONAL]"),
        ("CRP nº 06/12345-7", "[REGISTRO PROFISSIONAL]"),
        ("CREF 012345-G/SP", "[REGISTRO PROFISSIONAL]"),
        ("Conselho Regional de Farmácia do Acre, registro 1234", "[REGISTRO PROFISSIONAL]"),
        ("Resolução COFEN 564/2017", "Resolução COFEN 564/2017"),
        # The same letters name a protein, a hormone and a version.
        ("A CRP de 1200 mg/L", "A CRP de 1200 mg/L"),
        ("CRF 1000 mcg na veia", "CRF 1000 mcg na veia"),
    ],
)
def test_registrations_of_professions_are_found(text: str, clean: str) -> None:
    assert redacted(text) == clean


KEY = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"Chave pix: {KEY}", "Chave pix: [CHAVE PIX]"),
        (f"{KEY} é o meu pix", "[CHAVE PIX] é o meu pix"),
        # Without the word it may be the number of an exam.
        (f"Exame {KEY}", f"Exame {KEY}"),
        ("me acha no insta @ze.da_silva9", "me acha no insta [PERFIL]"),
        ("Saturação 97% @2L, FC 80 @repouso", "Saturação 97% @2L, FC 80 @repouso"),
        ("Veja @ministeriodasaude e @anvisaoficial", "Veja @ministeriodasaude e @anvisaoficial"),
    ],
)
def test_pix_keys_and_profiles_are_found(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("carteirinha 0 123 456789012 3", "carteirinha [CARTEIRA DO PLANO]"),
        ("Convênio Boa Vida nº 12345678.9", "Convênio Boa Vida nº [CARTEIRA DO PLANO]"),
        ("Prontuário: 45.872-1", "Prontuário: [PRONTUÁRIO]"),
        ("nº do prontuário 123456", "nº do prontuário [PRONTUÁRIO]"),
        ("O convênio pagou R$ 12.345,67", "O convênio pagou R$ 12.345,67"),
        ("O plano cobre 180 dias", "O plano cobre 180 dias"),
        ("O prontuário de 2019 sumiu", "O prontuário de 2019 sumiu"),
        ("No mesmo dia, atendimento no 192", "No mesmo dia, atendimento no 192"),
    ],
)
def test_numbers_of_plans_and_records_are_found(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("cep 70. 123 - 456", "cep [ENDEREÇO]"),
        ("CEP 70123 456", "CEP [ENDEREÇO]"),
        ("SOBRADINHO - DF, 73010-123", "SOBRADINHO - DF, [ENDEREÇO]"),
        ("rua das mangueiras 1031", "[ENDEREÇO]"),
        ("moro na avenida dos ipês, n 45", "moro na [ENDEREÇO]"),
        ("quadra 5 lote 12", "[ENDEREÇO]"),
        ("Qd. 7 Lt. 03, casa 2", "[ENDEREÇO]"),
        ("qd7 lt03", "[ENDEREÇO]"),
        ("SQS 410 bloco K apto 302", "[ENDEREÇO]"),
        ("QNL 21 conjunto C casa 8", "[ENDEREÇO]"),
        ("rua 24 norte, lote 5", "[ENDEREÇO]"),
        ("Endereço: Sítio Três Barras, km 14", "Endereço: [ENDEREÇO]"),
        ("Rua das Mangueiras, s/n, perto do 2º posto", "[ENDEREÇO], perto do 2º posto"),
    ],
)
def test_addresses_are_found_in_everyday_spellings(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Ministério da Saúde, Esplanada dos Ministérios, Bloco G, CEP 70058-900",
        "A Fiocruz fica na Av. Brasil, 4365",
        "Ouvidoria do SUS: (61) 3315-2425 ou ouvidoria@saude.gov.br",
        "Ligue 136, 180, 188, 192 ou 193",
        "Bloco B do hospital, sala 105",
        "Corro na rua principal, 30 minutos por dia",
        "Na rua nova 40 casos de dengue",
        "Moro na zona rural há 10 anos com 3 filhos",
        "O CEP aprovou o projeto 12.345.678",
    ],
)
def test_public_services_and_counts_stay(text: str) -> None:
    assert find_personal_data(text) == []


def test_an_official_with_a_name_in_the_mailbox_is_a_person() -> None:
    assert redacted("fabiana.lopes@saude.gov.br") == "[E-MAIL]"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("(nasc. 12/03/85)", "(nasc. [DATA DE NASCIMENTO])"),
        ("DN (12/03/1985)", "DN ([DATA DE NASCIMENTO])"),
        ("(12/03/1985, DN)", "([DATA DE NASCIMENTO], DN)"),
        ("dn12/03/1985", "dn[DATA DE NASCIMENTO]"),
        ("Nascimento\n12 03 1985", "Nascimento\n[DATA DE NASCIMENTO]"),
        ("nasci em doze de marco de 1985", "nasci em [DATA DE NASCIMENTO]"),
        ("Fátima Lemos (12/03/1985)", "[NOME] ([DATA DE NASCIMENTO])"),
        ("dn 120385", "dn [DATA DE NASCIMENTO]"),
        ("D/N 12/03/1985", "D/N [DATA DE NASCIMENTO]"),
        ("nascim. 12/03/85", "nascim. [DATA DE NASCIMENTO]"),
        ("nascida em 1º/03/1985", "nascida em [DATA DE NASCIMENTO]"),
        ("nasci dia doze do três de oitenta e cinco", "nasci dia [DATA DE NASCIMENTO]"),
        ("nasceu no dia 12, mês 3, ano 1985", "nasceu no dia [DATA DE NASCIMENTO]"),
        ("sou de 12/03/1985", "sou de [DATA DE NASCIMENTO]"),
        ("12/03/1985 foi o dia em que nasci", "[DATA DE NASCIMENTO] foi o dia em que nasci"),
        ("veio ao mundo em 12/03/2019", "veio ao mundo em [DATA DE NASCIMENTO]"),
        ("minha filha (12/03/2019) tosse", "minha filha ([DATA DE NASCIMENTO]) tosse"),
        ("O exame é de 12/03/2024", "O exame é de 12/03/2024"),
        ("Vai nascer em 12/03/2025", "Vai nascer em 12/03/2025"),
        ("DN 120385 mg", "DN 120385 mg"),
        ("Hemograma (12/03/2024)", "Hemograma (12/03/2024)"),
        ("Portaria 344 - 12/05/1998", "Portaria 344 - 12/05/1998"),
    ],
)
def test_dates_of_birth_are_found_in_everyday_spellings(text: str, clean: str) -> None:
    assert redacted(text) == clean


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sign", ["rua ", "CPF ", "Dra. ", "quadra 1 ", "nasc ", "Ana ", "@", "1 "])
def test_a_long_row_of_cues_is_searched_in_linear_time(sign: str) -> None:
    find_personal_data(sign * 20_000 + "12")
