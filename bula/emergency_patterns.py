"""List the words of questions that describe an emergency.

All patterns read the plain text of bula/safety.py: lower case, no accents, single spaces. `eh`
stands for é.
"""

import re

from bula.safety_patterns import NUMBER, any_of, verbose

# Short forms of "não" in messages: n, ñ (which is n without its sign), naum.
SHORT_NOT = re.compile(r"\b(?:n|naum|nau)\b")
PERSON = r"(?:\w+ ){0,3}?"
CANNOT = r"(?:(?:nao|mal) (?:to |ta |esta |estou )?(?:cons[ei]g\w+)|nao da (?:para|pra))"
HARD = r"(?:dificuldade|dificil|ruim|cansad[oa])"
SWALLOWED = (
    r"(?:tom(?:ei|ou|aram|ado)|beb(?:i|eu)|engol(?:i|iu)|inger(?:i|iu)|mord(?:i|eu)|lamb(?:i|eu)"
    r"|com(?:i|eu|ido)|pos na boca)"
)
POISON = (
    r"(?:veneno|chumbinho|raticida|agua sanitaria|cloro|soda(?: caustica)?|desentupidor|detergente"
    r"|desinfetante|alvejante|amaciante|querosene|gasolina|acetona|alcool (?:em gel|de limpeza)"
    r"|produto de limpeza|pilha|bateria|ima|naftalina|comigo-ninguem-pode|agrotoxico)"
)
AMOUNT = (
    r"(?:cartelas?|frascos?|vidro inteiro|caixa inteira|(?:muitos|varios|todos os|um monte de)"
    r" (?:comprimidos|remedios))"
)
MANY = r"(?:[1-9]\d+|dez|doze|quinze|vinte|trinta|quarenta|cinquenta|cem|duzias? de)"
PALE = r"(?:rox[oa]s?|roxinh[oa]s?|arroxead[oa]s?|azul|azulad[oa]s?|azuis)"
SWOLLEN = r"(?:inch(?:ou|aram|and[oa]|ad[oa]s?)|fech(?:ou|and[oa]))"
PAST = r"(?:ou|ei|ado|ada|ando|aram|ava)"

