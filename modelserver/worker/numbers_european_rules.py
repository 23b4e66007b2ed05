"""Words around numbers in seven European languages, as patterns: what makes a number certain."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rules:
    """Patterns of one language. Alternatives without groups that count."""

    alone: str
    """Pattern of 100 and 1000, which are not written in figures when they stand alone."""
    one: str
    """Forms of one that are also an article or a pronoun."""
    percent: str
    percent_sign: str
    joins: str
    """Pattern between two numbers of which both are written, or neither."""
    between: tuple[str, str]
    """Patterns before the first of two numbers, and between them: "between ten and twenty"."""
    larger: str
    """A unit of a number that a number of two digits makes certain: three euros fifty."""
    blocks: str
    """Pattern between two numbers of which neither is written: alternatives, times before an hour.
    """
    after_none: str
    """Pattern after a number that is a part of something in words."""
    sayings: str
    months: str
    """Pattern after a day."""
    before_none: str = "(?!)"
    clock: tuple[str, str] = ("(?!)", "(?!)")
    """Patterns before an hour, and between it and its minutes."""
    phone: str = "(?!)"
    """A telephone number that is spoken in groups of digits."""
    pairs: bool = False
    """True if the groups of a telephone number are pairs, and are written as such."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Patterns of words that the library takes for something else, and what it is given."""


