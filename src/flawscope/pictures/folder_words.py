"""Tells by the words of a folder's name whether good or defective parts lie in it: the one rule of all that
reads folders.

A name is cut into words: `2024-05-01_iO`, `Gutteile`, `NODefect_images`. A word for good or defective counts;
a negation before it ("ohne Fehler", "not ok", "undamaged") or behind it ("fehlerfrei") turns it round. Where
a name says both, or says neither, it is unknown, and nothing is made of it: that is a question for a person.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache


def word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


GOOD = ("good", "ok", "normal")  # the names that published data sets use

# English, German, French, Spanish, Italian, Portuguese, Polish, Dutch; as `_plain` writes them
_GOOD_WORDS = word_set(
    "good ok okay io normal pass passed accept accepted acceptable perfect intact healthy conforming "
    "conformant compliant flawless faultless clean approved gut gute guten guter gutes gutware inordnung "
    "einwandfrei makellos bestanden akzeptiert angenommen freigegeben bon bons bonne bonnes conforme "
    "conformes accepte acceptes acceptee acceptees valide valides sain saines bueno buenos buena buenas "
    "aceptado aceptados aceptada aceptadas aprobado aprobados aprobada aprobadas buono buoni buona buone "
    "conformi accettato accettati accettata accettate idoneo idonei integro integri bom boa boas aceito "
    "aceitos aceita aceitas aprovado aprovados aprovada aprovadas dobry dobre dobra dobrych zgodny zgodne "
    "zgodna przyjety przyjete sprawny sprawne goed goede goeden goedgekeurd goedgekeurde akkoord"
)
_BAD_WORDS = word_set(
    "bad ko nok ng nio abnormal anomaly anomalies anomalous def defect defects defective defectives "
    "faulty fault faults fail fails failed failure failures reject rejects rejected scrap scrapped damage "
    "damages damaged broken flaw flaws flawed error errors schlecht schlechtware schlechte schlechten "
    "schlechter ausschuss fehler fehlerhaft fehlerhafte defekt defekte defekten mangel mangelhaft "
    "mangelhafte maengel beschadigt beschaedigt beschadigte beschaedigte schaden schaeden beschadigung "
    "beschadigungen beschaedigung beschaedigungen kaputt abgelehnt mauvais mauvaise mauvaises defaut "
    "defauts defectueux defectueuse defectueuses rebut rebuts rejete rejetes rejetee rejetees rejet "
    "rejets endommage endommages endommagee endommagees anomalie malo malos mala malas defecto defectos "
    "defectuoso defectuosos defectuosa defectuosas rechazado rechazados rechazada rechazadas rechazo "
    "rechazos danado danados danada danadas fallo fallos falla fallas cattivo cattivi cattiva cattive "
    "difetto difetti difettoso difettosi difettosa difettose scarto scarti rifiutato rifiutati rifiutata "
    "danneggiato danneggiati danneggiata danneggiate guasto guasti mau ruim ruins defeito defeitos "
    "defeituoso defeituosos defeituosa defeituosas rejeitado rejeitados rejeitada refugo refugos sucata "
    "danificado danificados danificada avariado zly zle zla wada wady wad wadliwy wadliwe wadliwa brak "
    "braki brakow odrzut odrzuty odrzucone uszkodzony uszkodzone uszkodzenie uszkodzenia uszkodzen slecht "
    "slechte afkeur afgekeurd afgekeurde fout fouten foutief defecte beschadigde"
)
_NEGATIONS = word_set(
    "no not non none nicht kein keine keinen keiner ohne sans pas sin senza sem nao nie bez without niet "
    "geen zonder ikke inte"
)
_PREFIXES = word_set("un in nicht not non no nie")  # written together with what they turn round
_FREE = word_set("free frei freie freien libre libres libero liberi libera livre livres exempt")
_FILLERS = word_set(  # between a negation and its word
    "a an any the of from de des du d le la les un une von der die das in el los del da di do to jest sa "
    "sind est e o be yet quite found"
)
_DOUBTS = word_set(  # nobody knows what the name says
    "almost nearly maybe perhaps but and or vs with fast beinahe vielleicht aber und oder mit presque "
    "mais et ou avec casi quiza pero y con quase talvez mas com quasi forse o ma ed prawie moze ale lub i "
    "z"
)
_NOUNS = word_set(  # say nothing beside other words
    "part parts piece pieces image images img imgs picture pictures pic pics photo photos foto fotos "
    "sample samples product products item items folder set data daten dataset teil teile teilen bild "
    "bilder stuck stucke stueck stuecke muster probe proben ordner produkt produkte pieza piezas imagen "
    "imagenes pezzo pezzi immagine immagini peca pecas imagem imagens sztuki zdjecia czesci"
)
# Words by which people sort pictures of good parts: by time, place, camera, light
_SORTING = _NOUNS | word_set(
    "cam cams camera cameras kamera kameras sensor shift schicht turno equipe zmiana batch lot los charge "
    "lote lotto serie series partia run tray pallet palette box order auftrag line linie linea ligne "
    "machine maschine station nest cavity kavitat kavitaet mold form view views ansicht vue vista side "
    "seite left right top bottom front back rear links rechts oben unten vorne hinten gauche droite haut "
    "bas izquierda derecha sinistra destra light licht lumiere luz luce bright dark day days tag tage "
    "jour dia giorno week woche semaine month monat year jahr kw early late night fruh frueh spat spaet "
    "nacht morning evening january february march april may june july august september october november "
    "december januar februar marz maerz mai juni juli oktober dezember jan feb mar apr jun jul aug sep "
    "oct okt nov dec dez monday tuesday wednesday thursday friday saturday sunday montag dienstag "
    "mittwoch donnerstag freitag samstag sonntag mon tue wed thu fri sat sun mo di mi do fr sa so dcim "
    "export backup copy kopie new neu old alt more mehr weitere jpg jpeg png bmp tif tiff t z v h m s am "
    "pm"
)
# Names that a system gives new folders, in the languages of the words: nobody said anything by them
_UNNAMED = (
    *("new folder", "untitled folder", "neuer ordner", "ordner ohne titel", "nouveau dossier"),
    *("dossier sans titre", "nueva carpeta", "carpeta sin titulo", "nuova cartella", "cartella senza titolo"),
    *("nova pasta", "pasta sem titulo", "nowy folder", "folder bez nazwy", "nieuwe map", "naamloze map"),
)

_CLASSES = word_set(  # numbers behind them tell kinds, of defects too
    "class classe classes clase klasse klassen klasa label labels type types typ typen tipo kind kinds "
    "sorte category kategorie grade quality qualitat result results ergebnis"
)

_LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d"})
# abbreviations that points, spaces or capitals cut up
_ABBREVIATIONS = (
    (re.compile(r"(?<![^\W\d_])n[\W_]{0,2}(?:i[\W_]{0,2}o|ok)(?![^\W\d_])", re.I), " nio "),
    (re.compile(r"(?<![^\W\d_])i[\W_]{0,2}o(?![^\W\d_])", re.I), " io "),
    (re.compile(r"(?<![^\W\d_])n[\W_]g(?![^\W\d_])", re.I), " ng "),
    (re.compile(r"(?<![^\W\d_])o[._]k(?![^\W\d_])", re.I), " ok "),
    (re.compile(r"(?<![^\W\d_])in[\W_]{0,2}ordnung(?![^\W\d_])", re.I), " inordnung "),
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_RUNS = re.compile(r"[^\W\d_]+|\d+")
_CAMERA_FOLDER = re.compile(r"\d{3}[A-Z0-9_]{5}")  # 100CANON, by the rule of cameras (DCF)
_TURNED = "|".join(sorted(_PREFIXES, key=len, reverse=True))
_SAYING = "|".join(sorted(_GOOD_WORDS | _BAD_WORDS, key=len, reverse=True))
_NOUN = "|".join(sorted(_NOUNS, key=len, reverse=True))
_SORTED = re.compile(rf"{'|'.join(_SORTING)}|(?:{'|'.join(word for word in _SORTING if len(word) > 2)})+")
SPLITS = ("train", "validation", "test")
_SPLIT = re.compile(  # words that say them, in seven languages
    rf"(?:(?P<train>train(?:ing)?|trainings|entrenamiento|entrainement|addestramento|treino)|"
    rf"(?P<validation>val(?:id|idation|idierung|idierungs)?|dev|validacion|validazione|validacao)|"
    rf"(?P<test>test(?:ing|s)?|eval(?:uation)?|prueba|pruebas|teste))(?:{_NOUN})?"
)
_COMPOUND = re.compile(
    rf"(?:{_NOUN})?(?P<prefix>{_TURNED})?(?P<word>{_SAYING})(?P<free>{'|'.join(_FREE)}|los|less|(?<=[a-z]{{3}})s)?(?:{_NOUN})?"
)


@lru_cache(1 << 12)
def says_good(name: str) -> bool | None:
    """Tells whether a folder's name says that good parts lie in it (True), or defective ones (False); None
    where it says neither, or both."""
    words = split_words(name)
    found: list[bool] = []
    turned, before_free = False, None
    for position, word in enumerate(words):
        said = word_says(word)
        if word in _FREE:
            if before_free is False:  # "defect free": the word was counted as defective
                found[-1] = not found[-1]
            elif any(word_says(later) is not None for later in words[position + 1 :]):
                turned = not turned  # "free of defects"
            elif any(later not in _NOUNS and not later.isdecimal() for later in words[position + 1 :]):
                return None  # "free of rust": nobody knows of what
            else:
                found.append(not turned)
                turned = False
            before_free = None
        elif said is not None:
            found.append(said != turned)
            turned, before_free = False, said
        elif word in _NEGATIONS:
            if not words[position + 1 : position + 2] or not words[position + 1].isdecimal():  # "no 3"
                turned = not turned
            before_free = None
        elif word in _DOUBTS and not (turned and word in _FILLERS):
            return None
        elif turned and word not in _FILLERS and not word.isdecimal() and word not in _NOUNS:
            return None  # "no cracks but good": what is negated is not known
        else:
            before_free = None
    return found[0] if len({*found}) == 1 and not turned else None


def says_only_bad(name: str) -> bool:
    """Tells whether a folder's name says that its parts are defective, and no more, such as which defect."""
    return says_good(name) is False and not other_words(name)


