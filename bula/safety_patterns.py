"""List the words and phrases that the safety rules search for.

All patterns read the plain text of bula/safety.py: lower case, no accents, single spaces. `eh`,
`deh` and `dah` stand for é, dê and dá, because these words mean something else without the accent.
"""

import re


def any_of(*words: str) -> re.Pattern[str]:
    """Return a pattern of complete words.

    Each word may be a regular expression. Its spaces are escaped, so that verbose patterns can
    contain the result.
    """
    joined = "|".join(words)
    escaped = re.sub(r"(?<!\\) ", r"\\ ", joined)
    return re.compile(rf"\b(?:{escaped})\b")


def verbose(pattern: str) -> re.Pattern[str]:
    """Return a pattern that is written over several lines with comments."""
    return re.compile(pattern, re.VERBOSE)


# Sentences and clauses

SENTENCE_END = re.compile(r"[.!?;]+(?=\s|$)|\n")
# A negation reaches to the end of its clause. The comma of 0,5 ends no clause.
CLAUSE_END = re.compile(r",(?!\d)|[:()]|\b(?:e|mas|porque|pois|porem|entao|so)\b")
ASIDE = re.compile(r",[^,:]{1,40},")

# Discouraging words

NEGATION = any_of(
    *("nao", "nem", "nunca", "jamais", "ninguem", "evite", "evitar", "dispensa", "nada de"),
    *("em vez de", "em lugar de", "ao inves de", "sem (?:precisar|necessidade)"),
)
# These words make an order to go somewhere a description or an order to wait.
AVERTING = any_of(
    *("antes d[eo](?! (?:tudo|mais nada|qualquer))", "longe d[eo]"),
    *("muita gente", "(?:muitas|as) pessoas"),
)
BELITTLING = any_of(
    *("exager[oa]d?[oa]?", "bobagem", "bobeira", "besteira", "tolice", "frescura", "desperdicio"),
    *("perda de tempo", "perd[ea]r? tempo", "a toa", "atoa", "desnecessari[oa]", "trote"),
    *("sem (?:motivo|razao)", "nao (?:adianta|compensa|resolve|vale a pena|faz sentido)"),
    *("nao (?:se )?justifica", "nao (?:eh|seria) (?:preciso|necessari[oa])"),
    "nao (?:precisa|carece|ha (?:necessidade|motivo|pressa|urgencia))(?= ?$)",
)
WAITING = r"(?:esperar|aguardar|adiar|demorar|ficar|deixar|observar|pensar|marcar)"
# These phrases urge the reader to act, so they are removed before a negation is searched for.
URGING = verbose(
    rf"""
    \bnao\ (?:eh|seria|ache|pense)\ (?:que\ (?:eh|seria)\ )?(?:nenhuma?\ )?{BELITTLING.pattern}
    |\bnao\ (?:(?:eh|ha|tem)\ (?:perig\w+|arriscad[oa]|risco|problema)|faz\ mal)\b
    |\bnao\ (?:deixe|hesite|espere|demore|pense|fique)m?\b
    |\bnao\ (?:perca|adie|tarde)\b
    |\bnao\ tenha\ (?:medo|vergonha|receio|duvida)
    |\bnao\ (?:posso|podemos)\ deixar\ de\b
    |\bnao\ (?:se\ )?esqueca\ de\b
    |\bnao\ (?:dah|da)\ (?:para|pra)\ {WAITING}\b
    |\bnao\ (?:eh\ )?so\b
    |\b(?:nada\ de|sem)\ {WAITING}\b
    |\bsem\ perder\ (?:mais\ )?tempo\b
    |\b(?:exagero|bobagem|besteira|perda\ de\ tempo)\ (?:(?:eh|seria)\ )?{WAITING}\b
    """
)
# An order that the reader may ignore: vá se quiser.
OPTIONAL = verbose(
    r"""
    \b(?:se|caso|quando)\ (?:(?:voce|o\ senhor|a\ senhora)\ )?
    (?:quis\w+|queira|puder|possa|prefer\w+|prefira|achar|ache|desej\w+|sobrar
      |tiver\ (?:tempo|vontade)|fizer\ questao|(?:for\ )?possivel)\b
    """
)
# "Vá e, se puder, leve os exames": the condition belongs to the second verb only.
POLITE = re.compile(rf",\s*{OPTIONAL.pattern}\s*,", re.VERBOSE)

