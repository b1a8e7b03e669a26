"""A run split between processes that know nothing of each other, as SLURM and torchrun start them, and put together again.

``--shard $SLURM_ARRAY_TASK_ID/4`` (or ``$RANK/$WORLD_SIZE``) takes every fourth picture from that one on. Shards may share an
output folder, or have one each; ``python -m emerdiff_lib.runs.shards FOLDER … --output FOLDER`` checks that they are parts of one
whole and puts them together.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .identity import digest
from .store import Store, StoreError
from .task import Item

Shard = tuple[int, int]  # (i, n): the items i, i + n, i + 2n …


def parse_shard(text: str) -> Shard | None:
    """(0, 4) from "0/4"; None from "".

    Raises:
        ValueError: for text of another form, or a number that is not below the count.
    """
    if not text:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", str(text))
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f'shard={text!r} is not possible; write "0/4" to "3/4" for the four parts of a run.')
    return int(match[1]), int(match[2])


def shard_of(items: Sequence, shard: Shard | None) -> list:
    """The items of one shard, or all.

    Raises:
        ValueError: for a shard that is none.
    """
    if shard is None:
        return list(items)
    number, count = shard
    if not 0 <= number < count:
        raise ValueError(f"shard={shard} is not possible; of {count} shards, choose 0 to {count - 1}.")
    return list(items[number::count])


def note_shard(
    store: Store, items: Sequence[Item], shard: Shard, done: int, failures: dict[str, str]
) -> None:
    """Say beside the results which part of which whole they are."""
    number, count = shard
    note = {
        "run": digest(store.identity),
        "pictures": digest([item.name for item in items]),
        "shard": number,
        "of": count,
        "count": done,
        "failures": failures,
    }
    write_atomically(store.folder / f"shard-{number}-of-{count}.json", json.dumps(note, indent=1) + "\n")


def merge(folders: Sequence[Path | str], output: Path | str) -> dict[str, Any]:
    """Shards into one folder, which then is what one run over everything would have left.

    Args:
        folders: of the shards, one or several; ``output`` may be one of them.

    Returns:
        {"shards": their number, "pictures": how many they looked at, "failures": {name: why}}.

    Raises:
        ValueError: shards that are missing, twice there, or of different runs or lists of pictures.
        StoreError: the output cannot be written.
    """
    notes = [(folder, path) for folder in map(Path, folders) for path in sorted(folder.glob("shard-*.json"))]
    found = [json.loads(path.read_text(encoding="utf-8")) for _, path in notes]
    if not found:
        raise ValueError(
            f"There are no shards in {', '.join(map(str, folders))}; run with --shard 0/2 and 1/2."
        )
    for key, meaning in (
        ("run", "settings, models or data"),
        ("pictures", "lists of pictures"),
        ("of", "numbers of shards"),
    ):
        if len({note[key] for note in found}) > 1:
            raise ValueError(
                f"These shards are of different {meaning} and do not belong together; run them again alike."
            )
    numbers, count = sorted(note["shard"] for note in found), found[0]["of"]
    if numbers != list(range(count)):
        missing = sorted(set(range(count)) - set(numbers)) or "none"
        raise ValueError(f"{count} shards are needed, once each; there are {numbers}, missing: {missing}.")
    output = Path(output).expanduser()
    try:
        output.mkdir(parents=True, exist_ok=True)
        for folder in dict.fromkeys(folder for folder, _ in notes):
            if folder.resolve() != output.resolve():
                _copy(folder, output)
        failures = {name: why for note in found for name, why in note["failures"].items()}
        for path in (*output.glob("shard-*-of-*.json"), *output.glob("failures-*-of-*.json")):
            path.unlink()
        if failures:
            write_atomically(
                output / "failures.json", json.dumps(failures, indent=1, ensure_ascii=False) + "\n"
            )
    except OSError as error:
        raise StoreError(
            f"{output} cannot be written ({error.strerror or error}); choose another folder."
        ) from error
    return {"shards": count, "pictures": sum(note["count"] for note in found), "failures": failures}


def _copy(source: Path, target: Path) -> None:
    """Every record of a folder; each file is whole or not there."""
    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        if any(part.startswith(".") for part in place.parts) or re.match(
            r"(shard|failures)-\d+-of-", path.name
        ):
            continue
        if path.is_dir():
            (target / place).mkdir(parents=True, exist_ok=True)
        else:
            temporary = (target / place).with_name(f".{path.name}.new")
            shutil.copyfile(path, temporary)
            temporary.replace(target / place)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", help="output folders of the shards")
    parser.add_argument("--output", required=True, help="where everything goes; may be one of the folders")
    args = parser.parse_args(argv)
    try:
        found = merge(args.folders, args.output)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{found['pictures']} pictures of {found['shards']} shards are in {args.output}.")
    if found["failures"]:
        sys.exit(f"{len(found['failures'])} of them failed; {args.output}/failures.json says why.")


if __name__ == "__main__":
    main()
