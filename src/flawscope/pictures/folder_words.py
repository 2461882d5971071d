"""Reads words that call parts good or defective, in names of folders and files and in lists.

Everything that learns uses this vocabulary and this rule. Pictures are learnt without a question only where
each word of their folder's name is in one of these lists. A text such as `2024-05-01_iO`, `Gutteile` or
`NODefect_images` is split into words. A word for good or defective counts; a negation before it ("ohne
Fehler", "not ok", "undamaged") or behind it ("fehlerfrei") inverts it. A word of none of the lists makes a
good name unclear ("good_rework"), unless all names side by side have it, such as the product (`screw_ok`
beside `screw_nok`). A name of unknown meaning is a question.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple


class Said(Enum):
    """Meaning of a text about parts.

    Attributes:
        GOOD: The parts are good.
        BAD: The parts are defective.
        SORTED: Neither good nor defective, but words by which people sort pictures, such as a camera.
        UNKNOWN: Neither good nor defective, but other words.
        UNCLEAR: Good with further words, or both good and defective, or a wrong decision.
    """

    GOOD = "good"
    BAD = "not good"
    SORTED = ""
    UNKNOWN = "nothing is said"
    UNCLEAR = "unclear"


def word_set(words: str) -> frozenset[str]:
    """Return the words of a text, which blanks separate.

    Slashes separate endings, which are added to the word: `gut/e/er` means `gut`, `gute` and `guter`.
    """
    forms = set[str]()
    for word in words.split():
        stem, *endings = word.split("/")
        forms |= {stem, *(stem + ending for ending in endings)}
    return frozenset(forms)


GOOD = ("good", "ok", "normal")  # the names that published data sets use

# English, German, French, Spanish, Italian, Portuguese, Polish, Dutch; as `_without_accents` writes them
_GOOD_WORDS = word_set(
    "good ok okay io normal pass/ed accept/ed/able intact flawless approved "
    "gut/e/en/er/es inordnung einwandfrei bestanden akzeptiert "
    "bon/s/ne/nes conforme/s accepte/s/e/es "
    "bueno/s buena/s aceptado/s aceptada/s aprobado/s "
    "buono buoni buona buone conformi accettato accettati idoneo idonei "
    "bom boa/s aceito/s aprovado/s dobry dobre dobra zgodny zgodne sprawny sprawne goed/e goedgekeurd/e"
)
_BAD_WORDS = word_set(
    "bad ko nok ng nio abnormal anomaly anomalies anomalous def defect/s/ive/ives fault/s/y "
    "fail/s/ed/ure/ures "
    "reject/s/ed scrap/s/ped damage/s/d broken flaw/s/ed error/s "
    "schlecht/e/en/er ausschuss fehler/haft/hafte defekt/e/en mangel/haft/hafte maengel "
    "beschadigt/e beschaedigt/e schaden schaeden kaputt abgelehnt "
    "mauvais/e/es defaut/s defectueux defectueuse/s rebut/s rejete/s/e/es endommage/s/e/es anomalie "
    "malo/s mala/s defecto/s defectuoso/s defectuosa/s rechazado/s rechazada/s danado/s danada/s "
    "cattivo cattivi difetto difetti difettoso difettosi scarto scarti rifiutato danneggiato guasto guasti "
    "mau ruim ruins defeito/s defeituoso/s rejeitado/s refugo/s "
    "zly zle zla wada wady wad wadliwy wadliwe brak/i odrzut/y uszkodzony uszkodzone "
    "slecht/e afkeur afgekeurd/e fout/en"
)
_NEGATIONS = word_set(
    "no not non none nicht kein/e/en ohne sans pas sin senza sem nao nie bez without niet geen zonder ikke "
    "inte"
)
_PREFIXES = word_set("un in nicht not non no nie")  # written together with the word that they invert
_FREE = word_set("free frei/e/en libre/s libero liberi")
_FILLERS = word_set(  # between a negation and its word
    "an any the of from de des du le la les un une von der die das el los del di do to jest sont est be yet "
    "found"
)
_WITH = word_set("with mit avec con com")  # "mit Fehler"
# Words for wrong decisions, which do not describe the part
_WRONG = word_set("true false wrong missed richtig falsch wahr vrai/e faux fausse vero falso falsa")
_MISTAKES = word_set(
    "fp fn tp tn escape/s/d overkill/s underkill alarm/s/e alarma/s alarme/s call/s positive/s negative/s "
    "fehlalarm/e schlupf"
)
_PSEUDO = ("pseudo", "schein")  # first part of such a word: "Pseudofehler"
_THINGS = word_set(  # countable things, such as "part 3"
    "part/s piece/s sample/s item/s teil/e/en stuck stucke stueck stuecke probe/n pieza/s pezzo pezzi "
    "peca/s sztuki"
)
_NOUNS = _THINGS | word_set(  # words without a meaning for quality or sorting
    "image/s img/s picture/s pic/s photo/s foto/s product/s set data daten dataset bild/er muster produkt/e "
    "ware "
    "imagen immagini imagem zdjecia"
)
_AGES = word_set("new neu old alt copy kopie")  # explain no unknown word ("new folder")
# Words by which people sort pictures of good parts: by time, place, camera, light
_SORTING = (
    word_set(
        "cam/s camera/s kamera/s sensor shift/s schicht turno equipe zmiana batch lot/s los charge lote "
        "lotto serie/s "
        "partia run tray pallet palette box order auftrag line linie linea ligne machine maschine station "
        "nest cavity "
        "kavitat kavitaet mold view/s ansicht vue vista side seite left right top bottom front back rear "
        "links rechts "
        "oben unten vorne hinten gauche droite haut bas izquierda derecha sinistra destra light licht luz "
        "luce bright "
        "dark day/s tag/e jour dia giorno week woche semaine month monat year jahr kw early late night "
        "fruh frueh spat spaet nacht morning evening jan/uary/uar feb/ruary/ruar mar/ch/z maerz apr/il may "
        "mai jun/e/i "
        "jul/y/i aug/ust sep/tember oct/ober okt/ober nov/ember dec/ember dez/ember mon/day/tag tue/sday "
        "dienstag "
        "wed/nesday mittwoch thu/rsday donnerstag fri/day freitag sat/urday samstag sun/day sonntag mo di "
        "mi do fr sa so "
        "lundi mardi mercredi jeudi vendredi samedi dimanche matin soir nuit "
        "janvier fevrier mars avril juin juillet aout septembre octobre novembre decembre "
        "lunes martes miercoles jueves viernes sabado domingo noche "
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre "
        "lunedi martedi mercoledi giovedi venerdi sabato domenica mattina notte "
        "gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre "
        "janeiro fevereiro marco maio junho julho setembro outubro novembro dezembro "
        "poniedzialek wtorek sroda czwartek piatek sobota niedziela "
        "styczen luty marzec kwiecien maj czerwiec lipiec sierpien wrzesien pazdziernik listopad grudzien "
        "maandag dinsdag woensdag donderdag vrijdag zaterdag zondag "
        "januari februari maart mei augustus "
        "dcim dsc dscn dscf gopr mvimg pxl sn serial jpg jpeg png bmp tif tiff"
    )
    | _AGES
)
_LETTERED = word_set(
    "cam kamera camera sensor shift schicht line linie station nest machine maschine view side"
)
# Columns of lists whose values are not about the part's quality
_TECHNICAL = _SORTING | word_set(
    "file/s filename datei bild fichier archivo plik path name id number nr barcode operator user bediener "
    "exposure belichtung gain temperature temperatur width height size groesse time zeit date datum "
    "timestamp "
    "hour px pixel us ms fps focus iso article artikel material werkstoff materiau variant/e "
    "kunde customer"
)
_LABELS = word_set(  # columns with the class of a picture
    "label/s class/es result/s status verdict decision klasse urteil befund ergebnis target truth quality"
)
_SCORES = word_set("score/s severity probability confidence")
# Columns with answers of a model, which are no truth
_OF_MODELS = _SCORES | word_set("prediction/s predicted pred inference vorhersage")
_SPLIT_COLUMNS = word_set("split set subset")
_TRUE = word_set("1 true yes y ja j oui si sim tak x wahr vrai vero verdadero verdadeiro prawda")
_FALSE = word_set(
    "0 false no n nein non nao nie falsch faux falso falsz none keine null nan ohne nessuno geen"
)

_LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d"})
# Abbreviations that points, spaces, hyphens or capitals cut up
_ABBREVIATIONS = (
    (re.compile(r"(?<![^\W\d_])n[\W_]{0,2}(?:i[\W_]{0,2}o|ok)(?![^\W\d_])", re.I), " nio "),
    (re.compile(r"(?<![^\W\d_])i[\W_]{0,2}o(?![^\W\d_])", re.I), " io "),
    (re.compile(r"(?<![^\W\d_])n[\W_]g(?![^\W\d_])", re.I), " ng "),
    (re.compile(r"(?<![^\W\d_])o[._]k(?![^\W\d_])", re.I), " ok "),
    (re.compile(r"(?<![^\W\d_])in[\W_]{0,2}ordnung(?![^\W\d_])", re.I), " inordnung "),
    (re.compile(r"(?<=(?:19|20)\d\d)-?W(?=[0-5]\d(?!\d))"), " week "),  # 2026-W12, by ISO 8601
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_RUNS = re.compile(r"[^\W\d_]+|\d+")
_SIGNS = re.compile(r"[?+*~!]|-\s*$")  # "OK?", "OK-"
_CAMERA_FOLDER = re.compile(r"\d{3}[A-Z0-9_]{5}")  # 100CANON, by the rule of cameras (DCF)
_YEAR = re.compile(r"(?:19|20)\d\d(?:[01]\d(?:[0-3]\d)?)?")
_DATE_PATH = re.compile(r"(?:.*/)?(?:19|20)\d\d[/._-]?\d{1,2}(?:[/._-]?\d{1,2})?")
# Digits from which on a number is a date or names a part; shorter numbers may be classes or grades
ID_DIGITS = 6
ID_DIGITS_OF_GOOD = 4
_TURNED = "|".join(sorted(_PREFIXES, key=len, reverse=True))
_SAYING = "|".join(sorted(_GOOD_WORDS | _BAD_WORDS, key=len, reverse=True))
_NOUN = "|".join(sorted(_NOUNS, key=len, reverse=True))
_SORTED = re.compile(rf"(?:{'|'.join(word for word in _SORTING | _NOUNS if len(word) > 2)})+")
_AGE = re.compile(rf"(?:(?P<new>new|neu)|old|alt)(?:{_NOUN})?")  # "new", "Altteile"
SPLITS = ("train", "validation", "test")
_SPLIT = re.compile(  # words that say them, in seven languages
    rf"(?:(?P<train>train(?:ing)?|trainings|entrenamiento|entrainement|addestramento|treino)|"
    rf"(?P<validation>val(?:id|idation|idierung|idierungs)?|dev|validacion|validazione|validacao)|"
    rf"(?P<test>test(?:ing|s)?|eval(?:uation)?|prueba|pruebas|teste))(?:{_NOUN})?"
)
_COMPOUND = re.compile(
    rf"(?:{_NOUN})?(?P<prefix>{_TURNED})?(?P<word>{_SAYING})(?P<free>{'|'.join(_FREE)}|los|less|(?<=[a-z]{{3}})s)?(?:{_NOUN})?"
)
# For a word for good, the word for defective in the same language
_OPPOSITES = {
    "good": "bad", "ok": "nok", "okay": "nok", "io": "niO", "gut": "schlecht", "gutteile": "schlechtteile",
    "pass": "fail", "bon": "mauvais", "bueno": "malo", "buono": "difettoso", "bom": "ruim", "goed": "slecht",
    "dobre": "zle", "normal": "abnormal", "conforme": "non conforme",
}  # fmt: skip


class Reading(NamedTuple):
    """Words of a text, and their meaning.

    Attributes:
        words: The words.
        meanings: Meanings of the words for good (True) and defective (False), inverted where negated.
        unknown: Words of no list.
        is_open: Whether an unknown word is negated ("no cracks").
    """

    words: tuple[str, ...]
    meanings: frozenset[bool]
    unknown: frozenset[str]
    is_open: bool


class _Reader:
    """Reads the words of a text in their order.

    Attributes:
        meanings: Meanings of the words for good (True) and defective (False), in their order.
        unknown: Words of no list.
        is_open: Whether an unknown word is negated.
        is_negated: Whether a negation was read, and the word that it inverts was not read yet.
        previous_meaning: Meaning of the previous word, which "free" may invert; None: it has no meaning.
    """

    def __init__(self) -> None:
        self.meanings: list[bool] = []
        self.unknown: set[str] = set()
        self.is_open = False
        self.is_negated = False
        self.previous_meaning: bool | None = None

    def read(self, word: str, before: Sequence[str], later: Sequence[str]) -> None:
        """Read the next word.

        Args:
            word: The word.
            before: Words of the text before it.
            later: Words of the text behind it.
        """
        meaning = word_says(word)  # True for good, False for defective, None for neither
        if word in _FREE:
            self._read_free(later)
        elif meaning is not None:
            self.meanings.append(meaning != self.is_negated)  # a negation inverts the meaning
            self.is_negated = False
            self.previous_meaning = meaning
        elif word in _NEGATIONS:
            is_number_sign = len(later) > 0 and later[0].isdecimal()  # "no 3"
            if not is_number_sign:
                self.is_negated = not self.is_negated
            self.previous_meaning = None
        elif self.is_negated and not _is_silent(word):
            self.is_open = True  # "no cracks but good": the word after "no" is unknown
        else:
            self._read_other(word, before)

    def _read_free(self, later: Sequence[str]) -> None:
        """Read a word such as "free", which inverts the word before or after it, or means good by itself.

        Args:
            later: Words of the text behind it.
        """
        if self.previous_meaning is False:  # "defect free": "defect" was counted as defective
            self.meanings[-1] = not self.meanings[-1]
        elif any(word_says(word) is not None for word in later):
            self.is_negated = not self.is_negated  # "free of defects"
        elif any(word not in _NOUNS and not word.isdecimal() for word in later):
            self.is_open = True  # "free of rust": "rust" is unknown
        else:
            self.meanings.append(not self.is_negated)
            self.is_negated = False
        self.previous_meaning = None

    def _read_other(self, word: str, before: Sequence[str]) -> None:
        """Read a word that is neither good nor defective, nor a negation."""
        is_lettered = len(word) == 1 and len(before) > 0 and before[-1] in _LETTERED  # "cam A"
        if not word.isdecimal() and not _is_known(word) and not is_lettered:
            self.unknown.add(word)
        self.previous_meaning = None


@lru_cache(1 << 14)
def _read(name: str) -> Reading:
    """Read the words of a text."""
    words = split_words(name)
    reader = _Reader()
    for position, word in enumerate(words):
        reader.read(word, words[:position], words[position + 1 :])
    return Reading(
        words=tuple(words),
        meanings=frozenset(reader.meanings),
        unknown=frozenset(reader.unknown),
        is_open=reader.is_open or reader.is_negated,
    )


def read_words(name: str, shared: Collection[str] = ()) -> Said:
    """Return the meaning of a text.

    Args:
        name: The text.
        shared: Words that all the other texts have, too. Their meaning need not be known.
    """
    words, meanings, unknown, is_open = _read(name)
    unexplained = unknown - {*shared}
    if _is_mistake(words, meanings, unexplained) or len(meanings) > 1:
        return Said.UNCLEAR
    if meanings == {True}:  # only words for good
        has_more = unexplained or is_open or _SIGNS.search(name) or {*words} & _WITH
        return Said.UNCLEAR if has_more else Said.GOOD
    if is_open:
        return Said.UNKNOWN
    if meanings:
        return Said.BAD
    return Said.UNKNOWN if unexplained or not words else Said.SORTED


def is_mistake(name: str) -> bool:
    """Whether a text describes a wrong decision, such as "false_ok" or "escape"."""
    words, meanings, unknown, _ = _read(name)
    return _is_mistake(words, meanings, unknown)


def _is_mistake(words: Sequence[str], meanings: Collection[bool], unknown: Collection[str]) -> bool:
    """Whether words describe a wrong decision ("false_ok", "escape"), not a defect ("wrong_label")."""
    if {*words} & _MISTAKES or any(word.startswith(_PSEUDO) for word in words):
        return True
    has_wrong = bool({*words} & _WRONG)
    has_unknown_only = bool(unknown) and not meanings  # "wrong_label"
    return has_wrong and not has_unknown_only


def read_side_by_side(
    names: Sequence[str], above: Sequence[str] = (), *, beside_pictures: bool = False, are_good: bool = False
) -> dict[str, Said]:
    """Return the meaning of the names of folders that lie side by side.

    - Words that all names have, such as the product's, are ignored.
    - Short numbers that no word explains are UNKNOWN, since they may be classes or grades.
    - Names for old and new side by side are UNKNOWN, since they may mean old pictures or worn parts.

    Args:
        names: Names of the folders.
        above: Names of the folders that lead to them, the topmost first.
        beside_pictures: Whether the folder that holds them also holds pictures directly.
        are_good: Whether the name of the folder that holds them says that its pictures are good.
    """
    is_alone = len(names) == 1 and not beside_pictures
    shared = frozenset[str]()
    if len(names) > 1 or is_alone:  # all words of a name that stands alone are shared
        shared = frozenset.intersection(*map(unknown_words, names))
    new_and_old = are_new_and_old(names)
    meaning_by_name = {}
    for name in names:
        meaning = read_words(name, shared)
        if are_good and split_said(name):  # such as "train" in a folder of good pictures
            meaning = Said.SORTED
        elif meaning is Said.SORTED and not is_alone:
            is_explained = _explains(name, above, are_good, new_and_old)
            meaning = Said.SORTED if is_explained else Said.UNKNOWN
        meaning_by_name[name] = meaning
    return meaning_by_name


def are_new_and_old(texts: Iterable[str]) -> bool:
    """Whether the texts have both words for new and words for old."""
    ages = {age for text in texts for age in ages_in(text).values()}
    return len(ages) > 1


def ages_in(text: str) -> dict[str, str]:
    """Return the words of a text that mean new or old, as a mapping of word to "new" or "old"."""
    age_by_word = {}
    for word in split_words(text):
        match = _AGE.fullmatch(word)
        if match is not None:
            age_by_word[word] = "new" if match["new"] else "old"
    return age_by_word


def _explains(name: str, above: Sequence[str], are_good: bool, new_and_old: bool) -> bool:
    """Whether a folder's name states a property by which people sort pictures, such as a camera or a day.

    Args:
        name: Name of the folder.
        above: Names of the folders that lead to it, the topmost first.
        are_good: Whether the name of the folder above says that its pictures are good.
        new_and_old: Whether the folders side by side include new and old; then these words do not count.
    """
    words, _, unknown, _ = _read(name)
    sorting_words = {word for word in words if _is_sorting(word)}
    if new_and_old:
        sorting_words -= {*ages_in(name)}
    if sorting_words - _AGES:
        return True
    if sorting_words and not unknown:  # words for ages count only if all others are known
        return True
    if not _THINGS.isdisjoint(words) or _CAMERA_FOLDER.fullmatch(name):
        return True
    if _DATE_PATH.fullmatch("/".join((*above, name))):
        return True
    if are_good:
        return not unknown or _has_id(words, ID_DIGITS_OF_GOOD)
    return not unknown and _has_id(words, ID_DIGITS)


def _has_id(words: Iterable[str], digits: int) -> bool:
    """Whether one of the words is a year, or a number of at least `digits` digits."""
    return any(word.isdecimal() and (len(word) >= digits or _YEAR.fullmatch(word)) for word in words)


@lru_cache(1 << 12)
def says_good(name: str) -> bool | None:
    """Return True where a text calls parts good, False where it calls them defective, else None."""
    return {Said.GOOD: True, Said.BAD: False}.get(read_words(name))


def says_only_bad(name: str) -> bool:
    """Whether a text calls parts defective, without further words such as the kind of defect."""
    return read_words(name) is Said.BAD and not unknown_words(name)


def unknown_words(name: str) -> frozenset[str]:
    """Return the words of a text that are in no list: a product, a kind of defect, or another language."""
    return _read(name).unknown


def opposite(name: str) -> str:
    """Return the word for defective in the language of a folder's name for good; `bad` where not known."""
    for word in split_words(name):
        if word in _OPPOSITES:
            return _OPPOSITES[word]
    return "bad"


