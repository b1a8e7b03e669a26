"""Names that every file system takes, whatever pictures are called."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path


def expanded(what: str, folder: Path | str) -> Path:
    """A folder with ``~`` as the home folder, from the root on: workers may stand elsewhere.

    Raises:
        ValueError: for an empty name, one that no file has, and the home folder of nobody.
    """
    text = str(folder)
    if not text.strip() or "\0" in text or folder == Path(""):
        raise ValueError(f"{what}={text!r} is no folder; name one.")
    try:
        return Path(folder).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{what}={text!r} is no folder: {error}") from error


def safe_name(name: str) -> str:
    """A file name that every file system takes: the name itself where it is short and harmless, else one with a hash."""
    clean = re.sub(r"[^\w.,()+=@ -]", "_", name).strip(" .") or "_"
    short = _cut(clean, 100)
    return name if short == name else f"{_cut(clean, 60)}-{hashlib.sha256(_bytes(name)).hexdigest()[:12]}"


def short_name(name: str) -> str:
    """A unique file name without a suffix: the beginning of the name, to be read by people, and a hash."""
    clean = re.sub(r"[^\w.,()+=@-]", "_", name).strip(".")
    return f"{_cut(clean, 60)}-{hashlib.sha256(_bytes(name)).hexdigest()[:12]}"


def _cut(text: str, length: int) -> str:
    """The first so many bytes, without half a character."""
    return _bytes(text)[:length].decode("utf-8", "ignore")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
