"""List the phrases of thoughts of death and of self-harm (188).

All patterns read the text of bula.emergency.words.spell. A denial is no reason to be silent, so the
phrases count in any sentence.
"""

from bula.emergency.words import phrases

THOUGHTS = phrases(r"""
    # Suicide by name
    suicid\w+|ideacao|automutila\w+|autolesa\w+|enforc\w+|tirar? (?:a )?propria vida
    (?:se|me) mat(?:ar|o|ou|asse|aria|ando de verdade)(?! (?:piolho|a aula|de (?:rir|trabalhar
        |estudar)))
    (?:quero|vou) matar (?:a mim|eu mesm[oa])|matar-(?:me|se)
    # The wish to die, to vanish, or not to wake up
    (?<!nao )(?:quero|queria|queria so|quer|prefiro|preferia|desejo|melhor|vontade de|planej\w+
        |merec\w+|pedi\w* para|peco para|rezo para|pens\w+ em) (?:\w+ ){0,2}?morrer(?! de (?:rir
        |medo|vergonha|fome|calor|saudade|frio|amor))
    (?:quer\w*|vontade de|pens\w+ em|melhor|preferia|devia|podia) (?:\w+ )?(?:nao existir
        |deixar de existir|(?:sumir|desaparecer)(?! (?:com|d[ao]s?) )|partir(?! (?:para|o|a|os|as
        |um|ao|em|de) )|evaporar)
    (?:pens\w+ em|quer\w*) (?:\w+ )?nao (?:estar|existir|acordar) mais
    sumir (?:do mundo|de vez|para sempre)|(?:sair|partir|ir embora|deixar) d?esse mundo
    ir embora (?:de vez|para sempre)
    nunca (?:mais )?(?:acordar|acordasse)(?: mais)?|nao acordar (?:nunca )?(?:mais|amanha)
    (?:dormir|dormisse|descansar) (?:\w+ )?(?:para sempre|eternamente|de vez|e nao acordar)
    (?:deus|jesus|morte) (?:\w+ )?(?:me )?(?:lev(?:e|a|ar|asse)|busque|buscasse)(?: (?:logo
        |embora))?
    (?:penso|pensando|pensar|pensamentos?|ideias?|fal\w+|vontade|obsessao) (?:\w+ )?(?:n[ao]|em|de
        |com a?) (?:\w+ )?(?:morrer|morte)
    (?:nao )?(?:devia|deveria|queria|preferia) (?:nao |nunca )?ter nascido|nunca (?:ter
        |tivesse) nascido
    (?:estivesse|estar|estaria|se eu fosse) mort[oa]|melhor mort[oa]|so a morte|jejum ate morrer
    se eu (?:morr\w+|sumi\w+|nao existi\w+|desaparec\w+)|tanto faz (?:\w+ )?(?:viver|morrer|acordar
        |vivo|viva)
    morte (?:\w+ )?(?:seria|eh|como) (?:\w+ )?(?:alivio|solucao|saida|descanso)
    (?:para|quero|queria) ficar (?:junto|perto) d\w+ (?:\w+ ){0,3}?(?:no ceu|que morreu)
    # The end of life in other words
    (?:tir|acab|termin)\w* (?:com )?(?:a |minha |propria |sua |essa |d[ae] )*vida
    (?:acabar|terminar) (?:com|logo com) (?:isso )?(?:tudo|isso|esse sofrimento|essa dor|minha dor
        |meu sofrimento|mim)
    (?:dar?|por|colocar|botar) (?:um )?(?:fim|ponto final|cabo) (?:em tudo|n?isso|n?a (?:\w+ )?vida
        |em mim|a tudo|no sofrimento|no meu sofrimento)
    (?:fazer|faca|faco|fizer|cometer|pens\w+) (?:em )?(?:alguma |uma |n?uma )?(?:besteira|loucura
        |bobagem)
    (?:fazer|faco|faca) (?:algo|alguma coisa|mal) (?:contra|com|a) (?:mim|si) ?(?:mesm[oa])?
    # No reason and no way out
    nao (?:\w+ ){0,3}?(?:sentido|motivo|razao|saida|futuro|solucao|esperanca
        |proposito) (?:nenhuma? )?(?:em (?:nada|viver|mim|continuar)|n[ao] (?:minha )?vida
        |para (?:viver|mim|continuar|nada)|de viver)
    nao (?:vejo|enxergo|acho|tem|encontro) (?:mais )?(?:saida|futuro|solucao
        |luz no fim)(?! (?:para (?:ess|est)|n[ao] ))
    (?:perd\w+ (?:a |o )?|sem |zero )(?:\w+ )?(?:motivo|razao|vontade|graca
        |gosto) (?:nenhuma? )?(?:para|de|por|pela) (?:viver|vida)
    (?:perd\w+ (?:a|toda a)|sem|nao tenho) (?:mais )?(?:nenhuma )?esperanca(?! d)
    (?:nada|vida|viver) (?:mais )?(?:nao )?(?:\w+ )?(?:faz|tem|ter
        |perdeu) (?:\w+ )?(?:mais )?(?:o )?sentido(?! do)|vida (?:\w+ )?acabou
    (?:vida|viver|nada) (?:\w+ )?(?:nao )?(?:vale|valer) (?:mais )?a pena|nao vale a pena (?:viver
        |continuar)
    # Exhaustion
    (?:nao|sem|acab\w+|perd\w+) (?:\w+ ){0,3}?forcas? (?:nenhuma )?(?:para|de) (?:viver|continuar
        |lutar|seguir)
    vida (?:[^\s.;]+ ){0,3}?(?:nao (?:\w+ )?(?:faz|tem)|perdeu|sem) (?:\w+ ){0,2}?(?:sentido|graca
        |valor|razao)
    nao (?:\w+ ){0,2}?(?:motivo|razao|sentido|por ?que) (?:para|de|em) (?:ficar|estar|continuar
        |seguir|levantar)
    (?:encontrar|ver|ir para junto de|ficar com) (?:[^\s.;]+ ){0,4}?(?:no ceu|la em cima|que morreu
        |que partiu)
    (?:remedio|veneno|coisa|planta) (?:\w+ )?(?:que )?mata (?:\w+ )?(?:rapido|na hora|sem dor)
    (?:vontade|desejo|plano) (?:\w+ )?(?:eh|era|de) (?:\w+ )?(?:sumir|desaparecer|morrer
        |partir)(?! de )
    nao (?:esta |estou )?da(?:ndo)? mais para mim|para mim (?:ja )?(?:deu|chega|acabou)
    nao (?:estou |esta )?(?:mais )?(?:aguent|suport)\w+ (?:mais )?(?:a |essa |minha )?(?:vida|viver
        |existir)
    quer\w+ (?:\w+ )?que (?:isso |tudo |essa dor |a vida )*(?:acab|par|termin)asse
    (?:parar|deixar) de (?:viver|existir|sofrer de vez)|minha existencia
    (?:cans|fart|exaust|cheia?)\w* (?:\w+ )?d[eao] (?:viver|vida|existir|tudo(?! (?:que|quanto))
        |lutar|sofrer
        |minha vida)
    desist(?:i|ir|o|indo|iu) d[ea] (?:vida|viver|tudo|mim)
    nao (?:quero|aguento|consigo|conseg\w+|queria|suporto|da) (?:\w+ )?(?:mais )?(?:\w+ )?(?:viver
        |existir|vida|continuar viv[oa]|esse mundo|estar aqui|acordar)(?: mais)?(?! (?:com|sem
        |assim|cedo))
    nao (?:\w+ ){0,3}?viver(?: mais)?(?! (?:com|de|sem|assim|longe|bem))
    nao (?:quero|queria) (?:mais )?(?:estar|continuar|ficar) (?:mais )?(?:aqui|viv[oa])
    # A burden to others
    ninguem (?:\w+ )?(?:precisa|gosta|sabe que existo|quer saber) de mim|deixar (?:todo mundo
        |todos) em paz
    nao merec\w+ (?:mais )?(?:viver|estar viv[oa]|existir)|favor (?:ao|para o) mundo
    nao (?:vou|vai|quer|queria) (?:mais )?estar (?:mais )?(?:aqui|viv[oa]|por aqui)
    (?:debaixo|embaixo) da terra|sete palmos|dor (?:so|vai) (?:\w+ )?(?:acaba
        |passa\w*) (?:\w+ )?(?:quando|se) eu morrer
    (?:sou|virei|me sinto|sendo) (?:so |apenas |como )?(?:um |uma )?(?:peso|fardo|estorvo|inutil
        |lixo|atraso|problema para)
    (?:so )?(?:atrapalho|dou trabalho|incomodo) (?:\w+ )?(?:todo mundo|todos|a vida|minha familia
        |os outros)
    (?:melhor|bem|felizes|feliz|aliviad\w+|em paz) sem mim|nao (?:vou|vai) (?:mais )?(?:dar
        |atrapalhar|incomodar) (?:mais )?(?:trabalho|ninguem)
    ninguem (?:vai |iria |ia )?(?:senti\w+|notar\w*|perceb\w+|ligar\w*
        |chorar\w*) (?:\w+ )*?(?:falta|se eu|minha ausencia)|nao faco falta
    # Farewell
    (?:meu|o) ultimo dia (?:de(?:le|la)|da minha vida|de vida)|(?:quer
        |queria) (?:\w+ )?(?:ir embora|partir|morrer) logo
    nao estar mais viv[oa]|estar viv[oa] (?:\w+ )?para que
    (?:carta|bilhete|mensagem|msg|audio|texto|post|video) (?:\w+ )?(?:de )?(?:despedida|adeus
        |despedindo)
    (?:se|me) despedi\w+ (?:de (?:todos|todo mundo|mim|voces)|da (?:familia|vida|gente)|d[oa]s
        |e (?:diz|fal)\w+)|se despedindo|adeus mundo
    # Methods
    (?:guard|junt|estoc|escond|acumul)\w+ (?:\w+ )?(?:os |uns )?(?:comprimidos|remedios) (?:para
        |ate|todos)
    compr\w+ (?:uma |a )?(?:corda|arma|veneno) (?:para|e)|vozes? ... (?:me matar|morrer|pular
        |me cortar)
    (?:formas?|jeitos?|maneiras?|modos?|metodos?|como) (?:\w+ ){0,4}?(?:morrer|se matar
        |me matar)(?! de)
    morrer (?:sem (?:dor|sofrer|sentir)|rapido|dormindo|logo)|dose (?:letal|fatal|mortal|que mata)
    quant[oa]s? (?:\w+ ){0,6}?(?:para|pra|ate|que) (?:\w+ ){0,2}?(?:morrer|matar|mata|nao acordar
        |dormir para sempre)
    (?:tom|engol|beb|us|corte)\w+ (?:\w+ ){0,4}?para morrer
    pens\w+ em (?:me |se )?(?:tomar (?:todos|todas|tudo)|jogar|pular|enforcar|matar)
    (?:tomar|engolir) (?:tudo|todos? \w+|tod[oa]s [oa]s \w+) de uma (?:so )?vez
    tiro n[ao] (?:minha |propria )?(?:cabeca|boca|peito) ?(?:e acabar)?|corda no (?:meu )?pescoco
    (?:me|se) (?:jog\w+|atir\w+|lanc\w+) (?:d[aoe]|embaixo|debaixo|na frente|contra
        |n[ao]) (?:\w+ ){0,2}?(?:janela|ponte|predio|viaduto|sacada|carros?|trem|metro|onibus
        |caminhao|trilhos?|mar|rio|andar)
    (?:pular|saltar|jogar) (?:\w+ )?d[aoe] (?:\w+ )?(?:ponte|predio|janela|viaduto|sacada|varanda
        |andar|terraco)
    (?:jogar|bater|virar) (?:o|meu) carro (?:n[ou]|contra|de proposito)
    # Self-harm
    (?:arrancar|rasgar) (?:a |minha )?(?:propria )?pele|(?:bate|batendo|bato) a cabeca na parede
    (?:braco|pulso|coxa|perna)s? (?:\w+ )?(?:chei[oa]s? de|com) (?:cort|cicatriz|arranh)\w+
    (?:me|se) (?:cort(?:ando|o|a|ar)|mutil\w+)(?! (?:cozinhando|fazendo|com papel))
    (?:me|se) (?:machuc|fer|arranh|queim|agrid|belisc
        |soc)\w+ (?:[^\s.;]+ ){0,5}?(?:de proposito|propositalmente|por querer|para aliviar
        |escondid[oa]|quando (?:fico|estou|fica|esta)|de raiva)
    (?<!sem )(?<!nao )(?<!eu )me (?:cortar|machucar|ferir|punir)|me machucando|cortar (?:os
        |meus )?pulsos?
    (?:cortes|cicatrizes|marcas de corte|arranhoes) (?:\w+ ){0,2}?n[oa]s? (?:antebraco|braco|pulso
        |coxa|perna)s?
    (?:gilete|lamina|estilete|apontador) (?:\w+ ){0,3}?(?:braco|pulso|pele|coxa)s?
""")
