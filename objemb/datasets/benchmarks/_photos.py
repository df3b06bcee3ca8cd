"""The images of a benchmark, named in its ground truth without folder and suffix."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from objemb import checks
from objemb.datasets.benchmarks._problems import BadGroundTruthError, Problems
from objemb.images.kinds import named_as_image
from objemb.images.names import composed
from objemb.images.sources import SkippedImage, find_images


class Photos:
    """Images below a folder, by their names without suffix.

    Args:
        root: The folder that files are relative to.
        folder: The folder below it that holds the images, perhaps in sub-folders.
        left_out: Names of images that do not count.

    Raises:
        BadGroundTruthError: Two images have the same name.
    """

    def __init__(self, root: Path, folder: str = "jpg", left_out: Collection[str] = ()) -> None:
        self.root, self.folder, self.left_out = root, folder, frozenset(left_out)
        self._files: dict[str, str] = {}
        twice = []
        for image in find_images(root / folder):
            if isinstance(image, SkippedImage):
                continue
            name, file = stem(image.path.name), f"{folder}/{image.id}"
            if name in self._files:
                twice.append(f"{name}: expected one image of this name, found {self._files[name]} and {file}")
            elif name not in self.left_out:
                self._files[name] = file
        if twice:
            raise BadGroundTruthError(f"{root / folder}: expected each image once, found{checks.lines(twice)}")

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: str) -> bool:
        return stem(name) in self._files

    def file(self, name: str) -> str:
        """The path of an image relative to the root, with ``/``. Raises ``KeyError`` if it does not exist."""
        return self._files[stem(name)]

    def path(self, name: str) -> Path:
        """The path of an image."""
        return self.root / self.file(name)

    def known(self, problems: Problems, entry: str, names: Sequence[str]) -> tuple[str, ...]:
        """The names that are not left out; adds a problem for each that has no image."""
        kept = []
        for number, name in enumerate(names):
            if name in self:
                kept.append(name)
            elif stem(name) not in self.left_out:
                problems.add(f"{entry}[{number}]", f"expected an image below {self.folder}/, found none named {name!r}")
        return tuple(kept)


def stem(name: str) -> str:
    """The name of an image without its suffix, if any, in the normal form in which names are compared."""
    return composed(name[: name.rindex(".")] if named_as_image(name) else name)


def missing_photos(root: Path, folder: str = "jpg") -> list[str]:
    """A line if the folder of images does not exist or contains none."""
    if not (root / folder).is_dir():
        return [f"{folder}/: no such folder"]
    if next((i for i in find_images(root / folder) if not isinstance(i, SkippedImage)), None) is None:
        return [f"{folder}/: no images in this folder"]
    return []
