"""Results on disk, a record for each picture: written whole or not at all, verified when they are read, never mixed up.

A record vouches for itself: it holds the identity of what it was computed from (:mod:`.identity`) and a checksum of what it
says. One that is damaged, or belongs to something else, is computed again; :meth:`Store.look` says why.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import psutil
from filelock import FileLock

from .identity import digest, file_digest, what_changed
from .names import expanded, safe_name, short_name

KEPT, NEW = "kept", "new"
PARTIAL = (
    ".partial"  # where records are until they are whole; below the store's folder, so that moving is one step
)
_TRIES = "tries~"
_DAY = 86_400


_IN_THE_WAY = (IsADirectoryError, NotADirectoryError, FileExistsError)


class StoreError(OSError):
    """The folder of the results cannot be used, which is no picture's fault: the run stops, what is finished is kept."""


class Store(ABC):
    """A folder of records, made under one identity.

    Args:
        folder: made when the run starts (:meth:`open`).
        identity: what all records depend on, for JSON.
    """

    def __init__(self, folder: Path | str, identity: dict[str, Any]):
        self.folder = expanded("output_dir", folder)
        self.identity = json.loads(json.dumps(identity))
        self.partial = self.folder / PARTIAL

    def open(self) -> None:
        """Make the folder and write to it, before any work; what killed processes left half done goes.

        Raises:
            StoreError: if it cannot be made or written to.
        """
        with self.writing(self.folder):
            self.partial.mkdir(parents=True, exist_ok=True)
            for path in self.partial.iterdir():
                if path.name.startswith(_TRIES) or _is_abandoned(path):
                    _remove(path)
            with self._new() as path:
                path.write_bytes(bytes(64))

    def tries(self, name: str) -> int:
        """How many processes have begun this picture without coming to an end with it, as :meth:`note_tries` says."""
        with suppress(OSError, ValueError):
            return int((self.partial / f"{_TRIES}{short_name(name)}").read_text())
        return 0

    def note_tries(self, name: str, count: int) -> None:
        """Remember :meth:`tries`; 0 forgets the picture."""
        path = self.partial / f"{_TRIES}{short_name(name)}"
        with self.writing(path):
            if count:
                path.write_text(str(count))
            else:
                path.unlink(missing_ok=True)

    @abstractmethod
    def path(self, name: str) -> Path:
        """Where a picture's record is; unique whatever the name, and short."""

    @abstractmethod
    def look(self, name: str, picture: dict[str, Any]) -> str:
        """:data:`KEPT` if there is a record of this picture that may be handed out, :data:`NEW` if there is none, else why it
        has to be computed again."""

    @abstractmethod
    def keep(self, name: str, picture: dict[str, Any], result: Any) -> None:
        """Write a record.

        Raises:
            StoreError: it cannot be written, and so no other can.
            ValueError: something is in the way of this one.
        """

    @contextmanager
    def _new(self) -> Iterator[Path]:
        """A path below :attr:`partial` that is this process's own, and is gone afterwards unless it was moved."""
        path = self.partial / f"{socket.gethostname()}~{os.getpid()}~{secrets.token_hex(6)}"
        try:
            yield path
        finally:
            _remove(path)

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Within the context, errors of the file system are a :class:`StoreError`, or a ValueError if something is in the way."""
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            if isinstance(error, _IN_THE_WAY) and path != self.folder:
                raise ValueError(f"{path} cannot be written ({reason}); move away what is there.") from error
            raise StoreError(
                f"{path} cannot be written ({reason}); what is finished is kept: make room or choose another output folder, "
                "and run again."
            ) from error


class JsonStore(Store):
    """A JSON file per picture, below a folder per identity: results of other settings stay beside these."""

    def __init__(self, folder: Path | str, identity: dict[str, Any]):
        super().__init__(folder, identity)
        self.run = self.folder / digest(self.identity)

    def open(self) -> None:
        super().open()
        header = self.run / "run.json"
        with self.writing(header):
            self.run.mkdir(exist_ok=True)
            if read_json(header) != self.identity:
                with self._new() as path:
                    path.write_text(json.dumps(self.identity, indent=1) + "\n")  # a root need not be text
                    os.replace(path, header)

    @cached_property
    def others(self) -> list[tuple[Path, str]]:
        """(folder, how its identity differs) of the other runs whose results are here, the latest first."""
        return _other_runs(self.folder, self.run, self.identity)

    def path(self, name: str) -> Path:
        return self.run / f"{short_name(name)}.json"

    def look(self, name: str, picture: dict[str, Any]) -> str:
        path = self.path(name)
        if not path.exists():
            return next((why for run, why in self.others if (run / path.name).exists()), NEW)
        record = read_json(path)
        if not self._is_mine(record, name):
            return f"{path.name} was damaged"
        changes = what_changed(record["picture"], json.loads(json.dumps(picture)))
        return "; ".join(changes) or KEPT

    def keep(self, name: str, picture: dict[str, Any], result: Any) -> None:
        parts = {"run": self.run.name, "name": name, "picture": picture, "result": result}
        record = json.loads(json.dumps(parts))
        path = self.path(name)
        with self.writing(path), self._new() as new:
            new.write_text(json.dumps(record | {"checksum": digest(record)}))
            os.replace(new, path)

    def recall(self, name: str) -> Any:
        """A picture's result.

        Raises:
            ValueError: if there is none, or it was damaged since the run.
        """
        record = read_json(self.path(name))
        if not self._is_mine(record, name):
            raise ValueError(f"The record of {name} in {self.run} is missing or damaged; run again.")
        return record["result"]

    def _is_mine(self, record: Any, name: str) -> bool:
        """Whether it is whole, and of this run and this picture."""
        if not _is_whole(record) or not {"picture", "result"} <= record.keys():
            return False
        return (record.get("run"), record.get("name")) == (self.run.name, name)


class Results(Sequence):
    """Results of a :class:`JsonStore`, read one at a time and verified: many pictures take no more memory than one.

    Attributes:
        names: of the pictures, in order.
        report: what the run did that they are from (:class:`~.harness.Report`), if any.
    """

    def __init__(self, store: JsonStore, names: Sequence[str], report: Any = None):
        self.store, self.names, self.report = store, list(names), report

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Results: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return Results(self.store, self.names[index], self.report)
        return self.store.recall(self.names[index])


class FolderStore(Store):
    """A folder of files per picture, named as the picture; "" is the store's own folder (a run of a single picture).

    A record's ``request.json`` says what it was computed from and the checksum of each of its files. A picture has one record: a
    run with other settings replaces it.

    Args:
        write: (result, folder) writes the files.
    """

    RECORD = "request.json"

    def __init__(self, folder: Path | str, identity: dict[str, Any], write: Any):
        super().__init__(folder, identity)
        self.write = write

    def path(self, name: str) -> Path:
        """The folder of a picture's files."""
        return self.folder.joinpath(*map(safe_name, Path(name).parts))

    def look(self, name: str, picture: dict[str, Any]) -> str:
        folder, now = self.path(name), self._request(picture)
        if not (folder / self.RECORD).exists():
            return NEW
        record = read_json(folder / self.RECORD)
        if not _is_whole(record) or not _is_request(record):
            return f"{self.RECORD} was damaged"
        if changes := what_changed({**record["run"], **record["picture"]}, {**now["run"], **now["picture"]}):
            return "; ".join(changes)
        for file, checksum in record["files"].items():
            with suppress(OSError):
                if file_digest(folder / file) == checksum:
                    continue
            return f"{file} was damaged or missing"
        return KEPT

    def keep(self, name: str, picture: dict[str, Any], result: Any) -> None:
        folder = self.path(name)
        with self.writing(folder), self._new() as new:
            new.mkdir()
            self.write(result, new)
            files = sorted(file.name for file in new.iterdir())
            record = self._request(picture) | {"files": {file: file_digest(new / file) for file in files}}
            text = json.dumps(record | {"checksum": digest(record)}, indent=1, ensure_ascii=False) + "\n"
            (new / self.RECORD).write_text(text, encoding="utf-8")
            folder.mkdir(parents=True, exist_ok=True)
            with self._lock():
                old = read_json(folder / self.RECORD)
                (folder / self.RECORD).unlink(
                    missing_ok=True
                )  # from here on, until the last move, nothing vouches
                for file in set(old["files"] if _is_request(old) else ()) - set(files):
                    (folder / file).unlink(missing_ok=True)
                for file in (*files, self.RECORD):
                    os.replace(new / file, folder / file)

    def _request(self, picture: dict[str, Any]) -> dict[str, Any]:
        return {"run": self.identity, "picture": json.loads(json.dumps(picture))}

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time moves files, as two sets of files must not mix."""
        lock: FileLock | None = FileLock(self.folder / ".lock")
        try:
            lock.acquire()
        except (
            OSError,
            NotImplementedError,
        ):  # a file system without locks: a mixture is found by its checksums
            lock = None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()


def recorded_files(folder: Path) -> set[str]:
    """The names of those files in a folder that are results of a :class:`FolderStore`, of whatever run."""
    record = read_json(folder / FolderStore.RECORD)
    return set(record["files"]) if _is_request(record) else set()


def is_record(path: Path, run: str) -> bool:
    """Whether a JSON record, or a folder with its ``request.json``, is whole and of the run whose identity has this digest."""
    record = read_json(path / FolderStore.RECORD if path.is_dir() else path)
    if not _is_whole(record):
        return False
    if not path.is_dir():
        return record.get("run") == run
    if not _is_request(record) or digest(record["run"]) != run:
        return False
    with suppress(OSError):
        return all(file_digest(path / file) == checksum for file, checksum in record["files"].items())
    return False


# -- small parts ------------------------------------------------------------------------------------------------------


def _is_whole(record: Any) -> bool:
    if not isinstance(record, dict) or "checksum" not in record:
        return False
    return digest({key: value for key, value in record.items() if key != "checksum"}) == record["checksum"]


def _is_request(record: Any) -> bool:
    """Whether it says what a folder's files are and are from; none of them lies elsewhere, whoever wrote the record."""
    parts = ("run", "picture", "files")
    if not isinstance(record, dict) or not all(isinstance(record.get(part), dict) for part in parts):
        return False
    return all(file == safe_name(file) for file in record["files"])


def read_json(path: Path) -> Any:
    """The content, or None for what is no JSON or cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def _other_runs(folder: Path, run: Path, identity: dict[str, Any]) -> list[tuple[Path, str]]:
    """(folder, how its identity differs) of every other run in a store, the latest first."""
    headers = [path for path in folder.glob("*/run.json") if path.parent != run]
    headers.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    found = [(path.parent, read_json(path)) for path in headers]
    return [(run, "; ".join(what_changed(old, identity))) for run, old in found if isinstance(old, dict)]


def _is_abandoned(path: Path) -> bool:
    """Whether the process that began to write ``path`` is dead, or on another machine and has not touched it for a day."""
    host, _, rest = path.name.partition("~")
    with suppress(OSError, ValueError):
        if host == socket.gethostname():
            return not psutil.pid_exists(int(rest.partition("~")[0]))
        return time.time() - path.stat().st_mtime > _DAY
    return False


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
