"""A function over many images: each result is kept at once, a bad image stops nothing, a run goes on where it was.

In this process, in several, or on a cluster by Ray; nothing of that changes a byte of the results.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import multiprocessing
import os
import pickle  # between processes of one run, never from a file
import re
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from filelock import FileLock, Timeout
from pebble import ProcessExpired, ProcessPool
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from ..files import folder_path, write_atomically
from ..images import shown
from ..pipeline import EmerDiffPipeline, load_pipeline
from ..settings import check_known, whole
from .keys import autocast_dtype, digest, model_key
from .records import KEPT, NEW, PARTIAL, FolderError, Records, read_json, writing

ENGINES = ("local", "ray")
COMPUTED, FAILED = "computed", "failed"
KILLED = "its process was killed, most likely for want of memory; run again, with fewer workers"
_AHEAD = 4  # images in flight per worker


@dataclass(frozen=True)
class Outcome:
    """What became of a sample: its state, why (of a failure, or of computing again), and the seconds it took."""

    name: str
    state: str
    why: str = ""
    seconds: float = 0.0


@dataclass
class Results(Sequence):
    """Results of a run in the order of its samples, read one at a time and verified: many take no more memory than one.

    Attributes:
        names: of the samples that there are results of.
        failures: {name: why} of the others.
        computed: how many were computed; the others were kept from an earlier run.
        reasons: why kept ones were computed again, and how many each.
        busy: seconds that went into images, of all workers together.
    """

    records: Records
    names: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    computed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.records.get(name) for name in self.names[index]]
        return self.records.get(self.names[index])

    def __str__(self) -> str:
        total, failed = len(self) + len(self.failures), len(self.failures)
        lines = [
            f"{total} images: {len(self) - self.computed} kept, {self.computed} computed, {failed} failed."
        ]
        lines += [f"  {count} again: {why}" for why, count in self.reasons.most_common(5)]
        lines += [f"  failed: {shown(name)}: {why}" for name, why in list(self.failures.items())[:5]]
        lines += [f"  … and {failed - 5} more"] if failed > 5 else []
        return "\n".join(lines).encode("utf-8", "backslashreplace").decode()  # names need not be text

    def add(self, outcome: Outcome) -> None:
        self.busy += outcome.seconds
        if outcome.state == FAILED:
            self.failures[outcome.name] = outcome.why
            return
        self.names.append(outcome.name)
        self.computed += outcome.state == COMPUTED
        self.reasons.update([outcome.why] if outcome.why else [])


def cached_map(
    function: Callable[[Any], Any],
    samples: Mapping[str, Any],
    folder: Path | str,
    key: Mapping[str, Any],
    sample_key: Callable[[Any], Mapping[str, Any]],
    *,
    write: Callable[[Any, Path], None] | None = None,
    workers: int = 1,
    engine: str = "local",
    shard: str = "",
    group: Callable[[Any], Hashable] | None = None,
    label: str = "images",
) -> Results:
    """``function`` of every sample, computed or kept from an earlier run of exactly the same.

    Args:
        function: sample → what JSON knows (or what ``write`` takes). It travels to other processes with all that it holds;
            pipelines among it are loaded there anew, by name, and must turn out to be the same.
        samples: {unique name: sample}; results are kept under the name.
        folder: of the results; made if missing.
        key: what all results depend on, for JSON: weights, settings, versions (:mod:`.keys`).
        sample_key: sample → what its result depends on besides, the content of its image for one.
        write: (result, folder) writes files into a folder per sample, and results are these folders; by default a result is
            kept as JSON below a folder per key, so that results of other settings stay beside these.
        workers: processes, or Ray's tasks at a time; 1 with "local" is this process.
        engine: "local", or "ray": the cluster of RAY_ADDRESS, else one on this machine.
        shard: "0/4" is the first of four runs that share the folder and know nothing of each other; "": everything.
        group: sample → what it belongs to: samples of one group, such as a scene under several settings, stay in one shard.
        label: what the progress bar says.

    Raises:
        ValueError: an engine, a number of workers or a shard that is not possible; every sample failed.
        FolderError: the folder cannot be made or written to, or another run is at work in it.
    """
    check_execution(workers, engine, shard)
    key = json.loads(json.dumps(key))
    top = folder_path("output_dir", folder)
    partial = top / PARTIAL / (shard.replace("/", "-of-") or "all")
    if write is None:
        records = Records(
            top / digest(key), key, partial, _write_json, lambda place: read_json(place / "result.json")
        )
    else:
        records = Records(top, key, partial, write, lambda place: place)
    number, count = map(int, (shard or "0/1").split("/"))
    groups = {name: name if group is None else group(sample) for name, sample in samples.items()}
    share = set(list(dict.fromkeys(groups.values()))[number::count])
    mine = {name: sample for name, sample in samples.items() if groups[name] in share}
    results, job = Results(records), functools.partial(_attempt, function, records, sample_key)
    with _only_run(top, partial), tqdm(total=len(mine), desc=label, disable=len(mine) < 2) as bar:
        try:
            for outcome in _outcomes(job, mine, min(workers, len(mine)), engine):
                results.add(outcome)
                bar.update()
        finally:
            _write_failures(top, shard, results)
    order = {name: position for position, name in enumerate(mine)}
    results.names.sort(key=order.__getitem__)
    if results.failures and not results.names:
        raise ValueError(f"None of the {len(results.failures)} images could be used. {results}")
    if write is None and (results.failures or results.reasons):
        print(results)
    return results


def _write_json(result: Any, folder: Path) -> None:
    (folder / "result.json").write_text(json.dumps(result))


def check_execution(workers: int = 1, engine: str = "local", shard: str = "") -> None:
    """Raises a ValueError for an engine, a number of workers or a shard that is not possible, or Ray that is missing."""
    check_known("engine", engine, ENGINES)
    whole(1)("workers", workers)
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard) if isinstance(shard, str) else None
    if shard != "" and (match is None or int(match[1]) >= int(match[2])):
        raise ValueError(
            f'shard={shard!r} is not possible; write "0/4" to "3/4" for the four parts of a run.'
        )
    if engine == "ray":
        try:
            import ray  # noqa: F401
        except ImportError:
            raise ValueError(
                "engine='ray' needs Ray: pip install 'emerdiff-workbook[ray]'; or use engine='local'."
            ) from None


@contextlib.contextmanager
def _only_run(folder: Path, partial: Path) -> Iterator[None]:
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


def _write_failures(folder: Path, shard: str, results: Results) -> None:
    """{name: why} for people, and for another try with notebook 04's ``only``."""
    path = folder / (f"failures-{shard.replace('/', '-of-')}.json" if shard else "failures.json")
    with writing(path):
        if results.failures:
            write_atomically(path, json.dumps(results.failures, indent=1) + "\n")
        elif isinstance(read_json(path), dict):
            path.unlink()


