"""List the phrases of questions that describe a medical emergency (192).

All patterns read the text of bula.emergency.words.spell: lower case, no accents, single spaces, and
common spellings replaced. `eh` stands for é. A line of a list is one phrase.
"""

from bula.emergency.words import phrases
from bula.safety_patterns import NUMBER, any_of, verbose

# Symptoms, which a question may also deny: "não tenho falta de ar".
FELT = phrases(r"""
    # Heart
    (?:dor|dores|doendo|aperto|pressao|peso|pontadas?|queimacao|ardor
        |ardencia) ... (?:n?o|do|meu) (?:meio do )?(?:meu )?(?:peito|torax)(?! de (?:saudade
        |frango))
    (?:doi|aperta|apertando|queimando|pesando|rasgando|agulhadas? n) (?:muito )?o (?:meu )?peito
    peito (?:\w+ ){0,3}?(?:apert(?!ar)\w+|doendo|pesad[oa]|queimando|rasgando|explodindo|estourando)
    (?:elefante|peso|pedra|pressionando|sentado) ... em cima do peito
    dor (?:\w+ )?(?:toracica|no torax)
    coracao (?:\w+ ){0,4}?(?:descompassado|parando|estranho|falhando|saindo pela boca)
    (?:aperto|dor) no coracao
    (?:dor|doendo|pesad[oa]|peso|formig\w+|dormencia) (?:\w+ ){0,2}?(?:n?o )?braco esquerdo
    dor (?:\w+ ){0,4}?(?:sob[ei]\w*|desc\w+|vai|indo|irradi\w+|corr\w+) (?:para|ate
        |pelo) (?:[ao]s? )?(?:meu )?(?:queixo|pescoco|bracos?|ombro|mandibula)
    # Breath
    falta (?:\w+ )?de ar(?! (?:pur|fresc|condicion)[oa])
    falta (?:de )?folego|sem folego|(?:me )?falta o ar|faltando (?:o )?ar|perdendo o ar
    (?:ficou|fica|ficando|estou|esta|fico|e) (?:muito )?sem ar(?! condicionado)
    <hard> ... (?:respirar|puxar o ar)
    sufoc(?:ando|ad[oa]|ou|ada)|asfixi\w+|ofegante(?! (?:quando |ao )?(?:sub|corr))|espuma rosada
    respira(?:ndo|cao)? (?:\w+ ){0,3}?(?:rapid[oa]|ofegante|chi\w+|mal|curt[oa]|fraquinh[oa]
        |devagar\w*|estranh[oa]|pesad[oa])
    chi(?:ando|ado|eira) ... (?:respir\w+|falta de ar)
    (?:puxando|puxar|puxa) o ar
    engasg<past>
    cianose|parada (?:respiratoria|cardiaca|cardiorrespiratoria)
    # Consciousness
    desmai<past>|desmaios?|inconsciente|desacordad[oa]|sem (?:reacao|sentidos)|desfaleceu
    perd(?:eu|i|endo) (?:a consciencia|os sentidos)|coma alcoolico|entrou em coma
    apag(?:ou|uei)(?! (?:a|o|as|os|um|uma|meu|minha|tudo|sem|as luzes)\b)
    <child> ... (?:mole|molinh[oa]|larg(?:ad|adinh)[oa]|prostrad[oa]|letargic[oa])|molinh[oa]
    (?:muito sonolent[oa]|sonolent[oa] demais|desorientad[oa]|delir(?:ando|a|ou|io))
    (?:fic(?:ou|ando)|esta|estou|acordou|,) (?:muito |toda? |meio )?confus[oa]
    coisas? sem (?:sentido|nexo)|nada com nada|coisa com coisa|nao lembra de nada
    nao (?:me |nos |esta )?reconhece\w* (?:\w+ )?(?:ninguem|a familia|os filhos|mais)
    # Stroke
    (?:boca|rosto|cara|face|sorriso|palpebra) (?:\w+ ){0,2}?(?:tort[oa]|caid[oa]|caiu|caindo
        |entort\w+|repuxad[oa]|repuxando|puxando|paralis\w+|desceu|parad[oa]|dormente)
    entort(?:ou|ada)|paralis(?:ad[oa]|ou)|caiu dur[oa]|se tremeu
    (?:fala|falar|falando|falou|voz|lingua) (?:\w+ ){0,2}?<slurred>(?! de proposito)
    (?:enrol|embol|arrast)(?:ando|ou|a) (?:\w+ )?(?:a lingua|a fala|as palavras)
    falando (?:\w+ )?(?:mole|estranho|torto)
    perd(?:i|eu|endo) (?:o movimento|os movimentos|a fala|a forca|o equilibrio)
    (?:mexe|mexo|mexer|movimenta|sente|sinto) (?:\w+ )?(?:um|o) lado
    (?:braco|perna|lado|metade) (?:[^\s.;]+ ){0,5}?(?:dormente|dormencia|paralis\w+|frac[oa]
        |sem forca|mole|parou|parad[oa]|adormecid[oa]|nao (?:mexe|obedece|responde))
    (?:dormencia|formig\w+|fraqueza) (?:\w+ ){0,3}?(?:um lado|lado (?:direito|esquerdo)|metade)
    boca (?:\w+ )?dormente|pupila
    # Headache and sight
    dor de cabeca (?:\w+ ){0,4}?(?:explosiva|subita|violenta|fortissima|absurda|insuportavel
        |de repente|do nada|como um raio)
    pior dor(?: de cabeca)?
    perd(?:i|eu|endo) (?:de repente )?(?:a|toda a) (?:vis(?:ao|ta))|fiqu?(?:ei|ou) ceg[oa]
    # Blood
    sangue (?:na|da|pela|no|do|pelo) (?:tosse|boca|ouvido|vomito|catarro|escarro)
    sangramentos?(?! (?:na|da|de|nas|leve|pequen\w+) ?(?:gengivas?|menstrua\w+|escape)?)
    sangr(?:a|ando|ou) (?:\w+ )?(?:muito|bastante|demais|sem parar|a beca|horrores)
    (?:muito|perdendo|perdeu|poca de) sangue|sangue ... (?:em jatos?|sem parar|aos montes)
    jorr\w+|esguich\w+|(?:espirr|puls|pingu?)ando (?:muito )?sangue|(?:encharcad|ensopad
        |chei)[oa] de sangue|ensanguentad[oa]
    (?:vomit|toss|cusp|escarr)\w+ (?:\w+ ){0,2}?(?:sangue|borra de cafe)
    (?:cag|evacu|defec|obr)ando (?:\w+ )?sangue|borra de cafe
    (?:encharc|ensop)\w+ (?:\w+ ){0,2}?(?:absorvente|toalha|pano|roupa)
    # Allergy
    (?:garganta|labios?|lingua|glote|boca) (?:\w+ ){0,2}?<swollen>
    (?:corpo|rosto|cara) (?:inteir[oa]|tod[oa]) <swollen>|(?:rosto
        |cara) (?:\w+ ){0,2}?<swollen> tod[oa]
    inch(?:ou|aram|ando) (?:\w+ ){0,2}?(?:labios?|boca|lingua|garganta|rosto inteiro)
    corpo (?:todo )?empolado
    # Colour
    (?:<child>|recem.nascid[oa]|boca|labios?|beicos?|lingua) (?:(?!roupa|usa
        |blusa)[^\s.;]+ ){0,4}?<pale>
    fic(?:ou|a|ando) (?:\w+ )?(?:azul|rox(?:inh)?[oa])(?! e latej)
    # Babies and pregnancy
    costelas|cordao saindo|moleira (?:funda|alta|inchada|estufada|saltada)
    bolsa (?:\w+ )?(?:estourou|rompeu)|mexer (?:bem |muito )?menos|barriga (?:\w+ )?dura
    # Skin, brain and spine
    queimaduras? (?:\w+ ){0,5}?(?:<child>|rosto|olhos?|terceiro grau|corpo|peito|eletrica|quimica
        |grave)
    (?:pescoco|nuca) (?:\w+ )?(?:dur[oa]|rigid[oa]|endurecid[oa])|rigidez (?:de|na|no) (?:nuca
        |pescoco)
    # Metabolism and strong pain
    halito de (?:fruta|acetona)|baiacu|hipotermia|insolacao
    dor (?:\w+ ){0,3}?(?:insuportavel|lancinante|dilacerante)
""")
# Diseases and events, which may also be past, or only asked about.
NAMED = phrases(r"""
    avc|infart(?:o|e|ou|ando|ei)|ataque (?:cardiaco|do coracao)|embolia|aneurisma (?:estour|romp)\w+
    derrame(?! (?:pleural|articular|no joelho))
    convuls\w+|ataque epil\w+|crise epil\w+|status epil\w+
    olhos? (?:\w+ )?(?:re)?vira(?:d[oa]s?|ndo)|(?:re)?virando (?:os )?(?:olhos?|olhinhos)
    tremendo tod[oa]|corpo (?:todo )?(?:tremendo|endurec\w+)|espumando|se debat\w+
    espuma (?:\w+ ){0,2}?(?:da|na|pela) boca
    overdose|intoxic(?:acao|ou|ad[oa]|ei)|envenen(?:amento|ad[oa]|ou)|superdosagem
    hemorragia|anafila\w+|edema de glote|eclampsia|septicemia
    (?:crise|ataque) (?:\w+ )?(?:de asma|de bronquite|asmatic[oa]) (?:fort\w+|brav[oa]|grave
        |horrivel|que)
    acidente (?:\w+ )?(?:de|com) (?:carro|moto|onibus|caminhao|bicicleta)|capot(?:ou|ei|amos)
    batida de carro
""")
# Signs that already contain their negation, and events of this moment: they always count.
CERTAIN = phrases(r"""
    # Breath and consciousness
    <cannot> (?:\w+ ){0,2}?(?:respirar|puxar o ar|pegar ar|chorar|mexer|abrir os olhos|ficar em pe
        |engolir a saliva)
    <cannot> (?:\w+ ){0,2}?falar(?! (?:com|sobre|em publico|ingles|dele|disso))
    <cannot> (?:\w+ ){0,2}?(?:levantar|erguer)(?! (?:peso|da cama cedo|cedo))
    <cannot> (?:\w+ ){0,2}?acordar(?! (?:cedo|de manha|na hora|no horario))
    nao (?:\w+ ){0,2}?(?:respira|respirando|acorda|reage|desperta|chora nem)(?! (?:cedo|pelo nariz))
    nao (?:\w+ ){0,2}?(?:responde|respondendo)(?! (?:a|ao|aos|as|minhas?|meu) )
    (?:parou|parando|esquece) de respirar|so respira sentad[oa]|sem (?:pulso|batimentos)
    nao se (?:mexe|move)|sem se mexer|caid[oa] no chao|(?:sem falar|ach\w+|encontr\w+) caid[oa]
    (?:ele|ela|pai|mae|vo|avo|marido|esposa|filh[oa]
        |amig[oa]) (?:\w+ )?esta (?:quase )?morrendo(?! d[eo])
    (?:acho que|parece que|sinto que) (?:\w+ )?(?:vou|vai|estou|esta) (?:morrer|morrendo)
    (?<!pronto )(?<!pronto-)socorro(?! publico)
    satur\w+ (?:\w+ ){0,3}?(?:[5-8]\d|9[01])
    bombinha (?:\w+ )?nao (?:\w+ )?(?:resolve\w*|adianta|funciona|faz efeito|alivia\w*|melhor\w+)
    (?:tem um )?barulho quando puxa o ar
    peito (?:\w+ )?(?:fundando|afundando)|(?:pis|sentad|apert|esmag)\w+ (?:\w+ )?(?:no|em cima do
        |o) meu peito
    (?:so |apenas )(?:um|o outro) lado|(?:terceira|segunda|quarta|outra) (?:crise|convulsao)
    crises? seguidas?
    (?:pele|mao|maos|pes) (?:\w+ )?(?:esta )?(?:saindo|soltando|descolando|azulad[oa])
    carro ligado|motor ligado|garagem fechada
    (?:ar|respiracao) nao (?:\w+ )?(?:entra|vem|chega|passa)|nao entra (?:o )?ar
    <cannot> (?:\w+ ){0,2}?(?:sorrir|segurar (?:nada|o copo|objetos)|engolir nada|enxergar|ver nada)
    <cannot> (?:\w+ ){0,2}?andar(?! (?:muito|de|rapido|sozinh))
    nao (?:\w+ )?(?:abre os olhos|levanta do chao|da sinal|tem pulso|tem reacao|fala nada)
    (?:olhar|olhos?) (?:\w+ )?(?:vidrad|fix|parad)[oa]s?|(?:dur[oa]|caid[oa]|tremendo) e baband[oa]
    (?:teve|tendo|deu) (?:um |uma )?(?:treco|troco|piripaque|passamento|ataque|siricutico)
    (?:gritando|urrando|berrando|contorcendo|rolando|dobrad[oa]|chorando muito) de (?:tanta )?dor
    dor (?:\w+ ){0,4}?(?:tao|muito) (?:forte|grande) que|<hard> (?:para|de) ficar acordad[oa]
    se trem(?:e|endo) tod[oa]|travou (?:o queixo|os dentes|o maxilar)|estupr\w+|violentad[oa]
    # Choking
    (?:engoliu|engoli|engolido) ... (?:moeda|bala|brinquedo|botao|pecas?|bolinha|tampinha|prego
        |alfinete|agulha|osso|parafuso|brinco|anel|pedra|vidro|caco|bijuteria)
    ental(?:ou|ad[oa])|(?:preso|presa|atravessad[oa]) na garganta
    # Heart
    (?:coracao|batimentos?|pulso|frequencia|bpm) (?:\w+ ){0,4}?(?:1[5-9]\d|2\d\d)
    pressao (?:\w+ ){0,3}?2\d ?(?:por|x|/) ?1\d
    # Nerves
    nao (?:\w+ ){0,2}?(?:mexe|mexo|sinto|sente|sentindo) (?:\w+ )?(?:(?:\w+ )?(?:pernas|bracos)
        |(?:as|os|\w+) (?:pernas|bracos)|as pernas|os bracos|as maos
        |os pes|nada da cintura|[oa] (?:bebe|nen\w+))
    nao (?:\w+ )?enxerg\w+ (?:de um olho|mais nada|nada)
    caiu dur[oa]|(?:coracao parar e|ele|ela|eu) apag(?:ou|uei)
    # Blood
    nao (?:\w+ )?(?:para|parou|estanca) (?:de )?(?:sangrar|convulsionar|sair sangue|jorrar)
    (?:sangue|sangramento|sangrando|hemorragia) (?:\w+ ){0,3}?nao (?:\w+ )?(?:para|estanca)
    (?:convulsao|ataque|crise) ... nao (?:para|passa|parou)
    estancar|(?:cort\w+|fur\w+) ... (?:fund[oa]|profund[oa]|arteria|veia|jugular|pulso sem querer)
    sangr\w+ ... (?:\d+ (?:min|hora)\w*|meia hora|uma hora|horas)|lavad[oa] de sangue
    sangr\w+ (?:muito )?(?:para|a) (?:car\w+|cacete|burro|cassete|valer|beca)|banho de sangue
    (?:serra|maquita|motosserra|facao|machado|esmerilhadeira) ... (?:cort|peg|pass|ating)\w+
    (?:cort|peg|pass|ating)\w+ ... (?:serra|maquita|motosserra|facao|machado|esmerilhadeira)
    # Babies and pregnancy
    nao (?:quer |esta |conseguiu )?(?:mama|mamar|mamando|mamou)(?! no peito)|nao pega (?:o peito
        |a mamadeira)
    ganhando (?:o )?(?:bebe|nenem)|ver a cabecinha
    (?:bebe|crianca|cabeca) (?:\w+ )?(?:esta )?(?:nascendo|coroando)|pari(?:u|ndo)? (?:em casa
        |no carro|sozinha)
    (?:bebe|nenem?) (?:\w+ )?(?:parou de|nao) (?:\w+ )?(?:mexer|mexe|mexeu|mexendo)
    febre (?:\w+ ){0,3}?4[0-2](?!\d)|4[0-2] e meio|4[0-2](?:[.,]\d)? (?:graus )?de febre
    # Poison
    <swallowed> (?:\w+ ){0,2}?(?:remedios?|comprimidos?) demais|de proposito muitos comprimidos
    <swallowed> (?:\w+ ){0,4}?<many> (?:\w+ ){0,2}?<pills>
    <swallowed> (?:\w+ ){0,3}?<many> (?:de )?<drug>|(?:[5-9]|\d\d) ?(?:g|gramas) de <drug>
    <swallowed> (?:[^\s.;!?]+ ){0,6}?(?:<poison>|<amount>)
    <swallowed> (?:\w+ )?<pills> (?:\w+ ){0,3}?d[aoe]s? (?:\w+ )?(?:avos?|vo|mae|pai|outr\w+|irm\w+
        |vizinh\w+
        |cachorro)
    <swallowed> ... mei[ao] (?:caixa|cartela|frasco|vidro)|<swallowed> ... remedios? [3-9] vezes
    (?:dei|deram|demos|tomou) ... (?:dose errada|remedio errado|dez vezes|(?:remedio
        |dose) trocad[oa])
    cartelas? vazias?|chumbinho|veneno de rato|metanol|bebida batizad[oa]|monoxido|batizad[oa]
    (?:beb|com|engol|chup|mastig)(?:eu|iu|ou) (?:[^\s.;]+ ){0,5}?(?:perfume|cigarro|limp\w+|multiuso
        |xampu|shampoo|esmalte|repelente|baygon|sbp|racumin|furadan|planta|frutinha|sapolio
        |lisoform)
    <child> ... (?:comeu|engoliu|chupou|mastigou|abriu|achou|pegou) ... (?:remedios?|comprimidos?)
    (?:<poison>|acido|cal|super ?bonder|produto) (?:\w+ ){0,3}?(?:no|nos|dentro do) olhos?
    (?:doses?|gotas|insulina) (?:\w+ )?(?:em excesso|a mais|demais)
    inal\w+ (?:\w+ )?(?:gas|cloro|veneno|produto|fumaca)|veneno (?:\w+ ){0,3}?vazou
    mistur(?:ei|ou|ando|aram) (?:\w+ ){0,4}?(?:agua sanitaria|cloro|amonia|acido|desinfetante
        |q-?boa)
    aquecedor a gas|gas de cozinha|(?:vazamento|cheiro forte|vazando) (?:de )?gas
    churrasqueira dentro
    # Injuries
    tiros? (?:na|no)|balead[oa]|(?:lev|tom|receb)\w+ (?:um |dois |tres )?tiros?|esfaque\w+
    facada(?! no calcanhar)|(?:facas?|ferro|vidro|estaca|prego) ... (?:enfiad|cravad|atravessad)[oa]
    (?:fur|perfur)(?:ou|ei|aram) (?:\w+ )?(?:barriga|peito|pescoco|olho|pulmao)
    espancad[oa]|espancaram|decep\w+|amput(?:ou|ei)|(?:arranc|esmag)(?:ou|ei
        |ad[oa]) (?:\w+ )?(?:dedos?|mao|pe|braco|perna|orelha)
    (?:dedo|mao|braco|perna) (?:\w+ )?(?:arrancad[oa]|cortad[oa] fora|esmagad[oa]
        |pres[oa] na maquina)
    atropel\w+|fratura exposta|osso (?:\w+ ){0,4}?(?:para fora|aparecendo|saindo|exposto)
    ca(?:iu|i) (?:\w+ ){0,3}?d[oae] (?:\w+ )?(?:telhado|laje|escada|altura|andar|andaime|predio
        |moto|cavalo|janela|sacada|arvore|muro|caminhao)
    motoqueiro caiu|soterrad[oa]|prensad[oa]
    quebr(?:ou|ei) (?:\w+ )?(?:femur|bacia|quadril|coluna|costelas?|pescoco)
    pul(?:ou|ei) de cabeca|pescoco (?:\w+ ){0,2}?torcendo|rach(?:ou|ei) a cabeca
    # Burns, electricity, water
    queim(?:ou|ei|ad[oa]) (?:\w+ ){0,3}?(?:as (?:duas )?maos|rosto|cara|olhos?|peito|corpo|pescoco
        |costas|barriga
        |tod[oa])
    (?:agua|oleo|cafe|sopa|leite|panela|chaleira|gordura|feijao) (?:\w+ )?(?:quente|fervente
        |fervendo) (?:\w+ ){0,3}?(?:ca(?:iu|i)|vir(?:ou|ei)|derram\w+|em cima|n[ao] <child>|nel[ea])
    (?:derram|vir|ca|pux|jog)\w+ ... (?:agua|oleo|cafe|sopa|leite|gordura|feijao) (?:quente
        |ferv\w+)|agua fervente
    (?:peg(?:ou|ando) fogo|em chamas) (?:\w+ )?(?:n[aoe]|roupa|cabelo|corpo)?|explodiu|explosao
    (?:lev|tom|receb)(?:ou|ei|ando|aram) (?:um |uma )?(?:choque|descarga|raio)|eletrocut\w+
    (?:grudad|agarrad|pres)[oa] n[oa] (?:fio|cerca|rede)
    choque eletrico|atingid[oa] por (?:um )?raio
    afog(?:ou|ando|ad[oa]|amento|uei|aram)|(?:em|de)baixo (?:da|d) ?agua|submers[oa]
    ca(?:iu|i) (?:\w+ )?(?:na|no|dentro d[oa]) (?:piscina|rio|mar|represa|lago|balde|tanque|poco
        |cisterna|acude|caixa d'agua)
    # Animals
    (?:pic|mord|ferr|atac)\w+ (?:[^\s.;]+ ){0,4}?(?:cobra|jararaca|cascavel|coral|surucucu|serpente
        |escorpi\w+|aranha|lacraia|taturana|arraia)
    (?:cobra|jararaca|cascavel|serpente|escorpi\w+|aranha(?: marrom)?|taturana|lagarta|arraia
        |agua-viva|caravela) (?:\w+ )?(?:pic|mord|ferr|queim|atac)\w+
    (?:dezenas|muitas|varias) (?:de )?(?:ferroadas|picadas de abelha|abelhas)|enxame
    picad[oa] por abelhas
""")

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
# A time of the past, or an event that is over.
OLD = verbose(
    rf"""
    \b(?:ha|faz|fazem|tem)\ (?:(?:mais\ de|uns|quase|cerca\ de)\ )?
      (?:{NUMBER}|muitos|alguns|varios)\ (?:mes|meses|anos?)\b
    |\b(?:{NUMBER}|alguns|muitos)\ (?:meses|anos)\ atras\b
    |\bano\ passado\b|\b(?:em|de)\ (?:19|20)\d\d\b|\bquando\ (?:era\ )?crianca\b|\bna\ infancia\b
    |\b(?:depois|apos)\ d?o\b|\bcontra\b|\bpara\ (?:o\ )?(?:infarto|avc)\b
    """
)
# A symptom of the past, in words that leave no doubt.
OVER = any_of(
    *("ano passado", "ja passou", "na infancia", "quando (?:eu )?era crianca", "uma vez quando"),
    *(r"(?:em|de) (?:19|20)\d\d", "ja esta (?:bem|otim[oa])"),
    r"(?:tive|teve|cai|caiu|levei|sofri|sofreu) (?:\w+ ){0,4}?(?:ha|faz) \w+ anos",
    r"(?:tive|teve) (?:\w+ ){0,3}?(?:com|aos) \d+ anos?",
    r"n?a (?:primeira|outra|ultima) (?:gestacao|gravidez)|aos \w+ anos|com \w+ anos? de idade",
)
# A word that says that something happens now.
NOW = any_of(
    *(
        r"(?!quando)\w+[aei]ndo",
        r"nao (?:\w+ )?(?:conseg\w+|acorda|responde|respira|para|mexe|sente|sinto)",
    ),
    *(
        "agora",
        "hoje(?! (?:tem|caminha|vive|anda|faz|corre|trabalha|esta))",
        "ontem",
        "voltou",
        "voltaram",
        "(?<!engravidar )de novo",
        "outra vez",
        "piorou",
        "desde",
    ),
    *("(?<!ja )esta", "estou", "nao passa", "de repente"),
)
# A question about a matter, which is general unless it also has a word of PERSONAL.
MATTER = verbose(
    r"""
    ^\s*(?:o\ que\ (?:eh|sao|causa|significa)|por\ ?que\b|quanto\ tempo|quando\b|medo\ de|quais\b
      |como\ (?:saber|prevenir|evitar|funciona|age|ensinar|tratar|reconhecer|identificar)
      |qual\ (?:eh\ )?(?:[ao]s?\ )?(?:diferenca|sintoma|sinal|causa|tratamento|dose|chance|risco
        |exame|medico|vacina|numero|idade|prevencao|especialista)\b
      |(?!nao\b)[\w\ ]{3,40}\ (?:eh\ sintoma|pega|eh\ hereditari[oa]|tem\ cura)\b
      |(?!nao\b)\w+\ eh\ sempre\b)
    |\b(?:sou|trabalho\ como)\ (?:enfermeir|tecnic|estudante|professor|medic|socorrista)\w*
    |\btrabalho\ da\ (?:faculdade|escola)\b|\b(?:prova|aula|curso|palestra)\ (?:de|sobre)\b
    |\bdiferenca\ entre\b
    """
)
PERSONAL = any_of(
    *("meu", "minha", "me", "el[ea]", "estou", "esta", "tom(?:ei|ou)", "agora", "hoje", "sinto"),
    *("fiquei", "ficou", "comec(?:ei|ou)", "nao (?:acorda|respira|responde)", "socorro"),
)
ASKED_ABOUT = verbose(
    r"""
    (?:\bo\ que\ (?:eh|significa|causa|provoca)|\bprevenir|\bevitar|\bprevencao\ d[eo]
      |\b(?:morreu|risco|chance|medo|sintomas?|sinais|causas?|tratamento|vacina|prevencao|historico
        |casos?)
        \ (?:d[eoa]|contra)
      |\bdiferenca\ entre|\b(?:nunca|ja)\ (?:tive|teve)
      |\bepilepsia\ e|\bentre\ \w+\ e|\b(?:apos
        |depois\ d[eo])
    )
    \ (?:uma?\ |o\ |a\ )?$
    """
)

