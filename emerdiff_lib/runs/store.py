"""Results on disk, one JSON per picture, so that a long evaluation goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from ..files import write_atomically


class ResultStore:
    """One file per key in a folder, all made under the same header (settings, weights …).

    Raises:
        ValueError: if the folder holds results made under another header.
    """

    def __init__(self, folder: Path | str, header: dict):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "header.json"
        if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(header)):
            raise ValueError(
                f"{self.folder} holds results of another model or other settings; choose another output folder or delete it."
            )
        write_atomically(path, json.dumps(header))

    def recall(self, key: str) -> dict | None:
        path = self.folder / f"{key}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def keep(self, key: str, result: dict) -> dict:
        write_atomically(self.folder / f"{key}.json", json.dumps(result))
        return json.loads(json.dumps(result))  # what a later run will read, to the digit


def fingerprint(module: torch.nn.Module) -> str:
    """Twelve hex digits that change with any weight."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
