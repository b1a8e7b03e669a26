"""Pictures without work: the real records, of a real size, and no model, so that only the bookkeeping is left to measure."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runs.identity import file_digest
from ..runs.pictures import Source
from ..runs.store import NEW, FolderStore, Store
from ..runs.task import Item, Task


class Ready(Task):
    """Every picture is the same file, hashed each time as a real one is, and its result is there already.

    Args:
        picture: the file; None: pictures are not looked at.
        result: as the store keeps it.
    """

    def __init__(self, store: Store, picture: Path | None = None, result: Any = None):
        self.store, self.file, self.result = store, picture, result

    def picture(self, item: Item) -> dict[str, Any]:
        return {} if self.file is None else {"image": file_digest(self.file)}

    def compute(self, item: Item) -> Any:
        return self.result


class NoStore(Store):
    """Keeps nothing and finds nothing."""

    def path(self, name: str) -> Path:
        return self.folder / name

    def look(self, name: str, picture: dict[str, Any]) -> str:
        return NEW

    def keep(self, name: str, picture: dict[str, Any], result: Any) -> None:
        pass


class WatchedStore(FolderStore):
    """Also tells for how many ``seconds_locked`` it held the lock in this process, and the ``operations_locked`` meanwhile."""

    seconds_locked, operations_locked = 0.0, 0

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with super()._lock(), counting() as found:
            start = time.perf_counter()
            try:
                yield
            finally:
                self.seconds_locked += time.perf_counter() - start
        self.operations_locked += found[0]


def write(files: dict[str, bytes], folder: Path) -> None:
    """{name: content} as files."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


def pictures(count: int) -> list[Item]:
    """Items as notebook 04 makes them of a folder; there are no such files."""
    names = [f"photos/{number:08}.jpg" for number in range(count)]
    return [Item(name, Source(name, name, Path("/data", name))) for name in names]


# -- operations on the file system's metadata ------------------------------------------------------------------------------

_KINDS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir"}
_total = 0


def _audit(event: str, _: tuple) -> None:
    global _total
    _total += event in _KINDS


@contextmanager
def counting() -> Iterator[list[int]]:
    """Counts, in its list's only element, the files and folders that this process opens, makes, moves and removes.

    Python's own audit events say so; whether a file exists is asked without one, so the true number is somewhat higher.
    """
    if not getattr(counting, "installed", False):
        sys.addaudithook(_audit)  # for good: Python takes none back
        counting.installed = True
    before, found = _total, [0]
    try:
        yield found
    finally:
        found[0] = _total - before