def other_words(name: str) -> frozenset[str]:
    """Words of a folder's name that say neither good nor defective, nor how people sort pictures: a product
    or a kind of defect."""
    plain = _NEGATIONS | _FILLERS | _SORTING | _FREE
    return frozenset(
        word
        for word in split_words(name)
        if not word.isdecimal() and word not in plain and word_says(word) is None
    )


def one_may_negate(names: Iterable[str]) -> bool:
    """Tells whether a folder's name that says good has words beside those of another such name, side by side:
    they may be a "not" that is not known here, as in "ok" and "ej ok"."""
    about = [other_words(name) for name in names if says_good(name)]
    return any(few < more for few in about for more in about)


def split_said(name: str) -> str | None:
    """The split, of `SPLITS`, that a folder's name says beside numbers and words for pictures:
    `1_train`, `test_set`, `Trainingsdaten`; None: none."""
    words = [word for word in split_words(name) if not word.isdecimal() and word not in _NOUNS]
    match = _SPLIT.fullmatch(words[0]) if len(words) == 1 else None
    return match.lastgroup if match else None


def sorts_good(names: Sequence[str]) -> bool:
    """Tells whether folders side by side sort pictures of one kind: their names are dates, numbers, cameras
    and the like, or differ by their numbers alone. Names that a system gave sort nothing."""
    each = [split_words(name) for name in names]
    if len(each) > 1 and any(map(_is_unnamed, each)):
        return False
    numbers = {int(word) for words in each for word in words if word.isdecimal()}
    bare = {tuple(word for word in words if not word.isdecimal()) for words in each}
    if len(each) > 1 and len(bare) == 1:
        (words,) = bare
        are_classes = numbers == {0, 1} and not {*words} & _SORTING
        return not are_classes and not {*words} & _CLASSES
    return all(map(_is_sorting, each, names))