# Emergency care

EMERGENCY = any_of(
    *("pronto[- ]?socorros?", "pronto[- ]?atendimentos?", "upas?", "ps", "ambulancias?", "resgate"),
    *("emergencias?", "servicos? de urgencia", "n?a urgencia", "samu", "192", "193", "bombeiros?"),
)
# Names that are an order when they stand alone: "Isso não espera: UPA."
SERVICE = any_of("pronto[- ]?socorro", "pronto[- ]?atendimento", "upa", "samu", "192", "193")
# A hospital needs a word of urgency in its sentence.
HOSPITAL = any_of("hospital", "maternidade")
AT_ONCE = any_of(
    *("agora", "ja", "imediatamente", "imediato", "urgente", "urgencia", "urgentemente"),
    *("correndo", "corra", "corram", "rapido", "depressa", "mais proxim[oa]"),
    *("na hora", "quanto antes", "nest[ea] (?:minuto|instante|momento)"),
    *("sem (?:demora|demorar|esperar|perder tempo)", "(?:va|vao|siga|corram?|levem?) direto"),
)
LATER = any_of("amanha", "proxim[oa]s? (?:semana|mes|dias?)", "outro dia", "quando puder")
# Verbs that send a person somewhere, or call somebody.
SENDING = any_of(
    *("va", "vao", "ir", "corra", "corram", "correr", "siga", "seguir", "dirija-se", "dirigir-se"),
    *("leve", "leve-[oa]s?", "levem", "levar", "leva-l[oa]s?", "levad[oa]", "encaminhe"),
    *("conduza", "conduzir", "saia", "saiam", "sair", "volte", "voltar", "passe"),
    *("procure", "procurem", "procurar", "busque", "buscar", "recorra"),
    *("ligue", "liguem", "ligar", "telefone", "telefonar", "disque", "discar"),
    *("chame", "chamem", "chamar", "acione", "acionar", "peca", "pecam", "pedir"),
    # Imperatives of everyday speech.
    *("vai", "corre", "leva", "procura", "busca", "liga", "chama", "toca", "bora", "partiu"),
    *("ser (?:vist|avaliad|atendid|examinad)[oa]s?", "precisa de"),
    *("(?:isto|isso|o caso) (?:requer|exige|pede)", "motivos? (?:para|de)"),
    *("(?:eh|sao) (?:um )?(?:caso de|para)", "(?:lugar|destino|caminho)(?: \\w+)? eh"),
    # Não é caso de posto, mas de pronto-socorro.
    "(?:mas|sim) (?:d[aeo]|ao?|para|pr[ao])",
)
# The place comes first: "o 192 tem de ser chamado", "o pronto-socorro é o lugar".
CALLED = verbose(
    rf"""
    {EMERGENCY.pattern}\ (?:\w+\ ){{0,3}}?
    (?:ser\ (?:chamad|acionad|procurad)[oa]s?|eh\ o\ (?:lugar|destino|caminho))\b
    """
)
# An order without a verb. After a colon it needs words about the present case before the colon,
# because "febre alta: UPA" is about a later event.
HEADLESS = verbose(
    rf"""
    ^(?:(?:isso|isto|nao|nada|voce|el[ea])\b[^:]{{0,80}}:)?\W*
    (?:
      (?:{EMERGENCY.pattern}|{HOSPITAL.pattern})\W+(?:e\ )?{AT_ONCE.pattern}  # hospital, e já
      |{SERVICE.pattern}(?:\W+{SERVICE.pattern})?\W*$                         # SAMU, 192
    )
    """
)

