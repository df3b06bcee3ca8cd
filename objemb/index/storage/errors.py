"""What can be wrong with an index on disk. All are ``ObjembError``: the state of the world, not a wrong argument."""

from __future__ import annotations

from objemb.checks import ObjembError


class IndexFolderError(ObjembError):
    """The folder is missing, holds no index, or holds something that must not be overwritten."""


class DamagedIndexError(ObjembError):
    """A file of the index is missing, truncated or changed. ``verify`` lists everything that is damaged."""


class IndexLockedError(ObjembError):
    """Another writer is at work. The message names its process id."""


class IndexWriteError(ObjembError):
    """Writing failed (full disk, no permission). What was published before is intact."""
