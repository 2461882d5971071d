"""Writes pictures to files."""

from PIL import Image


def save(folder, pictures):
    """Write pictures, arrays by name, into a folder, which is made and returned. Names may have folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
    return folder
