"""Where pictures are worked on: in this process, in several, or by Ray's actors on one machine or many.

All engines give :class:`~.harness.Outcome` in the order of the items, hold a bounded number of pictures in flight, survive
workers that die, and leave the results themselves to the store.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import pickle  # between processes of one run, never from a file
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from pebble import ProcessExpired, ProcessPool

from ..settings import check_known, whole
from .store import StoreError
from .task import FAILED, Item, Outcome, Task, attempt
from .workers import WORKER_NUMBER, set_threads

ENGINES = ("local", "ray")
_AHEAD = 4  # batches in flight per worker
_TRIES = 2  # a picture whose process died is tried once more: it may have been another one's memory
DIED = "its process was killed twice, most likely for want of memory; run again with fewer workers"


def check_engine(engine: str, workers: int) -> None:
    """Raises a ValueError for an unknown engine, an impossible number of workers, or Ray where it is not installed."""
    check_known("engine", engine, ENGINES)
    whole(1)("workers", workers)
    if engine == "ray":
        try:
            import ray  # noqa: F401
        except ImportError:
            raise ValueError(
                "engine='ray' needs Ray: pip install 'emerdiff-workbook[ray]'; or use engine='local'."
            ) from None


def outcomes(task: Task, items: Sequence[Item], engine: str = "local", workers: int = 1) -> Iterator[Outcome]:
    """What becomes of every item, in order.

    Raises:
        StoreError: the folder of the results cannot be written to any more.
    """
    batches = list(_batches(items))
    workers = min(workers, len(batches))
    if engine == "ray" and batches:
        return _by_ray(task, batches, workers)
    if workers <= 1:
        return (attempt(task, item) for item in items)
    return _by_processes(task, batches, affordable_workers(workers))


def affordable_workers(wanted: int) -> int:
    """As many processes as free memory has room for, judged by this one, which has the model loaded; at least 1."""
    room = psutil.virtual_memory().available // max(psutil.Process().memory_info().rss, 1)
    if room < wanted:
        print(f"{wanted} workers would not fit into the memory that is free: {max(1, room)} will work.")
    return max(1, min(wanted, room))


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items that share a group, in lists; the others one by one."""
    alone = lambda pair: (pair[1].group, None if pair[1].group else pair[0])
    for _, found in itertools.groupby(enumerate(items), key=alone):
        yield [item for _, item in found]


# -- processes ----------------------------------------------------------------------------------------------------------


def _by_processes(task: Task, batches: list[list[Item]], workers: int) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")  # forked processes would inherit threads that do not run
    setup = (pickle.dumps(task), torch.get_num_threads(), context.Value("i", 0))
    pool = ProcessPool(workers, context=context, initializer=_start_worker, initargs=setup)
    try:
        waiting, ahead = iter(batches), deque()
        for batch in itertools.islice(waiting, _AHEAD * workers):
            ahead.append((batch, pool.schedule(_work, [batch])))
        while ahead:
            batch, future = ahead.popleft()
            for attempts in itertools.count(1):
                try:
                    yield from future.result()
                    break
                except ProcessExpired:
                    if attempts == _TRIES:
                        yield from (Outcome(item.name, FAILED, DIED) for item in batch)
                        break
                    future = pool.schedule(_work, [batch])
            for batch in itertools.islice(waiting, 1):
                ahead.append((batch, pool.schedule(_work, [batch])))
        pool.close()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join()


class _Worker:
    """The task of this process, loaded with its first batch."""

    setup: tuple[bytes, int]
    task: Task | None = None


def _start_worker(task: bytes, threads: int, number: Any) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the process that started the run; it ends the others
    with number.get_lock():
        os.environ[WORKER_NUMBER] = str(number.value)
        number.value += 1
    _Worker.setup = task, threads


def _work(batch: list[Item]) -> list[Outcome]:
    if _Worker.task is None:
        task, threads = _Worker.setup
        set_threads(threads)
        _Worker.task = pickle.loads(task)
    return [attempt(_Worker.task, item) for item in batch]


# -- Ray ----------------------------------------------------------------------------------------------------------------


def _by_ray(task: Task, batches: list[list[Item]], workers: int) -> Iterator[Outcome]:
    import ray

    with _cluster(ray, workers):
        resources, gpus = ray.cluster_resources(), 0.0
        if getattr(getattr(task, "pipe", None), "device", torch.device("cpu")).type == "cuda":
            gpus = min(1.0, resources.get("GPU", 0) / workers)
        cpus = min(
            1.0, 0.5 * resources["CPU"] / workers
        )  # half are left to Ray's own tasks; nothing is pinned
        ray.data.DataContext.get_current().execution_options.preserve_order = True
        rows = [{"batch": pickle.dumps(batch)} for batch in batches]
        blocks = min(len(rows), max(16 * workers, len(rows) // 16))
        found = ray.data.from_items(rows, override_num_blocks=blocks).map(
            RayWorker,
            fn_constructor_args=(
                ray.cloudpickle.dumps(task),
                torch.get_num_threads(),
            ),  # a command's tasks are of __main__
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cpus,
            num_gpus=gpus or None,
        )  # Ray starts lost actors again and repeats what they had; RayWorker counts how often
        for row in found.iter_rows():
            outcomes = pickle.loads(row["outcomes"])
            if isinstance(outcomes, StoreError):
                raise outcomes
            yield from outcomes


@contextmanager
def _cluster(ray: Any, workers: int) -> Iterator[None]:
    """The cluster that is there, or one on this machine for as long as the context lasts."""
    if ray.is_initialized():
        yield
        return
    here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": max(workers + 1, os.cpu_count() or 1)}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", **here)
    ray.data.DataContext.get_current().enable_progress_bars = False  # one bar is enough
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


class RayWorker:
    """An actor of Ray: the model is loaded once, then pictures come in batches."""

    def __init__(self, task: bytes, threads: int):
        set_threads(threads)
        self.task: Task = pickle.loads(task)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        try:
            found = [self._attempt(item) for item in pickle.loads(row["batch"])]
        except StoreError as error:  # Ray would wrap it in pages of its own
            return {"outcomes": pickle.dumps(error)}
        return {"outcomes": pickle.dumps(found)}

    def _attempt(self, item: Item) -> Outcome:
        """A picture that killed its process twice is not tried a third time; Ray itself would go on for ever."""
        tries = self.task.store.tries(item.name)
        if tries >= _TRIES:
            self.task.store.note_tries(item.name, 0)  # the next run may try
            return Outcome(item.name, FAILED, DIED)
        self.task.store.note_tries(item.name, tries + 1)
        outcome = attempt(self.task, item)
        self.task.store.note_tries(item.name, 0)
        return outcome