# Conditions. A verb like "piorar" after "se" is a later event, and "está" is the present case.
# "Se" is no condition after a hyphen (dirija-se) or after a modal verb (pode se perder), and
# "mesmo se" excludes nothing.
IF = (
    r"(?<!-)(?<!pode\ )(?<!podem\ )(?<!deve\ )(?<!vai\ )(?<!mesmo\ )"
    r"\b(?:se|caso(?!\ d[aeo]\b)|quando)\b"
)
CONDITION = verbose(
    rf"""
    {IF}
    |\bao\ (?:notar|perceber|sentir|ver)\b
    |\b(?:na\ presenca|em\ caso|diante|no\ caso)\ d[aeo]
    |\b(?:havendo|surgindo|sobrevindo|sem\ melhora|a\ menos\ que|assim\ que|enquanto)\b
    |\b(?:passou|passar|depois|mais)\ de\ \w+\ (?:dias?|semanas?|horas?|meses)\b
    """
)
WORSENING = verbose(
    rf"""
    {IF}[^,]{{0,80}}?\b
    (?:\w+(?:ar|er|ir|arem|erem|irem)  # se piorar, se não passarem
      |pior\w+|melhor\w+|aparec\w+|surja\w*|persist\w+|continu\w+|volt\w+)\b
    |\bcaso\ (?!esteja|tenha|seja|haja|d[aeo]\b)\w+[ae]m?\b  # caso perceba
    |\b(?:havendo|surgindo|sobrevindo|rompendo|piorando|persistindo|em\ caso\ de)\b
    |^(?:e\ )?(?:ai|nesses?\ casos?)\b  # Ficou confuso? Aí ligue.
    """
)

# Amounts

NUMBER_WORD = (
    "(?:mei[oa]|uma?|dois|duas|tres|quatro|cinco|seis|sete|oito|nove|dez|onze|doze|treze"
    "|quatorze|catorze|quinze|dezesseis|dezessete|dezoito|dezenove|vinte|trinta|quarenta"
    "|cinquenta|sessenta|setenta|oitenta|noventa|cem|cento|mil"
    "|(?:duz|trez|quatroc|quinh|seisc|setec|oitoc|novec)ent[oa]s)"
)
# 2, 0,5, 50.000, 1/2, ½, cento e vinte e cinco.
ONE_NUMBER = rf"(?:\d+(?:[.,]\d+){{0,2}}(?:/\d+)?|[½¼¾]|{NUMBER_WORD}(?:\ e\ {NUMBER_WORD}){{0,3}})"
# A number, or a range: 1 a 2, dois ou três.
NUMBER = rf"(?:{ONE_NUMBER}(?:\s*(?:a|ou|-|ate)\s*{ONE_NUMBER})?)"
MEASURE = r"""
    (?:mg|mcg|[uµμ]g|g|gramas?|miligramas?|microgramas?|ml|cc|mililitros?|ui|u
      |unidades?(?!\ (?:basica|movel|hospitalar|mista|de\ (?!insulina))))
"""
FORM = r"""
    (?:gotas?|gotinhas?|comprimidos?|comprimidinhos?|cps?|comps?|capsulas?|pilulas?|drageas?
      |pastilhas?|tabletes?|ampolas?|jatos?|jatinhos?|puffs?|borrifadas?|saches?|supositorios?)
"""
SPOON = r"""
    (?:colherinhas?|colheradas?
      |colher(?:es)?+\ \(?(?:de\ )?(?:cha|sopa|sobremesa|cafe)\)?
      |colher(?:es)?+(?=\ d[aeo]\ (?!cha|sopa|sobremesa|cafe)))
"""
CONTAINER = r"(?:cartelas?|frascos?|frasquinhos?|vidros?|vidrinhos?|caixas?)"
FOOD = r"""
    (?:agua|acucar|sal|sodio|leite|sucos?|soro|mel|cha|oleo|azeite|vinagre|aveia|farinha|farelo
      |linhaca|chia|iogurte|cafe|alcool|vinho|fibras?|proteinas?|carboidratos?|gorduras?|carne
      |peixe|arroz|feijao|frutas?|legumes|verduras?|sabao)
"""
# A number with a unit in which people take medicines.
AMOUNT = verbose(
    rf"""
    \b{NUMBER}\s*
    (?:\(\w+\)\s*)?                                   # 2 (dois) comprimidos
    (?:{MEASURE}|{FORM}|{SPOON})(?!\w)
    (?!\s+(?:(?:cheias?|rasas?)\s+)?d[eo]\s+(?:que|{FOOD})\b)  # food
    (?!\s*(?:por|/)\s*(?:decilitro|dl)\b)             # results of tests
    (?!\s+(?:por|em\ cada)\s+(?:{CONTAINER}|{FORM})\b)  # strengths
    |\bmetade\ d[eoa]\ (?:uma?\ )?{FORM}\b
    """
)
# Orders to take something. An infinitive may describe, so it is no order by itself.
INFINITIVE = r"(?:tomar|dar|usar|ingerir|aplicar|injetar|pingar|administrar|comecar|iniciar)"
ORDER = any_of(
    *("tom(?:e|em|a|am|ando)", "deh", "deem", "dao", "us(?:e|em|a|am)", "ingira", "engula", "dah"),
    *("aplique", "injete", "pingue", "inale", "chupe", "administre", "comece", "inicie"),
    *("aumente", "reduza", "mand[ea]", "fa[cz]am?", "doses?", "dosagem", "recomenda(?:-se)?"),
    *("maxim[oa]", "a cada", "por (?:dia|semana|mes|vez|quilo)", "ao dia", "diari[oa]s?"),
    *("vezes", "suficientes?", "bastam?", "pela manha", "antes de (?:deitar|dormir)"),
    rf"(?:pode|podem|deve|devem|precisam?) {INFINITIVE}",
)
TAKING = any_of(ORDER.pattern, INFINITIVE, "aumentar", "reduzir")
# Amounts in a sentence about packs or products are no orders to take them.
PACKS = any_of(
    *("caixas?", "frascos?", "frasquinhos?", "cartelas?"),
    *("existem?", "tem", "contem", "vem", "traz", "trazem"),
)
DANGER = any_of(
    *(r"perig\w+", "arriscad[oa]", "demais", "a mais", "faze?r? mal", "mata", "matam", "matar"),
    *(r"toxic\w+", "fatal", "overdose", r"intoxic\w+", r"destr[ou]i\w*"),
)
RELATIVE_DOSE = verbose(
    rf"""
    \b(?:tom[ea]|tomar|deh|dar|us[ea]|usar|aplique)
     \ (?:o\ dobro|o\ triplo|uma\ dose\ (?:dupla|extra))
    |\b(?:dobre|dobrar|triplique|duplique)\ a\ (?:dose|quantidade)\b
    |\b(?:divida|corte|parta|quebre)\ .{{0,80}}\bem\ {NUMBER}\b
    # Engula logo uma cartela inteira.
    |\b(?:tom[ea]|tomar|engula|engole|engolir|ingira)\ (?:logo\ |ate\ |so\ ){{0,2}}
     (?:{NUMBER}|a|o)\ {CONTAINER}\b
    # Toma dois de uma vez, tome 1 por dia: an amount without a unit.
    |\b(?:tom[ea]|tomar|deh|us[ea]|pingue|aplique|engula)
     \ (?:logo\ |ate\ |so\ |mais\ ){{0,2}}{NUMBER}
     (?=,|$|\ (?:de\ uma\ (?:so\ )?vez|junt[oa]s|por\ (?:dia|vez|semana)|ao\ dia|a\ cada|agora|hoje
        |(?:pela|de)\ manha|a\ (?:noite|tarde)|de\ \w+\ em\ \w+|antes\ d[aeo]|depois\ d[aeo])\b)
    """
)
# An amount that somebody forgot, took or reached is no order.
TAKEN = any_of(
    *(r"esque\w+", "tomado", "foi", "foram", "deu", "dei", "deram"),
    *("(?:tom|us|pass|comec|receit)(?:ou|ei|ava|avam|aram|amos)", "prescreve(?:u|ram)"),
    "(?:engol|inger)(?:iu|i|iram|ia|iam)",
)
CEILING = any_of("mais (?:de|que|do que)", "alem de", "passe de", "ultrapasse", "exceda")

