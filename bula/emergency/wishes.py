"""List phrases of wishes to die, of plans and of self-harm (188).

The tables join a word of wishing with a word of ending. All patterns read the text of
bula.emergency.words.spell, and a denial is no reason to be silent.
"""

from bula.emergency.words import phrases

# A wish to be no more: "queria que tudo acabasse", "sonho em não acordar".
ENDING = phrases(r"""
    <wishing> ...5 (?:<ending>)
    (?:nao|nunca) ...1 (?:quero|queria|quer|queri?amos) ...2 (?:acordar|existir|viver|respirar
        |amanha|estar (?:mais )?(?:aqui|viv[oa])|ver o (?:sol|dia)|chegar aos?)(?! (?:cedo|tarde|com
        |assim))
    (?:tomara|oxala|se deus quiser|deus me perdoe) ...4 (?:nao acord\w+|morr\w+|me lev\w+)
    (?:quero|queria|vou|vai|quer) (?:virar|ser) (?:uma )?(?:estrelinha|estrela|anjinho|anjo|cinzas?
        |po)
    (?:coracao|respiracao|vida|mundo|tempo) ...1 (?:parasse|acabasse|desligasse)
    (?:parasse|pare|pararia) de (?:bater|viver|existir)
    (?:apertar|ter|existisse|tivesse) ...2 (?:botao|interruptor) ...6 (?:deslig\w+|apag\w+|acab\w+
        |sumi\w*|deix\w+|existi\w*)
    (?:nao|sem) ...2 medo d[ea] (?:morrer|morte) ...4 (?:vontade|quero|desejo|viver|vida|continuar)
    medo eh? de (?:continuar )?viv\w+|morrer ...2 (?:alivio|descanso|presente|bencao|sossego|paz)
    (?:alivio|descanso|bencao|sossego|paz) ...4 (?:morr\w+|morte|mort[oa]|debaixo da terra|caixao
        |tumulo)
    (?:acord\w+|levant\w+) ...4 (?:decepcion\w+|que pena|com raiva|droga) ...3 (?:viv[oa]|de novo
        |acord\w+)
    (?:tanto faz|indiferente|nao (?:me )?importa\w*|nao ligo) ...4 (?:viv\w+|morr\w+|mort[oa]
        |acord\w+|atropel\w+)
    (?:atropel\w+|acidente|doenca|cancer|raio|caminhao|aviao) ...3 (?:me (?:lev|mat|peg|atropel
        |acert)\w+|acabasse|resolvesse)
    (?:torco|rezo|peco|oro|pedindo|rezando|torcendo|pedi) ...3 (?:para|a deus|que) ...3 (?:morr\w+
        |lev\w+|acab\w+|nao acord\w+|cancer|doenca|acidente|atropel\w+)
    (?:chega|cansei|cansad[oa]|exaust[oa]|fart[oa]|farta) (?:de|da) ...2 (?:viver|existir|vida
        |respirar|lutar|sofrer|fingir|mim)
    nao (?:estou |esta )?(?:aguent|suport)\w+ ...1 (?:viver|existir|essa vida|essa dor na alma
        |a vida|esse vazio|esse sofrimento|essa existencia|continuar|ficar (?:aqui|viv[oa]))
    (?:ja )?viv(?:i|eu) (?:demais|o suficiente|o bastante|tudo que)|cumpri (?:minha|a) missao
    (?:quer|queria|quero|vontade de|pronta? para) ...2 (?:ir|partir|embora) (?:logo|de vez|desta
        |dessa para|para sempre|encontrar|junto)|para ir (?:logo|embora logo)|ir para (?:o ceu
        |junto d)
    (?:encontrar|junto|perto|ver|abracar|reencontrar) ...5 (?:no ceu|la em cima|do outro lado
        |na outra vida)
    (?:outra vida|outro lado|la de cima) ...3 (?:melhor|paz|encontr\w+)
    (?:dor|vazio|tristeza|escurid\w+|angustia) ...2 (?:na|da|de) (?:alma|dentro|existir) ...6 (?:par
        |acab|fim|pra sempre|para sempre|nao aguento)\w*
    (?:melhor|mais facil) ...4 (?:eu|me) (?:nao|nunca) (?:estar|existir|ter|acordar|viver)
    nao (?:vejo|tem|ha|existe|acho|encontro) (?:mais )?(?:outro jeito|outra saida|outra solucao)
    (?:ir|vou|ia|poder ir|quero ir) (?:tambem|junto|com (?:ele|ela)) ...4 (?:morr\w+|enterr\w+
        |caixao|ceu|tumulo|partiu)
    (?:morr\w+|enterr\w+) ...5 (?:ir (?:tambem|junto|embora|em paz)|descansar)
    (?:morar|ficar|brincar|viver) com ...4 (?:no ceu|na estrela|que morreu|que partiu)
    (?:me imagin\w+|me vejo|me ver) ...4 (?:mort[oa]|caixao|tumulo|enterrad[oa]|velorio)
    (?:eu |que )?me mato\b|me mata\b(?! de)(?=$| por favor| logo)|pare de doer
        |parar de doer para sempre
    (?:por um fio|no meu limite|nao respondo por mim) ...10 (?:fazer comigo|besteira|vida|hoje|mim)
    (?:medo|nao sei) d?o que (?:eu )?(?:posso|sou capaz de|vou|possa) fazer (?:comigo|contra mim
        |hoje|essa noite|sozinh[oa])
    (?:perigo|seguranca|segur[oa]) ...3 (?:comigo mesm[oa]|para mim mesm[oa]|de mim mesm[oa])
""")
# A burden to others, or nothing that holds: "estariam melhor sem mim".
BURDEN = phrases(r"""
    (?:melhor|bem|felizes?|aliviad\w+|paz|sossego|alivio|descans\w+|tranquil\w+|leve
        |livres?) ...4 (?:sem mim|sem eu|do que comigo|se eu (?:nao|sum|morr|fosse|desaparec
        |part)\w*|longe de mim|quando eu (?:for|morrer|partir|sumir|nao))
    (?:sem mim|se eu (?:sumi|morre|nao existi|desaparece|parti|foss|nao tive
        |nunca tive)\w*) ...6 (?:melhor|felizes?|bem|alivi\w+|paz|not\w+|percep\w+|perceb\w+|falta
        |chor\w+|diferenca|importa\w*|descans\w+|sossego)
    (?:sou|virei|me sinto|sendo|me tornei|so) ...1 (?:um |uma |um grande )?(?:peso|fardo|estorvo
        |inutil|lixo|atraso|fracasso|erro|encosto|problema|desgraca|despesa|carga
        |sobra)(?! d[eo]s? (?:peso|leve))
    (?:so )?(?:dou|causo|trago|traz|atraso|estrago|atrapalho) ...1 (?:problema|trabalho|desgosto
        |despesa|vida|tudo|todos|tristeza|sofrimento)
    (?:seguro|heranca|pensao) (?:de vida )?...6 (?:sem mim|eu morr\w+|morte|comigo|minha falta)
    (?:com o|pelo) seguro ...3 (?:que comigo|do que)
    ninguem ...3 (?:se importa|liga|not\w+|percep\w+|perceb\w+|falta|precisa|sabe que existo
        |choraria|vai chorar|me (?:ama|quer|ve|enxerga)) ...4 (?:comigo|mim|eu|falta|viv\w+|morr\w+
        |sum\w+)
    (?:nada|ninguem|coisa) ...3 (?:me |que me )?(?:prend\w+|segur\w+|ligu?e) ...3 (?:aqui|vida|mundo
        |viv\w+)
    (?:nada|ninguem|so voces?) ...2 (?:me )?segur\w+ aqui|(?:unica|so|o que) ...3 (?:me (?:segura
        |impede|prende|mantem)) ...2 (?:aqui|viv[oa]|filh\w+|cachorro|gato|mae|nao)
    (?:nao|sem|nada|perdi) ...3 (?:sentido|motivos?|razao|razoes|graca|futuro|saida|porque|proposito
        |luz) ...2 (?:vida|viver|mim|continuar|levantar|existir|aqui|tunel|nada|seguir|acordar)
    (?:vida|viver|existir|existencia) ...3 (?:droga|merda|lixo|inferno|castigo|tortura|pesadelo|peso
        |insuportavel|bosta|vazia?|doi|cansa|acabou|perdeu|nao (?:presta|vale|tem|faz
        |compensa))(?! sexual| social)
    (?:fundo do poco|beco sem saida|fim da linha|ponto final|limite) ...8 (?:vida|viver|mim
        |aguent\w+|acabar|desist\w+|sem saida|saida)
    (?:desisti|desistir|desistindo|desiste|desisto|larg\w+ mao) (?:de|da) (?:tudo|mim|viver|vida
        |existir|lutar|ser)
    (?:odeio|detesto|nojo de|raiva de) (?:minha vida|mim|existir|viver|ser eu|estar viv[oa]
        |acordar todo)
    mere(?:co|ce|cia) ...1 (?:morrer|sofrer|sumir|viver|castigo)
    (?:culpa|errei|vergonha) ...8 (?:morrer|nao mereco viver|sumir do|acabar com)
    (?:nada|ninguem) ...1 (?:mais )?me (?:segura|prende|faz ficar|anima|importa)
    (?:da|dar|daria|sente|sentiria|sentir) ...1 (?:pela )?(?:minha )?falta (?:de mim|se eu)
    (?:perdi|perdeu|acabou) tudo ...8 (?:nada|sentido|viver|aguento|motivo|sobrou|fim)
    (?:quando|depois que|se) eu (?:for embora|partir|morrer|sumir|me for|nao estiver (?:mais )?aqui)
    (?:quando|depois que) eu for(?=$|[.,!])
""")
# A plan, a farewell, a place and a means.
PLAN = phrases(r"""
    (?:ja )?(?:tenho|escolh\w+|marqu?\w+|decid\w+|sei|pens\w+|planej\w+|defini
        |combinei) ...3 (?:o dia|a data|o jeito|a hora|o lugar|o metodo|como vai ser
        |como (?:vou )?fazer|meu fim|a forma|a maneira) ...4 (?:acab\w+|fim|morr\w+|jeito|tudo|ir
        |isso|hora|dia|metodo|fazer)
    (?:dia|data|hora|jeito|plano) ...1 (?:marcad[oa]|escolhid[oa]|decidid[oa]|pront[oa]
        |certo) ...4 (?:acabar|morrer|ir|fim|isso|partir|fazer|tudo)
    (?:tudo|ja) ...1 (?:planejad[oa]|pronto|decidid[oa]|resolvid[oa]|preparad[oa]) ...4 (?:partir
        |ir embora|morrer|acabar|fim|sumir|noite)
    (?:hoje|essa noite|amanha|semana) ...4 (?:acab\w+ (?:com )?tudo|me despec\w+
        |ultim[ao] ...3 (?:meu|minha|dele|dela|vida|vez))
    ultim[ao] (?:vez|natal|aniversario|abraco|noite|conversa|mensagem|foto|beijo
        |dia) ...8 (?:nao sabem|despe\w+|adeus|(?:dele|dela|minha|meu|vida)|me ver|vao ver|sem eu
        |vejo|vi meus)
    (?:d(?:eu|ei|ando|oou|oei|oando|istribu\w+)|deix(?:ei|ou|ando)|separ(?:ei|ou|ando)|organiz(?:ei
        |ou|ando)|entreg\w+|reparti\w*) ...6 (?:coisas|pertences|bichos?|gatos?|cachorr\w+|roupas
        |senhas?|documentos|joias|cartas?|bilhetes?|tudo|dinheiro|brinquedos
        |testamento) ...8 (?:despe\w+|adeus|nao (?:vai|vou|ia) ...1 precis\w+|quando eu (?:nao|for
        |morrer|partir)|eu nao (?:estiver|tiver)|estranh[oa]|caso eu|sem mim|depois que eu
        |nao vou usar|para quando)
    (?:logo|em breve|daqui a pouco|nao vou|nao vai|nao ia) ...3 (?:precis\w+ mais
        |precisar (?:mais )?disso|estar (?:mais )?aqui|fazer falta|incomodar\w*|dar trabalho)
    (?:cuid\w+|tom\w+ conta) ...6 (?:quando eu (?:nao|for|morrer|partir)|se eu nao estiver
        |depois que eu|minha falta|na minha ausencia)
    (?:perdao|desculpa\w*|obrigad[oa] por tudo|amo voces|fiquem com deus
        |fica com deus) ...8 (?:ultima|adeus|partir|ir embora|vou embora|nao aguento|nao (?:vou|vai)
        |viver|fim)
    (?:adeus|tchau) (?:mundo|vida|para sempre|a todos|para todos|gente)|me despedi\w*|se despedi\w*
        |despedida
    (?:alto|topo|beira|beirada|parapeito|cima|grade|borda|sacada|janela|terraco|laje|trilhos?
        |viaduto|ponte|passarela|penhasco|ultimo andar) ...8 (?:pul\w+|me jog\w+|se jog\w+|jogar
        |descer voando|voar|cair de|cham\w+|atra\w+|acabar|empurr\w+|soltar|coragem|vontade|amea\w+
        |despenc\w+)
    (?:vontade|penso|pensei|pensando|imagino|imaginando|coragem|quer|quero|ideia|impulso|vou|vai
        |ameac\w+) ...5 (?:pular|saltar|me jogar|se jogar|me atirar|se atirar|soltar o volante
        |bater o carro|jogar o carro|me enforcar|me enfiar (?:embaixo|debaixo)|atravessar na frente
        |entrar na frente|tomar tudo|tomar todos|tomar veneno|beber veneno|abrir o gas
        |cortar os pulsos)(?! corda| no sofa| na cama| na piscina| fora| de paraquedas)
    (?:soltar|largar) o volante|fechar os olhos dirigindo|(?:carro|moto) ...2 (?:contra|no poste
        |no muro) ...4 (?:acabar|proposito|vontade)
    (?:guard|junt|escond|estoc|separ|acumul|compr|pesquis|peg|arrum|consegu)\w* ...6 (?:comprimid\w+
        |remedios?|veneno|corda|arma|revolver|chumbinho|calmantes?|gilete|laminas?) ...8 (?:tomar
        |uma vez|coragem|acabar|morrer|dia|hora|matar|usar|caso|pronto|fim|despedida|chorando
        |trancad[oa]|escondid[oa]|calad[oa]|triste)
    (?:arma|revolver|corda|faca|veneno|remedios|comprimidos|gilete|chumbinho|ponte) ...6 (?:olh\w+
        |encar\w+|na mao|pensando|me cham\w+|coragem|vontade de usar|para acabar|para mim mesm[oa]
        |apontad\w+|na (?:minha |propria )?(?:cabeca|boca))
    (?:olh\w+|encar\w+|segur\w+) ...4 (?:arma|revolver|corda|faca|veneno|remedios|comprimidos|janela
        |ponte|trilhos?|gilete) ...4 (?:pens\w+|vontade|imagin\w+|besteira|coragem|acabar|fico
        |tent\w+)
    (?:jeito|forma|maneira|metodo|modo|como|remedio|coisa|veneno) ...5 (?:nao do\w+|sem do\w*
        |sem sofr\w+|indolor|rapid[oa]) ...4 (?:morr\w+|ir embora|partir|acabar|ir de vez|sumir|fim
        |matar)
    (?:morr\w+|ir embora de vez|partir de vez|acabar com (?:a vida|tudo)|matar) ...4 (?:nao do\w+
        |sem do\w*|sem sofr\w+|indolor|rapid[oa]|mais facil|dormindo)
    (?:qua(?:l|nt[oa]s?)|que) ...4 (?:dose|mg|comprimid\w+|gotas|remedios?|altura|andar|veneno
        |quantidade|mistura) ...6 (?:mat(?:a|ar|am)|letal|fatal|morr\w+|nao acord\w+
        |suficiente para)(?! (?:piolho|bacteria|verme|fungo|mosquito|barata|germe|virus|lombriga|a))
    (?:dose|quantidade|combinacao) ...3 (?:letal|fatal|mortal|que mata)
    (?:tent\w+|tentativa|tentativas) ...5 (?:morrer|contra a (?:propria |minha )?vida|tirar a vida
        |acabar com|enforc\w+|me matar|se matar|ir embora de vez)
    <swallowed> ...6 (?:de proposito|propositalmente|para (?:morrer|acabar|nao acordar
        |dormir para sempre))
    (?:se|me) tranc(?:ou|ei) ...6 (?:remedios?|faca|arma|corda|gilete|morrer|fazer besteira|matar)
    (?:fal\w+|convers\w+|pergunt\w+) ...3 (?:em|de|sobre|na) morte ...8 (?:deu|doou|despe\w+
        |estranh\w+|calad\w+|medo|trancad\w+)
    (?:meter|metesse|jogar|bater|enfiar|virar|acelerar) ...3 (?:carro|moto) ...3 (?:poste|muro
        |caminhao|arvore|contramao|barranco|ponte)
    (?:subi|fui|estive|cheguei|sentei|fiquei) ...3 (?:terraco|ponte|viaduto|telhado|laje|parapeito
        |trilhos?|sacada|beirada|alto) ...8 (?:desci|desisti|quase|coragem|pul\w+|pens\w+|jog\w+
        |olh\w+)
    (?:doi|demora|sofre|sente) ...3 (?:muito )?...1 (?:tomar (?:remedio|comprimido)\w* demais
        |se enforcar|cortar os pulsos|morrer|pular|overdose)
    cort(?:ou|ei|ar) (?:os |seus |meus )(?:proprios )?pulsos|beira d[ao] (?:suicid\w+|morte|fim)
""")
# Self-harm: "me furo com compasso".
SELF = phrases(r"""
    (?:me|se) (?:cort|fur|queim|arranh|mord|bat|soc|belisc|machuc|fer|arranc|mutil|risc|raspo|espet
        |esmurr|agrid|agred|puni|castig)\w* ...6 (?:sentir|alivi\w+|raiva|punir|castig\w+|acalm\w+
        |escondid[oa]|compasso|lamina|isqueiro|cigarro|gilete|estilete|apontador|tesoura|alfinete
        |agulha|proposito|ansios[oa]|angustia|triste\w*|dor de dentro|crise|sozinh[oa]|todo dia
        |de novo|escola|quarto|banheiro|chor\w+)(?! (?:cozinhando|na cozinha|fazendo|depil\w+))
    (?:passo|passa|passando|passou|us[oa]|usando|arrast\w+) ...2 (?:gilete|lamina|estilete|compasso
        |faca|caco|apontador) ...4 (?:pele|braco\w*|coxas?|pernas?|pulsos?|barriga|mim)
    (?:vontade|impulso|necessidade|preciso|penso|parar) (?:de|em) me (?:cortar|machucar|ferir
        |queimar|punir|furar|bater|arranhar|mutilar)
    (?:braco|pulso|coxa|perna|antebraco|barriga)s? ...4 (?:cort(?:es|ad\w+|inhos)|risc(?:os|ad\w+)
        |marcas de (?:corte|gilete|lamina)|cicatriz\w* de corte|furad\w+|queimad\w+ de cigarro
        |arranhad\w+ de proposito)
    (?:cortes|cortinhos|riscos|marcas|cicatrizes|queimaduras de cigarro|arranhoes) ...4 (?:bracos?
        |pulsos?|coxas?|antebracos?|pernas?|barriga) ...6 (?:escond\w+|manga|gilete|lamina|estilete
        |nao (?:conta|quer)|filh[oa]|alun[oa]|disse que foi)
    manga (?:comprida|longa) ...6 (?:cort\w+|escond\w+|bracos?|calor)
    me (?:soc|bat|esmurr)\w+|(?:bato|soco|esmurro|soca) ...2 (?:parede|propria cabeca|minha cabeca)
    (?:sangrar|sangue|me ver sangr\w+|dor fisica) ...6 (?:alivi\w+|acalm\w+|sinto viv[oa]|paz)
    (?:arranco|arranca) ...3 (?:propri[oa]|meu|minha) ...2 (?:cabelo|pele|unha) ...4 (?:ansi\w+
        |raiva|nervos[oa]|punir)
    (?:lamina|gilete|estilete|compasso|caco)s? ~ (?:bolsa|mochila|quarto|gaveta|travesseiro|estojo
        |escondid\w+|banheiro)
    escond\w+ ...2 (?:os )?(?:bracos?|pulsos?|coxas?|cortes|machucados)
    (?:abr\w+|arranc\w+|cutuc\w+|machuc\w+) ...6 de proposito ...6 (?:acalm\w+|alivi\w+|sentir
        |melhor\w*|raiva)
""")
WISHES = (ENDING, BURDEN, PLAN, SELF)
