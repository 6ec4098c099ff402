"""Define patterns of farms, plots, housing estates and form addresses."""

import re

from bula.privacy.fragments import ANY_CASE

# Words for a home or a plot, and further words that only follow such a word.
_HOME = r"""
    (?:
        bloco | blo?c? | conjunto | conj | cj | lote | lt | casa | cs | apartamento | apart | apto?
        | ap | ch[áa]cara | ch[áa]c | quadra | qda? | qdra | torre | m[óo]dulo
        | proje[çc][ãa]o | sobrado | kit | [kq]u?iti?net[ei]? | barraco | palafita | s[íi]tio
        | [áa]rea [ ] especial | gleba
    )
"""
_ROOM = r"""
    (?:
        mr | rua | ramal | unidade | unid | entrada | sala | sl | loja | lj | mod | andar | setor
        | box | galp[ãa]o | cobertura | cob | pavimento | pav | port[ãa]o | trecho | ed
        | edif[íi]cio | lado | alameda | incra
        | ch | quarto | n[úu]mero | num | n[º°o.]{0,2}
    )
"""
# A number or a letter; "a", "e" and "o" are words in small letters.
ID = r"""
    (?: \d{1,5} (?: [ ]?-?[ ]? (?-i:[A-Z])\b | [a-d]\b | /\d{1,4} )?
      | (?-i:[A-Z]{1,2})\b | [b-df-np-z]\b
      | [a-z]\d{1,3}\b ) (?! [\w%] | [.,/]\d )
"""
_SEPARATOR = r"(?: [ ]? [,;/|.(–-]{0,2} [ ]? (?:\n[ ]?)? )"
_SIGN = r"(?: [ ]? (?:n[º°o]?\.?|n[úu]mero|[:=.-])[ ]? ){0,2}"
# "lote 5", "Quadra: 12", "bl. nº 3".
_HOME_PART = rf"{_SEPARATOR} \b {_HOME} (?![^\W\d_]) \.? [ ]? {_SIGN} {ID}"
PART = rf"""
    (?:
        {_SEPARATOR} \b (?: compl(?:emento|\.)? [ ]?:?[ ]? )?
          (?: {_HOME} | {_ROOM} ) (?![^\W\d_]) \.? [ ]? {_SIGN} {ID}
        # "2º andar", "casa dos fundos"
        | {_SEPARATOR} \b (?: \d{{1,2}} [ ]? [º°ªoa]? | primeiro | segundo | terceiro | quarto
          | quinto | sexto ) [ ]? (?: andar | pav(?:imento)? )\b
        | {_SEPARATOR} (?: compl(?:emento|\.)? [ ]?:?[ ]? )?
          (?: casa [ ] )? (?: n?[oa]s? [ ] | d[aeo]s? [ ] )?
          \b (?: fundos | frente | t[ée]rreo | sobrado | subsolo ) \b
        | {_SEPARATOR} \b km \.? [ ]? \d{{1,4}} (?: [.,]\d{{1,3}} )? \b
    )
"""
REST = re.compile(
    rf"""
    (?:
        # the number after the kilometre of a road
        [ ]?,[ ]? (?: n[º°o]?\.? | n[úu]mero )[ ]? (?: \d{{1,2}}\.\d{{3}} | \d{{1,5}} ) \b (?![/%])
        | {PART}
        # the apartment after the number of the house
        | [ ]-[ ] (?! 0 | (?:19|20)\d{{2}} ) \d{{2,4}} (?! [\w./%-] | [ ]? (?: mg | ml | anos )\b )
    ){{1,7}}
    """,
    ANY_CASE,
)
# Two words for a plot, in any order; the same word twice counts lots.
PLOT = re.compile(
    rf"""
    (
    \b
    (?:
        (?: (?P<word> {_HOME} ) (?![^\W\d_]) \.? [ ]? {_SIGN} {ID}
          (?: {_SEPARATOR} \b (?: entrada | \d{{1,2}}[º°]? [ ]? andar | rua | setor | gleba | mod )
            (?: [ ] {ID} )? ){{0,2}}
          {_SEPARATOR} (?: d[ao] [ ] )? (?! (?P=word) \b ) \b {_HOME} (?![^\W\d_]) \.? [ ]?
          {_SIGN} {ID} )
        # "Q. 5 L. 12"
        | q \.? [ ]? \d{{1,3}} [A-Z]? [ ,;/-]{{1,3}}
          (?: l | lt | lote | cj | conj | conjunto | casa | cs | bl | bloco ) \.? [ ]? {ID}
          (?: [ ,]{{1,2}} c \.? [ ]? \d{{1,3}} )?
        | (?: q | qd | quadra ) \.? \d{{1,3}} l (?: t | ote )? \.? \d{{1,3}} (?: c s? \d{{1,3}} )?
        | (?: l | lt | lote ) \.? [ ]? \d{{1,3}} [ ,;/-]{{1,3}} q \.? [ ]? \d{{1,3}} [A-Z]? \b
        # the number first: "número 45 da rua"
        | (?: {_HOME} \.? [ ] {_SIGN} | n[úu]mero [ ] | n[º°o]\.? [ ]? | n\. [ ]? ) \d{{1,5}} [ ]
          d[ao] [ ] (?: rua | avenida | travessa
          | alameda | beco ) [ ] (?: d[aeo]s? [ ] )? \w+
    )
    (?! [\w%] | [.,/]\d ) {PART}{{0,5}}
    )
    """,
    ANY_CASE,
)
# Words that tell a story are no part of the name of a place.
_WORD = r"""
    (?:
        (?! (?: que | com | sem | para | pra | por | tem | tenho | meu s? | minha s? | seu | sua
          | foi | está | estava | desde | mas | quando | onde | como | muito | mais | hoje | ontem
          | perto | longe | nosso | nossa ) \b )
        [^\W\d_] [\w.'’-]{0,20}
    )
"""
_ESTATE = r"""
    (?:
        conjunto | condom[íi]nio | residencial | loteamento | ch[áa]caras? | s[íi]tio | fazenda
        | edif[íi]cio | cond\.? | resid?\. | lot\. | conj\.? | ed\.? | assentamento | comunidade
        | povoado | jardim | jd\.? | parque | pq\.? | bairro | vila | vl\.? | n[úu]cleo | cohab
        | quilombo | aldeia | col[ôo]nia | gleba | recanto | granja | mutir[ãa]o
        | morro | favela | ocupa[çc][ãa]o | setor | st\.? | distrito | est[âa]ncia | village
        | acampamento | linha | ramal | vicinal | travess[ãa]o
        | c[óo]rrego | zona [ ] rural
    )
"""
ESTATE = re.compile(
    rf"""
    \b {_ESTATE} (?: [ ,]{{1,2}} (?: {_WORD} | \d{{1,3}} \b ) ){{1,7}}?
    (?:
        {_SEPARATOR} (?<![^\W\d_]) (?: {_HOME} ) (?![^\W\d_]) \.? [ ]? {_SIGN}
          \d{{1,5}} (?: [ ]?-?[ ]? (?-i:[A-Z])\b )? (?! [\w%] | [.,/]\d )
        | (?: [ ]?[,-] )? [ ] (?: n[º°]\.? | n\. | n[úu]mero ) [ ]? \d{{1,5}} (?! [\w%] | [.,/]\d )
        | (?: [ ]?[,-] )? [ ] (?: km | quil[ôo]metro ) \.? [ ]? \d{{1,4}} (?:[.,]\d{{1,3}})? (?!\w)
        | {_HOME_PART} {_HOME_PART}
    )
    {PART}{{0,5}}
    """,
    ANY_CASE,
)
_FARM = r"""
    (?:
        s[íi]tio | ch[áa]cara | fazenda | faz\. | granja | est[âa]ncia | haras | povoado | vilarejo
        | comunidade | assentamento | acampamento | aldeia | quilombo | col[ôo]nia | seringal
        | vicinal | ramal | travess[ãa]o | gleba | c[óo]rrego | rancho
    )
"""
_ROAD = r"""
    (?:
        estrada | rodovia | rod\.? | vicinal | ramal | linha | travess[ãa]o | gleba | BR
        | via | (?-i:[A-Z]{2})
    )
"""
# A farm in a sentence counts if a road, a kilometre or "zona rural" follows.
FARM = re.compile(
    rf"""
    \b {_FARM} (?: [ ] (?: {_WORD} | \d{{1,4}} \b ) ){{1,6}}?
    (?: [ ]?,[ ]? | [ ]-[ ] | [ ]\(?(?: n[ao] | d[ao] )?[ ]? )
    (?:
        (?: zona | n[úu]cleo ) [ ] rural \b | col[ôo]nia [ ] agr[íi]cola \b
        | s [ ]? / [ ]? n[º°o]? (?!\w)
        | {_ROAD} [ -] [^\d\n!?;]{{0,50}} \d{{1,4}} (?! [\w%] | [.,/]\d )
          (?: [ ,-]{{0,3}} km \.? [ ]? \d{{1,4}} (?: [.,]\d{{1,3}} )? (?!\w) )?
        | (?: estrada | rodovia | vicinal ) [ ] (?: d[aeo]s? [ ] )? (?-i:[A-ZÀ-Ý]) [\w-]+
    )
    {PART}{{0,4}}
    """,
    ANY_CASE,
)
_LIVES = r"""
    \b
    (?:
        (?: moro | mora | moramos | moram | morava | morando | resid[oe] | reside(?:m|nte)s? | vivo
          | vive(?:mos|m)? | domiciliad[oa]s? | mudei | mudamos | mudou | nasc?id[oa] [ ] e [ ]
          criad[oa] )
        [ ,]{1,2} (?: (?: n[ao] | em | à | ao | pr[ao] | para [ ] [ao] | nu(?:m|ma) ) [ ] )?
        | (?: endere[çc]o (?: [ ] \w+ (?: [ ] \w+ )? )? | end | resid[êe]ncia | localidade
          | domic[íi]lio )
        [ ]?\.? [ ]? [:=] [ ]* \n?
    )
"""
_NAMED = r"""
    (?-i:
        (?: d[aeo]s? [ ] )? [A-ZÀ-Ý\d] [\wÀ-ÿ.'-]*
        (?: [ ] (?: d[aeo]s? [ ] | e [ ] )? [A-ZÀ-Ý\d] [\wÀ-ÿ'-]* ){0,5}
    )
"""
# After a word for the home a name is enough.
HOME = re.compile(
    rf"""
    {_LIVES}
    (
        (?: {_FARM} | rua | r\. | avenida | av\.? | travessa | tv\.? | alameda | estrada | rodovia
          | beco | viela | ladeira | servid[ãa]o | condom[íi]nio | residencial | edif[íi]cio
          | conjunto | loteamento | vila | pra[çc]a )
        [ ] {_NAMED}
        (?: [ ]?,[ ]? (?: casa | lote | km | n[º°o]?\.? ) [ ]? \d{{1,5}} (?! [\w%] | [.,/]\d ) )?
    )
    {PART}{{0,4}}
    """,
    ANY_CASE,
)
# The number and the complement in fields of their own, often one a line.
_NUMBER_FIELD = r"""
    \b (?: n[úu]mero | num\.? | n[º°o.]{1,2} ) [ ]? [:=]? [ ]* \n? [ ]*
    (?: \d{1,5} [A-Z]? \b | s/?n\b )
    (?: [ ]* [;|\n,-] [ ]* compl(?:emento|\.)? [ ]? [:=]? [ ]* \n?
      [^\n;|:]{1,40} (?! [ ]*: ) )?
"""
FIELDS = re.compile(
    rf"""
    \b
    (?:
        # a street is an address by itself here
        logradouro [ ]? (?: [:=] [ ]* \n? | \n ) [ ]*
          ( (?=[^\n;|]{{0,70}}[^\W\d_]{{3}}) [^\n;|:]{{3,70}}
            (?: [;|\n] [^\n\d]{{0,60}}? \n? [^\n\d]{{0,30}}? {_NUMBER_FIELD} )? )
        | (?: endere[çc]o | rua | avenida | av | end ) \.? [ ]? (?: [:=] [ ]* \n? | \n ) [ ]*
          ( [^\n;|:\d]{{3,60}} [ ]* [;|\n,-]{{0,2}} [ ]* {_NUMBER_FIELD} )
    )
    """,
    ANY_CASE,
)
PLACES = (FIELDS, PLOT, ESTATE, FARM, HOME)