# Symptoms, which a question may also deny: "não tenho falta de ar".
FELT = any_of(
    # Heart
    r"(?:dor(?:es)?|aperto|pressao|peso|pontada|queimacao|ardor) (?:\w+ ){0,3}?no(?: meu)? peito",
    *(r"peito (?:\w+ ){0,2}?apert\w+", "doi (?:o|meu) peito", "peito doendo", "dor toracica"),
    r"coracao (?:\w+ ){0,4}?(?:descompassado|parando|estranho)",
    *(
        r"(?:aperto|dor) no coracao",
        "dor no braco esquerdo",
        r"(?:coracao parar e|ele|ela|eu) apag\w+",
    ),
    r"dor de cabeca (?:\w+ ){0,4}?(?:explosiva|subita|violenta|fortissima|de repente)",
    r"sangue (?:na|da|pela|no|do|pelo) (?:tosse|boca|ouvido|vomito|catarro|escarro)",
    r"queimadura (?:\w+ ){0,5}?(?:bebe|crianca|filh[oa]|rosto|olhos?|terceiro grau)",
    *(r"paralisad[oa]", r"paralisou", "agua fervente", "moleira funda", "hipotermia"),
    r"dor (?:\w+ ){0,3}?(?:sob[ei]\w*|desc\w+|vai|indo|irradi\w+) (?:para|pra|pro|pelo|ate) "
    r"(?:\w )?(?:queixo|pescoco|bracos?|ombro|mandibula)",
    # Breath
    *("falta de ar(?! (?:pur|fresc|condicion)[oa])", "falta (?:de )?folego", "(?:me )?falta o ar"),
    *("(?:ficou|fica|ficando|estou|esta|to|ta|fico) sem ar", "sem folego", "faltando ar"),
    *(rf"{HARD} (?:para|pra|de|em) respirar", r"sufoc(?:ando|ad[oa]|ou|ada)", "asfixia"),
    *(r"respira(?:ndo|cao)? (?:\w+ ){0,2}?(?:rapid[oa]|ofegante|chiado|mal)", "espuma rosada"),
    *(rf"engasg{PAST}", "cianose", "parada (?:respiratoria|cardiaca)"),
    # Consciousness
    *(rf"desmai{PAST}", "desmaios?", "inconsciente", "desacordad[oa]", "sem reacao"),
    *("perd(?:eu|i|endo) (?:a consciencia|os sentidos)", "molinh[oa]", "muito sonolent[oa]"),
    *(r"(?:fic(?:ou|ando)|esta|ta|estou|,) (?:muito )?confus[oa]", "coisas? sem (?:sentido|nexo)"),
    # Stroke
    *(r"(?:boca|rosto|cara|face) (?:\w+ )?(?:tort[oa]|caid[oa]|entort\w+)", "entort(?:ou|ada)"),
    r"boca (?:\w+ ){0,2}?entortou",
    *("fala (?:\\w+ ){0,2}?(?:enrolada|arrastada|embolada)", "falando (?:enrolad|embolad)[oa]"),
    *("perd(?:i|eu) (?:o movimento|os movimentos)", "falando mole", "boca puxando"),
    *(r"sonolent[oa] demais", "halito de acetona", "boca (?:\\w+ )?dormente", "baiacu"),
    *(
        r"caiu dur[oa]",
        r"se tremeu",
        "espuma (?:\\w+ ){0,2}?(?:da|na|pela) boca",
        "nao lembra de nada",
    ),
    r"fal(?:a|ar|ando|ou) (?:\w+ )?(?:embaralhad|embolad|enrolad|arrastad)[oa](?! de proposito)",
    r"(?:mexe|mexo|mexer|movimenta) (?:\w+ )?(?:um|o) lado",
    *(r"(?:rosto|boca|face) (?:\w+ )?(?:caiu|paralis\w+)", "coisa com coisa"),
    *("fala (?:enrolado|embolado)(?! de proposito)", "perd(?:i|eu|endo) a forca"),
    *(r"(?:braco|perna|lado|rosto) (?:\w+ ){0,3}?(?:dormente|paralisad[oa]|frac[oa]|sem forca)",),
    r"(?:metade|um lado) d[oa] (?:\w+ )?(?:rosto|corpo) (?:parou|dormente|parad[oa])",
    *(r"pior dor de cabeca", r"perd(?:i|eu) (?:de repente )?a vis(?:ao|ta)", "pupila"),
    # Blood
    r"sangramentos?(?! (?:na|da|de|nas) (?:gengivas?|menstrua\w+|escape))",
    r"sangr(?:a|ando|ou) (?:\w+ )?(?:muito|bastante|demais|sem parar|a beca)",
    *(r"(?:muito|perdendo|perdeu) sangue", "sangue (?:\\w+ ){0,3}?(?:em jatos?|sem parar)"),
    r"(?:jorr|esguich)\w+",
    *(r"(?:vomit|toss|cusp)\w+ (?:\w+ )?sangue", r"encharc\w+ (?:\w+ ){0,2}?(?:absorvente|toalha)"),
    # Allergy
    rf"(?:garganta|labios?|lingua|glote) (?:\w+ ){{0,2}}?{SWOLLEN}",
    rf"(?:corpo|rosto) (?:inteiro|todo) {SWOLLEN}",
    *(rf"rosto (?:\w+ )?{SWOLLEN} todo", "corpo empolado"),
    # Babies, pregnancy
    rf"(?:bebe|nene|nenem|recem-nascid[oa]|boca|labios?) (?:(?!roupa|usa|blusa)\w+ ){{0,4}}?{PALE}",
    *(r"fic(?:ou|a|ando) (?:\w+ )?(?:azul|rox[oa])(?! e latej)", "costelas", "cordao saindo"),
    *(
        r"bolsa (?:\w+ )?(?:estourou|rompeu)",
        "mexer (?:bem |muito )?menos",
        "barriga (?:\\w+ )?dura",
    ),
    # Brain and spine
    *("(?:pescoco|nuca) (?:\\w+ )?(?:dur[oa]|rigid[oa])", "halito de fruta"),
)
# Diseases and events, which may also be past, or only asked about.
NAMED = any_of(
    *("avc", "infart(?:o|ou|ando|ei)", "enfart\\w+", "ataque (?:cardiaco|do coracao)"),
    *("derrame(?! (?:pleural|articular|no joelho))", r"convuls\w+", "ataque epil\\w+"),
    *(r"olhos (?:\w+ )?(?:re)?vira(?:dos|ndo)", "revirando os olhos", "tremendo tod[oa]"),
    *("espumando", r"crise epil\w+", "se debat\\w+", "overdose", r"intoxic(?:acao|ou|ad[oa]|ei)"),
    *(r"envenen(?:amento|ad[oa]|ou)", "hemorragia", "anafila\\w+", "choque anafilatico"),
)
# Signs that already contain their negation, and events of this moment: they always count.
CERTAIN = any_of(
    rf"{CANNOT} (?:\w+ )?(?:respirar|chorar|falar|levantar|mexer|acordar|ficar em pe)",
    r"nao (?:\w+ ){0,2}?(?:respira|respirando|acorda|responde|reage|desperta|chora nem)",
    *(
        r"nao (?:para|parou) de (?:sangrar|convulsionar)",
        r"parou de respirar",
        "so respira sentad[oa]",
    ),
    r"sangue (?:\w+ ){0,2}?nao para",
    r"nao (?:\w+ ){0,2}?(?:mexe|sinto|sente|sentindo) (?:as pernas|os bracos|[oa] (?:bebe|nen\w+))",
    *("nao quer mamar", "nao mama(?:ndo)?", "nao esta mamando"),
    rf"{SWALLOWED} (?:\w+ ){{0,2}}?(?:remedios?|comprimidos?) demais",
    rf"{SWALLOWED} (?:\w+ ){{0,4}}?{MANY} (?:comprimid\w+|capsulas|remedios)",
    r"pressao (?:\w+ ){0,3}?2\d ?(?:por|x|/) ?1\d",
    r"quebr(?:ou|ei) (?:\w+ )?(?:femur|bacia|quadril|coluna|costelas?|pescoco)",
    *("balead[oa]", r"(?:lev|tom|receb)\w+ (?:um |dois )?tiros?", "espancad[oa]"),
    r"nao (?:\w+ )?enxergo de um olho",
    *(
        r"tem um barulho quando puxa o ar",
        "barulho quando puxa o ar",
        "(?:sem falar|ach\\w+) caid[oa]",
    ),
    rf"{SWALLOWED} (?:\w+ ){{0,6}}?(?:{POISON}|{AMOUNT})",
    *("cartelas? vazias?", "chumbinho", "veneno de rato", "metanol", "batizad[oa]", "monoxido"),
    r"(?:com|tom|engol)(?:eu|ou|iu) (?:\w+ )?(?:remedios?|comprimidos?) d[aoe]s? "
    r"(?:avos?|vo|mae|pai|outr\w+|irm\w+|vizinh\w+)",
    r"(?:picada|picou|mordida|mordeu|picad[oa]) (?:\w+ ){0,2}?(?:jararaca|cascavel|coral|serpente)",
    r"inal\w+ (?:gas|cloro|veneno|produto)",
    *(r"aquecedor a gas", "gas de cozinha", "churrasqueira dentro", r"inal\w+ fumaca"),
    r"veneno (?:\w+ ){0,3}?vazou",
    # Injuries
    *(
        "tiro (?:na|no)",
        "facada(?! no calcanhar)",
        "facas? (?:\\w+ ){0,2}?enfiad[oa]",
        "esfaque\\w+",
    ),
    *(
        r"decep\w+",
        r"amput(?:ou|ei)",
        r"atropel\w+",
        "fratura exposta",
        "osso (?:para fora|aparecendo)",
    ),
    r"ca(?:iu|i) (?:\w+ )?d[oae] (?:telhado|laje|escada|altura|andar|andaime|predio|moto|cavalo)",
    r"motoqueiro caiu",
    *(r"(?:lev(?:ou|ei)|tom(?:ou|ei|ando)) (?:um )?choque", r"afog(?:ou|ando|ad[oa]|amento|uei)"),
    *("debaixo da agua", r"pul(?:ou|ei) de cabeca", "pescoco (?:\\w+ ){0,2}?torcendo"),
    r"queim(?:ou|ei|ad[oa]) (?:\w+ )?(?:rosto|olhos?|peito|corpo)",
    r"bat(?:eu|i) a cabeca (?:[\w,]+ ){0,6}?(?:vomit\w+|desmai\w+|sonolent\w+|confus\w+)",
    # Animals
    *(r"cobra (?:\w+ )?(?:picou|mordeu)", r"(?:picad|ferroada|mordid)\w* (?:\w+ ){0,2}?cobra"),
    *("(?:picada|picad[oa]|ferroada) (?:de|por) (?:um )?escorpiao", "dezenas de ferroadas"),
    r"picad[oa] por abelhas",
)
# Thoughts of death and self-harm; a denial is no reason to be silent.
SUICIDE = any_of(
    *(
        r"suicid\w+",
        r"(?:se|me|quero|vou) mat(?:ar|o|ou|asse)"
        r"(?! (?:piolho|a aula|de (?:rir|trabalhar|estudar)))",
    ),
    *("nao quero (?:mais )?estar aqui", r"vida nao (?:\w+ ){0,2}?sentido"),
    r"tiro n[ao] (?:minha |propria )?cabeca",
    *("matar-(?:me|se)", r"enforc\w+", r"automutila\w+", r"autolesa\w+"),
    r"(?<!nao )(?:quero|queria|prefiro|preferia|desejo|melhor|vontade de|pens\w+ em) morrer"
    r"(?! de (?:rir|medo|vergonha|fome|calor|saudade))",
    r"(?:tom|engol|beb|us|corte)\w+ (?:\w+ ){0,4}?(?:para|pra) morrer",
    r"(?:penso|pensando|pensar|pensamentos?|ideias?) (?:so )?(?:n[ao]|em|de) (?:morrer|morte)",
    r"(?:nao (?:\w+ ){0,2}?|perd\w+ a |sem )(?:motivo|razao|vontade|graca) "
    r"(?:nenhuma? )?(?:para|pra|de) viver",
    *("nao vejo (?:mais )?saida", "so a morte", "(?:melhor|bem|felizes) sem mim"),
    r"(?:me )?(?:jogar|atirar|jogo|joguei|jogasse) (?:d[aoe]|embaixo|na frente)"
    r" (?:\w+ )?(?:janela|ponte|predio|viaduto|sacada|carro|trem|metro|onibus)",
    *("acabar com (?:isso )?tudo", "dar um fim (?:em tudo|nisso)", "cansad[oa] de viver"),
    *(r"desist\w+ d[ea] (?:vida|viver|tudo)", "nao vale a pena viver"),
    r"ninguem (?:vai )?senti\w+ (?:\w+ )?falta",
    r"nao (?:quero|aguento) mais (?:\w+ )?vida",
    "(?:estivesse|estar|estaria) mort[oa]",
    r"(?:tirar|acabar com|dar fim (?:a|na)) (?:a )?(?:minha|propria|sua|a) (?:propria )?vida",
    r"nao (?:quero|aguento|consigo|queria) (?:mais )?viver(?: mais)?(?! (?:com|de|sem|assim))",
    r"nao (?:\w+ ){0,3}?viver(?: mais)?(?! (?:com|de|sem|assim|longe|bem))",
    r"(?:quer\w*|vontade de) (?:\w+ )?(?:nao existir|sumir|desaparecer)",
    *(
        r"(?:cans\w+|fart\w+) (?:\w+ )?de viver",
        "carta de despedida",
        r"(?:me|se) cort(?:ando|o|ar)",
    ),
    r"morte (?:\w+ )?(?:seria|eh|como) (?:\w+ )?(?:alivio|solucao|saida|descanso)",
    r"pens\w+ em (?:me |se )?(?:tomar (?:todos|todas|tudo)|jogar|pular|enforcar|matar)",
    *(r"nao (?:\w+ ){0,2}?sentido (?:em viver|na vida)", "fal\\w+ em morte", "jejum ate morrer"),
    *(r"nunca mais acordar", r"nao acordar (?:nunca )?mais", "sumir (?:do mundo|de vez)"),
    *(r"me (?:cortar|machucar|ferir)", r"se cort(?:a|ando|ar) escondid\w+", "me machucando"),
    *(
        r"cortes (?:\w+ )?n[oa]s? (?:antebraco|braco|pulso)s?",
        "pular d[aoe] (?:ponte|predio|janela)",
    ),
    r"de proposito muitos comprimidos",
)

