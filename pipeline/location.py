"""Where a zoo lies: a local path, or a place at a URI that `pyarrow.fs` knows, such as `s3://bucket/zoo`.

Both have the few operations of pathlib that archives need, so that nothing else has to ask which it is.
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
"""They have no folders and no renames, and show an object when its upload is complete."""
MAX_LINK = 4096
"""Bytes of a file that holds nothing but a URI."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or a folder at a URI. What follows '?' in it are options of pyarrow's file system, kept for all below it."""

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
        """The file system, and what this place is called there. Raises InputError where there is no such file system."""
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
        """Whole or not at all."""
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
            "a URI must not hold credentials, as it is kept in files and shown: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or what else the store's own tools read"
        )
    try:
        return FileSystem.from_uri(root)
    except (ValueError, OSError, NotImplementedError) as error:
        raise InputError(
            f"cannot open {root} ({error}): expected a local path, file://, s3://, gs:// or another URI of pyarrow.fs"
        ) from error


def locate(place: str | Location) -> Location:
    """Local paths and `file://` as a Path, other URIs as a RemotePath; follows a file that holds a URI, as run folders do."""
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
