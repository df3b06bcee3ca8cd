"""The contract of generations: the one that answers, the next one while a migration fills it, and the previous one.

The next generation is an index of its own, of another model, at the same place. :meth:`Generations.switch` lets it
answer in one step; before, nothing of it is seen, and after, the previous one is kept until it is dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from objemb.index.storage.schema import RowSchema

if TYPE_CHECKING:
    from objemb.index.collection import ImageCollection

#: Names of the generations that do not answer.
NEXT, PREVIOUS = "next", "previous"


class Generations(ABC):
    """The generations of an index that is open."""

    @abstractmethod
    def tidy(self) -> None:
        """Delete what an interrupted migration has left and nothing uses."""

    @abstractmethod
    def kept(self) -> str | None:
        """Where the previous generation is kept, for messages; None if there is none."""

    @abstractmethod
    def begun(self) -> ImageCollection | None:
        """The next generation, as a migration has left it; None if there is none."""

    @abstractmethod
    def begin(self, schema: RowSchema, fingerprint: str, model: Mapping[str, object] | None) -> ImageCollection:
        """Make an empty next generation; the arguments are those of :func:`objemb.index.opening.create_index`."""

    @abstractmethod
    def switch(self, *, keep: bool) -> bool:
        """Let the next generation answer in place of the one that is open.

        Args:
            keep: Whether the old generation stays as the previous one; otherwise it is deleted.

        Returns:
            Whether it was published; False if images were added or deleted after the state that is open.

        Raises:
            IndexLockedError: There is another writer, which has to end first. At an address, writers wait instead.
            IndexFolderError: A previous generation is still kept.
            ArtefactMismatchError: Another migration has published, or deleted, the next generation.
        """

    @abstractmethod
    def drop(self, name: str) -> bool:
        """Delete the generation :data:`NEXT` or :data:`PREVIOUS`. Returns whether there was one.

        Raises:
            IndexLockedError: A migration is filling the next generation, or there is another writer.
        """
