"""Results on disk, a folder of files per image: written whole or not at all, and verified when they are read.

``request.json`` in a folder says what its files were computed from (:mod:`.keys`) and holds the checksum of each. A record
that is damaged, or belongs to something else, is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .keys import changes, digest, file_digest

KEPT, NEW = "kept", "new"
REQUEST = "request.json"
PARTIAL = ".partial"  # where records are until they are whole, inside the folder: to move them is one step


class FolderError(OSError):
    """The folder of the results cannot be used, which is no image's fault: the run stops, what is finished is kept."""


@dataclass(frozen=True)
class Records:
    """Where :func:`~.cached_map.cached_map` keeps results.

    Attributes:
        root: a folder per image is in it, named as the image; "" is the root itself (a run of a single image).
        key: what all results depend on, as JSON gives it back.
        partial: a folder on the same file system that nobody else writes to.
        write, read: (result, folder) writes the files, folder → result reads them.
    """

    root: Path
    key: Mapping[str, Any]
    partial: Path
    write: Callable[[Any, Path], None]
    read: Callable[[Path], Any]

    def folder(self, name: str) -> Path:
        return self.root.joinpath(*map(safe_name, Path(name).parts))

    def state(self, name: str, key: Mapping[str, Any]) -> str:
        """:data:`KEPT` if there is a record of this key, :data:`NEW` if there is none, else why it is computed again."""
        folder = self.folder(name)
        if not (folder / REQUEST).exists():
            return NEW
        if (request := read_request(folder)) is None:
            return f"{REQUEST} was damaged"
        return changes(request["key"], self._full(key)) or damage(folder, request) or KEPT

    def put(self, name: str, key: Mapping[str, Any], result: Any) -> None:
        """Write a record; raises OSError."""
        new, folder = self.partial / short_name(name), self.folder(name)
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        self.write(result, new)
        files = {file.name: file_digest(file) for file in sorted(new.iterdir())}
        request = {"key": self._full(key), "files": files}
        text = json.dumps(request | {"checksum": digest(request)}, indent=1, ensure_ascii=False) + "\n"
        (new / REQUEST).write_text(text, encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        old = read_request(folder) or {"files": {}}
        (folder / REQUEST).unlink(
            missing_ok=True
        )  # from here to the last move, nothing vouches for the files
        for file in old["files"].keys() - files.keys():
            (folder / file).unlink(missing_ok=True)
        for file in (*files, REQUEST):
            os.replace(new / file, folder / file)
        new.rmdir()

    def get(self, name: str) -> Any:
        """What was put; raises ValueError if there is no whole record."""
        folder = self.folder(name)
        request = read_request(folder)
        if request is None or not self.key.items() <= request["key"].items() or damage(folder, request):
            raise ValueError(f"The result of {name} in {self.root} is missing or damaged; run again.")
        return self.read(folder)

    def _full(self, key: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.key, **json.loads(json.dumps(key))}


def read_request(folder: Path) -> dict[str, Any] | None:
    """{"key": …, "files": {name: checksum}} of a folder's record, or None. None of its files lies elsewhere."""
    request = read_json(folder / REQUEST)
    if not isinstance(request, dict) or request.pop("checksum", None) != digest(request):
        return None
    whole = all(isinstance(request.get(part), dict) for part in ("key", "files"))
    return request if whole and all(file == safe_name(file) for file in request["files"]) else None


def damage(folder: Path, request: Mapping[str, Any]) -> str:
    """Which file of a record is not what it was, or "" for none."""
    for file, checksum in request["files"].items():
        with suppress(OSError):
            if file_digest(folder / file) == checksum:
                continue
        return f"{file} was damaged or missing"
    return ""


def read_json(path: Path) -> Any:
    """The content, or None for what is no JSON or cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within the context, errors of the file system are one sentence, as a :class:`FolderError`."""
    try:
        yield
    except FolderError:
        raise
    except OSError as error:
        raise FolderError(
            f"{error.filename or folder} cannot be written ({error.strerror or error}); what is finished is kept: make "
            "room, move away what is in the way or choose another output folder, and run again."
        ) from error


def safe_name(name: str) -> str:
    """A file name that every file system takes: the name itself where it is short and harmless, else one with a hash."""
    clean = re.sub(r"[^\w.,()+=@ -]", "_", name).strip(" .") or "_"
    return name if name == clean and len(name.encode()) <= 100 else short_name(name)


def short_name(name: str) -> str:
    """A unique file name: the beginning of the name, to be read by people, and a hash."""
    start = re.sub(r"[^\w.,()+=@-]", "_", name).strip(".").encode()[:60].decode("utf-8", "ignore")
    return f"{start}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
