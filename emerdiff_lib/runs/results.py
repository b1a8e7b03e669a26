"""Results on disk, a folder of files for each: written whole or not at all, and verified when they are read.

``request.json`` in a folder says what its files were computed from (:mod:`.keys`) and holds the checksum of each. What is
damaged, or belongs to something else, is no result.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..datasets.images import REQUEST, result_files
from ..images import shown
from .keys import file_digest

RESULT = "result.json"


class FolderError(OSError):
    """The folder of the results cannot be used, which is no image's fault: the run stops, what is finished is kept."""


@dataclass
class Results:
    """Results of a run in the order of its samples, read one at a time and verified: many take no more memory than one.

    Attributes:
        root: a folder per sample is in it, named as the sample; "" is the root itself (a run of a single image).
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
        total, failed = len(self) + len(self.failures), len(self.failures)
        lines = [
            f"{total} images: {len(self) - self.computed} kept, {self.computed} computed, {failed} failed."
        ]
        lines += [f"  failed: {shown(name)}: {why}" for name, why in list(self.failures.items())[:5]]
        lines += [f"  … and {failed - 5} more"] if failed > 5 else []
        return "\n".join(lines).encode("utf-8", "backslashreplace").decode()  # names need not be text

    def folder(self, name: str) -> Path:
        return self.root / name

    def holds(self, name: str, key: Mapping[str, Any]) -> bool:
        """Whether there is a whole result that was computed from exactly this."""
        request = _whole_request(self.folder(name))
        return request is not None and request["key"] == json.loads(json.dumps({**self.key, **key}))

    def put(self, name: str, key: Mapping[str, Any], result: Any) -> None:
        """Write a result; raises FolderError."""
        folder = self.folder(name)
        with writing(folder):
            new = Path(tempfile.mkdtemp(dir=self.partial))
            if self.write is None:
                (new / RESULT).write_text(json.dumps(result))
            else:
                self.write(result, new)
            files = {file.name: file_digest(file) for file in sorted(new.iterdir())}
            request = {"key": {**self.key, **key}, "files": files}
            (new / REQUEST).write_text(json.dumps(request, indent=1) + "\n")
            folder.mkdir(parents=True, exist_ok=True)
            before = result_files(folder)
            for file in before - files.keys():
                (folder / Path(file).name).unlink(missing_ok=True)
            for file in (*files, REQUEST):  # until the last is there, the files are not those of any request
                os.replace(new / file, folder / file)
            new.rmdir()

    def get(self, name: str) -> Any:
        """What was put; raises ValueError if there is no whole result."""
        folder = self.folder(name)
        if _whole_request(folder) is None:
            raise ValueError(f"The result of {name} in {self.root} is missing or damaged; run again.")
        return json.loads((folder / RESULT).read_text()) if self.write is None else folder


def _whole_request(folder: Path) -> dict[str, Any] | None:
    """A folder's ``request.json``, or None unless all files that it lists are what was written."""
    with suppress(OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        if all(file_digest(folder / file) == checksum for file, checksum in request["files"].items()):
            return request if "key" in request else None
    return None


@contextmanager
def only_run(folder: Path, partial: Path) -> Iterator[None]:
    """Within the context no other run of this shard works in the folder; what a killed one left half done goes."""
    with writing(folder):
        partial.parent.mkdir(parents=True, exist_ok=True)
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
            f"{error.filename or folder} cannot be written ({error.strerror or error}); what is finished is kept: make "
            "room, move away what is in the way or choose another output folder, and run again."
        ) from error