def split_said(name: str) -> str | None:
    """Return the split (one of `SPLITS`) that a folder's name states; None where it states none.

    The name may also have numbers and words for pictures: `1_train`, `test_set`, `Trainingsdaten`.
    """
    words = [word for word in split_words(name) if not word.isdecimal() and word not in _NOUNS]
    match = _SPLIT.fullmatch(words[0]) if len(words) == 1 else None
    return match.lastgroup if match else None


def split_words(name: str, *, camel: bool = False) -> list[str]:
    """Return the words and numbers of a name, in lower case and without accents.

    Args:
        name: The name.
        camel: Whether to split all words at capitals; otherwise words with a known meaning stay whole.
    """
    words: list[str] = []
    for run in _RUNS.findall(plain_words(name)):
        lower_case_run = run.casefold()
        if not camel and _is_known(lower_case_run):
            words.append(lower_case_run)
        else:
            words += [word.casefold() for word in _CAMEL.split(run)]
    return words


def plain_words(name: str) -> str:
    """Return a name without accents, and with each abbreviation as a word of its own."""
    for pattern, plain in _ABBREVIATIONS:
        name = pattern.sub(plain, name)
    return _without_accents(name)


def is_turning(word: str) -> bool:
    """Whether a word may invert the word beside it, as "not" and "free" do."""
    return word.casefold() in _NEGATIONS or word.casefold() in _FREE


