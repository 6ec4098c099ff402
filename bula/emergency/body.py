"""List composed signs of the body's own emergencies, one class a table.

The phrases join words of bula.emergency.vocabulary: a part of the body and a sign. The pairs of
TOGETHER are emergencies only together, anywhere in a question.
"""

import re

from bula.emergency.words import phrases

HEART = phrases(r"""
    (?:dor(?:es)?|(?<!nao )doi|doendo|doer|apert(?:o|ando|ad[oa])|fisgadas?|pontadas?|agulhadas?
        |facadas?|esmag\w+|espremendo|rasgando|queimando|ardencia) ~ (?:peito|torax)(?! d[eo] (?:pe
        |frango|peru|saudade)\b)
    (?:tijolo|elefante|pedra|bigorna|caminhao|alguem sentado|alguem pisando) ~ (?:peito|torax)
    mao ~ (?:n?o peito)
    coracao ...4 (?:explodir|parar|pulando fora|sair pela boca|saindo do peito|engasgando)
    (?:coracao|pulso|batimento) ...3 (?:parou|para e volta|fraquinho|sumindo)
    marca.?passo ...3 (?:disparou|choque|apit\w+|parou)
    (?:suando frio|suor frio|suor gelado|gelad[oa]) ~ (?:palid[oa]|branc[oa]|cinza|tont[oa]|frac[oa]
        |enjoad[oa]|sem cor)
    (?:batimentos?|frequencia|pulso|bpm) ...3 [23]\d(?!\d)|pressao ...3 [4-8] ?(?:por|x
        |/) ?[2-5](?!\d)
    (?:brac\w+|perna|pe|mao) ...4 (?:gelad[oa]|fri[oa]) ...3 (?:rox[oa]|pret[oa]|branc[oa]|azul
        |sem pulso)
""")
BREATH = phrases(r"""
    <cannot> ...3 (?:respirar|(?:puxar|pegar|buscar|encher) (?:o |de )?(?:ar|folego|pulmao|peito)
        |inspirar)
    (?:falta|faltando|fugindo|sumindo|acabando|acabou|cade) ...1 o? ?(?:ar|folego)(?! (?:pur|fresc
        |condicion|no pneu|d[oae] ))
    (?:ar|folego) ...2 (?:fugindo|sumindo|sumiu|acabando|acabou|nao vem|faltando|curtinho)
    (?:buscando|procurando|brigando por|lutando por|com fome de|sede de) (?:o )?(?:ar|folego)
    (?:cansa|cansad[oa]|canseira|cansaco) ...2 (?:para|de|ate para|so de) (?:falar|respirar)
    (?:nao|so) ...3 (?:deita|dorme|deitar|dormir) ~ (?:sentad[oa]|sufoc\w+|falta de ar|afog\w+)
    (?:costel(?:as?|inhas?)|barriga|barriguinha|pele|pescoco|peito|peitinho) ...2 (?:marc\w+
        |afund\w+|entrando|subindo e descendo|chup\w+|fundo|fund\w+|repux\w+) ...3 (?:respir\w+
        |puxa\w*)
    (?:respir\w+|ar) ~ (?:roncando|rangendo|gemendo|pela barriga|com a barriga|parando|arrast\w+
        |aos trancos|cachorrinho|cachorro cansado|superficial|ofegante|barulho|engasg\w+)
    (?:apit\w+|assobi\w+|assovi\w+|miando|chiad[oa]|chieira|chiando) ~ (?:piorando|fort\w+|muito
        |falta de ar|cansad[oa]|bombinha|puxa\w* o ar)
    (?:espuma|catarro|escarro) ...1 (?:ros(?:a|ead[oa])|com sangue|sanguinolent[oa])
    (?:dormindo|dorme|bebe|ela|ele) ...2 (?:parou|para|esqueceu) de respirar(?! dormindo)
    (?:oxigenio|oximetro|saturacao|saturando) ...4 (?:7\d|8\d|90|91|caindo|caiu|baix\w+)
    (?:bombinha|nebuliza\w+|inalacao|aerolin) ...5 (?:nao ...1 (?:resolv|adiant|melhor|alivi|passou
        |faz|ajud|funcion)\w*|nada|e continua|sem (?:resultado|efeito|melhora))
    (?:unhas|pontas d\w+ dedos|boca|boquinha|labios?|beicos?|beicinho|lingua|rosto) ...3 <pale>
    traqueo\w* ...3 (?:saiu|entupi\w+|escapou)|oxigenio ...1 acab\w+
    (?:<person>|<child>) (?:estava|esta|ficou|fica|estao|saiu|veio) ...1 <pale>
    (?:oxigenio|cilindro|concentrador|balao de ar) ...4 (?:acab\w+|quebr\w+|parou|vazi\w+)
    (?:respir\w+|ronc\w+) ...2 (?:estranho|esquisito|diferente|alto demais|de um jeito) ...8 nao
""")
CHOKING = phrases(r"""
    (?:entalou|entalad[oa]|engasg\w+|goela|traqueia|garganta) ~ (?:tosse nem|nao ...1 (?:tosse|fala
        |sai|respir\w+)|parou|pres[oa]|desesperad[oa]|rox\w+|pedaco|osso)
    (?<!espinha )(?:parou|ficou|pres[oa]|grudou|desceu|foi|trancou|agarrou) ...2 (?:na|a
        |pela) (?:goela|garganta|traqueia|glote)|desceu errado e|foi (?:para|pro) (?:o )?pulmao
    (?:heimlich|desengasg\w+) ~ (?:agora|nao|esta|<child>)
    (?:aspirou|engasgou) ...3 (?:leite|vomito|amendoim|pipoca|milho|bala|comida|carne|uva|salsicha)
""")
STROKE = phrases(r"""
    (?:metade|lado|canto|banda) ...1 d[aeo] <face> ...3 (?:<droop>)
    <face> ...3 (?:tort[oa]|entort\w+|despenc\w+|murch[oa]|repuxad[oa]|caid[oa]|caiu|caindo
        |para (?:o|um) lado|dormente|amortecid[oa]|paralisad[oa])
    (?:rir|ri|sorrir|sorri|sorriso|assobiar) ~ (?:torto|um lado|metade|desigual|nao consegue)
    (?:um|de um|do|meu|o|todo o|todo|uma) (?:dos )?(?:lado|banda|metade) ...4 <weak>
    <weak> ~ (?:um|do|o) (?:so )?(?:lado|banda)(?: (?:todo|direito|esquerdo|inteiro|do corpo))
    (?:fala|falar|falando|falou|voz|lingua|palavras?|frases?|conversa) ~ (?:enrolad\w+|enrolando
        |embolad\w+|embaralh\w+|arrastad\w+|pastos[oa]|sem nexo|bebad[oa]|nao ...1 sa(?:i|em)
        |trocadas?|emboland\w+|desconex\w+|engroland\w+|incompreensivel|outra lingua|sumi(?:u
        |ram))(?! de proposito)
    (?:nao|parou de) ...1 (?:junta|forma|completa|acha|encontra|articula|monta) (?:as
        |uma )?(?:palavras?|frases?|silabas?)
    balbuci\w+|so (?:geme|grunhe|resmunga|faz (?:uns )?(?:sons|barulhos?))
    nao ...1 (?:entend|compreend)\w+ ...3 (?:que (?:a gente|eu|nos) (?:fal\w+|diz\w*|pergunt\w+)
        |a gente fala)
    (?:nao|parou de) ...1 (?:acha|acerta|encontra) (?:a boca|o garfo|a colher|a porta|o caminho)
    (?:andando|anda|caminha|andar) ...3 (?:bebad[oa]|de lado|batendo n|puxando para|caindo|arrast\w+
        |se segurando)
    (?:arrast\w+|puxando|puxa) ...1 (?:perna|pe)\b
    (?:deixa|deixou|deixando|vive) ...1 cair ...2 (?:da mao|tudo|garfo|copo|caneca|xicara|celular
        |colher)
    (?:perdi|perdeu|sumiu|apagou|escureceu|parei de ter) ...3 (?:vis(?:ao|ta)
        |metade do campo)(?! noturna| de longe| para perto)
""")
CONSCIOUSNESS = phrases(r"""
    (?:nao|ninguem|sem) ...3 (?:acord\w+|despert\w+|levant\w+) (?:ele|ela|meu|minha|de jeito nenhum
        |por nada|nem|mais)
    (?:cham\w+|grit\w+|balanc\w+|sacud\w+|chacoalh\w+|cutu\w+|belisc\w+|jog\w+ agua) ...4 (?:nada
        |nao ...1 (?:acord|respond|reag|mex|volt|despert)\w*)
    (?:estirad|estatelad|jogad|caid|estendid|desmaiad|largad|deitad|desacordad
        |encolhid)[oa] ~ (?:n[oa] (?:chao|tapete|banheiro|cozinha|rua|calcada|sala|quintal|piso)
        |e nao|inconsciente)
    (?:ach\w+|encontr\w+|chegu\w+) ... (?:estirad[oa]|desmaiad[oa]|no chao|gelad[oa]|apagad[oa]
        |largad[oa]|inconsciente|desacordad[oa]|caid[oa])
    (?:sem|nao da|nao tem|nao esboca) ...1 (?:sinal de vida|sinais de vida|reacao|vida|pulso)
    (?:olhos?|olho) ...1 (?:fechad|abert|vidrad|fix|parad)[oa]s? ...3 (?:e |mas )?nao (?:responde
        |acorda|mexe|reage|pisca|fala)
    (?:revirou|virou|revirando|virando) (?:os|o) (?:olh\w+)|olho foi para tras|olhos foram para
    (?:teve|deu|dando|tendo) (?:um |uma )?(?:apagao|sincope|blackout|passamento|chilique|ausencia)
    (?:caiu|desabou|despencou|desmontou|tombou|foi ao chao|capotou) ~ (?:dur[oa]|do nada|de cara
        |e nao|nao levant\w+|e ficou|na minha frente|desacordad[oa]|tremendo|espum\w+|sem sentidos)
    nao ...2 abr\w+ ...2 olhos?|olh(?:o|os|inhos?) ...1 (?:entreabert|semiabert)\w+
    nao ...2 reconhec\w+ ...3 (?:filh\w+|mae|pai|marido|esposa|ninguem|familia|casa|gente|mim
        |net\w+)
""")
CONVULSION = phrases(r"""
    <shaking> ~ (?:olh(?:os?|inhos?) ...2 (?:vir\w+|revir\w+|branc[oa]s?|para)|baba|babando|espum\w+
        |no chao|dentes|lingua|minutos|nao (?:responde|para|volta|acorda)|rox[oa])
    (?:baba|babando|espuma|espumando|salivando) ~ (?:olh(?:os?|inhos?|ar)|boca|lingua|dentes
        |dur[oa])
    (?:sacud|debat|contorc|estrebuch|repux|chacoalh)\w+ ...2 (?:tod[oa]|inteir[oa]|sozinh[oa]
        |sem parar)
    (?:crise|ataque|acesso|convulsao) ~ (?:epil\w+|nao para|uma atras da outra|seguid[oa]s?
        |em sequencia|emendando|emendou|de novo|\d+ min\w*)
    (?:mordeu|mordendo|enrolou|engoliu) a lingua
""")
HEADACHE = phrases(r"""
    (?:dor|dores|doer|doendo|martelada|paulada|facada|tiro|trovao|pancada|explosao
        |estouro) ~ (?:n?[ao] |de |minha |na minha )*cabeca ...4 (?:explo\w+|do nada|de repente
        |subita|nunca (?:senti|tive)|pior|estour\w+|relampago|trovao|martelada|levantando|transando
        |relacao|sexo|forca|academia|insuportavel|de uma vez|segundos|nuca)
    (?:cabeca|cranio) ...2 (?:explodindo|explodiu|vai explodir|estourando|estourou|rachando|estalou)
    estal\w+ ...1 na cabeca
""")
ABDOMEN = phrases(r"""
    (?:barriga|abdomen|ventre|bucho) ~ (?:tabua|pedra|madeira|dura|duro|rigid[oa]|distendid[oa]
        |rasgando|rasgar)
    (?:dor|dores|doi|doendo) ...3 (?:barriga|abdomen|bucho|lado direito
        |estomago) ...6 (?:nao ...1 (?:aguent\w+|encost\w+|ando|anda|fic\w+ em pe|endireit\w+)
        |gritando|dobrad[oa]|encolhid[oa]|desmai\w+|gelad[oa]|suando|vomitando sem parar|urrando
        |insuportavel|lancinante|contorcendo)
    (?:testiculo|saco|escroto|ovo) ...3 (?:torc\w+|subiu|girou|rox[oa])
    (?:dor|dores|doendo|pontada|fisgada) ...3 (?:testiculos?|saco|escroto|bolas) ...4 (?:de repente
        |do nada|vomit\w+|forte|subit\w+)
    (?:dor|rasgo|facada) ...3 (?:rasgando|rasga|rasgo) ...3 (?:costas|peito|barriga)
    ere[cs]ao ...4 (?:\d+ ?h\w*|horas|nao (?:baixa|desce|passa))
    (?:vomit\w+ ...2 (?:fezes|coco|verde|bile))|(?:fezes|coco) ...3 (?:geleia|framboesa|sangue vivo)
    nao ...2 (?:urin\w+|faz xixi|fez xixi|mij\w+|conseg\w+ (?:urinar|fazer xixi
        |mijar)) ...3 (?:desde|ha|faz|o dia todo|\d+ ?h)
    (?:dor|colica|pontada|doendo) ...6 (?:me dobr\w+|dobrad[oa]|no chao|rolando|urr\w+|grit\w+
        |desmai\w+) ...4 (?:vomit\w+|chao|dor|febre|sem parar)
    (?:barriga|abdomen) ...4 (?:dur[oa]|inchad\w+|estufad\w+) ...4 (?:grit\w+|encost\w+|vomit\w+
        |febre)
""")
CLASSES = (HEART, BREATH, CHOKING, STROKE, CONSCIOUSNESS, CONVULSION, HEADACHE, ABDOMEN)

