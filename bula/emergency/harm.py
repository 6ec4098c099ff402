"""List composed signs of injuries, poison and violence, one class a table.

The phrases join words of bula.emergency.vocabulary. The pairs of TOGETHER are emergencies only
together, anywhere in a question.
"""

import re

from bula.emergency.words import phrases

BLEEDING = phrases(r"""
    <blood> ~ <gush>
    <gush> ~ (?:sangue|sangrando|hemorragia)
    sangr(?:ando|a|ou) ~ (?:muito|bastante|\d+ ?(?:horas?|min\w*)|meia hora|varias horas)
    (?:pond|bot|vomit|cusp|toss|golf|expel|escarr|jog|coloc)\w* ...2 sangue
    sa(?:i|iu|indo) ...2 sangue ...2 (?:boca|ouvidos?|orelhas?|umbigo|pinto|aos montes|com forca)
    sangue ~ (?:pela|na|da) (?:boca|ouvidos?|orelhas?|umbigo)
    (?:vomit|golf|toss|escarr)\w+ ...4 (?:vermelh[oa]|sangue|pret[oa]|borra)
    (?:coco|fezes|evacu\w+|cocos?) ...3 (?:pret[oa]s?|piche|graxa|borra|vermelh[oa] vivo|puro sangue
        |so sangue|muito sangue|com (?:muito )?sangue vivo)
    <cut> ~ (?:panos?|toalhas?|osso|tendao|gordura|carne|nervo|musculo) ...3 (?:encharc\w+|ensop\w+
        |aparec\w+|branc[oa]|vis\w+|para fora)
    <cut> ...3 <organ> ...8 (?:encharc\w+|ensop\w+|nao ...2 (?:para|estanc\w+|mex\w+|sint\w+)|osso
        |tendao|profund[oa]|fund[oa]|jorr\w+|muito sangue)
    (?:panos?|toalhas?|fraldas?|gazes?|curativos?|lencol) ...4 (?:encharc|ensop|pinga)\w+
    (?:pressiono|aperto|apertei|amarrei|garrote|torniquete|pressionando) ~ (?:nao ...1 (?:para
        |adianta|segura)|sangue|sangr\w+|continua)
    (?:hemofilic[oa]|hemofilia|anticoagulante|varfarina|marevan|xarelto) ~ (?:bateu|caiu|sangr\w+
        |cort\w+|pancada|tombo)
    (?:perdeu|perdi|perdendo|cortou|cortei|arrancou|saiu|voou|pulou) ...2 (?:ponta|pedaco|tampo
        |metade) ...2 (?:dedos?|orelha|nariz|lingua)
""")
POISON = phrases(r"""
    <swallowed> ...8 <poison>
    <poison> ...5 <swallowed>
    <swallowed> ...5 (?:vazi[oa]s?|por engano|achando que era|pensando que era|sem querer
        |escondid[oa]|em dobro|dobrad[oa]s?|tripl\w+)
    (?:cartela|caixa|vidro|frasco|pote|embalagem) ...4 (?:vazi[oa]s?|abert[oa]|pela metade|sem nada
        |ao lado|do lado)
    (?:sumiram|faltam|faltando|sumiu) ...2 <pills>|<pills> ...1 (?:sumi\w+|falta\w+ na)
    <child> ...5 <swallowed> ...5 (?:<drug>|<pills>) ...4 (?:d[aoe]s? (?:avos?|vo|mae|pai|tia|irm\w+
        |vizinh\w+|gato|cachorro)|adultos?|inteir[oa]|quase tod[oa]|tod[oa]|demais|escondid[oa]
        |pressao|coracao|diabetes|dormir)
    <child> ...4 (?:ach|peg|abr|mex|alcanc)\w+ ...4 (?:<pills>|<drug>|<poison>|cartela|vidro)
    (?:aplic|tom|inject|injet|dei|deram|puls|us|bot|coloc)\w* ...5 (?:no lugar de|em vez de
        |ao inves de) \d+
    (?:aplic|tom|injet|dei|deram)\w* ...4 (?:dose|insulina|remedio|unidades) ...4 (?:errad\w+|a mais
        |demais|dobrad\w+|duas vezes|dez vezes|trocad\w+|muito alta)
    (?:(?:passou|passei) (?:do ponto|da conta|do limite)|err(?:ou|ei)|exager\w+) ...4 (?:insulina
        |dose|remedio|gotas|comprimidos)
    (?:exager|abus)(?:ou|ei) ...3 (?:dose|calmante|remedios?|comprimidos|rivotril|insulina|drogas?
        |cocaina|bebida e)
    <swallowed> ...6 (?:de uma (?:so )?vez|tudo junto|de proposito)
    (?:respir|inal|cheir|aspir)\w+ ...4 (?:<poison>|fumaca|gas|vapor|amoniaco|po quimico)
    (?:passou|passei|aplic\w+|mexeu|pulveriz\w+) ...3 (?:veneno|agrotoxico|defensivo) ...8 (?:mal
        |tont\w+|vomit\w+|saliv\w+|tremendo|suando|enjo\w+|fraco)
    (?:tampa|pilha|bateria|ima) ...3 (?:nariz|ouvido|barriga|engol\w+)
    (?:bebeu|bebi|tomou|encheu a cara|bebendo) ...8 (?:nao ...1 (?:acord|respond|reag|levant)\w*
        |ninguem ...1 conseg\w+|gelad[oa]|vomitando deitad[oa]|apag\w+|despert\w+)
    (?:brigadeiro|bolo|cookie|bala|cogumelo|cha) ...1 (?:de maconha|magico|batizad[oa]|alucinogeno)
    boa noite cinderela|(?:colocaram|botaram) ...3 (?:na|no) (?:minha |meu )?(?:bebida|copo)
    (?:respir|inal|cheir)\w+ ...6 (?:caiu|desmai\w+|apag\w+|tont\w+|tossindo|sem ar)
    (?:silo|fossa|cisterna|tanque|caixa d'? ?agua) ...6 (?:caiu|desmai\w+|apag\w+)
    (?:enfiou|colocou|botou|meteu) ...4 (?:tomada|pilha|bateria|ima)
""")
BURN = phrases(r"""
    <hot> ...6 <spilled> ...5 <skin>
    <spilled> ...4 <hot> ...8 <skin>
    <burned> ...4 (?:rost\w+|cara|olhos?|peito|corp\w+|costas|barrig\w+|pescoco|genit\w+|virilha
        |tod[oa]|duas maos|pernas|<child>)
    (?:corp\w+|rost\w+|cara|pele|costas|pernas?|bracos?|maos?|<child>) ...4 (?:em chamas|pegou fogo
        |pegando fogo|queimad\w+|queimou|em carne viva|derret\w+|carboniz\w+|escald\w+)
    pele ...3 (?:solt\w+|pendurad\w+|descol\w+|derret\w+|saiu|saindo|levant\w+|desprend\w+
        |branca e dura)
    (?:explodiu|explosao|estour\w+) ...6 (?:botijao|panela|gas|fogao|bateria|fogos|rojao|bomba
        |alcool|celular|cara|mao)
    (?:botijao|panela de pressao|alcool|gas|fogareiro|isqueiro|churrasqueira) ...3 (?:explodiu
        |estourou|pegou fogo|na cara|no rosto)
    (?:pegou|pegando|ateou|tocou|botou) fogo ...1 (?:n[aoe]|em|roupa|cabelo|corpo|si|nele|nela)
    (?:incendio|casa pegando fogo) ~ (?:fumaca|dentro|pres[oa]|respir\w+)
""")
SHOCK = phrases(r"""
    (?:fio|tomada|poste|cabo|cerca eletrica|chuveiro|extensao|benjamim?|rede eletrica|alta tensao
        |disjuntor|quadro de (?:luz|energia)|geladeira|carregador) ~ (?:grud\w+|encost\w+|choque
        |estatelad[oa]|pres[oa]|agarrad[oa]|desmai\w+|jogou longe|arremess\w+|enfiou|meteu|mordeu
        |colocou o dedo|dur[oa]|queim(?:ou|ad[oa]) (?:a|o|na))
    (?:choque|descarga|220|380|eletricidade) ~ (?:lev\w+|tom\w+|desmai\w+|queim\w+|coracao|caiu
        |peito|dur[oa]|tremendo|gravida|<child>|apag\w+|formig\w+)
    raio ...3 (?:caiu|atingiu|pegou|acertou)|eletrocut\w+
    (?:grampo|garfo|chave|dedo|arame) ~ (?:tomada|fio desencapado)
    (?:alcool|fogo|chama|labareda) ...4 (?:subiu|pegou|alastrou|veio) ...4 (?:blusa|roupa|brac\w+
        |cara|rosto|cabelo|mim|nel[ea])
""")
DROWNING = phrases(r"""
    (?:tir(?:ei|ou|amos|aram)|resgat\w+|pux(?:ei|ou|amos|aram)|ach\w+|encontr\w+|boiando|boiou
        |afund\w+|submers\w+|afog\w+|ca(?:iu|i)|escorreg\w+|debaixo|embaixo
        |fundo) ~ (?:n?d?[oae]s? )?(?:<water>)
    <water> ~ (?:boiando|afund\w+|submers\w+|afog\w+|sumiu|nao (?:voltou|subiu|sabe nadar e)|debaixo
        |levou (?:ele|ela|meu|minha|embora))
    (?:engol\w+|beb\w+|aspir\w+) (?:muita |tanta )?agua ...2 (?:d[ao] )?(?:<water>)
    quase (?:se )?afog\w+|mergulh\w+ ...5 (?:cabeca|pescoco|raso|pedra|nao (?:sint|mex)\w+)
    (?:onda|correnteza|mare) ...4 (?:pux\w+|lev\w+|arrast\w+|rox\w+)
    (?:agua|boia|boiar|nadar|nadando) ...5 (?:roxinh?[oa]|nao respira|desmai\w+|desacordad[oa])
""")
ANIMAL = phrases(r"""
    <bite> ...6 <snake>
    <snake> ...5 <bite>
    (?:mordida|picada|ferroada|ataque) ...1 (?:de|da|do|por) ...1 <snake>(?! pode| coc)
    (?:cachorro|cao|pitbull|rottweiler|porco|cavalo|boi|vaca|touro|onca|macaco) ...3 (?:mord|atac
        |peg|rasg|pis|deu (?:um )?coice|arranc|chifr)\w* ...4 (?:rosto|cara|pescoco|cabeca|<child>
        |garganta|barriga|peito)
    (?:enxame|muitas|dezenas|varias|umas \d+|mais de \d+) (?:de )?(?:abelhas?|marimbondos|vespas
        |ferroadas|picadas)
    (?:abelh\w+|marimbond\w+|vespa|formiga) ~ (?:alergic[oa]|rouc[oa]|<growing>)
""")
INJURY = phrases(r"""
    oss[oa]s? ...4 (?:fora|aparec\w+|expost\w+|rasg\w+|fur(?:ou|ando)|sa(?:iu|indo)|apontando|vis\w+
        |aberto)
    (?:da|dah|deu|consigo|consegue) (?:para )?ver (?:o|os|a) (?:osso|tendao|gordura|carne|tripa
        |nervo)
    (?:brac\w+|pern\w+|pe|tornozelo|canela|joelho|pulso|cotovelo|punho|dedo) ...4 (?:ao contrario
        |virad[oa] para tras|deformad[oa]|torto e inch\w+|pendurad[oa]|fora do lugar e|em (?:v|s
        |l)\b|balancando|dobr(?:ou|ad[oa]) (?:ao|no meio|para)|decep\w+|esmagad\w+|arrancad\w+
        |rox[oa] e (?:frio|gelad[oa])|gelad[oa] e (?:rox[oa]|sem|branc[oa]))
    (?:dedos?|mao|braco|perna|pe|cabelo|roupa) ...2 (?:pres[oa]s?|entrou|entalad[oa]|engolid[oa]
        |ficou|embaixo) ...1 (?:n[ao]|d[ao]) (?:<cutter>|porta d|elevador|trator|roda|engrenagem
        |trem|carro|moto)
    <cutter> ~ (?:dedos?|mao|braco|perna|pe|barriga|pescoco|rosto|coxa|olho)
    (?:caiu|desabou|tombou|virou|despencou|desmoronou|capotou|passou) ...3 (?:em cima|por cima
        |sobre) (?:de |d)(?:mim|el[ea]|<child>|<elder>|\w+)
    (?:muro|parede|arvore|galho|trator|carro|moto|armario|tv|televisao|guarda.roupa|estante|telhado
        |laje|geladeira|barranco|portao|pneu|andaime) ...2 (?:caiu|desabou|tombou|virou|esmag\w+
        |prens\w+|passou por cima|desmoronou|em cima|imprens\w+)
    (?:ca(?:iu|i)|despenc(?:ou|ei)|desab(?:ou|ei)|pul(?:ou|ei)|queda|rol(?:ou|ei)|jogad[oa]
        |tomb(?:ou|ei)) ...3 d[aoe]s? ...2 (?:laje|telhado|escad\w+|altura|andar|andaime|predio
        |janela|sacada|varanda|arvore|muro|caminhao|moto|cavalo|barranco|precipicio|carro|ponte
        |poste|metros?|segundo piso|ribanceira|carrocinha|mezanino)
    (?:acidente|preso|presa|debaixo|embaixo) ...3 (?:trator|maquina|carreta|colheitadeira
        |escavadeira)
    (?:carro|moto|onibus|caminhao|trator|bicicleta|bike|trem|patinete|quadriciclo) ...3 (?:bateu
        |capot\w+|atropel\w+|colid\w+|pegou|derrub\w+|virou|tombou|acertou|arrast\w+)
    (?:bat(?:i|eu|emos)|batida|colis\w+|acidente|atropel\w+) ...3 (?:carro|moto|onibus|caminhao
        |poste|estrada|rodovia|br|transito|frente|carreta) ...8 (?:dor|sangr\w+|pres[oa]|desmai\w+
        |nao|ferid\w+|machuc\w+|barriga|peito|cabeca)
    (?:facao|faca|punhal|tesoura|chave de fenda|espeto|flecha|ferro|vergalhao|galho|caco|vidro
        |estaca) ...2 (?:entrou|enfi\w+|fincou|fincad[oa]|crav\w+|atravess\w+|espet\w+|perfur\w+
        |n[ao] (?:barriga|peito|costas|pescoco|olho|cabeca))
    (?:golpe|furad[oa]|perfurad[oa]|cortad[oa]|ferid[oa]|apunhal\w+) ...2 (?:faca|bala|tesoura|vidro
        |canivete|peixeira|tiro)|bala perdida|alvejad[oa]|peixeirada|canivetad\w+
    (?:tripas?|visceras|intestino|miolos?|cerebro) ...3 (?:fora|saindo|aparec\w+|expost\w+)
    <elder> ...4 <dropped> ...10 (?:nao ...2 (?:levant\w+|and\w+|pis\w+|mex\w+|fic\w+ em pe)
        |perna ...2 (?:curta|virada|torta)|quadril|bacia|femur)
    (?:brac\w+|mao|dedos?|cabelo|roupa|manga|perna) ...6 (?:maquina|corrente|engrenagem|rolo|correia
        |esteira|betoneira|polia)
    (?:enrosc\w+|engat\w+|puxad[oa]) ...3 (?:maquina|corrente|engrenagem|rolo|correia|esteira
        |betoneira)
    (?:rojao|bomba|foguete|bombinha de festa|fogos) ...3 (?:estour\w+|explod\w+) ...3 (?:mao|cara
        |rosto|olho|perto)
""")
VIOLENCE = phrases(r"""
    (?:apertou|esganou|estrangul\w+|enforcou|sufocou) ...2 (?:pescoco|garganta|<person>)
    (?:bateu|batendo|espanc\w+|apanh\w+|surra|chutou|agred\w+|queimou) ...6 (?:desmai\w+|sangr\w+
        |inconsciente|nao ...1 (?:respond|levant|mex)\w*|gravida|quebr\w+|muito machucad\w+)
    (?:abus(?:ou|aram|ad[oa])|estupr\w+|violent(?:ou|ad[oa]|aram)|viol(?:ou|ad[oa])) ...1 (?:d[aoe]
        |sexual\w*|de mim|ontem|hoje|agora|<child>|ela|ele)
    (?:com (?:uma )?(?:faca|arma|facao)|quebrando tudo) ...6 (?:matar|ameac\w+|surt\w+|vozes
        |gritando|perseg\w+)
    (?:surt\w+|alucin\w+|ouvindo vozes|vendo (?:bichos|vultos|coisas)) ...8 (?:faca|agress\w+
        |quebr\w+|matar|nao dorme|tremendo|parou de beber|trancad[oa])
""")
EYE = phrases(r"""
    (?:<poison>|cal|cimento|spray de pimenta|pimenta|produto|quimic\w+|acido|alcool|solda|faisca
        |oleo quente|limalha|desodorante) ...4 (?:olhos?|vista)
    (?:olhos?|vista) ...4 (?:<poison>|acido|cimento|perfur\w+|furad[oa]|fur(?:ou|ei)|vaz(?:ou|ado)
        |sangue e nao|saltou|para fora|saiu)
    (?:prego|vidro|caneta|lapis|tesoura|anzol|faca|galho|estilhaco|garfo) ...3 olho
""")
CLASSES = (BLEEDING, POISON, BURN, SHOCK, DROWNING, ANIMAL, INJURY, VIOLENCE, EYE)