# -- one sample -----------------------------------------------------------------------------------------------------------


def _attempt(function: Callable, records: Records, sample_key: Callable, name: str, sample: Any) -> Outcome:
    """One sample, unless its record may be kept. Whatever goes wrong with it is its outcome, but for a FolderError."""
    start = time.perf_counter()
    try:
        key = sample_key(sample)
        state = records.state(name, key)
        if state == KEPT:
            return Outcome(name, KEPT)
        result = function(sample)
        if sample_key(sample) != key:
            raise ValueError("it was changed while it was worked on; run again")
        with writing(records.root):
            records.put(name, key, result)
    except FolderError:
        raise
    except Exception as error:  # what an image, or a network that is given it, may raise is no closed list
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            gc.collect()
            torch.cuda.empty_cache()
        return Outcome(name, FAILED, one_line(error))
    return Outcome(name, COMPUTED, "" if state == NEW else state, time.perf_counter() - start)


def one_line(error: BaseException) -> str:
    """An error as one line of text."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"out of memory ({text or type(error).__name__}); try a smaller processing_resolution or another device"
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"


# -- where they are worked on -------------------------------------------------------------------------------------------


def _outcomes(job: Callable, samples: dict[str, Any], workers: int, engine: str) -> Iterator[Outcome]:
    if engine == "ray" and samples:
        return _by_ray(job, samples, workers)
    if workers <= 1:
        return (job(name, sample) for name, sample in samples.items())
    return _by_processes(job, samples, workers)


def _by_processes(job: Callable, samples: dict[str, Any], workers: int) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")  # forked processes would inherit threads that do not run
    setup = (_dumps(job), torch.get_num_threads(), context.Value("i", 0))
    pool = ProcessPool(workers, context=context, initializer=_start_worker, initargs=setup)
    waiting, ahead = iter(samples.items()), deque()
    try:
        while True:
            while len(ahead) < _AHEAD * workers and (item := next(waiting, None)):
                ahead.append((item[0], pool.schedule(_work, item)))
            if not ahead:
                break
            name, future = ahead.popleft()
            try:
                yield future.result()
            except ProcessExpired:
                yield Outcome(name, FAILED, KILLED)
        pool.close()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join()


class _Worker:
    """What this process does, and which of several on this machine it is."""

    job: bytes = b""
    number: int | None = None


def _start_worker(job: bytes, threads: int, number: Any) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the process that started the run; it ends the others
    with number.get_lock():
        _Worker.job, _Worker.number = job, number.value
        number.value += 1
    set_threads(threads)


def _work(name: str, sample: Any) -> Outcome:
    return _loaded(_Worker.job)(name, sample)


@functools.lru_cache(1)
def _loaded(job: bytes) -> Callable:
    """The job; one process does it for many samples, and loads the model once."""
    return pickle.loads(job)


def set_threads(threads: int) -> None:
    """As many threads as the process that started the run has, since the last digits of results depend on it."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def _by_ray(job: Callable, samples: dict[str, Any], workers: int) -> Iterator[Outcome]:
    import ray

    here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": max(workers, os.cpu_count() or 1)}
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", **here)
    try:
        resources = ray.cluster_resources()
        gpus = min(1.0, resources.get("GPU", 0) / workers)
        options = {"num_cpus": min(1.0, resources["CPU"] / workers), "num_gpus": gpus, "max_retries": 0}
        work = ray.remote(**options)(_ray_work)
        pickled, threads = ray.put(_dumps(job)), torch.get_num_threads()
        waiting, running = iter(samples.items()), {}
        while True:
            while len(running) < workers and (item := next(waiting, None)):
                running[work.remote(pickled, threads, *item)] = item[0]
            if not running:
                break
            (done,), _ = ray.wait(list(running))
            name = running.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None  # a FolderError; everything else is an outcome
            except ray.exceptions.RayError:
                yield Outcome(name, FAILED, KILLED)
    finally:
        if ours:
            ray.shutdown()


