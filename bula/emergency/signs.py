"""List the single signs that are an emergency only when several occur.

Each group counts once per question. A strong group counts 2, a weak group 1, and words that say
that something began just now count 1. All patterns read the text of bula.emergency.words.spell.
"""

from bula.emergency.words import phrases

ENOUGH = 3
STRONG = (
    # Consciousness
    phrases(r"""
        fora (?:de si|do ar)|nao (?:\w+ )?(?:levanta|fica acordad[oa])
        mal (?:\w+ )?abre (?:os? )?olhos?
        bamb[oa]|bambeou|cambale\w+|murchinh[oa]|caidinh[oa]|amolecid[oa]|estirad[oa]|tombou
        esparramad[oa]
        revirou|desligou|ausente|enrijec\w+|rigid[oa]|moli?nho|sem consciencia|trancos
        nao (?:\w+ )?acord\w+|dormindo (?:demais|muito)|moleng[oa]|mole|molinh[oa]|apag(?:ou|uei
        |ando)
        despenc(?:ou|ando)|desab(?:ou|ando)|desfalec\w+|atordoad[oa]|grogue|baband[oa]|delir\w+
        olhando para (?:o )?nada|abobrinhas?|bobagens|confus[oa]|sonolent[oa]|largad[oa]
        estatelad[oa]
        nao (?:\w+ )?(?:responde|reage|conversa|interage)|sem pulso|dentes trincados
        tremer (?:os|as|todo)|tremendo|trem(?:e|ia) tod[oa]
    """),
    # Breath
    phrases(r"""
        arf(?:ando|a)|arquej\w+|resfoleg\w+|bufando|abafad[oa]|assobi\w+|assovi\w+|chieira|satur\w+
        respir\w+ (?:\w+ ){0,2}?(?:mal|dificil|rapid\w+|curt\w+|cansad\w+|estranh\w+|barulh\w+
        |frac\w+|pouco|ruim)
        (?:costelas?|barriga|pescoco|peito) (?:\w+ )?afund\w+|oxigenio (?:\w+ )?baix\w+|oximetro
        nariz batendo
        (?:ar|folego) (?:\w+ )?(?:acab|falt|sum)\w+|puxar (?:o )?(?:ar|folego)
        (?:canseira|cansaco|agonia|dor|dificuldade|sacrificio) (?:\w+ )?(?:para|de|em|ao) respirar
        sem voz|rouc[oa](?! ha)|som nenhum|chiando|folego|salivando|puxando o ar
        (?:boca|labios?|ficou|esta|tod[oa]) (?:\w+ )?<pale>
    """),
    # Circulation
    phrases(r"""
        branquinh[oa]|livid[oa]|suadeira|molhad[oa] de suor|pegajos[oa]|pele fria|suor escorrendo
        ensopad[oa]
        (?:coracao|peito) (?:\w+ ){0,2}?(?:pulando|batendo|galop\w+|a mil|disparad\w+|para e volta)
        cinza|palid[oa]|sem cor|branc[oa] (?:\w+ ){0,2}?(?:papel|cera)|suor (?:frio|gelado)
        (?<!vivo )suando(?! (?:de|a) noite)|(?<!banho )(?<!agua )gelad[oa]|batedeira
        vista (?:\w+ )?escur\w+|visao (?:\w+ )?escur\w+|quase (?:que )?(?:apag|ca|desmai)\w+
    """),
    # Nerves
    phrases(r"""
        nao (?:\w+ )?(?:sabe (?:que dia|onde|quem)|fala direito|segura|fecha a mao|reconhece)
        (?:fal\w+|andando|anda) (?:\w+ )?(?:esquisit|atravessad|devagar|tort|pel[oa]s paredes)\w*
        (?:vendo|enxergando) (?:tudo )?(?:dois|dobrado|duplo|dupla)|amortecid[oa]|repux\w+
        desequilibr\w+
        troc(?:ando|a|ou) (?:as )?(?:palavras|nomes)|(?:braco|perna|mao
        |lado) (?:\w+ ){0,4}?(?:bob[oa]|mort[oa]|pesad[oa])
        deixou cair|(?:puxando|arrastando) (?:uma|a|da) perna|derrub(?:ou|ando) (?:o|a|as|os) \w+
        babando
        (?:boca|fala|fal\w+) (?:\w+ )?(?:tort|enrol|estranh|diferent)\w+
    """),
    # Blood
    phrases(r"""
        sangue (?:\w+ ){0,2}?(?:pingando|escorrendo|por todo lado|na roupa)|(?:pingando|escorrendo
        |jato de) sangue
        vermelho vivo|toalhas? (?:\w+ ){0,2}?(?:encharc|ensop|chei)\w+
        (?:sai\w*|muito|vivo|perd\w+|com|cuspi\w*|vomit\w*) (?:\w+ ){0,2}?sangue|sangue (?:vivo
        |pisado)
        (?<!nem )sangr(?:ando|ou)|coagulos?|cuspindo vermelho|(?:coco|fezes) (?:\w+ )?pret[oa]s?
        piche
        absorvente (?:\w+ ){0,3}?hora
    """),
    # A violent event
    phrases(r"""
        caminhao|capot\w+|colisao|bateu de frente|arremessad[oa]|esmag\w+|pisote\w+|touro|facao
        vergalhao
        furadeira|paulada|pedrada|garrafada|pitbull|rottweiler|cerol|rojao|polvora|220|alta tensao
        despenc\w+
        (?:levou|levei|tomou) (?:um |uma )?(?:soco|chute|tombo|queda|martelada|corte)|trombada
        tombo|coice|raio(?! x)|prens(?:ou|ad\w+|aram)|(?:entrou|dedo|mao) na serra|treme sem parar
        trator|acidente|rolou d[oa]|despencou
        bateu (?:a|com a) (?:testa|cabeca|nuca)|grudad[oa]|(?:perna|braco|mao
        |dedo)s? (?:\w+ ){0,2}?(?:embaixo|pres[oa]|entrou)
        na maquina|moedor|explo\w+
    """),
    # Burns
    phrases(r"""
        queimou|queimei|queimad[oa]|queimadura|fogo|ferv\w+|oleo quente|vapor|acido|escald\w+
        carne viva
    """),
    # Poison
    phrases(r"""
        vidrinho|cartela|aspirou|cheirou|vodk?ca|cachaca|lanca|pedra|naftalina|veneno
        mistur(?:ei|ou)|tomou (?:\w+ )?(?:errado|dobrado|demais)|produto
    """),
)
WEAK = (
    # Severity
    phrases(r"""
        horrivel|absurd\w+|insuportavel|terrivel|fortissim\w+|muito forte|desesperad\w+|gritando
        demais
        nunca senti|pior da (?:minha )?vida|berrando|gemendo|passando (?:muito )?mal
    """),
    phrases(r"""
        (?<!sem )(?<!nem )(?:dor|dores|doendo|pressao|martelada|pontada) (?:\w+ ){0,3}?(?:torax
        |peito|cabeca|nuca|barriga|testiculo|estomago)|peito apertar|coracao
    """),
    phrases(r"""febre|3[89](?:[.,]\d)?|4[01]"""),
    phrases(r"""vomit\w+|vomito|nausea|enjoo|ansia"""),
    phrases(r"""empol\w+|pintas|manchas"""),
    phrases(r"""fraqueza|frac[oa]|tont\w+|mal estar|passando mal"""),
    phrases(r"""vista|visao|embacad[oa]|enxerg\w+"""),
    phrases(r"""
        bebe|nene|nenem|rn|(?<!nao estou )gravida|gestante|ganhei bebe|dei a luz|idos[oa]
        diabetic[oa]|insulina|varfarina|cirros\w+|cirrotico|transplant\w+
    """),
)
ACUTE = phrases(r"""
    agor(?:a|inha)|hoje|acab(?:ou|ei|aram) de|me ajud\w+|ajuda (?:aqui|urgente|por favor)
        |pelo amor de deus|rapido|piorando
    so piora
    (?:faz|ha) (?:um )?pouco|do nada|de repente|subit\w+|amanheceu|comecou a|faz \d+ ?(?:h|horas
        |min\w*)
    em \d+ min\w*|desde (?:hoje|cedo|o almoco)|e ficou|socorro|urgente|ficando
""")

