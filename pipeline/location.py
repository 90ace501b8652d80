"""Where a zoo is: a local path, or a URI that `pyarrow.fs` knows, such as `s3://bucket/zoo`.

Both support the few pathlib operations that archives need, so other code treats them the same.
"""

import re
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
OBJECT_STORES = ("s3", "gcs", "abfs")
"""File systems without folders and renames, where an object appears once its upload is complete."""
MAX_LINK = 4096
"""Largest size in bytes of a file that holds nothing but a URI."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder at a URI.

    The part after '?' holds options of pyarrow's file system; paths below this one keep them.
    """

    uri: str

    def __truediv__(self, name: str) -> "RemotePath":
        parts = urlsplit(self.uri)
        return RemotePath(parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl())

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        return urlsplit(self.uri).path.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        parts = urlsplit(self.uri)
        return RemotePath(parts._replace(path=parts.path.rpartition("/")[0]).geturl())

    @property
    def opened(self) -> tuple["FileSystem", str]:
        """The file system and the path in it. Raises InputError if there is no such file system."""
        parts = urlsplit(self.uri)
        filesystem, root = open_filesystem(parts._replace(path="/").geturl())
        path = unquote(parts.path).strip("/")
        return filesystem, f"{root.rstrip('/')}/{path}" if root else path

    def is_file(self) -> bool:
        filesystem, name = self.opened
        return filesystem.get_file_info(name).is_file

    exists = is_file

    def read_bytes(self) -> bytes:
        filesystem, name = self.opened
        with filesystem.open_input_file(name) as file:
            return file.read()

    def write_bytes(self, data: bytes):
        """Write the whole file or nothing."""
        filesystem, name = self.opened
        is_store = filesystem.type_name in OBJECT_STORES
        temporary = (
            name
            if is_store
            else f"{name.removesuffix(self.name)}.{self.name}.{uuid.uuid4().hex}.tmp"
        )
        with filesystem.open_output_stream(temporary) as file:
            file.write(data)
        if not is_store:
            filesystem.move(temporary, name)

    def unlink(self, missing_ok: bool = False):
        filesystem, name = self.opened
        try:
            filesystem.delete_file(name)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, parents: bool = True, exist_ok: bool = True):
        filesystem, name = self.opened
        if filesystem.type_name not in OBJECT_STORES:
            filesystem.create_dir(name, recursive=parents)

    def resolve(self) -> "RemotePath":
        return self


Location = Path | RemotePath


@lru_cache
def open_filesystem(root: str) -> tuple["FileSystem", str]:
    from pyarrow.fs import FileSystem

    if urlsplit(root).password is not None:
        raise InputError(
            "a URI must not hold credentials, as it is stored in files and shown: set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what the store's own tools read"
        )
    try:
        return FileSystem.from_uri(root)
    except (ValueError, OSError, NotImplementedError) as error:
        raise InputError(
            f"cannot open {root} ({error}): expected a local path, file://, s3://, gs:// or "
            "another URI of pyarrow.fs"
        ) from error


def locate(place: str | Location) -> Location:
    """Local paths and `file://` as a Path, other URIs as a RemotePath.

    A file that holds a URI is followed: run folders have such files.
    """
    text = str(place)
    if SCHEME.match(text):
        parts = urlsplit(text)
        return (
            Path(unquote(parts.path))
            if parts.scheme == "file" and not parts.netloc
            else RemotePath(text)
        )
    path = Path(text)
    if (
        path.is_file()
        and path.stat().st_size <= MAX_LINK
        and SCHEME.match(link := path.read_text(errors="replace"))
    ):
        return locate(link.strip())
    return path
