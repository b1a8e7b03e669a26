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
from .names import expanded
from .store import PARTIAL, Store, StoreError, is_record, read_json
from .task import Item

Shard = tuple[int, int]  # (i, n): the items i, i + n, i + 2n …


def parse_shard(text: str) -> Shard | None:
    """(0, 4) from "0/4"; None from "".

    Raises:
        ValueError: for text of another form, or a number that is not below the count.
    """
    if text == "":
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text) if isinstance(text, str) else None
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


def failures_file(folder: Path, shard: Shard | None) -> Path:
    """Where a run says what failed."""
    return folder / ("failures.json" if shard is None else f"failures-{shard[0]}-of-{shard[1]}.json")


def read_failures(path: Path) -> dict[str, str]:
    """{name: why} of such a file; empty for one that is missing or says anything else."""
    found = read_json(path)
    return found if isinstance(found, dict) else {}


def note_shard(store: Store, items: Sequence[Item], shard: Shard, mine: Sequence[Item]) -> None:
    """Say beside the results which part of which whole they are, and where each record is."""
    number, count = shard
    note = {
        "run": digest(store.identity),
        "pictures": digest([item.name for item in items]),
        "shard": number,
        "of": count,
        "records": {item.name: store.path(item.name).relative_to(store.folder).as_posix() for item in mine},
    }
    path = store.folder / f"shard-{number}-of-{count}.json"
    with store.writing(path):
        write_atomically(path, json.dumps(note, indent=1) + "\n")


def merge(folders: Sequence[Path | str], output: Path | str) -> dict[str, Any]:
    """Shards into one folder, which then is what one run over everything would have left.

    Args:
        folders: of the shards, one or several; ``output`` may be one of them.

    Returns:
        {"shards": their number, "pictures": how many they looked at, "failures": {name: why}}.

    Raises:
        ValueError: shards that are missing, damaged or twice there, of different runs or lists of pictures, or that lack a
            record.
        StoreError: the output cannot be written.
    """
    places = list(dict.fromkeys(expanded("folder", folder).resolve() for folder in folders))
    notes = [
        (place, _read_note(path)) for place in places for path in sorted(place.glob("shard-*-of-*.json"))
    ]
    if not notes:
        below = sorted({str(path.parent) for place in places for path in place.glob("*/shard-*-of-*.json")})
        raise ValueError(
            f"There are no shards in {', '.join(map(str, places)) or 'no folder'}; "
            + (f"merge each of {', '.join(below)} by itself." if below else "run with --shard 0/2 and 1/2.")
        )
    for key, meaning in (
        ("run", "settings, models or data"),
        ("pictures", "lists of pictures"),
        ("of", "numbers of shards"),
    ):
        if len({note[key] for _, note in notes}) > 1:
            raise ValueError(
                f"These shards are of different {meaning} and do not belong together; run them again alike."
            )
    numbers, count = sorted(note["shard"] for _, note in notes), notes[0][1]["of"]
    if numbers != list(range(count)):
        missing = sorted(set(range(count)) - set(numbers)) or "none"
        raise ValueError(f"{count} shards are needed, once each; there are {numbers}, missing: {missing}.")
    failures: dict[str, str] = {}
    for place, note in notes:
        failures |= _failures(place, note)
    output = expanded("output", output).resolve()
    try:
        output.mkdir(parents=True, exist_ok=True)
        for place, _ in notes:
            if place != output:
                _copy(place, output)
        for path in (*output.glob("shard-*-of-*.json"), *output.glob("failures*.json")):
            path.unlink()
        if failures:
            write_atomically(failures_file(output, None), json.dumps(failures, indent=1) + "\n")
    except OSError as error:
        raise StoreError(
            f"{output} cannot be written ({error.strerror or error}); choose another folder."
        ) from error
    return {"shards": count, "pictures": sum(len(note["records"]) for _, note in notes), "failures": failures}


def _read_note(path: Path) -> dict[str, Any]:
    note = read_json(path)
    kinds = {"run": str, "pictures": str, "shard": int, "of": int, "records": dict}
    if not isinstance(note, dict) or any(type(note.get(key)) is not kind for key, kind in kinds.items()):
        raise ValueError(f"{path} is damaged; run this shard again.")
    return note


def _failures(place: Path, note: dict[str, Any]) -> dict[str, str]:
    """What failed in a shard; raises a ValueError if it has neither a record of a picture nor a reason why not."""
    said = read_failures(failures_file(place, (note["shard"], note["of"])))
    without = [name for name, record in note["records"].items() if not is_record(place / record, note["run"])]
    if lost := [name for name in without if name not in said]:
        raise ValueError(
            f"Shard {note['shard']}/{note['of']} in {place} lacks {len(lost)} of its records, or they are damaged ({lost[0]!r} "
            "for one); run it again."
        )
    return {name: said[name] for name in without}


def _copy(source: Path, target: Path) -> None:
    """Every record of a folder; each file is whole or not there."""
    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        unfinished = PARTIAL in place.parts or path.name.endswith(".new")
        if unfinished or re.match(r"(shard|failures)-\d+-of-|failures\.json$", path.name):
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
