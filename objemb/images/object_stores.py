"""Photos in object stores (S3, Google Cloud Storage, Azure): listed and read through fsspec.

Credentials are those of the store's own client: the environment, its files, the role of the machine. An address that
holds any is refused, since addresses are shown in messages and stored in indexes.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objemb.images.decode import UnreadableImageError, most_bytes

#: Schemes of addresses, and the package of fsspec that opens each.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
#: Requests at a time where objects are asked for their state.
REQUESTS = 16
#: What stores call that which changes with an object, best first.
_STATES = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime")


@dataclass(frozen=True)
class StoredObject:
    """An entry of a listing.

    Attributes:
        name: The last part of its key.
        folder: Whether it stands for all objects below it.
        version: What changes with its content: its size, and its ETag or the time of its last change.
    """

    name: str
    folder: bool
    version: str


def in_object_store(text: str) -> bool:
    """Whether a text is the address of an object store, such as ``s3://bucket/shelf``."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower() in PACKAGES


def key_of(address: str) -> str:
    """What follows the scheme: bucket and key, without a slash at the end."""
    return address.partition("://")[2].strip("/")


def joined(folder: str, path: str) -> str:
    """The address of a path below another address, or the path itself if it is an address."""
    if in_object_store(path):
        return path
    scheme, _, key = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(key, path))}"


def find_object(address: str) -> StoredObject | None:
    """What there is at an address, or None.

    Raises:
        ValueError: The address holds credentials, or the store refuses or cannot be reached.
        ImportError: The package of the store is not installed.
    """
    with _refusals(address):
        try:
            return _entry(_store(address).info(key_of(address)))
        except FileNotFoundError:
            return None


def list_objects(address: str) -> list[StoredObject]:
    """What lies directly below an address, sorted by the bytes of the names. Errors as for :func:`find_object`."""
    key = key_of(address)
    with _refusals(address):
        entries = _store(address).ls(key, detail=True, refresh=True)
    objects = [_entry(entry) for entry in entries if entry["name"].strip("/") != key]
    return sorted(objects, key=lambda entry: entry.name.encode("utf-8", "surrogatepass"))


def versions_of(addresses: Sequence[str]) -> list[str]:
    """The version of each object, as in :class:`StoredObject`; empty for one that is not there."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        return ["" if entry is None else entry.version for entry in pool.map(find_object, addresses)]


def object_bytes(address: str, *, id: str, max_pixels: int) -> bytes:
    """The content of an object.

    Raises:
        UnreadableImageError: It is not there, cannot be read, or has more bytes than a photo of ``max_pixels`` needs.
        ImportError: The package of the store is not installed.
    """
    most = most_bytes(max_pixels)
    try:
        content: bytes = _store(address).cat_file(key_of(address), start=0, end=most + 1)
    except ImportError:
        raise
    except FileNotFoundError:
        raise UnreadableImageError("object not found", id) from None
    except PermissionError:
        raise UnreadableImageError("no permission to read the object", id) from None
    except Exception as error:  # clients of stores have errors of their own
        raise UnreadableImageError(f"cannot read the object: {type(error).__name__}: {error}", id) from error
    if len(content) > most:
        raise UnreadableImageError(f"too many bytes: more than {most:,}", id)
    return content


@contextmanager
def fetched(address: str) -> Iterator[Path]:
    """A copy of an object, such as a list, as a file of the same name. Errors as for :func:`find_object`."""
    with tempfile.TemporaryDirectory(prefix="objemb-list-") as folder:
        file = Path(folder) / posixpath.basename(key_of(address))
        with _refusals(address):
            _store(address).get_file(key_of(address), str(file))
        yield file


def _store(address: str) -> Any:
    """The file system of fsspec for an address; fsspec keeps one for each store."""
    scheme, _, rest = address.partition("://")
    if "@" in rest.partition("/")[0]:
        raise ValueError(
            f"{scheme}://...: expected an address without credentials, which the store's client takes from its "
            "environment, found one with '@' before the first '/'"
        )
    try:
        import fsspec

        return fsspec.filesystem(scheme.lower(), use_listings_cache=False)
    except ImportError as error:
        package = PACKAGES[scheme.lower()]
        install = "'objemb[s3]'" if package == "s3fs" else f"fsspec {package}"
        raise ImportError(f"{scheme}:// needs {package} ({error}): pip install {install}") from error


def _entry(info: Mapping[str, Any]) -> StoredObject:
    state = next((str(info[key]) for key in _STATES if info.get(key)), "")
    name = posixpath.basename(str(info["name"]).strip("/"))
    return StoredObject(name, info["type"] == "directory", f"{info.get('size')} {state}")


@contextmanager
def _refusals(address: str) -> Iterator[None]:
    """Turn errors of a store's client into one with the address."""
    try:
        yield
    except (ImportError, ValueError, FileNotFoundError):
        raise
    except PermissionError as error:
        raise ValueError(f"{address}: expected permission to read it, found none ({error})") from error
    except Exception as error:  # clients of stores have errors of their own
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{address}: expected an object store that answers, found {why}") from error
