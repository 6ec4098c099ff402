"""List common given names and surnames of Brazil, without accents, in small letters."""

import re
import unicodedata
from functools import lru_cache

_GIVEN = """
abel abelardo abigail abner abraao acacio adailton adalberto adalgisa adao adauto ademar ademilson
ademir adenilson adilson adolfo adriana adriane adriano adriele adrielle afonso afranio agata agatha
agnaldo agnes agostinho aida ailton aimee airton alan alana alba alberto alceu alcides alcione
alcindo aldair aldo aleksandro alessandra alessandro alex alexandra alexandre alexandrina alexandro
alexsander alexsandro alfredo alice alicia aline alisson allan allana almerinda almir aloisio alvaro
alzira amadeu amalia amanda amaro amaury amelia amelie americo amilton ana anabela anais analu
anastacia anderson andre andrea andreia andressa andrew andreza andrielly angela angelica angelina
angelo anita anna anne antenor anthony antonia antonieta antonio aparecida aparecido aquiles araci
arcelino argemiro ariana ariane ariel arlete arlindo armando arnaldo arthur artur ary asafe astolfo
ataide augusta augusto aurea aurelio auxiliadora ayla ayrton barbara bartolomeu beatriz belmiro
benedita benedito benicio benjamin benjamim bento berenice bernadete bernardo bete beth betania
bianca branca braulio brayan breno bruna bruno caetano caio caique camila camile camilla camilo
carina carla carlos carlota carmelita carmem carmen carmo carol carolaine carolina caroline cassandra
cassia cassiana cassiano cassio catarina catharina caua cauan cauane cecilia celeste celestino celia
celina celio celma celso cesar charles chico christian christiane cibele cicera cicero cida cintia
cirilo ciro clarice clarinda clarissa claudemir claudete claudia claudinei claudineia claudiney
claudio cleber cleide cleidiane cleiton clelia clemente clementina cleonice cleto cleusa cleuza
clodoaldo cloves clovis conceicao constancia cora corina cosme creusa creuza cristiana cristiane
cristiano cristina cyntia dagmar dagoberto daiana daiane dalila dalva damiana damiao daniel daniela
daniele daniella danielle danilo danubia dario darlene darlan davi david dayana dayane debora deise
deivid dejair delcio delfina denilson denis denise denize deoclecio derli deusdete deuza deyse diana
diego dilma dilson dilva dimas dina dinah dinalva dino diogenes diogo dionisio dirce dirceu dirlene
divina divino djalma djair djanira domingas domingos donizete dora doralice dorinha doris dorival
doroteia douglas dulce dulcineia durval eber edelson eder edgar edicarlos edilaine edilene edileusa
edileuza edilson edimar edina edinaldo edinalva edinei edineia edir edison edite edith edivaldo
edivania edlaine edmar edmea edmilson edmundo edna ednaldo ednalva edneia edson eduarda eduardo
edvaldo edvan edvania efigenia egidio elaine elba elen elena elenice eleonora eleuterio elga eli elia
eliana eliane elias eliete eliezer elifas elina eliomar elis elisa elisabete elisabeth elisandra
elisangela eliseu elizabete elizabeth elizangela elizete ellen elma eloa eloi eloisa eloiza elsa elso
elson elton elvira elza elzira emanoel emanuel emanuela emanuele emanuelle emanuelly emerson emilia
emiliano emilio emilly emily enedina eneas eneida enio enrico enzo epaminondas erasmo erica ericka
erico erik erika erivaldo erivelton ermelinda ernani ernesto esmeralda ester esther estefani estela
estelita eudes eugenia eugenio eulalia eunice euclides eurico euridice eva evandro evaldo evangelina
evanildo evelin evelyn evelyne everaldo everson everton expedita expedito ezequias ezequiel fabia
fabiana fabiane fabiano fabio fabiola fabricia fabricio fatima faustino fausto felicia felicio felipe
feliciano fernanda fernandinho fernando filipe filomena flavia flaviana flaviano flavio florencia
floriano florinda florisvaldo francelino francielle francieli francilene francimar francinaldo
francine francisca francisco franciele franklin frederico gabriel gabriela gabriele gabriella
gabrielle gabrielly gael gardenia gaspar geni genilda genilson genivaldo genoveva georgina geovana
geovane geovanna geralda geraldina geraldo gerson gertrudes gessica gesse getulio giane gilberto gilda
gildo gilmar gilson gilvan giovana giovane giovani giovanna giovanni gisela gisele giselia giselle
gislaine gislene giulia givanildo glaucia glauco glaucio glauber gleice gleici gleidson gleison
glenda gleyce godofredo graciela graciete gracilene gracinda graziela graziele graziella gregorio
greice guilherme guiomar gustavo haroldo heber hebert heitor helder helen helena helenice helia helio
helloisa heloisa heloise helton henrique heraldo herberto hercilia herculano heriberto hermes
herminia herminio hernani hilario hilda hildebrando hildete homero honorio horacio hortencia hosana
hugo humberto iago iara iasmin iasmim icaro ida idalina idelfonso ieda igor ilda ilma ilza inacia
inacio indiara ines inez ingrid iolanda iraci iracema iraildes irani irene ireni irineu iris irma
isa isaac isabel isabela isabele isabella isabelle isabelly isadora isaias isaque isaura isis ismael
isolda israel italo itamar iuri ivan ivana ivanete ivani ivania ivanilda ivanildo ivanilson ivete ivo
ivone ivonete izabel izabela izabella izadora izaias jaci jacinta jacinto jackeline jackson jacira
jaco jacqueline jacques jailson jailton jaime jair jairo jamile jamil jana janaina jandira jane
janete janice janine januario jaqueline jarbas jardel jasmim jean jeane jefferson jeferson jenifer
jennifer jeova jeremias jeronima jeronimo jesse jessica jesuino joana joanita joao joaquim joaquina
joca joel joelma joice jonas jonatan jonatas jonathan jorge jorgina josafa jose josefa josefina josefo
joselia joselito josemar josenildo josiane josias josie josilene josimar josivaldo josue jovelina
jovita joyce juarez jucara jucelia jucelino judite judith julia juliana juliane juliano julieta
julinha julio junior juraci juracy jurandir juscelino jussara justina justino juvenal juvencio kaio
kaique karen karina karine karla karol karolina karoline kassia katia katiane katiuscia kaua kauan
kauane kayky keila keity kelen keli kelly kelvin kenia kesia keyla kleber lais laila lana lara larissa
laudelino laura laureano laurinda laurindo lauro lavinia lazara lazaro lea leandra leandro leda 
leidiane leila lena leni lenice lenilda lenir leo leocadia leona leonardo leoncio leonel leonidas
leonor leontina leopoldo leticia levi lia liana lidia lidiane ligia lilia lilian liliana liliane
lina linda lindalva lindaura lindinalva lindomar lino lisandra livia liz lizandra lorena lorenzo
loreta louise lourdes lourenco lourival lourivaldo luan luana luanda luara luca lucas lucelia lucia
luciana luciane luciano lucidio lucila lucilene lucilia lucimar lucimara lucinda lucineia lucinete
lucio lucivania lucrecia ludmila luis luisa luiz luiza luizinho luma luna luzia luzinete lydia madalena
magali magda magna magno maiara maicon maira maisa maite malu malvina manoel manoela manuel manuela
manuella mara marcela marcele marcelina marcelino marcella marcelo marcia marciana marciano marcilene
marcilio marcio marco marcondes marcos marcus margarete margarida margareth maria mariana mariane
mariangela mariano maricelia mariela marieta marilda marilena marilene marilia marilu marilucia
mariluce marilza marina marines marinalva marinete marinez mario marisa marise maristela mariza
marizete marizilda marlene marli marlon marlucia marluce marly marta martha martim martina mary
mateus matheus matias matilde maura mauricio maurilio mauro maxwell mayara mayra melina melissa mel
mercedes messias micael michael michel michele michelle michelly miguel mikaela milena milene milton
minervina miriam mirela mirella mirian mirna mirtes misael moacir moacyr moises moema monalisa monica
monique murilo nadia nadir nadja naiara nair nanci nancy napoleao nara narciso nardele natalia
natalie natalino natanael natasha nathalia nathan nayara nazare nazareno neide neila neiva nelci nelio
nelma nelson nely nena neusa neuza newton neymar nicanor nicola nicolas nicole nicolle nicolly
nildete nilma nilo nilson nilton nilza nina nino nivaldo nivea noah noel noelia noeli noemi noemia
norberto norma norival odair odete odila odilia odilon odorico ofelia olavo olga olimpia olimpio
olinda olindina olivia omar onofre orlanda orlando orestes oscar oscarina oseas osmar osmarina osni
osvaldina osvaldo oswaldo otacilia otacilio otavia otaviano otavio otelo otilia otoniel ozana pablo
palmira paloma pamela paola patricia patricio paula paulina pauline paulinho paulino paulo pedrina
pedrinho pedro penelope perla petronio pietra pietro plinio poliana policarpo pollyana primo
priscila priscilla querem quiteria rachel rafael rafaela rafaella rafinha railda raimunda raimundo
raissa ramiro ramon raphael raphaela raquel raul rayane rayssa rebeca regiane regina reginaldo regis
reinaldo rejane renan renata renato renilda renilson reynaldo ricardo rian rita ritinha rivaldo robert
roberta roberto robson rodolfo rodrigo rogeria rogerio romao romario romeu romildo romilda romulo
ronaldo ronan roney roni ronilson rosa rosalia rosalina rosalinda rosalvo rosana rosane rosangela
rosania rosaria rosario roseane roseli rosely rosemary rosemeire rosemeri rosenilda rosiane rosicleide
rosilda rosilene rosimar rosimeire rosimeri rosinei rosineide rosita rosivaldo rozilda rubem rubens
rui rute ruth ruy sabrina salete salomao salome salvador samanta samantha samara samira samuel samuca
sandoval sandra sandrinha sandro santina sara sarah saulo sebastiana sebastiao selma selene serafim
serafina sergio severina severino shaiane sheila shirlei shirley sidnei sidney sidineia silas silmara
silvana silvani silvania silvano silverio silvestre silvia silvino silvio simao simara simone simoni
sirlei sirlene socorro sofia sol solange sonia sophia sophie soraia soraya stefani stefany stella
stenio stephanie sueli suelen suellen suely sulamita susan susana suzana suzane suzete tabata taciana
tadeu taina tainara tais taisa talita tamara tamires tania tarcila tarcisio tarsila tatiana tatiane
tatiele telma telmo teobaldo teodora teodoro teofilo terezinha teresa teresinha tereza thais thaisa
thales thalia thalita thatiane theo theodoro thiago thomas tiago timoteo tito tobias tomas tomaz
toninho tonico ubaldo ubirajara ulisses ulysses urbano ursula valdeci valdecir valdelice valdemar
valdemir valdenice valdenir valdete valdineia valdinei valdir valdira valdirene valdivino valdomiro
valentim valentina valeria valerio valmir valmira valter valteir vanda vander vanderlei vanderleia
vanderson vanessa vania vanilda vanuza vera veridiana veronica vicencia vicente vicentina victor
victoria vilma vilmar vilson vinicios vinicius virgilio virginia vitor vitoria vitorino viviana
viviane vladimir wagner waldemar waldir waldomiro walace walison wallace walmir walter waltair wanda
wander wanderlei wanderley wanderson wanessa washington wagno webert welington wellington wendel
wendell wesley weslley weverton wilian william willian wilma wilmar wilson yan yago yara yasmim yasmin
yolanda yuri zaira zacarias zelia zelita zelinda zeca zenaide zenilda zenir zeno zilda zilma zilmar
zita zoraide darci darcy wilton isaltina ysadora ryan rayan jurema otto goncalo zefinha marcinha
ketlyn kethelyn ketlin lucineide lucineia rosineide edineide claudineide josineide ivaneide marinalva
gilvaneide cleonilda adelaide adelino adelina aderbal ademilde adina aderito agenor alaide albertina
albino alcebiades aldenora aldenir almira altair amauri amarildo anselmo antonella aparicio arimateia
aristides arminda arnobio astrogildo aurelina aurino avelino balbina baltazar basilio belarmino
benjamin bernadino bonifacio brigida calixto candida candido carmelo casimiro cassilda cecy cezar
charlene cirlene claudimir cleomar cleonilson conrado crispim custodio davina decio delfim delma
demetrio deodato dileta domicio dorvalino duda edilberto edilce edivan edmara edvania eliandro
elinaldo elizeu elpidio emidio eneida ermirio estevao estevam etelvina eugenia euzebio evaristo
eveline fatinha ferdinando firmino flora floripes fortunato gaudencio genario geneci generosa genival
germana germano getulia gildete gilmara giuseppe graziele guto hamilton heleno helvecio heron hilton
honorina iasmin idalia ilca ilma ilson inocencio iradilson irineia iron isaltino isidoro isidora
ivair ivanor izidoro jacyra janiele janio jeniffer jessyca joanice jocelino jocelia jomar jordana
jordania josefino joseane josimara josefa jovino jovelino jucilene julieta jurema justiniano karoline
katarina kethlen kevin laercio laerte larissa laurita lauriane leocir leopoldina lindolfo lorival
luciene lucineide luisinho luzinete mafalda manuelina marcelle marcella mariinha mariluce marivaldo
marivone matildes maximiano maximo mayke mayla melania meire merces milagros minelvina miralva
moises natacha natanaele neuzita nilce nilda nilcea nilsa nilva normelia odalia odaleia odelia
olegario olinto onesimo orlandina osmilda osorio otoni pascoal pascoalina pedrosa perpetua petrona
policarpa quirino rafa railson ramona raul reinalda rogelio ronilda rosaura rosilane rosivania
rosendo rosemar rossana ruan rufino ruthe salustiano santino sebastiano selmira servulo severo
sidneia sigmar silvania silvina sinval sirlei suzi suzy tania tarcio telvina teofila teonila tereza
tiburcio tonia ulda valdelina valdenor valderez valdilene valdomira valfrido valmor vanilza vanusa
veneranda venancio veronice virgulino vitalina vivaldo waldete waldomira walquiria wilker wilza
wladimir xisto yohana yasmine zaqueu zeferino zefa zenaldo zeni zilah zilca zoraida zuila zulmar
ze nando tiao tonho zeze juca bia gabi duda leninha nanda fefa dani rafa manu zuleica zuleide zuleika zulmira
"""
_SURNAMES = """
abrantes abreu accioly aguiar albuquerque alcantara alencar almeida alvarenga alves amancio amaral
amorim andrade anjos antunes aragao araujo arantes arruda assis assuncao athayde avila azevedo
bandeira baptista barbosa barcelos barreto barros barroso bastos batista beltrao bentes benites
bernardes bezerra bicalho bittencourt boaventura bonfim borba borges botelho braga braganca brandao
brasil brito britto brochado bueno cabral calado caldas caldeira calixto camara camargo camilo campos
canuto cardoso carneiro carrara carvalho casagrande castanho castro cavalcante cavalcanti cerqueira
chagas chaves coelho coimbra conceicao cordeiro correa correia costa couto coutinho cruz cunha damasceno
dantas delgado dias diniz domingues dornelas duarte dutra esteves evangelista fagundes falcao faria
farias felix fernandes ferraz ferreira ferrari figueira figueiredo fogaca fonseca fontes fontoura
fraga franca franco freire freitas frota furtado gadelha galvao gama garcia gaspar gentil godoi godoy
goes gomes goncalves gouveia gouvea guedes guerra guimaraes gusmao henriques holanda iglesias jardim
jesus jordao lacerda lago lamas leal leao leite leitao lemos lima lins lira lisboa lobato lobo lopes
louro lourenco luz macedo machado maciel madeira madureira magalhaes maia malheiros malta marinho
marques martins marcal matos mattos meira meireles meirelles mello melo mendes mendonca menezes mesquita
miranda moraes morais moreira mota motta moura mourao muniz munhoz nascimento navarro negreiros neri
nery neto neves nobrega nogueira noronha novaes novais nunes oliveira ornelas ortega ortiz pacheco
padilha paiva palhares parente paz pedroso peixoto penha penteado pereira peres peralva pimenta pimentel
pinheiro pinho pinto pires pontes porto portela prado prates prestes proenca queiroga queiros queiroz
quintela rabelo ramalho ramos rangel rego reis rezende resende ribas ribeiro rios rocha rodrigues rolim
roriz rosa rossi rufino sa saldanha sales salgado salles salvador sampaio sanches santana santiago santos
saraiva sardinha schmidt schneider seabra sena senna serra silva silveira simoes siqueira soares sobral
sobrinho souto souza sousa tavares taveira teixeira teles telles tenorio toledo torres trindade uchoa
valadares vale valente valenca varela vargas vasconcelos vaz veiga veloso ventura veras viana vianna
vidal vieira vilela villela vilaca viveiros xavier weber zanetti zanella
"""
GIVEN_NAMES = frozenset(_GIVEN.split())
SURNAMES = frozenset(_SURNAMES.split())
ASCII_WORD = re.compile(r"[a-z]+")
# Names that are also words, so they count only with a capital letter.
WORDS = frozenset(
    """
    candida candido flora firmino severo maximo perpetua generosa veneranda iron merces pascoal
    conrado inocencio fortunato custodio vivaldo ma alba alexandrina aparecida aparecido aurea branca caro celeste clara conceicao constancia cora
    divina divino domingas domingos dora elia eli esmeralda eva felicia graca hortencia ida iris
    irma jasmim lazaro lea leda lia linda lino liz luca lucia luna magna
    magno mara marina marco margarida mel mercedes mestre nazare nena nina nino noel olinda
    palmira patricio perla primo querem regina rosa rosaria rosario salvador santina sara
    serafim sol socorro tais tonico urbano vera vitoria
    """.split()
)



@lru_cache(maxsize=100_000)
def fold(word: str) -> str:
    """Return a word in small letters and without accents."""
    letters = unicodedata.normalize("NFD", word.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


@lru_cache(maxsize=4)
def ascii_words(text: str) -> frozenset[str]:
    """Return the words of a text in small letters and without accents, as one set.

    Several recognisers ask for the words of the same text.
    """
    letters = unicodedata.normalize("NFD", text).encode("ascii", "ignore").decode().lower()
    return frozenset(ASCII_WORD.findall(letters))
