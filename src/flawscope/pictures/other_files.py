"""Names files that are no readable pictures, by suffix or first bytes, with a remedy. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

HEAD_BYTES = 512  # at the beginning of a file, by which its kind is recognised

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg", ".3gp", ".mts"}
)
# A camera's raw file often looks like a TIFF, whose only readable picture is a small preview
RAW_SUFFIXES = frozenset({".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw"})
TEXT_SUFFIXES = (".txt", ".csv", ".tsv")  # of files that may name pictures
TABLE_SUFFIXES = (".xlsx", ".xlsm", ".xls", ".ods")


class OtherFile(NamedTuple):
    """Kind of files that are no readable pictures.

    Attributes:
        singular: Words for one file.
        several: Words for several files.
        remedy: Remedy, with `{}` in place of the files.
    """

    singular: str
    several: str
    remedy: str


def _other_format(name: str, remedy: str = "convert {} to PNG") -> OtherFile:
    """Return the kind of pictures of a format that is not read."""
    article = "an" if name[0] in "AEIOS" and name.isupper() else "a"
    return OtherFile(f"{article} {name} picture", f"{name} pictures", remedy)


_DEEP_REMEDY = "store {} as TIFF"  # of formats whose values may have more than 8 bits
_NAMES_REMEDY = "name the pictures themselves; `predict MODEL - < list.txt` takes a text of paths"

VIDEO = OtherFile("a video", "videos", "take single pictures out of {}")
SOUND = OtherFile("a sound", "sounds", "give pictures")
RAW = OtherFile("a camera's raw file", "raw files", "develop {} to PNG or TIFF")
ARCHIVE = OtherFile("an archive", "archives", "unpack {}, and give the folder")
SHORTCUT = OtherFile("a shortcut", "shortcuts", "put the pictures themselves there")
DOCUMENT = OtherFile("a document", "documents", "store the pictures in {} as PNG")
TEXT = OtherFile("a text", "texts", _NAMES_REMEDY)
TABLE = OtherFile("a table", "tables", _NAMES_REMEDY)
WEB_PAGE = OtherFile("a web page", "web pages", "download the picture itself")
LFS_POINTER = OtherFile("a pointer of Git LFS", "pointers of Git LFS", "fetch the files by `git lfs pull`")
DATA_FILE = OtherFile("a file of data", "files of data", "store each picture as TIFF or .npy")
PROGRAM = OtherFile("a program", "programs", "give pictures")
JPEG_XL = _other_format("JPEG XL")
JPEG_XR = _other_format("JPEG XR")
QOI = _other_format("QOI")
PCX = _other_format("PCX")
TGA = _other_format("TGA")
ICON = OtherFile("an icon", "icons", "convert {} to PNG")
PHOTOSHOP = _other_format("Photoshop")
SVG = OtherFile("an SVG drawing", "SVG drawings", "convert {} to PNG")
POSTSCRIPT = OtherFile("a PostScript drawing", "PostScript drawings", "convert {} to PNG")
EXR = _other_format("EXR", _DEEP_REMEDY)
RADIANCE = _other_format("Radiance HDR", _DEEP_REMEDY)
FITS = _other_format("FITS", _DEEP_REMEDY)
DICOM = _other_format("DICOM", _DEEP_REMEDY)
PAM = OtherFile("a PAM picture", "PAM pictures", "store {} as PGM, PPM or PNG")
PFM = OtherFile("a PFM picture", "PFM pictures", _DEEP_REMEDY)

DOCUMENT_SUFFIXES = frozenset(
    {".pdf", ".doc", ".docx", ".docm", ".dotx", ".ppt", ".pptx", ".pptm", ".xltx", ".odt", ".odp", ".odg"}
    | {".epub", ".rtf", ".pages", ".numbers", ".key", ".xps", ".vsdx"}
)
ARCHIVE_SUFFIXES = frozenset(
    {".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".jar", ".apk", ".whl", ".kmz"}
)
OTHER_FILES = {  # by suffix
    **dict.fromkeys(VIDEO_SUFFIXES, VIDEO),
    **dict.fromkeys(RAW_SUFFIXES, RAW),
    **dict.fromkeys(ARCHIVE_SUFFIXES, ARCHIVE),
    **dict.fromkeys((".lnk", ".url"), SHORTCUT),
    **dict.fromkeys(DOCUMENT_SUFFIXES, DOCUMENT),
    **dict.fromkeys((".eps", ".ps"), POSTSCRIPT),
    **dict.fromkeys((".fits", ".fit"), FITS),
    **dict.fromkeys((".dcm", ".dicom"), DICOM),
    **{".jxl": JPEG_XL, ".jxr": JPEG_XR, ".qoi": QOI, ".pcx": PCX, ".tga": TGA, ".ico": ICON},
    **{".psd": PHOTOSHOP, ".svg": SVG, ".exr": EXR, ".hdr": RADIANCE, ".pam": PAM, ".pfm": PFM},
}
_BEGINNINGS: tuple[tuple[int, bytes, OtherFile], ...] = (  # byte, mark at that byte, kind
    (0, b"\xff\x0a", JPEG_XL),
    (0, b"\0\0\0\x0cJXL ", JPEG_XL),
    (0, b"II\xbc\x01", JPEG_XR),
    (0, b"qoif", QOI),
    (0, b"8BPS", PHOTOSHOP),
    (0, b"\0\0\1\0", ICON),
    (0, b"%!PS", POSTSCRIPT),
    (0, b"\xc5\xd0\xd3\xc6", POSTSCRIPT),
    (0, b"v/1\x01", EXR),
    (0, b"#?RADIANCE", RADIANCE),
    (0, b"#?RGBE", RADIANCE),
    (0, b"SIMPLE  =", FITS),
    (128, b"DICM", DICOM),
    (0, b"P7\n", PAM),
    (0, b"Pf\n", PFM),
    (0, b"PF\n", PFM),
    (0, b"II*\0\x10\0\0\0CR", RAW),
    (0, b"IIU\0", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIRS", RAW),
    (0, b"MMOR", RAW),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (4, b"ftypcrx ", RAW),
    (0, b"PK\x03\x04", ARCHIVE),
    (0, b"\x1f\x8b", ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (0, b"Rar!\x1a\x07", ARCHIVE),
    (257, b"ustar", ARCHIVE),
    (0, b"%PDF", DOCUMENT),
    (8, b"AVI ", VIDEO),
    (8, b"WAVE", SOUND),
    (0, b"\x1aE\xdf\xa3", VIDEO),
    (0, b"\0\0\1\xba", VIDEO),
    (0, b"\x89HDF\r\n\x1a\n", DATA_FILE),
    (0, b"MATLAB 5.0", DATA_FILE),
    (0, b"MZ", PROGRAM),
    (0, b"\x7fELF", PROGRAM),
    (0, b"version https://git-lfs", LFS_POINTER),
)
_VIDEO_BRANDS = (b"qt  ", b"mp4", b"isom", b"iso2", b"avc1", b"M4V", b"3gp", b"dash")
_UTF8_MARK = b"\xef\xbb\xbf"


def by_beginning(head: bytes) -> OtherFile | None:
    """Return the kind of a file that is no readable picture, by its first bytes; None where not known.

    Args:
        head: The first `HEAD_BYTES` of the file, or all where it has fewer.
    """
    for position, mark, kind in _BEGINNINGS:
        if head[position : position + len(mark)] == mark:
            return kind
    if head[4:8] == b"ftyp" and head[8:12].startswith(_VIDEO_BRANDS):
        return VIDEO
    start = head.removeprefix(_UTF8_MARK).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return WEB_PAGE
    if start.startswith((b"<?xml", b"<svg")):
        return SVG if b"<svg" in start else TEXT
    return TEXT if start.startswith((b"{", b"[")) else None


def by_suffix(suffix: str) -> OtherFile | None:
    """Return the kind of a file with this suffix, in lower case; None where not known."""
    if suffix in TEXT_SUFFIXES:
        return TEXT
    if suffix in TABLE_SUFFIXES:
        return TABLE
    return OTHER_FILES.get(suffix)


def other_remedies(suffixes: Iterable[str]) -> str:
    """Return the remedies for files that are no pictures, by their suffixes, each behind a semicolon."""
    kinds: dict[OtherFile, None] = {}  # an ordered set
    for suffix in suffixes:
        kind = OTHER_FILES.get(suffix)
        if kind is not None:
            kinds[kind] = None
    return "".join(f"; {kind.remedy.format(kind.several)}" for kind in kinds)