def is_sorting(word: str) -> bool:
    """Whether people sort pictures by such a word, such as a camera or a light."""
    return _is_sorting(word) or word in _NOUNS or word in _FILLERS


def _is_sorting(word: str) -> bool:
    """Whether a word, or each of the words that it is composed of, is one by which people sort pictures."""
    return word in _SORTING or (word not in _NOUNS and _SORTED.fullmatch(word) is not None)


def _is_silent(word: str) -> bool:
    """Whether a word may stand between a negation and its word."""
    return word.isdecimal() or word in _FILLERS or word in _NOUNS


def _is_known(word: str) -> bool:
    """Whether a word is in a list, or composed of such words. Single letters are not: they may be grades."""
    if len(word) == 1:
        return False
    if word_says(word) is not None or is_sorting(word):
        return True
    return any(word in words for words in (_NEGATIONS, _FREE, _WITH, _WRONG, _MISTAKES))


def word_says(word: str) -> bool | None:
    """Return True for a word that means good, False for a word that means defective, else None.

    Composed words count, too: `unbeschaedigt`, `Gutteile`, `fehlerfrei`.
    """
    if word in _GOOD_WORDS or word in _BAD_WORDS:
        return word in _GOOD_WORDS
    match = _COMPOUND.fullmatch(word)
    if match is None:
        return None
    has_prefix = match["prefix"] is not None
    has_free = match["free"] not in (None, "s")  # an "s", as of a plural, inverts nothing
    is_inverted = has_prefix != has_free  # two negations cancel each other
    return (match["word"] in _GOOD_WORDS) != is_inverted


