"""List the words that the phrases of emergencies share.

Each entry has a comment with its meaning. A phrase of bula.emergency.words.phrases names an entry
as <name>. The lines of an entry are alternatives, and an entry may name an earlier one.
"""

WORDS = {
    # People
    "child": r"""
        bebes?|bebezinh[oa]|nene|nenem|nenezinh[oa]|criancas?|criancinha|filh(?:inh)?[oa]
        net(?:inh)?[oa]|sobrinh[oa]|menin(?:inh)?[oa]|guri|guria|afilhad[oa]|entead[oa]|caculas?
        garotinh[oa]|moleque|muleque|rn|recem.nascid[oa]|gemeos?
    """,
    "elder": r"""
        vo|avo|vovo|bisavo|vozinh[oa]|idos[oa]|velhinh[oa]|sogr[oa]|pai|papai|mae|mamae|mainha
    """,
    "person": r"""
        ele|ela|eu|<child>|<elder>|irma|irmao|marido|esposa|esposo|mulher|ti[oa]|prim[oa]|amig[oa]
        vizinh[oa]|colega|cunhad[oa]|namorad[oa]|alun[oa]|cara|moco|moca|homem|gente
    """,
    # Breath
    "cannot": r"""
        (?:nao|mal|nem|ninguem) ...2 conseg\w+
        nao (?:estou |esta )?da(?:ndo)? (?:para|conta de)|nao dou conta de
    """,
    "hard": "dificuldades?|dificil|ruim|cansad[oa]|sofrendo|lutando|esforco|sacrificio|penando",
    "pale": r"""
        ciano\w+|rox(?:inh)?[oa]s?|arroxe?ad(?:inh)?[oa]s?|azul|azulad(?:inh)?[oa]s?|azuis
        cinzent[oa]s?|acinzentad[oa]s?
    """,
    # Swelling of an allergy
    "swollen": r"inch(?:ou|aram|and[oa]|ad[oa]s?)|fech(?:ou|and[oa])|trav(?:ou|ando)",
    "growing": r"""
        inch\w+|cresc(?:eu|endo|eram)|fechand[oa]|fechou|engross\w+|enorme|gigante|balao
        estuf(?:ou|ad[oa]|ando)|deform\w+|desfigur\w+
    """,
    # The skin of a shock or of a heart attack
    "sweat": r"""
        suor(?:es)? fri[oa]s?|suor gelad[oa]|suando (?:muito|frio|gelad[oa]|demais|bicas)|sua frio
        suadeira|ensopad[oa] de suor|molhad[oa] de suor|pingando de suor|pingando suor
        encharcad[oa] de suor|gelad[oa]|pegajos[oa]|palid\w+|branc[oa] (?:feito|que nem|como|igual)
        (?:ficou|esta|estou|fiquei|bem|muito|todo|toda|e) (?:branc|cinza|cinzent|amarel|palid)\w*
        sem cor|livid[oa]|suou frio|(?:esta|estou|e|todo) suand\w+
    """,
    # Stroke
    "slurred": r"(?:enrol|embol|arrast|embaralh|pastos|engrol|trav)\w+",
    "face": "boca|boquinha|rosto|cara|face|sorriso|palpebra|labios?|beicos?|bochecha",
    "droop": r"""
        tort[oa]|entort\w+|caid[oa]s?|caiu|caindo|murch[oa]|murchou|despenc\w+|repux\w+|paralis\w+
        desceu|parad[oa]|amortecid[oa]|mole|mort[oa]|dormente|adormecid[oa]|desabou|assimetric[oa]
        pendurad[oa]|torcid[oa]|torceu|para (?:o|um) lado|escorr\w+ para
    """,
    "limb": r"bracos?|bracinho|pernas?|maos?|lado|metade|banda",
    "weak": r"""
        sem forcas?|frac[oa]s?|fraqueza|dormentes?|dormencia|paralis\w+|mole|moles|bob[oa]s?
            |mort[oa]s?
        amortecid[oa]s?|adormecid[oa]s?|adormeceu|esquecid[oa]s?|bamb[oa]s?|bambeou|sem movimento
        perdeu a forca|arrastando|despenc\w+
        nao ...2 (?:mex|obedec|levant|respond|sob|ergu|sent|sint|firm|fech|segur|apert)\w*
    """,
    "sudden": r"""
        de repente|do nada|de uma hora para (?:a )?outra|subit\w+|num estalo|agora(?: ha pouco)?
        agorinha|hoje|acordou|acordei|amanheceu|desde cedo|desde (?:o almoco|a manha|o cafe)
        de uma vez|no meio d[aeo]|enquanto
    """,
    # Consciousness
    "confused": r"""
        confus[oa]|desorientad[oa]|abobad[oa]|abobalhad[oa]|grogue|delir\w+|variando|zuret[ae]
        atordoad[oa]|fora (?:de si|do ar|da realidade)|sem nexo|nada com nada|coisa com coisa
        abobrinhas?|trocando (?:as )?(?:palavras|nomes|coisas)|balbuci\w+|desconex\w+
        nao ...1 (?:reconhec\w+|junta as palavras|fala direito|lembra (?:o|do) (?:proprio )?nome)
        nao ...1 sabe (?:onde|que dia|quem|o proprio)
        nao ...1 entend\w+ ...2 (?:nada|a gente|que a gente|o que a gente)
    """,
    "drowsy": r"""
        sonolent\w+|sonolencia|dorm(?:e|indo|iu) (?:demais|muito|direto)|dormindo sem parar
            |apagad[oa]
        apagando|largad(?:inh)?[oa]|mole|molinh[oa]|moleng[oa]|prostrad\w+|letargic\w+|caidinh[oa]
        desfalec\w+|hipotonic[oa]|murchinh[oa]|quietinh[oa] demais|muito quiet[oa]|gemendo|gemente
        nao ...3 (?:acord|despert|reag|respond|interag)\w*
    """,
    "shaking": r"""
        trem(?:e|endo|eu|ia|edeira|elique)|sacodindo|sacudindo|debat\w+|chacoalh\w+|espasmos?
        contors\w+|contorc\w+|enrijec\w+|endurec\w+|dur(?:o|a|inh[oa])|esticad[oa]|estrebuch\w+
        estremec\w+|trancos|pulando|batendo os bracos
    """,
    "rolled": r"""
        olh(?:os?|inhos?|ar) ...3 (?:vir\w+|revir\w+|branc[oa]s?|para (?:cima|tras))
        olh(?:os?|inhos?|ar) ...3 (?:fix[oa]s?|parad[oa]s?|vidrad[oa]s?|perdid[oa]s?)
        bab(?:a|as|ando|ou|ava)|espum\w+|morde\w* a lingua|mijou|se urinou|fez xixi na roupa
        tod(?:o|a|inh[oa])|no chao|nao (?:responde|volta|para)|\d+ min\w*|minutos
    """,
    "dropped": r"""
        ca(?:iu|i|ido|ida|indo)|tomb(?:ou|o|ei)|despenc\w+|desab(?:ou|ei)|desmont(?:ou|ei)|rol(?:ou
            |ei)
        escorreg(?:ou|uei|ao)|queda|arremessad[oa]
    """,
    "still": r"""
        nao ...2 (?:levant|mex|respond|fal|reag|acord|respir)\w*|inerte|imovel|desacordad[oa]
        (?:chamo|chamei|grito|gritei|balanc\w+|sacud\w+|cutuco) ...3 (?:nada|nao|e nada)
    """,
    # Poison and medicine
    "past": "ou|ei|ado|ada|ando|aram|ava",
    "many": r"""
        [1-9]\d+|dez|doze|quinze|vinte|trinta|quarenta|cinquenta|cem|duzias? de|punhado de|muit[oa]s
        vari[oa]s|tod[oa]s [oa]s|um monte de|mao cheia de
    """,
    "pills": r"comprimid\w+|capsulas?|remed(?:io|inho)s?|pilulas?|calmantes?|medicamentos?",
    "drug": r"""
        paracetamol|tylenol|dipirona|dorflex|rivotril|clonazepam|diazepam|amitriptilina|fluoxetina
        sertralina|quetiapina|dramin|ibuprofeno|insulina|propranolol|digoxina|alprazolam|frontal
        zolpidem|litio|carbamazepina|gardenal|fenobarbital|haldol|risperidona|captopril|losartana
        atenolol|anlodipino|metformina|glibenclamida|tramadol|codeina|aas|sulfato ferroso
        escitalopram|venlafaxina|bupropiona|neosoro|novalgina|anticoncepcional|xarope
    """,
    "swallowed": r"""
        tom(?:ei|ou|aram|ado|ando)|beb(?:i|eu|eram|endo)|engol(?:i|iu|iram)|inger(?:i|iu)
        mord(?:i|eu)|lamb(?:i|eu)|com(?:i|eu|ido|eram)|chup(?:ou|ei)|mastig(?:ou|ei)|prov(?:ou|ei)
        (?:pos|botou|colocou|enfiou) ...3 na boca|goles? d[eao]|golinho d[eao]
    """,
    "poison": r"""
        veneno|chumbinho|raticida|mata.rato|inseticida|pesticida|herbicida|formicida|glifosato
            |roundup
        agrotoxico|agua sanitaria|q-?boa|kiboa|candida|cloro|soda(?: caustica)?|desentupidor
        diabo verde|detergente|desinfetante|pinho sol|creolina|alvejante|amaciante|sabao em po
        querosene|gasolina|diesel|thinner|tin+er|aguarras|solvente|removedor|acetona|metanol
            |naftalina
        tinta|amonia|formol|mercurio|desengordurante|anticongelante|verniz|cola|adubo
        limpa.?(?:aluminio|vidros?|forno|pedras?|pisos?)|produto ...1 (?:limpeza|piscina|limpar)
        alcool (?:em gel|de limpeza|de posto|70|da limpeza|puro)|fluido de isqueiro|carrapaticida
        (?:negocio|coisa|po|remedio|produto|isca|liquido) ...1 (?:matar|rato|barata|formiga|cupim)
        pilhas?|pilhinha|baterias?|bateriazinha|imas?|comigo.ninguem.pode|espirradeira|mamona
        cogumelo|trombeta|mandioca brava|pedra sanitaria|pastilha ...1 (?:vaso|sanitaria|lava\w+)
    """,
    "amount": r"""
        cartelas?|(?:meio|meia|um|o|a|uma) (?:frasco|vidro)|frascos|vidrinhos?
        (?:caixa|cartela|frasco|vidro|pote) (?:inteir[oa]|tod[oa])
    """,
    # Blood and injuries
    "blood": r"sangue|sangr\w+|hemorragia|coagulos?",
    "gush": r"""
        jorr\w+|esguich\w+|espirr\w+|pulsando|torneira|cachoeira|balde|bacia|poca|pocas
        encharc\w+|ensop\w+|aos montes|escorrendo|sem parar|em jatos?|horrores|a beca
        nao ...2 (?:para|parou|estanc\w+|cessa)|litros?|por todo (?:o )?(?:lado|chao)
        (?:panos|toalhas?|fraldas?|lencol|camisa|roupa|colchao|cama|chao) ...3 chei[oa]s?
    """,
    "cut": r"cort\w+|rasg(?:ou|uei|ad[oa]|o)|talho|fur(?:ou|ei|ad[oa])|lacer\w+|abriu|ferimento",
    "cutter": r"""
        serra|ma[qk]uita|motoser+a|motosserra|facao|machado|esmerilhadeira|foice|enxada|navalha
            |furadeira
        vergalhao|maquina|moedor|prensa|rocadeira|picadeira|triturador|liquidificador|helice
    """,
    "organ": r"""
        dedos?|mao|maos|pe|braco|antebraco|perna|coxa|pulso|pescoco|barriga|peito|costas|cabeca|olho
        orelha|garganta
    """,
    # Burns, electricity, water
    "hot": r"""
        agua|oleo|azeite|cafe|cha|sopa|caldo|leite|panela|chaleira|gordura|feijao|macarrao|miojo
        frigideira|fritura|brasas?|mingau|calda|leiteira|bule|ferro de passar
    """,
    "spilled": r"""
        ca(?:iu|i)|vir(?:ou|ei)|derram\w+|pux(?:ou|ei)|jog(?:ou|aram)|entorn\w+|espirr\w+|despej\w+
            |respin?g\w+
        derrub\w+|em cima
    """,
    "skin": r"""
        corp(?:o|inho)|peit(?:o|inho)|costas|barrig(?:a|uinha)|brac(?:o|os|inho)|pern(?:a|as|inha)
        rost(?:o|inho)|cara|pescoco|cabeca|coxas?|nel[ea]|em mim|<child>|genita\w+|virilha|bumbum
            |mao|maos
    """,
    "burned": r"""
        queim(?:ou|ei|ad[oa]s?|aram|adura)|escald\w+|carne viva|chamas|carboniz\w+|derret\w+|bolhas?
    """,
    "water": r"""
        piscin\w+|rio|mar|represa|acude|lago|lagoa|cachoeira|tanque|balde|banheira|poco|bacia
            |corrego
        igarape|caixa d'? ?agua|cisterna|barragem|correnteza|enchente|enxurrada
    """,
    # Animals
    "snake": r"""
        cobras?|jararac\w+|cascavel|coral|surucucu|urutu|caicaca|serpente|escorpi\w+|lacrau|aranhas?
        armadeira|viuva negra|lacraia|taturana|lonomia|lagarta de fogo|arraia|bicho peconhento
            |morcego
    """,
    "bite": r"""
        pic(?:ou|ad[oa]s?|aram)|mord(?:eu|id[oa]|eram)|ferr(?:ou|oou|oad[oa]|oadas|oaram)|peg(?:ou
            |aram)
        atac(?:ou|ad[oa]|aram)|bote|pis(?:ou|ei)|encost(?:ou|ei)|crav(?:ou|ei)|injetou
    """,
    # Falls and blows
    "head": r"cabeca|cabecinha|testa|nuca|cranio|moleira|tempora",
    "blow": r"""
        bat(?:eu|i|ida|endo)|pancada|paulada|pedrada|tijolada|coronhada|coice|machuc(?:ou|ada)
        rach(?:ou|ada)|abriu|trauma|traumatismo|soco|acidente|<dropped>
    """,
    # States of life
    "pregnant": r"""
        gravid[ao]|gravidinha|gravidez|gestante|gestacao|buchuda|prenha|gestando
        (?:de|com|estou|tenho|esta de) ...1 \w+ semanas|barriga de \w+ meses|esperando (?:um )?nenem
    """,
    "birth": r"""
        pari(?:u|r)?|parto|ganh(?:ei|ou) (?:o |um |meu )?(?:bebe|nenem|nene)|d(?:ei|eu) a luz
            |cesarea
        cesaria|resguardo|puerper\w+|bebe nasceu|teve (?:o )?(?:nenem|nene|bebe)|abort\w+|curetagem
    """,
    "young": r"""
        rn|recem.nascid[oa]|<child> ...1 (?:de|com|tem) ...1 (?:dias|semanas)
        <child> ...1 (?:de|com|tem) (?:um|1|2|dois) m(?:es|eses)|\d+ dias de (?:vida|nascid[oa])
        nasceu (?:ha|faz|tem|semana passada|anteontem|ontem)
    """,
    # Thoughts of death
    "wishing": r"""
        quer(?:o|ia|er|endo|emos)(?! saber)|vontade|desej\w+|prefir\w+|preferia|sonh\w+|bom se
            |otimo se
        melhor se|se eu pudesse|se pudesse|se desse|penso|pensando|pensei|pensa|pensar
        gostaria|espero|imagin\w+|ideia de|esperando|so queria(?! saber)|seria bom|planej\w+
            |diz que vai
        disse que vai|falou que vai|fala em|falando em|falou em|ameac\w+
    """,
    "ending": r"""
        nao (?:mais )?(?:estar (?:mais )?(?:aqui|viv[oa])|existir|acordar|viver|ter nascido
            |precisar viver)
        (?:nunca|jamais) (?:mais )?(?:acord|nasc|exist|ter)\w+|deixar de (?:estar|existir|viver
            |respirar|ser)
        (?:sumir|desaparecer|evaporar)(?! (?:com|d[ao]s? (?:face|insta|rede|grupo|vista|zap)
            |ess[ea]s?))
        dormir (?:para sempre|e nao|e nunca|eternamente|ate morrer)|apagar (?:de vez|para sempre
            |tudo|e nao)
        me apagar|me desligar d[oa] (?:mundo|vida)|parar de (?:existir|viver|respirar|sofrer de vez)
        acabar com (?:tudo|isso|essa dor|a dor|o sofrimento|ess[ea]|minha dor|a propria|a vida
            |minha vida)
        (?:tudo|isso|vida|mundo|sofrimento|dor) (?:acabasse|terminasse|parasse|sumisse)
        ir embora (?:de vez|para sempre|dess[ea]|desse mundo|da vida)|partir (?:de vez|dess[ea]|logo
            |em paz)
        (?:morrer|ter morrido|estar mort[oa]|estivesse mort[oa]|morresse)(?! de (?:rir|fome|amor
            |calor|medo))
        descansar (?:para sempre|eternamente|de vez|em paz|eterno)|fechar os olhos (?:e nao
            |para sempre)
        (?:um|algum) (?:carro|caminhao|onibus|raio|acidente) me|tirar (?:a )?(?:minha|propria
            |sua) vida
        (?:dar|por|colocar) (?:um )?fim|nao passar dess[ea]|um fim em mim|encontrar ...4 no ceu
    """,
}
