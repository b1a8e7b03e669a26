"""Files that are written whole or not at all (a kill leaves the old file or the new one), and whose they are."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

STATE = ".emerdiff"  # in a run's folder: its locks, and results until they are whole
REQUEST = "request.json"  # in a result's folder: what it was computed from, and the checksum of each file
WRITTEN = ".emerdiff.json"  # the same beside files that no run has written


def write_atomically(path: Path | str, content: str | bytes, folder: Path | None = None) -> None:
    """Write ``content`` (text as UTF-8) into a temporary file, which then takes the place of ``path`` in one move.

    Its name is this process's own, so two processes that write the same file do not meet: the last one wins. If this fails,
    ``path`` stays as it was and the temporary file goes. It is beside ``path``, or in ``folder`` on the same file
    system, where what a kill leaves of it is not in the way.
    """
    path = Path(path)
    temporary = (folder or path.parent) / f".{os.getpid()}-{secrets.token_hex(4)}.new"
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def folder_path(parameter: str, folder: Path | str) -> Path:
    """A folder with ``~`` as the home folder, from the root on, as workers may stand elsewhere; raises ValueError."""
    if not str(folder).strip() or "\0" in str(folder) or folder == Path(""):
        raise ValueError(f"{parameter}={str(folder)!r} is no folder; name one.")
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{parameter}={str(folder)!r} is no folder: {error}") from error


def file_digest(path: Path | str) -> str:
    """16 hex digits of a file's content; raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def is_plain(path: Path | str) -> bool:
    """Whether a path is a file itself: no link to one, and no pipe or device, whose reading may never end."""
    with suppress(OSError, ValueError):
        return stat.S_ISREG(os.lstat(path).st_mode)
    return False


def read_request(folder: Path, file: str = REQUEST) -> dict[str, Any]:
    """The :data:`REQUEST` that a run has put into a folder, or {}: "name", "key", and "files": {name: checksum}."""
    with suppress(OSError, ValueError, RecursionError, TypeError, LookupError, AttributeError):
        request = json.loads((folder / file).read_text("utf-8")) if is_plain(folder / file) else {}
        ours = isinstance(request["name"], str) and isinstance(request["key"], dict)
        if ours and all(Path(name).name == name for name, _ in request["files"].items()):
            return request
    return {}


def unchanged(path: Path, checksum: str) -> bool:
    """Whether a file is what a run has written."""
    with suppress(OSError):
        return is_plain(path) and file_digest(path) == checksum
    return False