# A denial right before a symptom. Only words of symptoms may stand between the two.
BETWEEN = any_of(
    *("febre", "tosse", "dor", "dores", "tontura", "vomitos?", "nausea", "chiado", "sangramento"),
    *("nenhuma?", "qualquer", "mais", "muit[oa]", "com", "de", "no peito", "falta de ar", "nem"),
    *("ou", "uma?", "teve", "houve", "cabeca", "desmaio"),
)
DENIED = verbose(
    rf"""
    (?:\bsem|\bnem|\bnunca\ (?:tive|teve)
      |\bnao\ (?:\w+\ )?(?:tenho|tem|tive|teve|sinto|sente|senti|houve|ha|apresent\w+
        |(?:estou|esta|to|ta)\ com)
    )
    \ (?:{BETWEEN.pattern}\ )*$
    """
)
# "Não é só falta de ar" denies nothing, and "não sei se é" leaves it open.
OLD = verbose(
    rf"""
    \b(?:ha|faz|fazem|tem)\ (?:(?:mais\ de|uns|quase|cerca\ de)\ )?
      (?:{NUMBER}|muitos|alguns|varios)\ (?:mes|meses|anos?)\b
    |\bano\ passado\b|\bquando\ (?:era\ )?crianca\b|\bna\ infancia\b|\b(?:depois|apos)\ d?o\b
    |\bcontra\b|\bpara\ (?:o\ )?(?:infarto|avc)\b
    """
)
ASKED_ABOUT = verbose(
    r"""
    (?:\bo\ que\ (?:eh|significa)|\bprevenir|\bevitar|\bprevencao\ d[eo]|\brisco\ de
      |\bdiferenca\ entre|\bnunca\ (?:tive|teve)
    )
    \ (?:uma?\ |o\ |a\ )?$
    """
)

