"""What do a million pictures cost, and where do store, driver and shared file system become the limit?

``python -m emerdiff_lib.benchmark.scale`` measures records of a real size without a model (:mod:`.empty`) and extrapolates. Files
stay in the cache of the operating system and on the disk of ``--output``: what a shared file system adds is reckoned from
``--metadata-rate``, an assumption.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import shlex
import shutil
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch

from ..datasets import open_dataset
from ..experiments.manifest import write_manifest
from ..experiments.names import BILINEAR, EMERDIFF
from ..experiments.rivals import evaluate
from ..loading import load_pipeline
from ..runs.engines import outcomes
from ..runs.harness import Execution, run
from ..runs.pictures import find_images
from ..runs.segment import Segmentation
from ..runs.store import FolderStore, JsonStore
from ..runs.task import COMPUTED, FAILED, KEPT, Item, Task
from ..settings import whole
from ..timing import timed
from . import stable_diffusion
from .costs import Machine
from .empty import NoStore, Ready, WatchedStore, counting, pictures, write
from .million import FOLDERS, RECORDS, describe, extrapolate

SEED = 46  # of the picture whose results are written again and again
PICTURE_BYTES = 150_000  # of a photograph as data sets have them
ENGINES = (("local, 2 workers", "local", 2), ("Ray, 2 workers", "ray", 2))


# -- one picture --------------------------------------------------------------------------------------------------------


def tasks(folder: Path) -> dict[str, Callable[[Path], Ready]]:
    """{store: task for an output folder}: what notebooks 04 and 06 keep of a Toyscapes picture, computed once in ``folder``."""
    pipe = load_pipeline("toyscapes", "cpu", "float32")
    picture = folder / "picture"
    picture.write_bytes(bytes(PICTURE_BYTES))
    segmentation = Segmentation(pipe, folder / "04", mode="fast")
    run(segmentation, [Item("", find_images(f"toyscapes:{SEED}")[0])], progress=False)
    paths = [path for path in (folder / "04").glob("[!.]*") if path.name != FolderStore.RECORD]
    files = {path.name: path.read_bytes() for path in paths}
    settings = {"mode": "fast"}
    scores = evaluate(
        pipe, open_dataset("toyscapes", "", "test"), [BILINEAR, EMERDIFF], folder / "06", settings, [SEED]
    )
    identities = segmentation.store.identity, scores.store.identity
    return {
        FOLDERS: lambda output: Ready(WatchedStore(output, identities[0], write), picture, files),
        RECORDS: lambda output: Ready(JsonStore(output, identities[1]), picture, scores[0]),
    }


def on_disk(folder: Path, count: int) -> dict[str, float]:
    """What each of ``count`` pictures takes: kB of content and on the disk, and inodes."""
    found = [path.stat() for path in folder.rglob("*") if ".partial" not in path.parts]
    return {
        "kB": sum(s.st_size for s in found) / count / 1e3,
        "kB on disk": sum(s.st_blocks * 512 for s in found) / count / 1e3,
        "inodes": len(found) / count,
    }


def operations(task: Ready, count: int = 20) -> dict[str, float]:
    """Operations on metadata for each picture that is written, kept, and, of a written one's, behind the lock; its ms there."""
    items, found = pictures(count), {}
    task.store.open()
    for name in ("written", "kept"):
        with counting() as number:
            list(outcomes(task, items))
        found[f"operations, {name}"] = number[0] / count
    if isinstance(task.store, WatchedStore):
        found["operations, locked"] = task.store.operations_locked / count
        found["ms locked"] = 1e3 * task.store.seconds_locked / count
    return found


# -- many pictures ------------------------------------------------------------------------------------------------------