TRAUMA = phrases(r"""
    <blow> ...4 <head>|<head> ...4 (?:bateu|no chao|na quina|no meio.fio|na parede|na pedra|no piso
        |pancada|abert[oa]|rachad[oa]|rachou|afundad[oa])
    <child> ...4 <dropped> ...3 d[aoe]\w* ...1 (?:berco|colo|trocador|cama|sofa|beliche|cadeir\w+
        |rede|escada|mesa|bancada|carrinho|muro|brinquedo|escorregador|laje)
    <dropped> ...4 de (?:cabeca|nuca|testa|mau jeito|ponta.cabeca)|capacete|galo enorme
""")
TRAUMA_SIGN = phrases(r"""
    vomit\w+|desmai\w+|apag\w+|<drowsy>|<confused>|convuls\w+|pupilas?|nao lembr\w+|esquec\w+
        |repet\w+
    (?:liquido|agua|sangue|secrecao) ...4 (?:ouvidos?|orelhas?|nariz)|afund\w+|moleira
    anticoagul\w+|varfarina|marevan|xarelto|eliquis|clopidogrel|aas|tont\w+|enxerg\w+|visao
        |<shaking>
    dor de cabeca ...1 (?:fort\w+|piorando|que nao)|fala enrolada|olho rox\w+ dos dois|sangr\w+|sono
    nao ...2 (?:sint|sent|mex|and|par)\w+|formig\w+
""")
TRIGGER = phrases(r"""
    (?:camar[ao]\w+|amendoim|castanhas?|nozes|noz|frutos? do mar|siri|caranguejo|ovo|leite|soja
        |gergelim|kiwi|latex|abelhas?|vespas?|marimbond\w+|formigas?|ferroad\w+|injec\w+|vacina
        |benzetacil|penicilina|amoxicilina|antibiotico|dipirona|contraste|anestesia|aas|ibuprofeno
        |diclofenaco|nimesulida|buscopan|remedio|picada|picad[oa]|alergi\w+|comeu|comi|tomei|tomou
        |bombom|tintura|pacoca)
""")
REACTION = phrases(r"""
    (?:labios?|beicos?|boca|lingua|rosto|cara|olhos?|garganta|glote|palpebras?|goela
        |pescoco) ...3 <growing>
    <growing> ...3 (?:labios?|beicos?|boca|lingua|rosto|cara|garganta|glote|goela)
    rouc[oa]|voz ...1 (?:falh\w+|sumi\w+|rouca|estranha|fina|mudou)|garganta ...1 (?:fech\w+
        |apert\w+|cocando e)|bolo na garganta e|chiando|falta de ar
    (?:vermelh[oa]|pintad[oa]|empolad[oa]|vergo\w+|placas|urticaria|calombos|cocando tod[oa]
        |cheio de bolinha) ...8 (?:vomit\w+|ar|tont\w+|desmai\w+|vista|pressao|garganta|voz|fraca?
        |rouc[oa])
    vist?a ...1 (?:sum|escur|turv)\w+|pressao ...1 (?:caiu|caindo|baixou)|desmai\w+|fechand[oa]
""")
HEATED = phrases(r"""
    (?:sol|calor|calorao|sauna|carro (?:fechado|trancado)|obra|roca|maratona|corrida|insolacao
        |trancad[oa] no carro|esquec(?:i|eu|id[oa]) ...3 carro)
""")
HEAT_SIGN = phrases(r"""
    <confused>|desmai\w+|parou de suar|sem suar|convuls\w+|pele ...1 (?:quente|seca)|4[0-2] graus
        |<still>
    nao fala coisa|vomit\w+ ...5 (?:confus|desmai)\w+
""")
DRUG = phrases(r"""
    cocaina|crack|heroina|ecstasy|extase|md|mdma|lsd|doce|lanca(?:.perfume)?|lolo|k2|k9|fentanil
        |morfina|metanfetamina
    cristal|loza|ketamina|ghb|gota|droga(?:do|da|s)?|(?:cheir|us|inject|injet|fum|baf)\w+ ...3 (?:po
        |bala|pedra|brisa|cola|tiner|thinner|baseado|maconha)
""")
DRUG_SIGN = phrases(r"""
    coracao|dor ...1 (?:n?o )?peito|nao ...1 (?:respir|acord|respond|reag|par)\w+|respir\w+
        |convuls\w+|<pale>
    passando ...1 mal|tremendo|delir\w+|febre|quente|agressiv\w+|desmai\w+|apag\w+|sem parar|trav\w+
        |surt\w+|caiu
    <confused>|espum\w+|baban\w+|vomit\w+|gelad[oa]|dur[oa]
""")
TOGETHER: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = (
    (TRAUMA, TRAUMA_SIGN),
    (TRIGGER, REACTION),
    (HEATED, HEAT_SIGN),
    (DRUG, DRUG_SIGN),
)
