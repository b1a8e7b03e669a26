"""Engines: processes and Ray make what one process makes, whoever is killed on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from emerdiff_lib.runs import engines, pictures, workers
from emerdiff_lib.runs.harness import Execution, run
from emerdiff_lib.runs.segment import segment_all
from emerdiff_lib.runs.task import Item

from .run_tasks import Words, items
from .test_runs import QUICK, QUIET, texts, tree  # noqa: F401  (texts is a fixture)

ROOT = Path(__file__).parents[1]
RUN = """
import sys
from pathlib import Path
from emerdiff_lib.runs.harness import Execution, run
from tests.run_tasks import Words, items
if __name__ == "__main__":
    run(Words(Path(sys.argv[1]), seconds=0.05), items(Path(sys.argv[2])), Execution(workers=2), progress=False)
"""


def test_ray_makes_what_one_process_makes_though_actors_are_killed(texts, tmp_path):  # noqa: F811
    trouble = {"02.txt": f"kill once {tmp_path}/marker", "04.txt": "value", "07.txt": "kill"}
    bad = {"04.txt": "value", "07.txt": "value"}
    run(Words(tmp_path / "one", trouble=bad), items(texts), **QUIET)
    report = run(Words(tmp_path / "ray", trouble=trouble), items(texts), Execution("ray", 2), **QUIET)
    assert report.failures == {"04.txt": "it has no words", "07.txt": engines.DIED}
    assert report.states.total() == 12 and (tmp_path / "marker").exists()
    one, ray = tree(tmp_path / "one"), tree(tmp_path / "ray")
    assert one.pop("failures.json") != ray.pop("failures.json") and one == ray
    again = run(Words(tmp_path / "ray"), items(texts), **QUIET)  # what failed can be tried again
    assert again.states == {"kept": 10, "computed": 2}


@pytest.mark.slow
def test_ray_segments_as_one_process_does(pipe, tmp_path):
    sources = pictures.find_images("toyscapes:1500-1507")
    _, one = segment_all(pipe, sources, tmp_path / "one", **QUICK)
    _, two = segment_all(pipe, sources, tmp_path / "two", execution=Execution("ray", 2), **QUICK)
    assert one.states == two.states == {"computed": 8} and tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(texts, tmp_path, how):  # noqa: F811
    for number in range(300):
        (texts / f"more {number:03}.txt").write_text("word " * number)
    task = Words(tmp_path / "out")
    arguments = [sys.executable, "-c", RUN, str(task.store.folder), str(texts)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # who runs the tests may have it ignored
    runner = subprocess.Popen(
        arguments,
        env=environment,
        start_new_session=True,
        preexec_fn=heard,
        stderr=subprocess.PIPE,
        text=True,
    )
    done = lambda: len(list((task.store.run).glob("*.txt-*.json")))
    deadline = time.monotonic() + 120
    while done() < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(runner.pid).children(recursive=True)
    if how == signal.SIGINT:
        os.killpg(runner.pid, how)  # as a terminal does: everybody gets it
    else:
        runner.send_signal(how)
    _, said = runner.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive and children
    assert how == signal.SIGKILL or "KeyboardInterrupt" in said
    kept = done()
    assert 5 <= kept < 312
    report = run(Words(tmp_path / "out"), items(texts), **QUIET)
    assert report.states == {"kept": kept, "computed": 312 - kept}


def test_items_of_a_group_stay_together():
    wanted = [
        Item("a", 0),
        Item("b", 1, "x"),
        Item("c", 2, "x"),
        Item("d", 3, "y"),
        Item("e", 4),
        Item("f", 5),
    ]
    batches = [[item.name for item in batch] for batch in engines._batches(wanted)]
    assert batches == [["a"], ["b", "c"], ["d"], ["e"], ["f"]]


def test_workers_are_as_many_as_memory_has_room_for(monkeypatch, capsys):
    class Memory:
        available = 10 * psutil.Process().memory_info().rss

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert engines.affordable_workers(4) == 4 and not capsys.readouterr().out
    Memory.available = int(2.5 * psutil.Process().memory_info().rss)
    assert engines.affordable_workers(4) == 2 and "4 workers would not fit" in capsys.readouterr().out
    Memory.available = 0
    assert engines.affordable_workers(4) == 1


def test_ray_that_is_missing_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"emerdiff-workbook\[ray\]"):
        Execution("ray")


def test_every_worker_has_a_gpu_of_its_own_where_there_are_several(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    places = []
    for number in range(6):
        monkeypatch.setenv(workers.WORKER_NUMBER, str(number))
        places.append(workers.own_device("cuda"))
    assert places == [f"cuda:{n}" for n in (0, 1, 2, 3, 0, 1)] and workers.own_device("cpu") == "cpu"
    monkeypatch.delenv(workers.WORKER_NUMBER)
    assert workers.own_device("cuda:1") == "cuda:1"


def kept_count(folder: Path, sources, pipe) -> int:
    """How many pictures of a killed run are whole."""
    from emerdiff_lib.runs.segment import Segmentation

    task = Segmentation(pipe, folder, **QUICK)
    return sum(task.store.look(s.record, s.identity()) == "kept" for s in sources)


SEGMENT = """
import sys
from emerdiff_lib import load_pipeline
from emerdiff_lib.runs.pictures import find_images
from emerdiff_lib.runs.segment import segment_all
if __name__ == "__main__":
    quick = {"num_masks": 2, "modulation_timestep": 21, "noise_ensemble_size": 1}
    segment_all(load_pipeline(), find_images("toyscapes:1500-1539"), sys.argv[1], **quick)
"""


@pytest.mark.slow
def test_forty_pictures_killed_twenty_times_end_as_if_undisturbed(pipe, tmp_path):
    """The soak: the real pipeline, killed at random moments of loading, computing and writing."""
    sources = pictures.find_images("toyscapes:1500-1539")
    segment_all(pipe, sources, tmp_path / "calm", **QUICK)
    rng, kept = np.random.default_rng(0), 0
    for _ in range(20):
        arguments = [sys.executable, "-c", SEGMENT, str(tmp_path / "killed")]
        child = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(3, 9))
        child.kill()
        child.wait()
        now = kept_count(tmp_path / "killed", sources, pipe)
        assert now >= kept  # nothing that was finished is lost
        kept = now
    _, report = segment_all(pipe, sources, tmp_path / "killed", **QUICK)
    assert report.states["kept"] == kept and report.states["failed"] == 0
    for count in (2, 4):
        segment_all(pipe, sources, tmp_path / f"w{count}", execution=Execution(workers=count), **QUICK)
        assert tree(tmp_path / f"w{count}") == tree(tmp_path / "calm")
    assert tree(tmp_path / "killed") == tree(tmp_path / "calm")