def throughput(make: Callable[[Path], Task], output: Path, records: int, processes: int) -> dict[str, float]:
    """Pictures per second that ``processes`` write into one folder, and find kept there."""
    task, items, found = make(output), pictures(records), {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _Together.meet, [context.Barrier(processes)]) as pool:
        for name, state in (("written / s", COMPUTED), ("kept / s", KEPT)):
            jobs = [pool.submit(_share, task, items, f"{i}/{processes}") for i in range(processes)]
            starts, ends, states = zip(*(job.result() for job in jobs), strict=True)
            if sum(counts[state] for counts in states) != records:
                raise RuntimeError(f"{records} pictures should have been {state}, but were {states}.")
            found[name] = records / (max(ends) - min(starts))
    return found


class _Together:
    """What the processes of :func:`throughput` wait for, so that all work at the same time."""

    barrier: Any

    @classmethod
    def meet(cls, barrier: Any) -> None:
        cls.barrier = barrier


def _share(task: Task, items: list[Item], shard: str) -> tuple[float, float, Any]:
    _Together.barrier.wait()
    start = time.time()
    report = run(task, items, Execution(shard=shard), progress=False)
    return start, time.time(), report.states


def harness(folder: Path, counts: list[int]) -> pd.DataFrame:
    """Time and memory of the driver, for pictures that take neither: flat where the harness is linear in their number."""
    rows = {}
    for count in counts:
        task, how = Ready(NoStore(folder, {})), Execution(shard="0/1")
        items = pictures(count)
        _, seconds = timed(lambda: run(task, items, how, progress=False))  # noqa: B023
        tracemalloc.start()
        items = pictures(count)
        held = tracemalloc.get_traced_memory()[0]
        run(task, items, how, progress=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows[count] = {
            "µs / picture": 1e6 * seconds / count,
            "bytes / item": held / count,
            "bytes / picture at the peak": peak / count,
        }
    return pd.DataFrame(rows).T.rename_axis("pictures")


def listing(folder: Path, count: int) -> dict[str, float]:
    """What a folder of ``count`` pictures costs to list: µs and bytes for each."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:08}.jpg").touch()
    _, seconds = timed(lambda: find_images(folder))
    tracemalloc.start()
    sources = find_images(folder)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = {"µs": 1e6 * seconds, "bytes": held, "bytes at the peak": peak}
    return {f"{name} / picture listed": value / len(sources) for name, value in found.items()}


def dispatch(folder: Path, count: int, engine: str, workers: int) -> dict[str, float]:
    """How fast an engine hands out pictures that take nothing: the later half, when all workers are there."""
    return later_half(Ready(NoStore(folder, {})), pictures(count), engine, workers)


def segmented(folder: Path, count: int, ray: bool) -> pd.DataFrame:
    """How fast one and two workers segment pictures, in fast mode and on one thread each: the later half, as ratios too."""
    threads, rows = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    try:
        pipe = load_pipeline("toyscapes", "cpu", "float32")
        sources = find_images(f"toyscapes:{SEED}-{SEED + count - 1}")
        items = [Item(source.record, source) for source in sources]
        for name, engine, workers in (("local, 1 worker", "local", 1), *ENGINES[: 1 + ray]):
            task = Segmentation(pipe, folder / name, mode="fast")
            rows[name] = later_half(task, items, engine, workers)
    finally:
        torch.set_num_threads(threads)
    table = pd.DataFrame(rows).T.rename_axis("engine")
    rate = table["pictures / s"]
    return table.assign(
        **{"of local, 1 worker": rate / rate.iloc[0], "of local, 2 workers": rate / rate.iloc[1]}
    )


def later_half(task: Task, items: list[Item], engine: str, workers: int) -> dict[str, float]:
    """The rate of the later half, when all workers are there, and the seconds until then.

    Raises:
        RuntimeError: if a picture fails.
    """
    task.store.open()
    found = outcomes(task, items, engine, workers)
    first, start = timed(lambda: list(itertools.islice(found, len(items) // 2)))
    rest, seconds = timed(lambda: list(found))
    if failed := [one for one in first + rest if one.state == FAILED]:
        raise RuntimeError(f"{failed[0].name} failed: {failed[0].why}")
    return {"s to the first half": start, "pictures / s": len(rest) / seconds}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--records", type=int, default=10_000, help="pictures written and verified")
    parser.add_argument("--pictures", type=int, default=80, help="segmented by each engine; 0 for none")
    parser.add_argument("--ray", action="store_true", help="also Ray's dispatch and pictures")
    parser.add_argument(
        "--seconds-per-picture", type=float, default=10.0, help="of a worker with a GPU; an assumption"
    )
    parser.add_argument(
        "--metadata-rate", type=float, default=1000.0, help="operations / s of a shared file system; assumed"
    )
    parser.add_argument("--output", default="runs/scale", help="manifest.json; where records are written")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, pd.DataFrame]:
    args = arguments(argv)
    records, output = whole(10)("--records", args.records), Path(args.output).expanduser()
    whole(0)("--pictures", args.pictures)
    output.mkdir(parents=True, exist_ok=True)
    tables: dict[str, pd.DataFrame] = {}

    def show(title: str, table: pd.DataFrame) -> pd.DataFrame:
        tables[title] = table
        print(f"\n{title}\n{table.to_string(na_rep='', float_format='{:.3g}'.format)}", flush=True)
        return table

    with tempfile.TemporaryDirectory(dir=output, prefix=".scale-") as name:
        folder, picture, rates = Path(name), {}, {}
        for store, make in tasks(folder).items():
            of_one = operations(make(folder / "operations" / store))
            for processes in (1, 2):
                place = folder / "records"
                rates[store, processes] = throughput(make, place, records, processes)
                picture[store] = on_disk(place, records) | of_one
                shutil.rmtree(place)
        show("A picture in the store", pd.DataFrame(picture).T.rename_axis("store"))
        show("Pictures per second, one folder", pd.DataFrame(rates).T.rename_axis(["store", "processes"]))
        driver = harness(folder / "nothing", [records // 10, records, 10 * records])
        show("The driver, pictures that take nothing", driver)
        show("Listing a folder", pd.DataFrame([listing(folder / "listed", records)], index=["find_images"]))
        sent = {name: dispatch(folder / "sent", records, e, n) for name, e, n in ENGINES[: 1 + args.ray]}
        engines = show("Dispatch, pictures that take nothing", pd.DataFrame(sent).T.rename_axis("engine"))
        if args.pictures:
            show(
                "Segmented, fast mode, a thread each",
                segmented(folder / "segmented", args.pictures, args.ray),
            )
    title = f"A million, {args.seconds_per_picture:g} s each, {args.metadata_rate:g} operations / s shared"
    one, many = list(tables.values())[:2]
    million = show(title, extrapolate(one, many, args.seconds_per_picture, args.metadata_rate))
    networks = stable_diffusion.networks(torch.bfloat16, "meta")
    cost = stable_diffusion.predicted(stable_diffusion.published_settings(*networks), *networks)
    notes = describe(million, driver, engines, args.seconds_per_picture, cost.flops / 1e12)
    notes.append(f"Measured on {Machine.measure(dtypes=(), repeats=1).name}; {_file_system(output)} on disk.")
    print("\n" + "\n".join(notes))
    write_manifest(
        output / "manifest.json",
        title="Runs at scale",
        question="What do a million pictures cost, and what becomes the limit?",
        command=shlex.join(
            ["python", "-m", "emerdiff_lib.benchmark.scale", *(sys.argv[1:] if argv is None else argv)]
        ),
        settings={key: value for key, value in vars(args).items() if key != "output"},
        seeds=[SEED],
        tables=tables,
        notes=notes,
    )
    return tables


def _file_system(folder: Path) -> str:
    mounted = psutil.disk_partitions(all=True)
    here = [part for part in mounted if folder.resolve().is_relative_to(part.mountpoint)]
    return max(here, key=lambda part: len(part.mountpoint)).fstype


if __name__ == "__main__":
    main()