# Two signs that are an emergency only together, anywhere in the question.
YOUNG = phrases(r"""
    recem.nascid[oa]|rn
    <child> (?:\w+ )?(?:de|com|tem) (?:um|1|2|dois) m(?:es|eses)
    <child> (?:\w+ )?(?:de|com|tem) (?:\w+ )?(?:dias|semanas)
    nasceu (?:ha|faz|tem) (?:\w+ )?(?:dias|semanas)|nasceu semana passada
""")
FEVER = any_of(
    "febre", "febril", "quentinh[oa]", "muito quente", r"3[89](?:[.,]\d)?", r"37[.,][89]"
)
PREGNANT = phrases(r"""
    gravid[ao]|gravidez|ganhei (?:o |um )?(?:bebe|nenem)|dei a luz|gestante|gestacao|parto|pariu
    cesarea|puerperio|resguardo
    \w+ semanas|de \w+ meses|meses, sangr\w+
""")
PREGNANCY_SIGN = phrases(r"""
    sangr(?:ando|o|ou|amento)|(?:muito|saindo) ... sangue|hemorragia
    (?:dor|dores) (?:\w+ ){0,3}?forte|desmai\w+|perd(?:endo|i|eu) liquido
    vendo (?:tudo )?embacado|absorvente (?:\w+ ){0,3}?hora|febre de 39|fedid[oa]
    vista (?:embacad|escur|turv)\w+|visao (?:embacad|turv|dupl)\w+|pontinhos|estrelinhas|luzinhas
    pressao (?:\w+ ){0,3}?1[4-9] ?(?:por|x|/) ?\d+|contrac\w+ ... minutos|ca(?:i|iu) d[eoa]|acidente
""")
RACING = phrases(r"""
    coracao (?:\w+ ){0,3}?(?:dispar|aceler)\w+|palpitac\w+|taquicardia
""")
FAINT = phrases(r"""
    suando frio|sua frio|suor frio|tont\w+|desmai\w+|falta de ar|com dor|dor no peito|fraqueza
""")
COLD = any_of("suad[oa]", "suando", "suor frio", "palid[oa]", "gelad[oa]", "branc[oa]")
PAIN = any_of(r"dor (?:\w+ ){0,4}?(?:peito|estomago|costas|bracos?|barriga)", "nao acorda")
DIABETIC = any_of(r"diabet\w+", "insulina", "glicemia", "glicose", "de[xs]tro", "hgt")
FAILING = phrases(r"""
    suando|sua frio|confus\w+|respirando fundo|sonolent\w+|sem sentido|desacordad[oa]|nao acorda
    tremendo|mole|molinh[oa]|agressiv[oa]|nao responde
    desmai\w+|(?:glicemia|glicose|acucar|dextro|destro|hgt) (?:\w+ ){0,3}?(?:[1-4]\d|5[0-4]
        |[4-9]\d\d|hi)
""")
INFECTED = any_of("febre", "infeccao", "febril", "38(?:[.,]\\d)? de febre")
SEPSIS = phrases(r"""
    confus[oa]|(?:pescoco|nuca) (?:\w+ )?(?:dur|rigid|travad)[oa]|quimioterapia|transplantad[oa]
    barriga (?:\w+ )?dura
    manch(?:inh)?as? (?:\w+ )?(?:rox\w+|escur\w+|vinho)|pint(?:inh)?as? rox\w+|petequias
    encostar o queixo|(?:dobrar|abaixar|mexer) o pescoco|delir\w+|nao para de vomitar
""")
HEAD = phrases(r"""
    ca(?:iu|i) (?:[^\s.;]+ ){0,4}?de cabeca|cabeca (?:\w+ )?(?:no chao|na quina|no asfalto|na pedra)
    <child> ... caiu d[oa] (?:berco|colo|trocador|cama|sofa|beliche|cadeira|cadeirao|rede)
    (?:bat(?:eu|i|ida)|pancada|machucou|trauma|queda) (?:\w+ ){0,2}?(?:a|na|de|com a) cabeca
    traumatismo
""")
HEAD_SIGN = phrases(r"""
    vomit\w+|desmai\w+|sonolent\w+|pupila|convuls\w+|confus\w+|apag(?:ou|ado)|nao lembra|estranh[oa]
    anticoagulante|varfarina|marevan|rivaroxabana|xarelto|sangue (?:\w+ )?(?:ouvido|nariz)
    afundad[oa]
""")
EYE = any_of("olho", "visao", "enxerg\\w+", "vista")
PRESSURE = phrases(r"""
    pressao (?:\w+ ){0,2}?alta|pressao (?:\w+ ){0,3}?(?:1[89]|2\d)
""")
SPOTS = phrases(r"""
    pontinhos|visao (?:embacada|turva|dupla)|dor de cabeca|dor no (?:estomago|peito)|vomit\w+
    confus[oa]
""")
SUDDENLY = any_of("de repente", "do nada", "de uma hora para (?:a )?outra", "cortina", "claroes")
NERVES = phrases(r"""
    lado (?:\w+ ){0,2}?(?:do corpo|do rosto|direito|esquerdo)|fala|tontura|visao dupla|equilibrio
""")
ALLERGEN = phrases(r"""
    camarao|amendoim|castanhas?|frutos? do mar|abelha|vespa|marimbondo|formigas?|alergi\w+|ferroada
    benzetacil|penicilina|contraste|injecao|picada
""")
REACTION = phrases(r"""
    inch\w+ ... (?:rosto|cara|boca|labios?|lingua|olhos)|(?:rosto|cara|boca|labios?|lingua
        |olhos) ... inch\w+
    rouc[oa]|chiando|tont[oa]|empol\w+|pressao (?:caiu|baixa)|corpo todo (?:vermelho|cocando)
""")
STREET_DRUG = phrases(r"""
    cocaina|crack|heroina|ecstasy|mdma|lsd|lanca.perfume|lolo|k9|fentanil|morfina
    (?:cheir|us|inject|fum)\w+ (?:\w+ ){0,2}?(?:po|bala|droga|pedra)
""")
DRUG_SIGN = phrases(r"""
    coracao|dor no peito|respir\w+|convuls\w+|<pale>|passando mal|tremendo|delir\w+|febre|demais
""")
HEAT = any_of("sol", "calor", "sauna", "carro fechado")
HEAT_SIGN = phrases(r"""
    delir\w+|confus[oa]|desmai\w+|parou de suar|convuls\w+|pele (?:\w+ )?quente
""")
GAS = any_of("fumaca", "gas", "incendio", "cloro")
GAS_SIGN = any_of(r"tossindo", "tont[oa]s?", r"confus[oa]", "sem ar", r"vomit\w+")
FRENZY = any_of("surtad[oa]", "surto", "surtou", "surtando", "vozes")
VIOLENCE = any_of("faca", "agressiv[oa]", r"quebrando", "ameac\\w+", "mandam", "mandando")
VENOM = any_of("aranha", "cobra", r"escorpi\w+", "lagarta", "abelhas?")
VENOM_SIGN = phrases(r"""
    vomit\w+|urina (?:\w+ )?(?:escura|preta|vermelha)|(?<!escorpiao )amarel[oa]|suando|pic\w+ agora
""")
UNWELL = any_of("enjoo", "enjoad[oa]", "ansia", r"passando (?:muito )?mal", "fraqueza", r"tont\w+")
COLD_SWEAT = any_of("suando frio", "suor frio", "suor gelado", "suando gelado")
TOOK = phrases("<swallowed>")
WHOLE = phrases("(?:caixa|cartela|frasco|vidro|pote) (?:inteir[oa]|tod[oa])")
TESTICLE = any_of(r"testiculos?", "saco")
STRONG = any_of(r"(?:dor|doendo|doer) (?:\w+ ){0,3}?(?:forte|fortissima|de repente|do nada)")
PAIRS = (
    (COLD_SWEAT, UNWELL),
    (TOOK, WHOLE),
    (TESTICLE, STRONG),
    (YOUNG, FEVER),
    (PREGNANT, PREGNANCY_SIGN),
    (DIABETIC, FAILING),
    (INFECTED, SEPSIS),
    (HEAD, HEAD_SIGN),
    (EYE, SUDDENLY),
    (NERVES, SUDDENLY),
    (RACING, FAINT),
    (PRESSURE, SPOTS),
    (COLD, PAIN),
    (ALLERGEN, REACTION),
    (STREET_DRUG, DRUG_SIGN),
    (HEAT, HEAT_SIGN),
    (GAS, GAS_SIGN),
    (FRENZY, VIOLENCE),
    (VENOM, VENOM_SIGN),
)