def _ray_work(job: bytes, threads: int, name: str, sample: Any) -> Outcome:
    set_threads(threads)
    return _loaded(job)(name, sample)


# -- pipelines travel by name -------------------------------------------------------------------------------------------


class _Pickler(cloudpickle.Pickler):
    """Takes functions of a notebook's cells along, and of pipelines no more than what they are loaded by."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, EmerDiffPipeline):
            return super().reducer_override(value)
        if value.model_name is None:
            raise ValueError(
                "This pipeline was put together by hand, and other processes load it by name: use workers=1, or save it with "
                "save_pretrained and load the folder."
            )
        dtype = str(value.dtype).removeprefix("torch.")
        device = str(value.device)
        return _load_same, (
            value.model_name,
            device,
            dtype,
            autocast_dtype(value.device.type),
            model_key(value),
        )


def _dumps(job: Callable) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(job)
    return file.getvalue()


def _load_same(
    name: str, device: str, dtype: str, autocast: torch.dtype | None, key: dict[str, Any]
) -> EmerDiffPipeline:
    """The pipeline on this worker's share of the devices, under the autocast of the process that started the run.

    Raises:
        ValueError: if what the name stands for is not what it was.
    """
    count = torch.cuda.device_count() if device.startswith("cuda") else 0
    if _Worker.number is not None and count > 1:
        device = f"cuda:{_Worker.number % count}"
    pipe = load_pipeline(name, device, dtype)
    if autocast is not None:  # for the rest of this process, which does nothing else
        torch.autocast(pipe.device.type, autocast).__enter__()
    if model_key(pipe) != key:
        raise ValueError(
            f"{name} is no longer the model that this run was started with (or was changed after it had been loaded); "
            "other processes load it by name: use workers=1, or save it as it is and start again."
        )
    return pipe
