"""Small tasks without a model for the tests of the harness; in a module of their own, as workers import them by name."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from emerdiff_lib.runs.store import FolderStore, JsonStore
from emerdiff_lib.runs.task import Item, Task


class Words(Task):
    """The words of a text file, counted; ``trouble`` {name: what goes wrong with it}."""

    def __init__(
        self,
        output: Path,
        seed: int = 0,
        seconds: float = 0.0,
        trouble: dict[str, str] | None = None,
        store: str = "json",
    ):
        self.seed, self.seconds, self.trouble = seed, seconds, trouble or {}
        identity = {"study": "words", "seed": seed}
        self.store = JsonStore(output, identity) if store == "json" else FolderStore(output, identity, write)

    def picture(self, item: Item) -> dict[str, Any]:
        return {"text": Path(item.what).read_text()}

    def compute(self, item: Item) -> dict[str, Any]:
        time.sleep(self.seconds)
        kind = self.trouble.get(item.name, "")
        if kind == "value":
            raise ValueError("it has no words")
        if kind == "memory":
            raise MemoryError("Unable to allocate 9 TiB")
        if kind == "interrupt":
            raise KeyboardInterrupt
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind.startswith("kill once"):
            marker = Path(kind.removeprefix("kill once "))
            if not marker.exists():
                marker.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
        text = Path(item.what).read_text()
        return {"seed": self.seed, "words": len(text.split()), "share": len(text) / 7, "text": text * 50}


def write(result: dict[str, Any], folder: Path) -> None:
    (folder / "words.json").write_text(json.dumps(result))
    (folder / "text.txt").write_text(result["text"])


def items(folder: Path) -> list[Item]:
    """An item per text file."""
    return [Item(path.name, str(path)) for path in sorted(folder.glob("*.txt"))]


class Gone(JsonStore):
    """A store whose disk is full by the time that a worker writes."""

    def keep(self, name: str, picture: dict[str, Any], result: Any) -> None:
        with self.writing(self.path(name)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
