"""A function over many images: each result is kept at once, a bad image stops nothing, a run goes on where it was.

In this process, in several, or on a cluster by Ray; nothing of that changes a byte of the results.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import multiprocessing
import pickle  # between processes of one run, never from a file
import re
import signal
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from threadpoolctl import threadpool_limits

from ..files import STATE, folder_path
from ..pipeline import EmerDiffPipeline, load_pipeline
from ..settings import check_known, whole
from .keys import digest, model_key
from .progress import COMPUTED, FAILED, KEPT, STOPPED, Outcome, with_progress
from .results import FolderError, Results, folder_name, only_run, report

ENGINES = ("local", "ray")
KILLED = "its process was killed, most likely for want of memory; run again, with fewer workers"


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
        samples: {unique name: sample}; ``failures.json`` says which were not possible and why, for 05's ``only``.
        folder: of the results; made if missing.
        key: what all results depend on, for JSON: weights, settings, versions (:mod:`.keys`).
        sample_key: sample → what its result depends on besides, the content of its image for one.
        write: (result, folder) writes files into a folder per sample, and results are these folders, which ``index.csv`` says
            the images of, earlier runs' and other shards' among them; by default a result is kept as JSON below a folder per key,
            beside results of other settings.
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
    number, count = map(int, (shard or "0/1").split("/"))
    top, part = folder_path("output_dir", folder), f"{number}-of-{count}" if shard else ""
    root, partial = top if write else top / digest(key), top / STATE / (part or "all")
    kinds = ("failures.json", "index.csv", "progress.json")
    failures, index, progress = (top / kind.replace(".", f"-{part}." if part else ".") for kind in kinds)
    if len(set(map(folder_name, samples))) < len(samples):
        raise ValueError("Two images would have one folder; rename one, or segment them apart.")
    groups = {name: group(sample) if group else name for name, sample in samples.items()}
    share = set(list(dict.fromkeys(groups.values()))[number::count])
    mine = {name: sample for name, sample in samples.items() if groups[name] in share}
    results = Results(root, key, partial, write)
    job = functools.partial(_attempt, function, results, sample_key)
    run = functools.partial(_outcomes, job, mine, min(workers, len(mine)), engine)
    with only_run(top, partial, (failures, index, progress)):
        try:
            for name, (state, why) in with_progress(run(), len(mine), label, progress, partial):
                if state == STOPPED:
                    raise why
                if state == FAILED:
                    results.failures[name] = why
                results.computed += state == COMPUTED
        finally:
            report(failures, partial, json.dumps(results.failures, indent=1) if results.failures else "")
            folders = results.folders() if write and "" not in mine else {}
            # spreadsheets would take such names for formulas
            plain = lambda name: f"./{name}" if name.startswith(tuple("=+-@")) else name
            rows = [("image", "folder"), *((plain(name), folder.name) for name, folder in folders.items())]
            csv.writer(lines := io.StringIO(), lineterminator="\n").writerows(rows)
            report(index, partial, lines.getvalue() if folders else "")
    results.names = [name for name in mine if name not in results.failures]
    if results.failures and not results.names:
        raise ValueError(f"None of the {len(results.failures)} images could be used. {results}")
    if write is None and results.failures:
        print(results)
    return results


def check_execution(workers: int = 1, engine: str = "local", shard: str = "") -> None:
    """Raises a ValueError for an engine, a number of workers or a shard that is not possible, or Ray that is missing."""
    check_known("engine", engine, ENGINES)
    whole(1)("workers", workers)
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard) if isinstance(shard, str) else None
    if shard != "" and (match is None or int(match[1]) >= int(match[2])):
        raise ValueError(
            f'shard={shard!r} is not possible; write "0/4" to "3/4" for the four parts of a run.'
        )
    if engine == "ray" and find_spec("ray") is None:
        raise ValueError(
            "engine='ray' needs Ray: pip install 'emerdiff-workbook[ray]'; or use engine='local'."
        )


# -- one sample -----------------------------------------------------------------------------------------------------------


def _attempt(function: Callable, results: Results, sample_key: Callable, name: str, sample: Any) -> Outcome:
    """One sample, unless its result may be kept. Whatever goes wrong with it is its outcome; raises FolderError alone."""
    try:
        key = sample_key(sample)
        if results.holds(name, key):
            return KEPT, ""
        result = function(sample)
        if sample_key(sample) != key:
            raise ValueError("it was changed while it was worked on; run again")
        results.put(name, key, result)
    except FolderError:
        raise
    except Exception as error:  # what an image, or a network that is given it, may raise is no closed list
        kind, text = type(error).__name__, " ".join(str(error).split())
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            advice = "try a smaller processing_resolution or another device"
            return FAILED, f"out of memory ({text or kind}); {advice}"
        return FAILED, text if isinstance(error, ValueError | OSError) and text else f"{kind}: {text}"
    return COMPUTED, ""


# -- where they are worked on -------------------------------------------------------------------------------------------


def _outcomes(
    job: Callable, samples: Mapping[str, Any], workers: int, engine: str
) -> Iterator[tuple[str, Outcome]]:
    if not samples or (engine == "local" and workers == 1):
        yield from ((name, job(name, sample)) for name, sample in samples.items())
        return
    start, waiting, running = _by_ray if engine == "ray" else _by_processes, iter(samples.items()), {}
    with start(_dumps(job), torch.get_num_threads(), workers) as (submit, died):
        while True:
            for name, sample in islice(waiting, workers - len(running)):
                running[submit(name, sample)] = name
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                try:
                    outcome = future.result()
                except died:
                    outcome = FAILED, KILLED
                yield running.pop(future), outcome


# To submit a sample, and what is raised if its process dies
Started = tuple[Callable[[str, Any], Future], tuple[type[Exception], ...]]


@contextlib.contextmanager
def _by_processes(job: bytes, threads: int, workers: int) -> Iterator[Started]:
    """Each process has a pipe of its own, which ends with it: one that is killed holds no lock, and nobody waits for it."""
    context = multiprocessing.get_context("spawn")  # forked processes would inherit threads that do not run
    processes: list[Any] = []
    idle: list[Any] = []  # pipes of processes that wait for a sample
    # a process would run the script that started it once more; what it needs of that travels with the job
    script = vars(sys.modules["__main__"])
    hidden = {name: script[name] for name in ("__file__", "__spec__") if name in script}
    script |= dict.fromkeys(hidden)

    def ask(pipe: Any, *messages: Any) -> Outcome:
        for message in messages:
            pipe.send(message)
        outcome = pipe.recv()
        idle.append(pipe)
        return outcome

    with ThreadPoolExecutor(workers) as pool:

        def submit(*sample: Any) -> Future:
            if idle:
                return pool.submit(ask, idle.pop(), sample)
            pipe, other = context.Pipe()
            process = context.Process(target=_serve, args=(other, threads, len(processes)))
            process.start()
            processes.append(process)
            other.close()
            return pool.submit(ask, pipe, job, sample)  # a job may hold a network of many megabytes

        try:
            yield submit, (EOFError, ConnectionError)
        finally:
            for process in processes:
                process.kill()
                process.join()
            script |= hidden


@contextlib.contextmanager
def _by_ray(job: bytes, threads: int, workers: int) -> Iterator[Started]:
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        resources = ray.cluster_resources()
        gpus = min(1.0, resources.get("GPU", 0) / workers)
        cpus = min(1.0, resources["CPU"] / workers)
        work = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_work_on)
        job = ray.put(job)
        yield lambda *sample: work.remote(job, threads, *sample).future(), (ray.exceptions.RayError,)
    finally:
        if ours:
            ray.shutdown()


def _serve(pipe: Any, threads: int, turn: int) -> None:
    """A process's life: one sample after another, until whoever started it is gone."""
    # Ctrl-C is for the process that started the run; it ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (count := torch.cuda.device_count()) > 1:  # each works on the next GPU
        torch.cuda.set_device(turn % count)
    with contextlib.suppress(EOFError, ConnectionError):
        job = pipe.recv()
        while True:
            pipe.send(_work_on(job, threads, *pipe.recv()))


def _work_on(job: bytes, threads: int, name: str, sample: Any) -> Outcome:
    try:
        return _loaded(job, threads)(name, sample)
    except Exception as error:  # a model that is not what it was, or a folder that cannot be written to
        return STOPPED, error


@functools.lru_cache(1)
def _loaded(job: bytes, threads: int) -> Callable:
    """The job; one process does it for many samples, and loads the model once.

    It has as many threads as the process that started the run, since the last digits of results depend on it.
    """
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    return pickle.loads(job)


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
        return _load_same, (value.model_name, value.device.type, dtype, value.variant, model_key(value))


def _dumps(job: Callable) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(job)
    return file.getvalue()


def _load_same(name: str, device: str, dtype: str, variant: str, key: dict[str, Any]) -> EmerDiffPipeline:
    """The pipeline on this worker's GPU, if on any; raises ValueError if the name stands for something else now."""
    pipe = load_pipeline(name, device, dtype, variant=variant)
    if model_key(pipe) != key:
        raise ValueError(
            f"{name} is no longer the model that this run was started with (or was changed after it had been loaded, or runs "
            "under autocast); other processes load it by name: use workers=1, or save it as it is and start again."
        )
    return pipe
