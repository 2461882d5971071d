"""Files that are no pictures are told by how they begin, whatever they are called."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from flawscope.pictures.decoding import decode

BEGINNINGS = {
    "a JPEG XL picture": [b"\xff\x0a\x08\x10", b"\0\0\0\x0cJXL \r\n\x87\n"],
    "a JPEG XR picture": [b"II\xbc\x01\x08\0\0\0"],
    "a QOI picture": [b"qoif\0\0\0\x0a\0\0\0\x0a"],
    "a Photoshop picture": [b"8BPS\0\1" + bytes(40)],
    "an icon": [b"\0\0\1\0\1\0\x10\x10"],
    "a PostScript drawing": [b"%!PS-Adobe-3.0 EPSF-3.0\n"],
    "an EXR picture": [b"v/1\x01\2\0\0\0channels\0"],
    "a Radiance HDR picture": [b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n"],
    "a FITS picture": [b"SIMPLE  =                    T"],
    "a DICOM picture": [bytes(128) + b"DICM\2\0"],
    "a PAM picture": [b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0"],
    "a PFM picture": [b"Pf\n1 1\n-1.0\n\0\0\0\0", b"PF\n1 1\n-1.0\n" + bytes(12)],
    "a camera's raw file": [
        b"II*\0\x10\0\0\0CR\2\0",
        b"IIU\0\x18\0\0\0",
        b"IIRO\x08\0\0\0",
        b"FUJIFILMCCD-RAW 0201",
        b"\0\0\0\x18ftypcrx \0\0\0\1",
    ],
    "an archive": [b"PK\3\4\x14\0", b"\x1f\x8b\x08\0", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\1\0"],
    "a document": [b"%PDF-1.7\n"],
    "a video": [
        b"\0\0\0\x18ftypmp42\0\0\0\0",
        b"\0\0\0\x14ftypqt  \0\0\0\0",
        b"RIFF\0\1\0\0AVI LIST",
        b"\x1aE\xdf\xa3\x01",
    ],
    "a sound": [b"RIFF\0\1\0\0WAVEfmt "],
    "an SVG drawing": [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<?xml version='1.0'?>\n<svg/>"],
    "a web page": [b"<!DOCTYPE html><html>404</html>", b"\n <html>"],
    "a text": [b'{"a": 1}', b"<?xml version='1.0'?><annotation/>"],
    "a pointer of Git LFS": [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"],
    "a file of data": [b"\x89HDF\r\n\x1a\n\0", b"MATLAB 5.0 MAT-file"],
    "a JPEG-LS": [b"\xff\xd8\xff\xf7\0\x0b\x08\0\1\0\1\1\1\x11\0"],
    "nothing but zeros": [bytes(999)],
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_file_is_told_by_how_it_begins(kind, refused, tmp_path):
    for data in BEGINNINGS[kind]:
        refused(lambda data=data: decode(data), kind)
        (tmp_path / "part.png").write_bytes(data)
        refused(lambda: decode(tmp_path / "part.png"), kind)


@pytest.mark.parametrize("suffix", ["tga", "PCX", "psd", "svg", "jxl", "exr", "fits", "dcm", "ico"])
def test_formats_without_a_beginning_are_told_by_their_suffix(suffix, refused, tmp_path):
    path = tmp_path / f"part.{suffix}"
    path.write_bytes(b"\1\2\3\4 whatever it is")
    with pytest.raises(ValueError, match=r"it is an? ") as error:
        decode(path)
    assert "not a picture we know" not in str(error.value)


def test_a_raw_file_of_a_camera_is_never_its_preview(refused):
    """Called .tif, or sent without a name: Pillow would take the small picture that it begins with."""
    preview = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    sensor = np.random.default_rng(0).integers(0, 4096, (48, 64)).astype(np.uint16)
    nef, dng = io.BytesIO(), io.BytesIO()
    with tifffile.TiffWriter(nef) as writer:
        writer.write(preview, photometric="rgb", subifds=1, subfiletype=1)
        writer.write(sensor, photometric="minisblack")
    tifffile.imwrite(dng, sensor, photometric="minisblack", extratags=[(50706, "B", 4, (1, 4, 0, 0), True)])
    for file in (nef, dng):
        refused(lambda file=file: decode(file.getvalue()), "a camera's raw file", "develop it")


def test_letters_at_the_beginning_of_a_damaged_picture_are_no_text(encoded, refused):
    data = encoded(Image.new("L", (40, 30)), "GIF")
    refused(lambda: decode(data[:7]), "truncated or damaged")