def _is_unnamed(words: Sequence[str]) -> bool:
    return " ".join(word for word in words if not word.isdecimal()) in _UNNAMED


def _is_sorting(words: Sequence[str], name: str) -> bool:
    known = [word for word in words if word.isdecimal() or _SORTED.fullmatch(word)]
    # "cam A" is a camera; a letter with a number alone may tell good from bad: "G1", "B1"
    letters_tell = any(len(word) > 1 and not word.isdecimal() for word in known)
    return _CAMERA_FOLDER.fullmatch(name) is not None or (
        bool(known)
        and all(word.isdecimal() or (letters_tell if len(word) == 1 else word in known) for word in words)
    )


def split_words(name: str, *, camel: bool = False) -> list[str]:
    """Words of a name, plain, and its numbers. camel: capitals cut up known words, too."""
    words: list[str] = []
    for run in _RUNS.findall(plain_words(name)):
        folded = run.casefold()
        whole = not camel and _is_known(folded)
        words += [folded] if whole else [piece.casefold() for piece in _CAMEL.split(run)]
    return words


def plain_words(name: str) -> str:
    """A name without accents, and with each abbreviation as a word of its own."""
    for pattern, plain in _ABBREVIATIONS:
        name = pattern.sub(plain, name)
    return _without_accents(name)


def is_turning(word: str) -> bool:
    """Whether a word may turn round what stands beside it, as "not" and "free" do."""
    return word.casefold() in _NEGATIONS or word.casefold() in _FREE


def is_sorting(word: str) -> bool:
    """Whether a word says how people sort pictures, such as a camera or a light."""
    return word in _SORTING or word in _FILLERS


def _is_known(word: str) -> bool:
    return word_says(word) is not None or word in _NEGATIONS or word in _SORTING


def word_says(word: str) -> bool | None:
    """Tells what a word alone says, whole or composed: `unbeschaedigt`, `Gutteile`, `fehlerfrei`."""
    if word in _GOOD_WORDS or word in _BAD_WORDS:
        return word in _GOOD_WORDS
    match = _COMPOUND.fullmatch(word)
    if match is None:
        return None
    is_turned = (match["prefix"] is not None) != (match["free"] not in (None, "s"))
    return (match["word"] in _GOOD_WORDS) != is_turned


def _without_accents(name: str) -> str:
    parts = unicodedata.normalize("NFKD", name.translate(_LETTERS))
    return "".join(part for part in parts if not unicodedata.combining(part)).replace("Ł", "L")