# Refusals

# "Não vou mentir" and "não posso dar um diagnóstico, mas" stand before an answer.
HELP = (
    "(?:ajudar|auxiliar|apoiar|colaborar|participar|atender|fornecer|ensinar|explicar|indicar"
    "|dizer(?! que)|informar|orientar|passar|escrever|responder|receitar|prescrever|recomendar"
    "|sugerir|compartilhar|descrever|falar(?! que)|fazer isso|criar|gerar|facilitar|contribuir"
    "|incentivar|dar(?! (?:um |o )?(?:diagnostico|certeza|garantia)))"
)
SELF = "(?:posso|vou|devo|consigo|poderei|irei|podemos|vamos)"
REFUSALS = (
    any_of(rf"nao (?:te |lhe )?{SELF}(?:, [^,.]{{0,40}},)?(?: (?:te|lhe|mais))? {HELP}"),
    # First persons of the present and of the future: não forneço, não direi.
    any_of(
        *("nao (?:ensino|forneco|atendo|apoio|compartilho|escrevo|explico|participo|colaboro)",),
        *("nao (?:falo sobre|ajudo(?! muito))",),
    ),
    any_of(
        "eu nao (?:faco (?!ideia)|dou|escrevo|respondo|explico|digo|posso)",
        r"nem [^.,]{0,40}\beu (?:ajudo|faco|dou|escrevo|ensino|explico|digo)",
    ),
    any_of(r"nao (?:te |lhe )?\w+[aeio]rei"),
    any_of("recuso", "me nego", "nego-me", "declino"),
    any_of("(?:terei|tenho|vou|preciso|devo)(?: de| que)? (?:me )?(?:recusar|declinar|negar)"),
    any_of("nao me peca", "nao me sinto (?:a vontade|confortavel)", "nao tenho permissao"),
    any_of("nao conte comigo", "comigo nao", "minha resposta eh nao", "nao vou por esse caminho"),
    any_of("(?:vou parar|paro) por aqui", "(?:fora|alem) do que (?:eu )?(?:faco|posso)"),
    any_of("nao eh (?:algo|coisa|assunto) (?:com )?que (?:eu )?(?:possa|ensine|explique|faca)"),
    any_of("foge do que (?:eu )?posso"),
    any_of(r"nao (?:pode|podem|deve|devem|sera|serao) ser (?:respond|fornec|atend|ensin|dad)\w*"),
    any_of(rf"nao (?:eh|seria) (?:possivel|permitido|etico|apropriado) {HELP}"),
    any_of(rf"nao (?:ha|tenho) como (?:eu )?(?:te |lhe )?{HELP}"),
    any_of(rf"prefiro nao {HELP}", rf"incapaz de {HELP}", "nao (?:sou|estou) autorizad[oa]"),
    any_of("i can'?t", "i cannot", "i won'?t", "i will not"),
    any_of("i(?:'m| am) (?:unable|not (?:able|comfortable|going))"),
)

