"""Results on disk, a folder of files for each: written whole or not at all, and verified when they are read.

``request.json`` in a folder says what its files were computed from (:mod:`.keys`) and holds the checksum of each. What is
damaged, or belongs to something else, is no result; what no run has written is never written over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..files import REQUEST, file_digest, read_request, unchanged, write_atomically
from ..images import shown
from .keys import digest

RESULT = "result.json"


class FolderError(OSError):
    """The folder of the results cannot be used, which is no image's fault: the run stops, what is finished is kept."""


@dataclass
class Results:
    """Results of a run in the order of its samples, read one at a time and verified: many take no more memory than one.

    Attributes:
        root: a folder per sample is in it (:func:`folder_name`).
        key: what all results depend on.
        partial: a folder on the same file system, for results until they are whole: to move a file is one step.
        write: (result, folder) writes the files, and what is read is the folder; None: the result is JSON.
        names: of the samples that there are results of.
        failures: {name: why} of the others.
        computed: how many were computed; the others were kept from an earlier run.
    """

    root: Path
    key: Mapping[str, Any]
    partial: Path
    write: Callable[[Any, Path], None] | None
    names: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    computed: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        return self.get(self.names[index])

    def __str__(self) -> str:
        done, failed = len(self), len(self.failures)
        counts = f"{done - self.computed} kept, {self.computed} computed, {failed} failed."
        lines = [f"{done + failed} images: {counts}"]
        lines += [f"  failed: {shown(name)}: {why}" for name, why in list(self.failures.items())[:5]]
        lines += [f"  … and {failed - 5} more"] if failed > 5 else []
        return "\n".join(lines).encode("utf-8", "backslashreplace").decode()  # names need not be text

    def folder(self, name: str) -> Path:
        return self.root / folder_name(name)

    def holds(self, name: str, key: Mapping[str, Any]) -> bool:
        """Whether there is a whole result that was computed from exactly this."""
        return _whole_request(self.folder(name)).get("key") == json.loads(json.dumps({**self.key, **key}))

    def put(self, name: str, key: Mapping[str, Any], result: Any) -> None:
        """Write a result; raises FolderError, for one where files of somebody else are in the way."""
        folder = self.folder(name)
        with writing(folder), tempfile.TemporaryDirectory(dir=self.partial) as temporary:
            new = Path(temporary)
            if self.write is None:
                (new / RESULT).write_text(json.dumps(result))
            else:
                self.write(result, new)
            files = {file.name: file_digest(file) for file in sorted(new.iterdir())}
            request = {"name": name, "key": {**self.key, **key}, "files": files}
            _make_room(folder, files, folder == self.partial.parents[1])
            write_atomically(folder / REQUEST, json.dumps(request, indent=1) + "\n", new)
            for file in files:
                os.replace(new / file, folder / file)

    def get(self, name: str) -> Any:
        """What was put; raises ValueError if there is no whole result."""
        folder = self.folder(name)
        if not self._is_ours(_whole_request(folder)):
            raise ValueError(
                f"The result of {name} in {self.root} is missing, damaged or of another run; run again."
            )
        return json.loads((folder / RESULT).read_text()) if self.write is None else folder

    def _is_ours(self, request: Mapping[str, Any]) -> bool:
        """Whether a result is of this run's settings."""
        return json.loads(json.dumps(dict(self.key))).items() <= request.get("key", {}).items()

    def folders(self) -> dict[str, Path]:
        """{name: folder} of all results of these settings, those of other shards and of earlier runs among them."""
        requests = {file.parent: read_request(file.parent) for file in sorted(self.root.glob(f"*/{REQUEST}"))}
        return {r["name"]: folder for folder, r in requests.items() if self._is_ours(r)}


def folder_name(name: str) -> str:
    """Of a sample's result: readable, and another for every other name on every file system; "" (the only image) is the root."""
    readable = re.sub(r"[^\w.-]+", "_", Path(name).stem)[:40].strip("._")
    return f"{readable}-{digest(name)[:8]}" if name else ""


def _whole_request(folder: Path) -> dict[str, Any]:
    """A folder's ``request.json``, or {} unless all files that it lists are what was written."""
    request = read_request(folder)
    return request if all(unchanged(folder / f, sum_) for f, sum_ in request.get("files", {}).items()) else {}


def _make_room(folder: Path, files: Mapping[str, str], is_top: bool) -> None:
    """Takes the files of an earlier result out of the folder, so that ``files`` {name: checksum} can be put there.

    What a run has written goes. What is there else is renamed in a result's own folder, and stops the run in the top folder.
    """
    _refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    request = read_request(folder)
    ours = request.get("files", {}) | ({REQUEST: file_digest(folder / REQUEST)} if request else {})
    there = [file for file in ours | files | {REQUEST: ""} if os.path.lexists(folder / file)]
    others = [f for f in there if not any(unchanged(folder / f, sums.get(f, "")) for sums in (ours, files))]
    if is_top and (foreign := [file for file in others if file not in ours]):
        raise _in_the_way(folder / foreign[0])
    for file in there:
        if file not in others:
            (folder / file).unlink()
        elif file in files or file == REQUEST:
            names = (folder / f"{file}.changed{f'-{number}' if number > 1 else ''}" for number in count(1))
            os.replace(folder / file, next(name for name in names if not os.path.lexists(name)))


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise FolderError(f"{folder} is a link; results are not written through links: move it away.")


def _in_the_way(path: Path) -> FolderError:
    return FolderError(
        f"{path} is in the way, which no run has written; move it, or choose another output folder."
    )


@contextmanager
def only_run(folder: Path, partial: Path, reports: Iterable[Path]) -> Iterator[None]:
    """Within the context no other run of this shard works in the folder; what a killed one left unfinished goes.

    Args:
        reports: files that the run writes into the folder besides results.
    """
    with writing(folder):
        state = partial.parent
        _refuse_link(state)
        if not state.exists() and (others := [report for report in reports if os.path.lexists(report)]):
            raise _in_the_way(others[0])
        state.mkdir(parents=True, exist_ok=True)
        lock = FileLock(partial.with_name(f"{partial.name}.lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise FolderError(
                f"Another run is at work in {folder}; wait for it, or choose another output folder."
            ) from None
        except NotImplementedError:  # a file system without locks
            pass
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within the context, errors of the file system are one sentence, as a :class:`FolderError`."""
    try:
        yield
    except FolderError:
        raise
    except OSError as error:
        raise FolderError(
            f"{error.filename2 or error.filename or folder} cannot be written ({error.strerror or error}); what is finished is "
            "kept: make room, move away what is in the way or choose another output folder, and run again."
        ) from error


def report(path: Path, partial: Path | None, text: str) -> None:
    """A file for people beside the results, by way of the folder ``partial``; an empty one goes. Names need not be text."""
    with writing(path):
        if text:
            write_atomically(path, text.encode("utf-8", "backslashreplace"), partial)
        else:
            path.unlink(missing_ok=True)