# Heart: a pain that spreads or a pressure, with the skin of a shock.
SPREADING = phrases(r"""
    (?:dor|doendo|(?<!nao )doi|fisgada|pontada|formig\w+|dormenc\w+|peso|queimacao|desconforto
        |aperto) ~ (?:bracos?|ombros?|mandibula|queixo|maxilar|pescoco|costas|estomago|peito
        |boca do estomago)
    (?:agonia|ansia|desconforto|pressao|pesad[oa]|apertad[oa]) ~ (?:peito|torax|estomago)
    coracao ...3 (?:dispar|aceler|descompass|falh|pul|bat)\w+|batedeira|palpit\w+
    (?:troco|trem|negocio|coisa|aperto|apertando|agonia|mal estar) ...3 (?:por dentro|no meio
        |bem no meio|no peito|esquisit[oa])
""")
SHOCK = phrases(r"""
    <sweat>|ensopad[oa]|vista ...1 (?:escur|sum|turv)\w+|desmai\w+|quase (?:apag|ca|desmai)\w+
    sensacao de morte|vou morrer|falta de ar|sem ar
    (?:queixo|mandibula|braco|ombro|pescoco) ...2 (?:doendo|doi|doido|dormente|formig\w+|pesad\w+)
""")
# Stroke: two signs of the face, the speech, the understanding or a limb, or one of them suddenly.
FACE_SPEECH = phrases(r"""
    <face> ...3 <droop>|fal(?:a|ar|ando|ou) ...2 (?:estranh|esquisit|diferent|mole|lent|devagar
        |atrapalhad)\w*|gaguej\w+|<confused>
""")
LIMB_SUDDEN = phrases(r"""
    <limb> ...4 <weak>|<sudden>
""")
LIMB = phrases(r"""
    <limb> ...4 <weak>|<weak> ...3 <limb>|desequil\w+|vendo dobrado
    vesga?|visao dupla|tudo girando e
""")
UNDERSTANDING = phrases(r"""
    <confused>|fala|falar|falando|face|rosto|boca|sorriso|(?:dor de|na) cabeca|lingua
    de repente|do nada|subit\w+|de uma hora para (?:a )?outra|acordou|acordei|amanheceu|desde cedo
    normal (?:ha|ate) ...1 (?:pouco|ontem|hoje)
""")
# A leg with a clot, and the breath.
CLOT = phrases(r"""
    (?:perna|panturrilha|batata da perna|coxa) ...4 (?:inch|dol|doendo|vermelh|quente|dur|trombo)\w*
        |trombose|engess\w+|pos.operatorio|cirurgia|viagem de \d+ horas|operei|operou|operad[oa]
""")
CLOT_SIGN = phrases(r"""
    falta de ar|(?:dor|pontada) ...3 (?:respir\w+|peito|costela)|toss\w+ ...1 sangue
    ofegante|cans\w+ ...1 respirar|sem ar|coracao dispar\w+|folego
""")
SPINE = phrases(r"""
    (?:coluna|lombar|costas|hernia) ...20 (?:xixi|urina\w*|coco|fezes|pernas?|virilha)
""")
SPINE_SIGN = phrases(r"""
    nao ...2 (?:segur\w+|control\w+|sint\w+|sent\w+|mex\w+|conseg\w+ (?:urinar|fazer xixi|andar
        |mexer))|perd\w+ (?:a forca|o controle)|(?:xixi|urina) (?:solt|vaz|escap)\w+
""")
TOGETHER: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    (SPREADING, SHOCK),
    (FACE_SPEECH, LIMB_SUDDEN),
    (LIMB, UNDERSTANDING),
    (CLOT, CLOT_SIGN),
    (SPINE, SPINE_SIGN),
)