# A thought of death is a word of the first list and a word of the second one in a sentence.
DEATH = phrases(r"""
    morr(?:er|ia|esse)(?! de)|(?:a|na) morte|estar mort[oa]|vivendo|existir|minha existencia
    respirando|acordasse|cemiterio|caixao|meu (?:enterro|velorio|fim)
    passar dess[ea] (?:ano|mes|semana|noite)|mata (?:uma pessoa|alguem|um adulto)
    partir(?! (?:o|a|os|as|um|ao|em|de) )|pular (?:d[aoe] (?:ponte|predio)|na frente)|tomar veneno
""")
WISH = phrases(r"""
    pens(?:o|ando|ei) em|tent(?:ou|ei)|ameac\w+|plano de|queria(?! saber)|planej\w+|coragem|decidi
        |merec\w+
    seria (?:bom|melhor|um favor|um alivio)|prefiro|preferia|sem sofr\w+|se odeia|me odeio
    (?:nao|sem) (?:\w+ ){0,3}?(?:vontade|forcas?) (?:de|para)|quant\w+ (?:mg|gotas|comprimidos)
""")
# A plan is a means and a sign of intent in a sentence.
MEANS = phrases(r"""
    remedios|comprimidos|corda|revolver|arma|ponte|viaduto|estilete|gilete|lamina|adeus|veneno
""")
INTENT = phrases(r"""
    falta coragem|falta so coragem|so falta(?! comprar)|muito calad[oa]|braco (?:\w+ )?riscad[oa]
        |jeito estranho
""")