def _without_accents(name: str) -> str:
    parts = unicodedata.normalize("NFKD", name.translate(_LETTERS))
    return "".join(part for part in parts if not unicodedata.combining(part)).replace("Ł", "L")


# ---------------------------------------------------------------------------------------- columns of lists


class ColumnSubject(Enum):
    """Subject of a column of a list, by its name."""

    TECHNICAL = "technical"
    MODEL = "model"  # findings of a model, which are no truth
    LABEL = "label"
    SPLIT = "split"
    OTHER = ""


def column_subject(header: str) -> ColumnSubject:
    """Return the subject of a column by the words of its name."""
    words = {word for word in split_words(header) if not word.isdecimal()}
    if words & _OF_MODELS:
        return ColumnSubject.MODEL
    if words and words <= _SPLIT_COLUMNS:
        return ColumnSubject.SPLIT
    if words & _LABELS:
        return ColumnSubject.LABEL
    is_technical = bool(words) and all(word in _TECHNICAL or word in _NOUNS for word in words)
    return ColumnSubject.TECHNICAL if is_technical else ColumnSubject.OTHER


def answer(text: str) -> bool | None:
    """Return True for a text that means yes in one of eight languages, False for no; None for any other.

    The signs 1 and x also mean yes, 0 and a hyphen mean no.
    """
    plain = " ".join(split_words(text)) or text.strip()
    if plain in _TRUE:
        return True
    return False if plain in _FALSE or plain in ("-", "n a") else None


def rest_words(texts: Iterable[str]) -> frozenset[str]:
    """Return the words of no list that all texts have; empty for a single text."""
    word_sets = [unknown_words(text) for text in texts]
    return frozenset.intersection(*word_sets) if len(word_sets) > 1 else frozenset()
