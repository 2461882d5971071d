"""Finding the mask of a picture: by the folder's and the file's name, whatever the suffix."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from flawscope.datasets.files import pictures_in

MASK_FOLDERS = ("ground_truth", "masks", "mask")


class Masks:
    """The masks below one folder. Three spellings are known, and the first that fits is taken:
    `STEM_mask.*`, `STEM.*`, and a folder `STEM/` with any number of masks (MVTec LOCO)."""

    def __init__(self, folder: Path | None) -> None:
        self._single: dict[str, list[Path]] = {}
        self._several: dict[str, list[Path]] = {}
        for path in pictures_in(folder) if folder is not None and folder.is_dir() else ():
            relative = PurePosixPath(path.relative_to(folder).as_posix())  # type: ignore[arg-type]
            self._single.setdefault(str(relative.with_suffix("")), []).append(path)
            self._several.setdefault(str(relative.parent), []).append(path)

    def of(self, names: Iterable[str]) -> tuple[Path, ...]:
        """Masks of a picture that may be called by any of these names (relative, without suffix)."""
        for name in names:
            for key in (f"{name}_mask", name):
                if key in self._single:
                    return (self._single[key][0],)
            if name in self._several:
                return tuple(self._several[name])
        return ()


def stem(path: Path, folder: Path) -> str:
    """The picture's path relative to `folder`, without its suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()
