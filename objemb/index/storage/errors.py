"""Errors of an index on disk, all subclasses of ``ObjembError``: they concern the state of files, not an argument."""

from __future__ import annotations

from objemb.checks import ObjembError


class IndexFolderError(ObjembError):
    """The folder does not exist, contains no index, or contains something that must not be overwritten."""


class DamagedIndexError(ObjembError):
    """A file of the index is missing, truncated or changed. ``verify`` lists everything that is damaged."""


class IndexLockedError(ObjembError):
    """Another process is writing to the index. The message contains its process id."""


class IndexWriteError(ObjembError):
    """Writing failed (full disk, no permission). What was published before is intact."""
