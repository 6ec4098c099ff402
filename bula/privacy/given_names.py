"""List common given names and surnames of Brazil, without accents."""

import re
import unicodedata
from functools import lru_cache

_GIVEN = """
abel abelardo abigail abner abraao acacio adailton adair adalberto adalgisa adao adauto adelaide
adelina adelino adelmo adelson ademar ademilde ademilson ademilton ademir adenilson aderbal aderito
adilson adina adolfo adriana adriane adriano adriele adrielle afonso afranio agata agatha agenor
agnaldo agnes agostinho aida ailton aimee airton alaide alan alana alba albertina alberto albino
alcebiades alceu alcides alcindo alcione aldair aldemir aldenir aldenor aldenora aldo aleksandro
alessandra alessandro alex alexandra alexandre alexandrina alexandro alexsander alexsandro alfredo
alice alicia aline alisson allan allana almerinda almir almira aloisio altair alvaro alvino alzira
amadeu amalia amancio amanda amarildo amaro amauri amaury amelia amelie americo amilton ana anabela
anais analu anastacia anatalia anderson andre andrea andreia andressa andrew andreza andrielly
anesia angela angelica angelina angelo anita anna anne anselmo antenor anthony antonella antonia
antonieta antonina antonio aparecida aparecido aparicio aquiles araci arcelino argemiro ariana
ariane ariel arimateia aristeu aristides arlete arlindo armando armelinda arminda arnaldo arnobio
arthur artur ary asafe astolfo astrogildo ataide ataliba augusta augusto aurea aurelina aurelio
aurino auxiliadora avelino ayla ayrton balbina baltazar barbara bartira bartolomeu basilio beatriz
belarmino belmiro benedita benedito benicio benjamim benjamin bento benvinda berenice bernadete
bernadette bernadino bernardo betania bete beth bia bianca bonifacio branca braulio brayan brenda
brenno breno brigida bruna bruno bryan cacilda caetana caetano caio caique calixto camila camile
camilla camilo candida candido carina carla carlos carlota carmelita carmelo carmem carmen carmo
carol carolaine carolina caroline casimiro cassandra cassia cassiana cassiano cassilda cassio
catarina catharina caua cauan cauane caue cecilia cecy celeste celestino celia celina celio celma
celso cesar cezar charlene charles chico christian christiane cibele cicera cicero cida cintia
cirila cirilo cirlene ciro clarice clarinda clarissa claudemir claudete claudia claudimir claudinei
claudineia claudineide claudiney claudio cleber cleide cleidiane cleiton clelia clemente clementina
clementino cleomar cleonice cleonilda cleonilson cleto cleudson cleusa cleuza clodoaldo clodomir
cloves clovis conceicao conrado constancia cora corina cosme creusa creuza crispim cristiana
cristiane cristiano cristina custodio cyntia dagmar dagoberto daiana daiane dalila dalva damiana
damiao dandara dani daniel daniela daniele daniella danielle danilo danubia darci darcy dario darlan
darlene davi david davina dayana dayane debora decio deise deivid deivison dejair delcio delfim
delfina delma delmar demerval demetrio denilson denis denise denize deoclecio deodato deolinda dercy
derli deusdete deuza deyse diana diego dileta dilma dilson dilva dimas dina dinah dinalva dino
diogenes diogo dionisia dionisio dirce dirceu dirlei dirlene divina divino djair djalma djanira
domicio domingas domingos donizete dora doralice dorinha doris dorival doroteia dorvalino douglas
duda dulce dulcinea dulcineia durval durvalina eber edelson edelzuita eder edgar edicarlos edilaine
edilberto edilce edilene edileusa edileuza edilson edimar edina edinaldo edinalva edinei edineia
edineide edir edison edite edith edivaldo edivan edivania edlaine edmar edmara edmea edmilson
edmundo edna ednaldo ednalva ednardo edneia edson eduarda eduardo edvaldo edvan edvania efigenia
egidio elaine elba elcio elen elena elenice elenilson elenita eleonora eleuterio elga eli elia
eliana eliandro eliane elias eliete eliezer elifas elina elinaldo eliomar elis elisa elisabete
elisabeth elisandra elisangela eliseu elivelton elizabete elizabeth elizangela elizete elizeu ellen
elma eloa eloi eloisa eloiza elpidio elsa elso elson elton elvira elza elzimar elzira emanoel
emanuel emanuela emanuele emanuelle emanuelly emerson emidio emilia emiliano emilio emilly emily
eneas enedina eneida enio enoque enrico enzo epaminondas eraldo erasmo eriberto erica ericka erico
erik erika erinaldo erivaldo erivan erivelton ermelinda ermirio ernani ernestina ernesto esmeralda
estefani estela estelita ester estevam estevao esther etelvina etevaldo euclides eudes eufrasia
eugenia eugenio eulalia eunice eurico euridice eustaquio euzebio eva evaldo evandro evangelina
evanildo evaristo evelin eveline evelyn evelyne everaldo everson everton expedita expedito ezequias
ezequiel fabia fabiana fabiane fabiano fabio fabiola fabricia fabricio fatima fatinha faustino
fausto fefa felicia feliciano felicio felipe ferdinando fernanda fernandinho fernando filipe
filomena filomeno firmino flavia flaviana flaviano flavio flora florencia floriana floriano florinda
floripes florisvaldo fortunato francelino franciele francieli francielle francilene francimar
francinaldo francine francisca francisco franklin frederica frederico gabi gabriel gabriela gabriele
gabriella gabrielle gabrielly gabriely gael gardenia gaspar gaudencio geisa genario geneci generosa
genesio geni genilda genilson genival genivaldo genoveva georgina geovana geovane geovanna geralda
geraldina geraldo germana germano gerson gertrudes gerusa gesse gessica getulia getulio giane
gilberto gilda gildasio gildete gildo gilmar gilmara gilson gilvan gilvaneide giovana giovane
giovani giovanna giovanni gisela gisele giselia giselle gislaine gislene giulia giuseppe givanildo
glauber glaucia glaucio glauco gleice gleici gleiciane gleidson gleison glenda gleyce glicerio
godofredo goncalo graciela graciete gracilene gracinda graziela graziele graziella gregorio greice
guilherme guiomar gumercindo gustavo guto hamilton haroldo heber hebert heitor helder helen helena
helenice heleno helia helio helloisa heloisa heloise heloiza helton helvecio henrique heraldo
herberto hercilia herculano heriberto hermes herminia herminio hernani heron heverton hilario hilda
hildeberto hildebrando hildete hilma hilton homero honorina honorio horacio hortencia hosana hugo
humberto iago iara iasmim iasmin icaro ida idalia idalina idelfonso ieda igor ilca ilda ilma ilson
ilza inacia inacio inaldo indiara ines inez ingrid inocencio iolanda ione iracema iraci iradilson
iraildes irani irene ireni irenilda irineia irineide irineu iris irma iron isa isaac isabel isabela
isabele isabella isabelle isabelly isabely isadora isaias isaltina isaltino isaque isaura isidora
isidoro isis ismael isolda israel italo itamar itamara iuri ivair ivaldo ivan ivana ivaneide ivanete
ivani ivania ivanilda ivanilde ivanildo ivanilson ivanor ivete ivo ivone ivonete ivonilde izabel
izabela izabella izadora izaias izaura izidoro jaci jacinta jacinto jacira jackeline jackson jaco
jacqueline jacques jacyra jadson jailson jailton jaime jair jairo jamil jamile jana janaina jandira
jandyra jane janete janice janiele janilson janine janio januario jaqueline jarbas jardel jasmim
jean jeane jeferson jefferson jenifer jeniffer jennifer jeova jeremias jeronima jeronimo jesse
jessica jessyca jesuino jhonatan joab joana joanice joanita joao joaquim joaquina joca jocelia
jocelino jocilene joel joelma joice jomar jonas jonatan jonatas jonathan jordana jordania jorge
jorgina josafa jose joseane josefa josefina josefino josefo joselia joselita joselito josemar
josenilda josenildo josete josiane josias josie josilene josimar josimara josinaldo josineide
josivaldo josue jovana jovelina jovelino jovino jovita joyce ju juarez juca jucara jucelia jucelino
jucileide jucilene judite judith judson julia juliana juliane juliano julieta julinha julio junior
juraci juracy jurandir jurema juscelia juscelino jussara justina justiniano justino juvenal juvencio
kaio kaique karen karina karine karla karol karolina karoline kassia katarina katia katiane
katiuscia kaua kauan kauane kayky keila keiliane keity kelen keli kelly kelvin kenia kesia ketely
kethelyn kethlen ketlin ketlyn kevin keyla kleber laercio laerte laila lais lana lara larissa
laudelino laura laureano lauriane laurinda laurindo laurita lauro lavinia lazara lazaro lea leandra
leandro leda leidi leidiane leila lena leni lenice lenilda leninha lenir leo leocadia leocadio
leocir leona leonardo leoncio leonel leonidas leonilda leonor leontina leopoldina leopoldo leticia
levi lia liana lidia lidiane ligia lilia lilian liliana liliane lina linda lindalva lindaura
lindinalva lindolfo lindomar lino lisandra livia liz lizandra lorena lorenzo loreta lorival louise
lourdes lourenco lourival lourivaldo lu luan luana luanda luara luca lucas lucelia lucia luciana
luciane luciano lucidio luciene lucila lucilene lucilia lucimar lucimara lucinda lucineia lucineide
lucinete lucio lucivaldo lucivania lucrecia ludmila luis luisa luisinho luiz luiza luizinho luma
luna luzia luzimar luzinete lydia madalena mafalda magali magda magna magno maiara maicon maira
maisa maite malu malvina manoel manoela manu manuel manuela manuelina manuella mara marcela marcele
marcelina marcelino marcella marcelle marcelo marcia marciana marciano marcilene marcilio marcinha
marcio marco marcondes marcos marcus margarete margareth margarida maria mariana mariane mariangela
mariano maricelia mariela marieta mariinha marilda marilena marilene marilia marilu mariluce
marilucia marilza marina marinaldo marinalva marineide marines marinete marinez mario marisa marise
maristela marivaldo marivone mariza marizete marizilda marlene marli marlon marluce marlucia marly
marta martha martim martina mary mateus matheus matias matilde matildes maura mauriceia mauricio
maurilio mauro maximiano maximo maxuel maxwell mayara mayke mayla mayra meire mel melania melina
melissa mercedes merces messias micael michael michel michele michelle michelly miguel mikaela
milagros milena milene milton minelvina minervina miralva mirela mirella miriam mirian mirna mirtes
misael moacir moacyr moema moises monalisa monica monique murilo nadia nadir nadja naiara nailson
nair nanci nancy nanda nando napoleao nara narciso nardele natacha natalia natalie natalino natanael
natanaele natasha nathalia nathan nathy naty nayara nazare nazareno neide neila neiva nelci nelio
nelma nelson nely nena neusa neuza neuzita newton neymar nicanor nicola nicolas nicole nicolle
nicolly nilce nilcea nilceia nilda nildete nilma nilo nilsa nilson nilton nilva nilza nina nino
nivaldo nivea noah noel noeli noelia noemi noemia norberto norival norma normelia odair odaleia
odalia odelia odete odila odilia odilon odorico ofelia olavo olegario olga olimpia olimpio olinda
olindina olinto olivia omar oneida oneide onesimo onofre orestes orlanda orlandina orlando oscar
oscarina oseas osmar osmarina osmarino osmilda osmundo osni osorio osvaldina osvaldo oswaldo
otacilia otacilio otavia otaviano otavio otelo otilia otoni otoniel otto ozana pablo palmira paloma
pamela paola pascoal pascoalina patricia patricio paula paulina pauline paulinho paulino paulo
pedrina pedrinho pedro pedrosa penelope perla perpetua petrona petronio pietra pietro plinio poliana
policarpa policarpo pollyana primo priscila priscilla querem quintino quirino quiteria rachel rafa
rafael rafaela rafaella rafinha raiane railda railson railton raimunda raimundo raissa ramiro ramon
ramona raphael raphaela raquel raul rayan rayane rayanne rayssa rebeca regiane regina reginaldo
regis reinalda reinaldo rejane renan renata renato renilda renilson reynaldo rian ribamar ricardo
rita ritinha rivaldo robert roberta roberto robson rodolfo rodrigo rogelio rogeria rogerio romao
romario romeu romilda romildo romilson romulo ronaldo ronan roney roni ronielson ronilda ronilson
rosa rosalia rosalina rosalinda rosalva rosalvo rosana rosane rosangela rosania rosaria rosario
rosaura roseane roseli rosely rosemar rosemary rosemeire rosemeri rosendo rosenilda rosenildo
rosiane rosiclea rosicleide rosilane rosilda rosilene rosimar rosimeire rosimeri rosinei rosineide
rosita rosivaldo rosivan rosivania rossana rozangela rozilda ruan rubem rubens rufino rui rute ruth
ruthe ruy ryan sabrina salete salomao salome salustiano salvador samanta samantha samara samira
samoel samuca samuel sandoval sandra sandrinha sandro santina santino sara sarah saulo sebastiana
sebastiano sebastiao selene selma selmira serafim serafina sergio servulo severiano severina
severino severo shaiane sheila shirlei shirley sidineia sidnei sidneia sidney sigmar silas silmara
silvana silvaneide silvani silvania silvano silverio silvestre silvia silvina silvino silvio simao
simara simone simoni sinval sirlei sirlene socorro sofia sol solange sonia sophia sophie soraia
soraide soraya stefani stefany stella stenio stephanie suelen sueli suellen suely sulamita susan
susana suzana suzane suzete suzi suzy tabata taciana tadeu taina tainan tainara tais taisa talita
tamara tamires tania tarcila tarcio tarcisio tarsila tatiana tatiane tatiele tayna telma telmo
telvina teobaldo teodora teodoro teofila teofilo teonila teresa teresinha tereza terezinha thais
thaisa thales thalia thalita thalyta thatiane thayane thayna thaynara theo theodoro thiago thomas
tiago tiao tiburcio timoteo tito tobias tomas tomaz tonha tonho tonia tonico toninho ubaldo
ubirajara uelinton ulda ulisses ulysses urbano ursula val valdeci valdecir valdelice valdelina
valdemar valdemir valdenice valdenir valdenor valdenora valderez valdete valdilene valdinei
valdineia valdir valdira valdirene valdivino valdomira valdomiro valentim valentina valeria valerio
valfrido valmir valmira valmor valteir valter vanda vander vanderlei vanderleia vanderson vanessa
vania vanilda vanilza vanusa vanuza venancio veneranda vera veridiana veronica veronice vicencia
vicente vicentina victor victoria vilma vilmar vilmara vilson vinicios vinicius virgilio virginia
virgulino vitalina vitor vitoria vitorino vivaldo viviana viviane vladimir wagner wagno walace
waldemar waldete waldir waldirene waldomira waldomiro walison walkiria wallace walmir walquiria
waltair walter wanda wander wanderlei wanderley wanderson wanessa washington webert welington
wellington wendel wendell weslen wesley weslley weverton wilian wilker william willian wilma wilmar
wilson wilton wilza wladimir xisto yago yan yara yasmim yasmin yasmine yohana yolanda ysadora yuri
zacarias zaira zaqueu ze zeca zefa zeferino zefinha zelia zelinda zelita zenaide zenaldo zeni
zenilda zenilton zenir zeno zeze zilah zilca zilda zilma zilmar zita zoraida zoraide zuila zuleica
zuleide zuleika zulmar zulmira
"""
_SURNAMES = """
abrantes abreu accioly aguiar albuquerque alcantara alencar almeida alvarenga alves amancio amaral
amorim anacleto andrade anjos antunes aragao arantes araujo arruda assis assuncao athayde avila
azevedo bandeira baptista barbosa barcelos barreto barros barroso bastos batista beltrao benites
bentes bernardes bertoli bessa bezerra bianchi bicalho bittencourt boaventura bonfanti bonfim borba
borges botelho braga braganca brandao brasil brito britto brochado brum bueno cabral calado caldas
caldeira calixto camara camargo camilo campos canuto cardoso carneiro carrara carvalho casagrande
castanho castelo castro cavalcante cavalcanti cerqueira chagas chaves cirino coelho coimbra
conceicao cordeiro correa correia costa coutinho couto cruz cunha damasceno damasio dantas delgado
dias diniz domingues dornelas duarte dutra esteves evangelista fagundes falcao faria farias feitosa
feitoza felix fernandes ferrari ferraz ferreira fidelis figueira figueiredo fogaca fonseca fontes
fontoura fraga franca franco freire freitas frota furtado gadelha galindo galvao gama garcia gaspar
gentil godoi godoy goes gomes goncalves gondim gouvea gouveia guedes guerra guimaraes gusmao
henriques hoffmann holanda iglesias inacio jardim jesus jordao krause kruger lacerda lago lamas
landim leal leao leitao leite lemos lima lins lira lisboa lobato lobo lopes lourenco louro lustosa
luz macedo machado maciel madeira madureira magalhaes maia malheiros malta marcal marchetti
marcolino marinho marques martinelli martins matos mattos meira meireles meirelles mello melo mendes
mendonca menezes mesquita miranda moraes morais moreira moretti mota motta moura mourao muller
munhoz muniz nakamura nascimento navarro negreiros neri nery neto neves nobrega nogueira noronha
novaes novais nunes oliveira ornelas ortega ortiz oshiro pacheco padilha paes paiva palhares pantoja
parente paz pedroso peixoto pellegrini penha penteado peralva pereira peres pestana pimenta pimentel
pinheiro pinho pinto pires pontes portela porto prado prates prestes proenca quaresma queiroga
queiros queiroz quintela rabelo ramalho ramos rangel rego reis resende rezende ribamar ribas ribeiro
rios rocha rodrigues rolim roriz rosa rossi rufino sa sabino saldanha sales salgado salles salvador
sampaio sanches santana santiago santos saraiva sardinha sarmento schaffer schmidt schneider schultz
seabra sena senna serra silva silveira simoes siqueira soares sobral sobrinho sousa souto souza
tanaka tavares taveira teixeira teles telles tenorio toledo torres trigueiro trindade uchoa valadao
valadares vale valenca valente varela vargas vasconcelos vaz veiga veloso ventura veras viana vianna
vidal vieira vilaca vilela villela viveiros watanabe weber xavier yamamoto yoshida zanella zanetti
zimmermann
"""
_WORDS = """
alba alexandrina aparecida aparecido aurea branca candida candido caro celeste clara conceicao
conrado constancia cora custodio divina divino domingas domingos dora eli elia esmeralda eva felicia
firmino flora fortunato generosa graca hortencia ida inocencio iris irma iron jasmim ju lazaro lea
leda lia linda lino liz lu luca lucia luna ma magna magno mara marco margarida marina maximo mel
mercedes merces mestre nazare nena nina nino noel olinda palmira pascoal patricio perla perpetua
primo querem regina rosa rosaria rosario salvador santina sara serafim severo socorro sol tais
tonico urbano val veneranda vera vitoria vivaldo
"""
GIVEN_NAMES = frozenset(_GIVEN.split())
SURNAMES = frozenset(_SURNAMES.split())
# Names that are also words, so they count only with a capital letter.
WORDS = frozenset(_WORDS.split())
ASCII_WORD = re.compile(r"[a-z]+")


def word_set(text: str) -> frozenset[str]:
    """Return the words of a list that is written as text."""
    return frozenset(text.split())


@lru_cache(maxsize=100_000)
def fold(word: str) -> str:
    """Return a word in small letters and without accents."""
    letters = unicodedata.normalize("NFD", word.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


@lru_cache(maxsize=4)
def ascii_words(text: str) -> frozenset[str]:
    """Return the set of words, in small letters and without accents.

    Several recognisers ask for the words of the same text.
    """
    letters = unicodedata.normalize("NFD", text).encode("ascii", "ignore").decode().lower()
    return frozenset(ASCII_WORD.findall(letters))