_GERMAN = Rules(
    alone="hundert|tausend",
    one="ein",
    percent="prozent",
    percent_sign=" %",
    joins="bis(?: zum)?|mal|plus|minus|zu|von",
    between=("zwischen(?: dem| der)?", "und(?: dem| der)?"),
    larger="uhr|(?:stunden?|minuten?)(?: und)?|euro|franken|dollar|pfund|meter",
    blocks="oder|vor|nach",
    before_none=(
        "halb|dreiviertel|viertel(?: vor| nach)?|(?:ludwig|heinrich|karl|benedikt|leo) der"
        "|eine[mnr]? (?:stunde(?: und)?|minute(?: und)?|euro|dollar|meter)"
    ),
    after_none="(?:vor|nach) halb|einhalb|komma|drittel|viertel|und (?:ein paar|etwas|mehr)",
    sayings="tausendundeine nacht|zwölf apostel|null acht fünfzehn|vom hundertsten ins tausendste",
    phone=r"0\d{6,13}",
    months="januar|jänner|februar|märz|april|mai|juni|juli|august|september|oktober|november|dezember",
)
_FRENCH = Rules(
    alone="cents?|mille",
    one="une?",
    percent="pour ?cent",
    percent_sign=" %",
    joins="au?|à|fois|plus|sur",
    between=("entre(?: les?)?", "et(?: les?)?"),
    larger="(?:heures?|minutes?)(?: et)?|euros?|francs?|dollars?|mètres?",
    blocks="ou|heures? moins|moins",
    before_none="midi|minuit|louis|henri|charles|benoît|léon|pie|jean",
    after_none=(
        "(?:heures? )?(?:et demie?|et quart|moins)|virgule|demie?s?|tiers|quarts?|et quelques"
    ),
    sayings=(
        "mille et une?|treize à la douzaine|il est moins [^ ]+"
        "|quatre[ -]cents coups|trente[ -]six (?:chandelles|du mois|fois)"
        "|midi à quatorze|sur (?:[mts]on|leur|notre|votre) trente[ -]et[ -]un"
        "|vingt[ -]deux v'là|dix de retrouv[^ ]+"
    ),
    months="janvier|février|mars|avril|mai|juin|juillet|août|septembre|octobre|novembre|décembre",
    phone=r"0\d{9}",
    pairs=True,
)
_SPANISH = Rules(
    alone="cien|cientos?|mil|miles",
    one="un[oa]?",
    percent="por ?cient?o?",
    percent_sign=" %",
    joins="a|al|a las|por|más|de cada",
    between=("entre(?: el| los| las)?", "y(?: el| los| las)?"),
    larger="(?:horas?|minutos?)(?: y)?|(?:euros?|pesos?|dólar(?:es)?|metros?)(?: y| con)?",
    clock=("las?", "y"),
    blocks="o|u|menos|y",
    before_none=(
        "(?:mediodía|medianoche) y|siglo|alfonso|felipe|carlos|luis|juan|benedicto|pío|león"
    ),
    after_none=(
        "y medi[ao]|y cuarto|menos cuarto|coma|tercios?|cuartos?|quintos?|para las?"
        "|y (?:tant[oa]s|pico)"
    ),
    sayings="mil y una|en sus trece|los once",
    months=(
        "de (?:enero|febrero|marzo|abril|mayo|junio|julio|agosto|sep?tiembre|octubre|noviembre"
        "|diciembre)"
    ),
    phone=r"[679]\d{8}",
    aliases={"veintiún": "veintiuno", "un[oa]s": "some"},
)
_DIGITS = r"(?:meia ){0,9}(?:zero|um|dois|três|quatro|cinco|seis|sete|oito|nove)\b"
_PORTUGUESE = Rules(
    alone="cem|cento|mil",
    one="uma?",
    percent="por ?cento",
    percent_sign="%",
    joins="a|às|vezes|mais|em cada",
    between=("entre(?: [oa]s?)?", "e(?: [oa]s?)?"),
    larger="(?:horas?|minutos?)(?: e)?|(?:euros?|rea(?:l|is)|dólar(?:es)?|metros?)(?: e)?",
    clock=("[àa]s?", "e"),
    blocks="ou|menos|meia",
    before_none="(?:meia.noite|meio.dia) e|século|luís|joão|bento|pio|leão",
    after_none=(
        f"(?:horas )?e mei[ao]|meia(?! {_DIGITS})|e um quarto|vírgula|terços?|quartos?"
        "|para (?:as?|o) |e (?:pouc[oa]s|tal|tant[oa]s)"
    ),
    sayings="mil e uma",
    months=(
        "de (?:janeiro|fevereiro|março|abril|maio|junho|julho|agosto|setembro|outubro|novembro"
        "|dezembro)"
    ),
    aliases={rf"(?<!\be )meia(?= {_DIGITS})": "seis"},
)
_ITALIAN = Rules(
    alone="cento|mille",
    one="un[oa]?",
    percent="per ?cento",
    percent_sign="%",
    joins="a|ai|al|alle|per|più|su",
    between=("(?:tra|fra)(?: i| il| le)?", "e(?: i| il| le)?"),
    larger="(?:or[ae]|minut[oi])(?: e)?|(?:euro|franchi|dollari|metr[oi])(?: e)?",
    clock=("(?:le|alle|dalle|ore)", "e"),
    blocks="o|meno",
    before_none=(
        "(?:mezzogiorno|mezzanotte|un'ora) e|luigi|carlo|enrico|benedetto|pio|leone|giovanni"
    ),
    after_none="e mezz[ao]|e un quarto|meno un quarto|virgola|terz[oi]|quart[oi]|e rotti|e passa",
    sayings="mille e una|fare trenta e poi trentuno",
    months=(
        "gennaio|febbraio|marzo|aprile|maggio|giugno|luglio|agosto|settembre|ottobre|novembre|dicembre"
    ),
    aliases={"centesimi": "cents", r"(\w*cent)(ott\w+)": r"\1o\2"},
)
_DUTCH = Rules(
    alone="honderd|duizend",
    one="een",
    percent="procent",
    percent_sign="%",
    joins="tot|keer|plus|(?:op|van) de",
    between=("tussen(?: de)?", "en(?: de)?"),
    larger="(?:uur|minuten|minuut)(?: en)?|euro|dollar|meter",
    blocks="of|voor|over",
    before_none="half|kwart over|kwart voor|(?:lodewijk|willem|karel|hendrik) de",
    after_none="(?:over|voor) half|en een half|komma|derde|kwart",
    sayings="duizend[ -]en[ -]één nacht|dertien in een dozijn",
    phone=r"0\d{9}",
    months="januari|februari|maart|april|mei|juni|juli|augustus|september|oktober|november|december",
)
_HOURS = (
    "(?:первого|второго|третьего|четвертого|пятого|шестого|седьмого|восьмого|девятого|десятого"
    "|одиннадцатого|двенадцатого)"
)
_COUNTED = (
    "одн|дв[ау]|тр[ие]|чет|пят|шест|сем|вос|дев|лет|минут|час|дн|челов|тысяч|мил|процент|градус"
    "|рубл|[км]"
)
"""Beginnings of words before which сорока is 40, and no magpie."""
_RUSSIAN = Rules(
    alone="ст[оа]|тысяч(?:[аиуе]|ей|ами?|ах)?",
    one="одн[а-я]+|один",
    percent="процент(?:а|ов|у|ом|ам|ами|ах)?",
    percent_sign=" %",
    joins="до|по|на|из|плюс|минус",
    between=("между", "и"),
    larger="час(?:а|ов)?|рубл(?:ь|я|ей)|доллар(?:а|ов)?|евро|метр(?:а|ов)?|минут[аы]?",
    blocks="или|и",
    before_none=(
        "без(?: [а-я]+ минут| четверти)?|цел(?:ых|ая)(?: и)?|(?<!один )час|метр"
        "|пол(?:овин[а-я]+)?|четверть|людовик[а-я]*|карл[а-я]*"
    ),
    after_none=f"цел(?:ых|ая)|запятая|с половиной|с (?:лишним|небольшим)|минут[ауы]? {_HOURS}",
    sayings=(
        f"минут[ауы]? {_HOURS}|тысяча и одна|сорок сороков"
        f"|(?<!до )(?<!от )(?<!к )сорока(?! (?:{_COUNTED}))"
    ),
    months=(
        "(?:января|февраля|марта|апреля|мая|июня|июля|августа|сентября|октября|ноября|декабря)"
    ),
    phone=r"[78]\d{10}",
)
RULES = {
    "de": _GERMAN,
    "fr": _FRENCH,
    "es": _SPANISH,
    "pt": _PORTUGUESE,
    "it": _ITALIAN,
    "nl": _DUTCH,
    "ru": _RUSSIAN,
}