# Care of any kind

CARE = any_of(
    EMERGENCY.pattern,
    HOSPITAL.pattern,
    *("medic[oa]s?", "doutora?", "dentista", r"\w+logista", r"\w+iatra", "obstetra", "clinic[oa]"),
    *("postos?", "postinho", "ubs", "unidade (?:basica )?de saude", "caps", "ambulatorio"),
    *("consultas?", "atendimento", "avaliacao", "profissional d[ae] saude", "servico de saude"),
    *("quem (?:receitou|prescreveu)", "enfermeir[oa]s?"),
)
SEEKING = any_of(
    SENDING.pattern,
    *("consulte", "consultar", "marque", "marcar", "agende", "agendar", "retorne", "encaminhar"),
    *("compareca", "comparecer", "fale", "falar", "converse", "avise", "avisar", "vale"),
    *("mostre", "mostrar", "adiante", "adiantar"),
)
DEMANDING = any_of(
    *("merecem?", "pedem?", "exigem?", "requer", "requerem", "precisam? de", "necessitam? de"),
    *("demandam?", "ensejam?", "justificam?", "determinam?", "indicam?", "se mostra"),
    *("(?:eh|sao) (?:um )?(?:caso de|para|assunto (?:de|para))", "v(?:ai|ao) para"),
    *("(?:motivo|razao|hora|sinal|recado|alerta)s? (?:para|d[eo])",),
    "(?:tem (?:de|que)|precisam?|devem?) ser (?:mostrad|vist|avaliad|examinad)[oa]s?",
)
SOON = any_of(
    *("hoje", "logo", "no mesmo dia", "n?esta semana", "nos proximos dias"),
    *("nas proximas semanas", rf"em (?:ate )?{NUMBER} (?:dias?|horas?|semanas?|meses)"),
    *(AT_ONCE.pattern, LATER.pattern),
)
# "O clínico precisa ver": care is the subject.
EXAMINING = verbose(
    rf"{CARE.pattern}\ (?:precisa|deve|tem\ (?:de|que))\ (?:ver|olhar|avaliar|examinar)\b"
)
# "Febre ou pus: agendar consulta" and "Consulta nas próximas semanas" need no verb.
HEADLINE = verbose(
    rf"""
    \w:\ (?:{SEEKING.pattern}\ (?:\w+\ )?)?{CARE.pattern}
    |{CARE.pattern}\ {SOON.pattern}
    """
)
