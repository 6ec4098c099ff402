"""List signs of babies, pregnancy, diabetes and infection, in pairs of tables.

The first table of a pair names the state of the person and the second one a sign. The pair is an
emergency when both occur anywhere in a question.
"""

import re

from bula.emergency.words import phrases

# Babies of up to two months
YOUNG = phrases(r"""
    <young>
    nasceu (?:segunda|terca|quarta|quinta|sexta|sabado|domingo|antes de ontem|esses dias)
""")
YOUNG_SIGN = phrases(r"""
    febre|febril|quent(?:e|inh[oa])|3[89](?:[.,]\d)?|37[.,][5-9]|<drowsy>|<pale>|gemendo|gemid\w+
        |fraquinh[oa]
    gelad[oa]|fri[oa]|hipotermi\w+|amarel\w+ ...4 (?:nao|mol\w+|pernas?|pes|tod[oa])
        |icter\w+ ...3 (?:nao|mol\w+)
    nao ...2 (?:mam|peg|acord|suga|chor|faz xixi|reag)\w*|par(?:ou|ando) de (?:mamar|respirar)
    vomit\w+ ...2 (?:verde|tudo|amarelo)|umbigo ...3 (?:sangr|verm|fed|pus|cheiro)\w+
    (?:choro|chora) ...2 (?:frac\w+|estranh\w+|sem parar|agud\w+|gemid\w+)|pausas|engasg\w+
    respir\w+ ...3 (?:rapid|cansad|estranh|afund|forc|esforc|dific|gemend)\w+
""")
# A child that dries out
CHILD = phrases(r"""
    <child>|bb|menor de idade
""")
DRY = phrases(r"""
    (?:nao|sem) ...2 (?:xixi|urina\w*|mija\w*|lagrimas?)|fralda ...3 sec[oa]|fraldas? sec[oa]s?
    olh(?:o|os|inhos?) ...1 (?:fund[oa]s?|encovad[oa]s?)|moleira ...1 (?:fund|baix|afund)\w+
        |boca ...1 sec[oa] ...1 (?:nao|e|mol)\w*
    nao ...2 (?:segura|para|fica) ...2 (?:nada|no estomago|agua)|vomita ...1 tudo
    (?:diarreia|vomit\w+) ...8 (?:<drowsy>|sangue)|<drowsy> ...8 (?:diarreia|vomit\w+|febre)
    febre ...8 <drowsy>|chor\w+ ...2 sem lagrima|recusa ...1 (?:tudo|liquid\w+|mamar)
    grita\w* de dor|encolhe\w* as pernas|geleia
""")
# Pregnancy and the weeks after birth
PREGNANT = phrases(r"""
    <pregnant>|<birth>
    (?:segundo|terceiro|quarto|quinto|sexto|setimo|oitavo|nono|\d) mes (?:de gesta\w+|de gravidez)
    (?:no|do) (?:quinto|sexto|setimo|oitavo|nono|ultimo) mes
""")
PREGNANT_SIGN = phrases(r"""
    sangr(?:ando|o|ou|amento)|(?:muito|saindo|perdendo|saiu|com|escorrendo|vivo|desce\w*
        |vindo) ...2 sangue
    hemorragia|coagulos?|sangue ...3 (?:perna|vivo|escuro|absorvente)|absorvente
    nao ...3 (?:mex|chut|sint\w+ ...2 (?:bebe|nenem|chut|mex|movi))\w*|parou de (?:mexer|chutar)
    (?:mex|chut)\w+ ...1 (?:menos|pouco|nada)|quiet(?:o|inh[oa]) (?:demais|hoje|desde|na barriga)
    sem (?:mexer|chutar|movimento|sentir)|pequenos? movimentos? parar\w*
    vendo ...2 (?:embacad|estrel|luz|ponto|pontinh|dobrad|tudo)\w*|enxerg\w+ ...2 (?:embacad|estrel
        |luz|pont|mal|dobr)\w*
    (?:visao|vista) ...1 (?:embacad|turv|escur|dupl|estranh|borrad)\w+|estrelinhas?|pontinhos
        |luzinhas|vagalum\w+|faisca
    dor ...4 (?:cabeca|nuca) ...4 (?:fort|nao|insuport|terr|horr|latej)\w*|(?:muita|forte) dor
    dor ...2 (?:forte|horrivel|insuportavel|terrivel|aguda|rasgando|que nao passa|que nao alivia)
    dor ...4 (?:boca do estomago|costelas?|ombro|figado|estomago)|pe da barriga ...4 (?:fort|nao
        |dur)\w+
    pressao ...3 1[4-9] ?(?:por|x|/) ?\d+|pressao ...3 (?:2\d|alt\w+ ...3 (?:dor|inch|vis|cabeca
        |enjo)\w+)
    inch\w+ ...4 (?:rosto|cara|maos?|de repente|demais)|(?:rosto|cara|maos?) ...1 inch\w+
    desmai\w+|convuls\w+|trem(?:endo|eu)|perd\w+ ...1 liquido|liquido ...1 (?:verde|escorr|sai|vaz
        |perna|descendo)\w*
    bolsa ...1 (?:estour|romp)\w+|contrac\w+ ...5 (?:minutos?|min|seguid\w+|prematur\w+)
    vontade de fazer forca|empurr\w+|coroa\w+|cabecinha|cordao|pezinho|nascendo
        |placenta ...1 (?:presa|nao)
    febre|fedid[oa]|mau cheiro|fedorent[oa]|cheiro (?:ruim|forte|podre)|calafrios?|ca(?:i|iu) (?:d
        |no|na|e|de|com)\w*|acidente
    tomb(?:o|ei)|pancada|chute na barriga|falta de ar|coceira ...3 (?:maos|pes) ...1 (?:noite
        |intensa)
    perna ...1 inchada e|vozes|machucar o bebe|barriga ...2 (?:dura|pedra)
    flash\w*|cabeca ...2 (?:latej|explod|estour|rach)\w+|vaz(?:ou|ando)|(?:liquido
        |agua) ...2 (?:verd|escur|marrom)\w+
""")
# Diabetes
DIABETIC = phrases(r"""
    diabet\w+|insulina|glicemia|glicose|acucar no sangue|de[xs]tro|hgt|libre|acucar ...1 (?:baix|alt
        |caiu|subiu|deu|em)\w*
    hipo(?:glicemia)?|hiperglicemia|metformina|ponta de dedo
""")
DIABETIC_SIGN = phrases(r"""
    su(?:ando|or|ad[oa])|pingando|<confused>|<drowsy>|<still>|respirando ...1 (?:fundo|rapid\w+
        |ofegante)|ofegante
    sem sentido|desacordad[oa]|desmai\w+|trem(?:endo|edeira|ula|e)|agressiv[oa]|convuls\w+|baban\w+
        |gelad[oa]
    (?:halito|bafo|cheiro) ...3 (?:acetona|fruta|maca|doce|esmalte|adocicad\w+)|acetona|cetona\w*
    vomit\w+ ...6 (?:sede|xixi|fort\w+|sem parar|nao|tudo|acucar|glic\w+)|fala ...1 enrolada
    (?:glicemia|glicose|acucar|de[xs]tro|hgt|libre|dedo|sangue|aparelho) ...4 (?:[1-4]\d|5[0-4]
        |[4-9]\d\d|hi|lo)(?!\d)
    \b(?:[1-4]\d|5[0-4]|[4-9]\d\d|hi) de (?:glicemia|glicose|dextro|acucar)|nao ...2 (?:fala
        |diz) coisa
""")
# Infection
INFECTED = phrases(r"""
    febr(?:e|ao|il|icula)|infec\w+|queimando de quente|3[89][.,]\d|3[89] (?:graus|de|e meio)
        |40 (?:graus|e|de)
    pneumonia|infeccionad[oa]|meningite|dengue|pus|calafrios?|cirurgia
""")
INFECTION_SIGN = phrases(r"""
    <confused>|<drowsy>|(?:pescoco|nuca|cangote) ...4 (?:dur|rigid|trav|nao|endurec|dobr|encost
        |peito)\w*
    nao ...3 (?:dobr|encost|abaix|baix|mex|vir)\w* ...3 (?:pescoco|cabeca|queixo|nuca)
    (?:encostar|abaixar|dobrar|mexer|baixar) (?:o|a) (?:queixo|pescoco|cabeca|nuca)
    (?:nao|sem) ...2 (?:aguent|suport|toler|olh)\w* ...1 (?:luz|claridade|claro)|luz ...1 (?:incomod
        |doi|machuc)\w*
    (?:manch|pint|bol|pont)\w* ...3 (?:rox\w+|escur\w+|vinho|sangue|nao (?:some|somem|sai)|preta?s?)
        |petequias
    nao para de vomitar|vomit\w+ (?:em jato|sem parar|tudo)|convuls\w+|pressao ...3 (?:baix|caiu
        |caindo|8|7)\w*
    (?:maos?|pes|pele|extremidades|boca|labios) ...3 (?:gelad|frios?|frias?|azul|rox|marmor)\w*
        |respir\w+ ...1 rapid\w+
    nao ...1 (?:urin\w+|faz xixi|mija) ...1 (?:desde|ha|faz|hoje)|batendo (?:o )?(?:queixo|dentes) e
        |falta de ar
    barriga ...1 dura|quimio\w*|transplant\w+|sem baco|imunidade|leucemia|falciforme|cateter
        |sangr\w+ ...2 (?:gengiva|nariz)
    dor ...3 barriga ...3 (?:fort\w+|intensa|nao)|tremendo ...1 (?:tod[oa]|muito|sem parar)
        |coracao dispar\w+
    dor de cabeca ...2 (?:insuportavel|horrivel|absurda|fortissima|terrivel)
""")
TOGETHER: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    (YOUNG, YOUNG_SIGN),
    (CHILD, DRY),
    (PREGNANT, PREGNANT_SIGN),
    (DIABETIC, DIABETIC_SIGN),
    (INFECTED, INFECTION_SIGN),
)
