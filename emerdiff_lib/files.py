"""Files that are written whole or not at all: a kill leaves the old file or the new one, never half of either."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; when the block ends well, it takes the place of ``path`` in one move.

    The name is this process's own, so two processes that write the same file do not meet: the last one wins. If the
    block fails, ``path`` stays as it was and the temporary file goes. The folder has to exist.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path | str, content: str | bytes) -> None:
    """Write ``content`` (text as UTF-8) to ``path`` as :func:`replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def folder_path(parameter: str, folder: Path | str) -> Path:
    """A folder with ``~`` as the home folder, from the root on, as workers may stand elsewhere; raises ValueError."""
    if not str(folder).strip() or "\0" in str(folder) or folder == Path(""):
        raise ValueError(f"{parameter}={str(folder)!r} is no folder; name one.")
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{parameter}={str(folder)!r} is no folder: {error}") from error