# Two signs that are an emergency only together, anywhere in the question.
YOUNG = any_of(
    *("recem-nascid[oa]",),
    *("(?:bebe|nene|nenem|filh[oa]|menin[oa]) de (?:um|1|2|dois) m(?:es|eses)",),
    r"(?:bebe|nene|nenem|filh[oa]|menin[oa]) de (?:\w+ )?(?:dias|semanas)",
)
FEVER = any_of("febre", "febril", r"3[89](?:[.,]\d)?")
PREGNANT = any_of(
    *(
        "gravid[ao]",
        "gravidez",
        "gestante",
        "gestacao",
        r"\w+ semanas",
        "parto",
        "meses, sangr\\w+",
    ),
    r"de \w+ meses",
)
RACING = any_of(r"coracao (?:\w+ ){0,2}?(?:dispar|aceler)\w+", "palpitacoes?")
FAINT = any_of("suando frio", "sua frio", r"tont\w+", r"desmai\w+", "falta de ar", "com dor")
COLD = any_of("suad[oa]", "suando frio", "palid[oa]", "gelad[oa]")
PAIN = any_of(r"dor (?:\w+ ){0,4}?(?:peito|estomago|costas|bracos?|barriga)", "nao acorda")
BLEEDING = any_of(r"sangr(?:ando|o|ou|amento)", "(?:dor|dores) (?:muito )?forte", r"desmai\w+")
DIABETIC = any_of(r"diabet\w+", "insulina", "glicemia")
FAILING = any_of(
    "suando", "sua frio", r"confus\w+", "respirando fundo", r"sonolent\w+", "sem sentido"
)
INFECTED = any_of("febre", "infeccao", "38(?:[.,]\\d)? de febre")
SEPSIS = any_of(
    *(r"confus[oa]", "pescoco duro", "manchas roxas", "quimioterapia", "barriga dura"),
    "barriga (?:\\w+ )?dura",
)
HEAD = any_of("bateu a cabeca", "bati a cabeca", "pancada na cabeca")
HEAD_SIGN = any_of(r"vomit\w+", r"desmai\w+", r"sonolent\w+", "pupila", r"convuls\w+", r"confus\w+")
EYE = any_of("olho", "visao", "enxerg\\w+", "vista")
PRESSURE = any_of(r"pressao (?:\w+ ){0,2}?alta")
SPOTS = any_of("pontinhos", "visao (?:embacada|turva|dupla)", "dor de cabeca", "dor no estomago")
SUDDENLY = any_of("de repente", "de uma hora para (?:a )?outra", "cortina", "clarões", "claroes")
PAIRS = (
    (YOUNG, FEVER),
    (PREGNANT, BLEEDING),
    (DIABETIC, FAILING),
    (INFECTED, SEPSIS),
    (HEAD, HEAD_SIGN),
    (EYE, SUDDENLY),
    (RACING, FAINT),
    (PRESSURE, SPOTS),
    (COLD, PAIN),
)
