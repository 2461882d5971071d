"""Files among the pictures of a new product that are none: nothing in them is learnt, and each is named."""

from __future__ import annotations

import io
import zipfile

import pytest
from PIL import Image

from flawscope_station.inspecting.memory import MemoryBudget
from flawscope_station.settings.station import Limits
from flawscope_station.setup.draft import Draft, read_zip
from flawscope_station.setup.other_files import OtherFileError, check_zip_name
from flawscope_station.store.files import Files


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(data, "PNG")
    return data.getvalue()


def packed(*names: str) -> bytes:
    """A zip of these files, each a picture."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, png())
    return data.getvalue()


WORD = ("[Content_Types].xml", "word/document.xml", "word/media/image1.png")
CALC = ("mimetype", "content.xml", "Pictures/100.png")
JAVA = ("META-INF/MANIFEST.MF", "icons/a.png")
ANDROID = ("AndroidManifest.xml", "res/a.png")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(
            (f"Bericht 8D.{end}", "document")
            for end in ("docx", "XLSX", "pptx", "docm", "odt", "ods", "epub")
        ),
        *((f"b/{end}.{end}", "archive") for end in ("jar", "apk", "whl", "kmz", "cbz", "png")),
    ],
)
def test_what_packs_pictures_and_is_no_zip_of_pictures_is_refused_by_its_name(name, code):
    with pytest.raises(OtherFileError) as caught:
        check_zip_name(name)
    assert caught.value.code == code
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Gut.zip", "OK/gut.ZIP", "pictures"])
def test_a_zip_of_pictures_is_taken(name, tmp_path):
    check_zip_name(name)
    path = tmp_path / "pictures.zip"
    path.write_bytes(packed("a.png", "b.png"))
    assert [one for one, _ in read_zip(path, name, Limits())] == ["a.png", "b.png"]


@pytest.mark.parametrize("inside", [WORD, CALC, JAVA, ANDROID])
def test_a_document_that_is_called_zip_is_refused_too(inside, tmp_path):
    path = tmp_path / "all.zip"
    path.write_bytes(packed(*inside))
    with pytest.raises(OtherFileError, match=r"all\.zip "):
        list(read_zip(path, "all.zip", Limits()))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Datenblatt.pdf", "document"),
        ("film.mp4", "video"),
        ("Liste.xls", "document"),
        ("alles.7z", "archive"),
        ("notes.txt", "unreadable"),
        ("half.png", "unreadable"),
    ],
)
def test_the_page_is_told_what_a_file_is(name, code, tmp_path):
    draft = Draft(Files(tmp_path / "store"), "plate", Limits(), MemoryBudget(0))
    refused, kept = draft.add_all([(name, b"%PDF-1.7 no picture"), ("a.png", png())])
    assert (refused.status, refused.code, kept.status) == ("refused", code, "kept")
    assert name in str(refused.error)
