"""Runs over many pictures: truthful about what was computed from what, whole after any accident, equal on every engine."""

import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from threading import RLock

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm.auto import tqdm

from emerdiff_lib import EmerDiffPipeline, Toyscapes
from emerdiff_lib.datasets import open_dataset
from emerdiff_lib.experiments import rivals
from emerdiff_lib.experiments.names import BILINEAR
from emerdiff_lib.export import load_output
from emerdiff_lib.runs import identity, pictures
from emerdiff_lib.runs.engines import DIED
from emerdiff_lib.runs.harness import Execution, results_of, run
from emerdiff_lib.runs.names import safe_name, short_name
from emerdiff_lib.runs.segment import segment_all
from emerdiff_lib.runs.shards import merge, parse_shard, shard_of
from emerdiff_lib.runs.store import FolderStore, JsonStore, StoreError
from emerdiff_lib.runs.task import Item
from emerdiff_lib.settings import MODES

from .conftest import seeded
from .run_tasks import Gone, Words, items

QUICK = {"num_masks": 2, "modulation_timestep": 21, "noise_ensemble_size": 1}
QUIET = {"progress": False}


@pytest.fixture
def texts(tmp_path):
    """A folder with 12 small files."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.txt").write_text("word " * (number + 1))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """{relative path: content} of all files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# -- what a result depends on ----------------------------------------------------------------------------------------


def pipeline() -> EmerDiffPipeline:
    pipe = EmerDiffPipeline.from_pretrained("toyscapes")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextmanager
def nudged(network):
    """Within the context, one weight of a network is another."""
    weight = next(network.parameters()).data
    first = (0,) * weight.ndim
    before = weight[first].clone()
    weight[first] += 0.01
    yield
    weight[first] = before


def test_every_part_of_a_model_is_part_of_its_identity():
    pipe = pipeline()
    before = identity.model_identity(pipe)
    assert before == identity.model_identity(pipeline())
    for name in ("unet", "vae", "text_encoder"):
        with nudged(getattr(pipe, name)):
            after = identity.model_identity(pipe)
        assert [key for key in before if after[key] != before[key]] == [name]
    assert identity.model_identity(pipe) == before
    pipe.tokenizer.add_tokens(["zeppelin"])
    pipe.scheduler.register_to_config(steps_offset=0)
    pipe.vae.register_to_config(scaling_factor=0.5)
    differ = [key for key, value in identity.model_identity(pipe).items() if value != before[key]]
    assert sorted(differ) == ["scheduler", "tokenizer", "vae"]
    assert identity.model_identity(pipeline().to(torch.bfloat16))["dtype"] == "bfloat16"


def states(data, output, pipe, limit=2, **settings):
    """What the comparison did with the first pictures of a data set."""
    found = rivals.evaluate(pipe, data, [BILINEAR], output, QUICK | settings, range(limit))
    return dict(found.report.states)


@pytest.fixture
def labelled(tmp_path, scene):
    """A folder data set of two pictures, and the pipeline."""
    root = tmp_path / "data" / "one"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number, name in enumerate(("a", "b")):
        other = Toyscapes.from_seed(1500 + number)
        other.image.save(root / "images" / f"{name}.png")
        Image.fromarray(other.coarse_labels).save(root / "labels" / f"{name}.png")
    (root / "classes.txt").write_text("\n".join(Toyscapes.coarse_class_names))
    return root


def test_a_change_of_anything_computes_exactly_what_it_must(labelled, tmp_path, monkeypatch):
    pipe, output = pipeline(), tmp_path / "out"
    data = lambda root=labelled: open_dataset("folder", root, "")
    look = lambda data, pipe=pipe, **settings: states(data, output, pipe, **settings)
    assert look(data()) == {"computed": 2} and look(data()) == {"kept": 2}

    picture = labelled / "images" / "a.png"  # one picture
    image = np.array(Image.open(picture))
    image[0, 0] ^= 1
    stamp = picture.stat()
    Image.fromarray(image).save(picture)
    os.utime(picture, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # dates say nothing
    assert look(data()) == {"kept": 1, "recomputed": 1} and look(data()) == {"kept": 2}

    labels = labelled / "labels" / "b.png"  # one label map
    numbers = np.array(Image.open(labels))
    numbers[0, 0] = (numbers[0, 0] + 1) % 10
    Image.fromarray(numbers).save(labels)
    assert look(data()) == {"kept": 1, "recomputed": 1}

    assert look(data(), modulation_strength=9.0) == {"recomputed": 2}  # a setting
    assert look(data()) == {"kept": 2}  # results of both are there
    half = pipeline().to(torch.bfloat16)  # the dtype
    assert look(data(), half) == {"recomputed": 2}
    for name in ("unet", "vae", "text_encoder"):  # weights of any part
        with nudged(getattr(pipe, name)):
            assert look(data()) == {"recomputed": 2}, name
    own = pipeline()  # a default of the checkpoint
    own.register_to_config(default_settings=own.config.default_settings | {"modulation_strength": 8.0})
    assert look(data(), own) == {"recomputed": 2}
    root = tmp_path / "data" / "two"  # the root
    shutil.copytree(labelled, root)
    assert look(data(root)) == {"recomputed": 2} and look(data()) == {"kept": 2}
    (labelled / "classes.txt").write_text("\n".join([*Toyscapes.coarse_class_names[:-1], "another"]))
    assert look(data()) == {"recomputed": 2}  # what the numbers mean


def test_modes_seeds_splits_and_ranges_are_part_of_it(tmp_path, pipe, monkeypatch):
    sources = pictures.find_images("toyscapes:1500-1501")
    quick = {"num_masks": 2, "mode": "fast"}
    look = lambda sources=sources, **more: dict(
        segment_all(pipe, sources, tmp_path / "s", **quick, **more)[1].states
    )
    assert look() == {"computed": 2} and look() == {"kept": 2}
    assert look(seed=1) == {"recomputed": 2} and look() == {"recomputed": 2}
    assert look(output_difference_maps=True) == {"recomputed": 2} and look() == {"recomputed": 2}
    assert look(pictures.find_images("toyscapes:1501-1502")) == {"kept": 1, "computed": 1}
    monkeypatch.setitem(MODES["fast"], "denoising_steps", 1)
    assert look() == {"recomputed": 2}  # what "fast" means
    monkeypatch.undo()
    scores = lambda split, limit: states(open_dataset("toyscapes", split=split), tmp_path / "r", pipe, limit)
    assert scores("validation", 1) == {"computed": 1} and scores("validation", 2) == {
        "kept": 1,
        "computed": 1,
    }
    first = rivals.evaluate(
        pipe, open_dataset("toyscapes", split="validation"), [BILINEAR], tmp_path / "r", QUICK, [1, 2]
    )
    assert [r["name"] for r in first] == ["001001", "001002"] and first.report.states == {
        "kept": 1,
        "computed": 1,
    }
    other = rivals.evaluate(
        pipe, open_dataset("toyscapes", split="test"), [BILINEAR], tmp_path / "r", QUICK, [1, 2]
    )
    assert [r["name"] for r in other] == ["000001", "000002"] and "kept" not in other.report.states


def test_a_changed_version_is_another_result(tmp_path, pipe, monkeypatch):
    sources, quick = pictures.find_images("toyscapes:1500"), QUICK
    look = lambda: segment_all(pipe, sources, tmp_path, **quick)[1]
    assert look().states == {"computed": 1}
    monkeypatch.setattr(identity, "__version__", "99.0")
    report = look()
    assert report.states == {"recomputed": 1} and "is '99.0'" in next(iter(report.reasons))
    assert "1 again: versions › emerdiff_lib was" in str(report)


# -- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["json", "folder"])
def test_a_damaged_record_is_computed_again_and_said(texts, tmp_path, store):
    task = lambda: Words(tmp_path / "out", store=store)
    run(task(), items(texts), **QUIET)
    whole = tree(tmp_path / "out")
    assert run(task(), items(texts), **QUIET).states == {"kept": 12}
    records = [name for name in whole if name.endswith(("json", "txt")) and "run.json" not in name]
    for number, name in enumerate(records[:9]):
        path = tmp_path / "out" / name
        if number % 3 == 0:
            path.write_bytes(path.read_bytes()[: len(whole[name]) // 2])  # torn
        elif number % 3 == 1:
            path.write_bytes(
                whole[name].replace(b"word word", b"word w0rd", 1).replace(b'"words"', b'"w0rds"', 1)
            )
        else:
            path.write_bytes(b"")
        report = run(task(), items(texts), **QUIET)
        assert report.states == {"kept": 11, "recomputed": 1}, name
        assert "damaged" in next(iter(report.reasons)) and tree(tmp_path / "out") == whole
    (tmp_path / "out" / records[0]).unlink()
    assert sum(run(task(), items(texts), **QUIET).states.values()) == 12 and tree(tmp_path / "out") == whole


def test_a_picture_that_changes_while_it_is_worked_on_is_not_kept(texts, tmp_path, monkeypatch):
    task, compute = Words(tmp_path / "out"), Words.compute

    def meanwhile(self, item):
        result = compute(self, item)
        Path(item.what).write_text("something else")
        return result

    monkeypatch.setattr(Words, "compute", meanwhile)
    report = run(task, items(texts)[:1], **QUIET)
    assert "was changed while" in report.failures["00.txt"]
    monkeypatch.undo()
    assert run(task, items(texts)[:1], **QUIET).states == {"computed": 1}


def test_names_are_unique_short_and_harmless(tmp_path):
    names = [
        "a",
        "A",
        "a.png",
        "a.jpg",
        "b/a.png",
        "b__a.png",
        "..",
        "../a",
        "/etc/passwd",
        "x" * 300,
        "x" * 301,
        "😀" * 90,
    ]
    names += [
        "a\nb",
        'a"b',
        "a'b",
        "-rf",
        "con:",
        "a ",
        "a.",
        ".hidden",
        "ü",
        "u\u0308",
        "a\udcff",
        "",
        "<b>",
        "a?b",
        "a*b",
    ]
    short = {short_name(name) for name in names}
    assert len(short) == len(names)
    for name in short:
        assert len(name.encode()) < 100 and "/" not in name and (tmp_path / name).parent == tmp_path
        (tmp_path / name).write_text("")
    store = FolderStore(tmp_path / "out", {}, None)
    places = {store.path(name) for name in names if name}
    assert len(places) == len(names) - 1
    for place in places:
        assert place.is_relative_to(store.folder) and ".." not in place.parts
        assert all(len(part.encode()) <= 120 for part in place.relative_to(store.folder).parts)
    assert safe_name("photo 1.jpg") == "photo 1.jpg"
    with pytest.raises(ValueError, match=r"2 pictures are called 'a'"):
        Execution().choose([Item("a", 1), Item("a", 2)])


def test_nothing_is_needlessly_private_or_open_to_all(texts, tmp_path, pipe):
    before = os.umask(0o022)
    try:
        run(Words(tmp_path / "json"), items(texts)[:2], **QUIET)
        segment_all(pipe, pictures.find_images("toyscapes:1500-1501"), tmp_path / "folders", **QUICK)
    finally:
        os.umask(before)
    for folder in ("json", "folders"):
        for path in (tmp_path / folder).rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o755 if path.is_dir() else 0o644), (path, oct(mode))


# -- accidents ------------------------------------------------------------------------------------------------------------


def test_one_bad_picture_stops_nothing_and_can_be_tried_again(texts, tmp_path):
    trouble = {"03.txt": "value", "05.txt": "memory"}
    report = run(Words(tmp_path / "out", trouble=trouble), items(texts), **QUIET)
    assert report.states == {"computed": 10, "failed": 2}
    assert report.failures["03.txt"] == "it has no words" and "out of memory" in report.failures["05.txt"]
    failures = tmp_path / "out" / "failures.json"
    assert json.loads(failures.read_text()) == report.failures and "failed: 03.txt: it has no words" in str(
        report
    )
    again = run(Words(tmp_path / "out"), items(texts), Execution(only=failures), **QUIET)
    assert again.states == {"computed": 2} and not failures.exists()
    assert run(Words(tmp_path / "out"), items(texts), **QUIET).states == {"kept": 12}
    with pytest.raises(ValueError, match=r"failures.json"):
        Execution(only=tmp_path / "nothing.json").choose(items(texts))


def test_the_output_folder_is_tried_before_the_work(texts, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        task = Words(output, trouble={"00.txt": "interrupt"})  # nothing may be computed
        with pytest.raises(StoreError, match="cannot be written"):
            run(task, items(texts), **QUIET)


def test_home_is_expanded(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(Words(Path("~/mine")), items(texts)[:1], **QUIET).states == {"computed": 1}
    assert (tmp_path / "mine").is_dir()


def in_child(function, *args) -> tuple[int, str]:
    """Exit code of a forked process, and the name of the exception it ended with."""
    context = get_context("fork")
    queue = context.Queue()

    def target():
        try:
            function(*args)
        except BaseException as error:
            queue.put(f"{type(error).__name__}: {error}")
            raise SystemExit(1) from None

    child = context.Process(target=target)
    child.start()
    child.join(60)
    return child.exitcode, "" if queue.empty() else queue.get()


@pytest.mark.parametrize("store", ["json", "folder"])
def test_killed_at_random_moments_a_run_ends_as_if_undisturbed(texts, tmp_path, store):
    for number in range(12, 40):
        (texts / f"{number:02}.txt").write_text("word " * (number + 1))
    run(Words(tmp_path / "calm", store=store), items(texts), **QUIET)
    rng, kept = random.Random(0), 0

    def forked(task):
        tqdm.set_lock(RLock())  # or one killed while it holds the lock that forks share would stop everybody
        run(task, items(texts), **QUIET)

    for _ in range(20):
        task = Words(tmp_path / "killed", seconds=0.004, store=store)
        child = get_context("fork").Process(target=forked, args=(task,))
        child.start()
        time.sleep(rng.uniform(0.005, 0.06))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        names = [item.name for item in items(texts)]
        whole = sum(task.store.look(i.name, task.picture(i)) == "kept" for i in items(texts))
        assert kept <= whole <= len(names)  # nothing that was finished is lost
        kept = whole
    report = run(Words(tmp_path / "killed", store=store), items(texts), **QUIET)
    assert report.states["kept"] == kept and report.states.total() == 40
    assert tree(tmp_path / "killed") == tree(tmp_path / "calm")


def test_ctrl_c_leaves_what_is_finished(texts, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Words(tmp_path / "out", trouble={"05.txt": "interrupt"}), items(texts), **QUIET)
    assert run(Words(tmp_path / "out"), items(texts), **QUIET).states == {"kept": 5, "computed": 7}


def test_a_full_disk_stops_the_run_and_loses_nothing(texts, tmp_path):
    def with_small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
        run(Words(tmp_path / "out"), items(texts), **QUIET)

    code, error = in_child(with_small_files)
    assert code == 1 and error.startswith("StoreError") and "what is finished is kept" in error
    report = run(Words(tmp_path / "out"), items(texts), **QUIET)
    assert report.states["kept"] > 0 and report.states.total() == 12
    run(Words(tmp_path / "calm"), items(texts), **QUIET)
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("option, said", [("size=64k", "No space left"), ("ro", "Read-only")])
def test_a_small_or_read_only_disk(texts, tmp_path, option, said):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", option, "none", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("this system lets nobody mount")
    try:
        with pytest.raises(StoreError, match=said):
            for seed in range(20):
                run(Words(disk / "out", seed=seed), items(texts), **QUIET)
        if option != "ro":
            for path in (disk / "out").rglob("*.json"):
                assert path.name in ("run.json", "failures.json") or json.loads(path.read_text())["checksum"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_two_runs_in_one_folder_do_not_mix(texts, tmp_path, seeds):
    """Folders of files are moved as one; whichever run came last, its files are all there and vouch for it."""
    for _ in range(3):
        output = tmp_path / "out"
        children = [
            get_context("fork").Process(
                target=lambda seed=seed, output=output: run(
                    Words(output, seed=seed, store="folder"), items(texts), **QUIET
                )
            )
            for seed in seeds
        ]
        [child.start() for child in children]
        [child.join(60) for child in children]
        assert [child.exitcode for child in children] == [0, 0]
        for item in items(texts):
            folder = output / item.name
            request = json.loads((folder / "request.json").read_text())
            files = {name: identity.file_digest(folder / name) for name in request["files"]}
            assert files == request["files"]
            assert json.loads((folder / "words.json").read_text())["seed"] == request["run"]["seed"]
        states = Counter()
        for seed in set(seeds):
            states += run(Words(output, seed=seed, store="folder"), items(texts), **QUIET).states
        assert states["failed"] == 0
        shutil.rmtree(output)


def test_two_evaluations_share_a_store(texts, tmp_path):
    children = [
        get_context("fork").Process(
            target=lambda seed=n % 2: run(Words(tmp_path / "out", seed), items(texts), **QUIET)
        )
        for n in range(6)
    ]
    [child.start() for child in children]
    [child.join(60) for child in children]
    assert [child.exitcode for child in children] == [0] * 6
    for seed in (0, 1):
        found = results_of(Words(tmp_path / "out", seed), items(texts))
        assert found.report.states == {"kept": 12} and [r["seed"] for r in found] == [seed] * 12


# -- several processes ------------------------------------------------------------------------------------------------------


def test_four_workers_make_what_one_makes(texts, tmp_path):
    run(Words(tmp_path / "one"), items(texts), **QUIET)
    report = run(Words(tmp_path / "four"), items(texts), Execution(workers=4), **QUIET)
    assert report.states == {"computed": 12} and tree(tmp_path / "one") == tree(tmp_path / "four")


def test_a_worker_that_dies_is_replaced_and_its_picture_tried_once_more(texts, tmp_path):
    trouble = {"02.txt": f"kill once {tmp_path}/marker", "07.txt": "kill"}
    report = run(Words(tmp_path / "out", trouble=trouble), items(texts), Execution(workers=2), **QUIET)
    assert report.failures == {"07.txt": DIED} and report.states == {"computed": 11, "failed": 1}


def test_workers_that_cannot_write_stop_the_run(texts, tmp_path, monkeypatch):
    task = Words(tmp_path / "out", seconds=0.2)
    monkeypatch.setattr(
        Words, "__getstate__", lambda self: vars(self) | {"store": Gone(tmp_path / "out", {})}
    )
    with pytest.raises(StoreError, match="No space left"):
        run(task, items(texts), Execution(workers=2), **QUIET)


def test_shards_merge_into_what_one_run_leaves(texts, tmp_path):
    run(Words(tmp_path / "one", trouble={"04.txt": "value"}), items(texts), **QUIET)
    for shard in ("0/3", "1/3", "2/3"):
        trouble = {"04.txt": "value"}
        run(Words(tmp_path / f"s{shard[0]}", trouble=trouble), items(texts), Execution(shard=shard), **QUIET)
        run(Words(tmp_path / "shared", trouble=trouble), items(texts), Execution(shard=shard), **QUIET)
    parts = [tmp_path / f"s{number}" for number in range(3)]
    with pytest.raises(ValueError, match=r"3 shards are needed.*missing: \[1\]"):
        merge([parts[0], parts[2]], tmp_path / "merged")
    with pytest.raises(ValueError, match="missing: none"):
        merge([*parts, tmp_path / "shared"], tmp_path / "merged")
    found = merge(parts, tmp_path / "merged")
    assert found == {"shards": 3, "pictures": 12, "failures": {"04.txt": "it has no words"}}
    merge([tmp_path / "shared"], tmp_path / "shared")
    assert tree(tmp_path / "one") == tree(tmp_path / "merged") == tree(tmp_path / "shared")
    run(Words(tmp_path / "s1", seed=1), items(texts), Execution(shard="1/3"), **QUIET)
    with pytest.raises(ValueError, match="different settings"):
        merge(parts, tmp_path / "merged")
    run(Words(tmp_path / "s1"), items(texts)[:9], Execution(shard="1/3"), **QUIET)
    with pytest.raises(ValueError, match="different lists of pictures"):
        merge(parts, tmp_path / "merged")
    with pytest.raises(ValueError, match="no shards"):
        merge([tmp_path / "one"], tmp_path / "merged")


def test_a_shard_is_every_nth():
    parts = [shard_of(range(7), (i, 3)) for i in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]] and shard_of(range(7), None) == list(range(7))
    assert parse_shard("") is None and parse_shard("2/3") == (2, 3)
    for text in ("3/3", "1", "a/b", "0/2/3", "-1/3", "0/0"):
        with pytest.raises(ValueError, match=f"shard='{text}'"):
            parse_shard(text)
    for engine, workers, said in (
        ("slurm", 1, "'ray'"),
        ("local", 0, "workers=0"),
        ("local", 1.5, "workers=1.5"),
    ):
        with pytest.raises(ValueError, match=said):
            Execution(engine, workers)


def test_a_pipeline_travels_by_name_or_not_at_all(pipe, tmp_path):
    sources = pictures.find_images("toyscapes:1500-1502")
    folders, one = segment_all(pipe, sources, tmp_path / "one", **QUICK)
    _, two = segment_all(pipe, sources, tmp_path / "two", execution=Execution(workers=2), **QUICK)
    assert one.states == two.states == {"computed": 3} and tree(tmp_path / "one") == tree(tmp_path / "two")
    changed = pipeline()
    with nudged(changed.unet), pytest.raises(ValueError, match="no longer the model"):
        segment_all(changed, sources, tmp_path / "three", execution=Execution(workers=2), **QUICK)
    changed.model_name = EmerDiffPipeline.model_name
    with pytest.raises(ValueError, match="put together by hand"):
        segment_all(changed, sources, tmp_path / "three", execution=Execution(workers=2), **QUICK)
    assert set(folders) == {source.name for source in sources}


# -- pictures -------------------------------------------------------------------------------------------------------------------


def test_a_folder_of_pictures_is_segmented_and_kept(tmp_path, pipe, scene):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    small = scene.image.resize((96, 64))
    for name in ("deeper/img.jpg", "img.jpg", "img.png"):
        small = small.rotate(90, expand=True)
        small.save(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    output = tmp_path / "in" / "results"  # below the pictures: never read as input
    find = lambda: pictures.find_images(tmp_path / "in", exclude=output)
    folders, report = segment_all(pipe, find(), output, seed=1, **QUICK)
    assert report.states == {"computed": 3, "failed": 1} and "is no image" in report.failures["bad.png"]
    again, second = segment_all(pipe, find(), output, seed=1, **QUICK)
    assert again == folders and second.states == {"kept": 3, "failed": 1}
    assert set(folders) == {"deeper/img.jpg", "img.jpg", "img.png"} and len(set(folders.values())) == 3
    for name, folder in folders.items():
        kept, path = load_output(folder), tmp_path / "in" / name
        fresh = pipe(path, generator=seeded(1), **QUICK)
        for key in ("labels", "baseline_labels", "coarse_masks", "mask_embeddings", "settings"):
            assert np.array_equal(kept[key], fresh[key]), key
        with Image.open(folder / "labels.png") as labels, Image.open(path) as image:
            assert labels.size == image.size
    other = tmp_path / "b"
    other.mkdir()
    scene.image.save(other / "img.jpg")  # another picture of the same name into the same folder
    _, third = segment_all(pipe, pictures.find_images(other), output, seed=1, **QUICK)
    assert third.states == {"recomputed": 1} and list(third.reasons) == ["image changed"]


def test_one_picture_goes_into_the_folder_itself(tmp_path, pipe, scene):
    scene.image.save(tmp_path / "a.png")
    folders, report = segment_all(pipe, pictures.find_images(tmp_path / "a.png"), tmp_path / "out", **QUICK)
    assert folders == {"a.png": tmp_path / "out"} and (tmp_path / "out" / "labels.png").exists()
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no image"):
        segment_all(pipe, pictures.find_images(tmp_path / "bad.png"), tmp_path / "out", **QUICK)
    folders, _ = segment_all(pipe, pictures.find_images("toyscapes:1500"), tmp_path / "out", **QUICK)
    assert list(folders.values()) == [tmp_path / "out"]


def test_out_of_memory_at_any_stage_fails_one_picture(tmp_path, pipe, monkeypatch):
    sources = pictures.find_images("toyscapes:1500-1502")
    for stage in ("invert", "coarse", "respond", "assign", "encode", "decode"):
        original, calls = getattr(EmerDiffPipeline, stage), []

        def short_of_memory(self, *args, original=original, calls=calls, **kwargs):
            calls.append(1)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 TiB")
            return original(self, *args, **kwargs)

        monkeypatch.setattr(EmerDiffPipeline, stage, short_of_memory)
        _, report = segment_all(pipe, sources[:2], tmp_path / stage, **QUICK)
        monkeypatch.undo()
        assert report.states.total() == 2 and report.states["failed"] <= 1, stage
        for why in report.failures.values():
            assert "out of memory" in why


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    """Results of 50 and of 500 pictures are read in the same memory."""
    import tracemalloc

    store = JsonStore(tmp_path, {})
    store.open()
    for number in range(500):
        store.keep(f"{number}", {}, {"numbers": list(range(2000))})
    from emerdiff_lib.runs.store import Results

    peaks = []
    for count in (50, 500):
        tracemalloc.start()
        total = sum(r["numbers"][-1] for r in Results(store, [f"{n}" for n in range(count)]))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total == count * 1999
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_command_says_what_failed_by_its_exit(tmp_path, labelled):
    (labelled / "images" / "a.png").write_bytes(b"nothing")
    options = ["--dataset", "folder", "--root", str(labelled), "--split", "", "--fit-split", ""]
    options += ["--limit", "2", "--fit-limit", "2", "--methods", BILINEAR, "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2 pictures failed"):
        rivals.main(options)
    assert "a" in json.loads((tmp_path / "out" / "report" / "failures.json").read_text())


# -- found by an attack from outside ----------------------------------------------------------------------------------


def test_failures_are_not_forgotten_by_a_run_that_stops_early(texts, tmp_path):
    bad = {name: "value" for name in ("01.txt", "02.txt", "03.txt")}
    run(Words(tmp_path / "out", trouble=bad), items(texts), **QUIET)
    file = tmp_path / "out" / "failures.json"
    with pytest.raises(KeyboardInterrupt):
        run(
            Words(tmp_path / "out", trouble={"02.txt": "interrupt"}),
            items(texts),
            Execution(only=file),
            **QUIET,
        )
    assert set(json.loads(file.read_text())) == {"02.txt", "03.txt"}
    found = results_of(Words(tmp_path / "out"), items(texts), Execution(only=file))
    assert found.names == ["02.txt", "03.txt"] and len(list(found)) == 2 and not file.exists()


def test_what_is_no_list_of_failures_is_one_sentence(texts, tmp_path):
    file = tmp_path / "odd.json"
    for content in (b"", b"[" * 100_000, b"null", b'["00.txt"]', b"{}", "{}".encode("utf-16"), b"\x00"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="names no failures"):
            Execution(only=file).choose(items(texts))
    with pytest.raises(ValueError, match="is no folder"):
        Execution(only="~nobody-of-that-name/failures.json").choose(items(texts))


def test_a_merge_lacks_no_record_and_takes_none_that_is_damaged(texts, tmp_path):
    for store in ("json", "folder"):
        parts = [tmp_path / store / number for number in "01"]
        for number, part in enumerate(parts):
            run(Words(part, store=store), items(texts), Execution(shard=f"{number}/2"), **QUIET)
        name = "03.txt"
        path = Words(parts[1], store=store).store.path(name)
        file = path / "text.txt" if store == "folder" else path
        whole = file.read_bytes()
        for content in (None, b"", whole[:-9], whole.replace(b"word", b"w0rd", 1)):
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content)
            with pytest.raises(ValueError, match=rf"Shard 1/2 .* lacks 1 of its records.*'{name}'"):
                merge(parts, tmp_path / "merged")
        run(Words(parts[1], store=store), items(texts), Execution(shard="1/2"), **QUIET)
        merge(parts, tmp_path / store / "merged")
        run(Words(tmp_path / store / "one", store=store), items(texts), **QUIET)
        assert tree(tmp_path / store / "merged") == tree(tmp_path / store / "one")


def test_a_shard_of_which_a_part_was_tried_is_no_shard(texts, tmp_path):
    (tmp_path / "only.json").write_text('{"01.txt": ""}')
    parts = [tmp_path / number for number in "01"]
    run(Words(parts[0]), items(texts), Execution(shard="0/2"), **QUIET)
    run(Words(parts[1]), items(texts), Execution(shard="1/2", only=tmp_path / "only.json"), **QUIET)
    with pytest.raises(ValueError, match=r"missing: \[1\]"):
        merge(parts, tmp_path / "merged")


def test_damaged_notes_of_shards_are_one_sentence(texts, tmp_path):
    parts = [tmp_path / number for number in "01"]
    for number, part in enumerate(parts):
        run(Words(part), items(texts), Execution(shard=f"{number}/2"), **QUIET)
    note = parts[1] / "shard-1-of-2.json"
    good = note.read_text()
    odd = [good.replace('"shard": 1', f'"shard": {word}') for word in ('"1"', "true", "1.0")]
    for content in (
        "",
        "{",
        "[]",
        "null",
        "{}",
        good[:50],
        "\0",
        *odd,
        good.replace('"records": {', '"record": {'),
    ):
        note.write_text(content)
        with pytest.raises(ValueError, match="damaged; run this shard again"):
            merge(parts, tmp_path / "merged")
    for folders, output in (([], "m"), (["~nobody-of-that-name"], "m"), (parts[:1], ""), ([""], "m")):
        with pytest.raises(ValueError):
            merge(folders, output)


def test_a_record_put_into_another_run_by_hand_is_not_used(texts, tmp_path):
    for seed in (0, 1):
        run(Words(tmp_path, seed), items(texts), **QUIET)
    stores = [Words(tmp_path, seed).store for seed in (0, 1)]
    shutil.copy(stores[1].path("00.txt"), stores[0].path("00.txt"))
    found = results_of(Words(tmp_path, 0), items(texts))
    assert found.report.states == {"kept": 11, "recomputed": 1} and [r["seed"] for r in found] == [0] * 12


def test_what_is_in_the_way_of_one_picture_stops_no_other(texts, tmp_path):
    run(Words(tmp_path / "out", store="folder"), items(texts), **QUIET)
    file = tmp_path / "out" / "05.txt" / "words.json"
    file.unlink()
    (file / "mine").mkdir(parents=True)
    report = run(Words(tmp_path / "out", store="folder"), items(texts), **QUIET)
    assert (
        report.states == {"kept": 11, "failed": 1} and "move away what is there" in report.failures["05.txt"]
    )
    (tmp_path / "other" / "failures.json").mkdir(parents=True)
    with pytest.raises(ValueError, match="move away what is there"):
        run(Words(tmp_path / "other", trouble={"01.txt": "value"}), items(texts), **QUIET)


def test_names_that_are_no_text_are_reported(texts, tmp_path, capsys):
    odd = Item("caf\udce9.txt", str(texts / "00.txt"))
    report = run(Words(tmp_path / "out", trouble={odd.name: "value"}), [odd, *items(texts)], **QUIET)
    print(report)
    assert "caf\\udce9.txt': it has no words" in capsys.readouterr().out
    again = run(Words(tmp_path / "out"), [odd], Execution(only=tmp_path / "out" / "failures.json"), **QUIET)
    assert again.states == {"computed": 1}


def test_results_are_never_input_wherever_they_lie(tmp_path, pipe, scene):
    pipe_on = lambda spec, output: segment_all(
        pipe, pictures.find_images(spec, exclude=output), output, **QUICK
    )
    folder = tmp_path / "in"
    folder.mkdir()
    scene.image.save(folder / "image.png")
    with pytest.raises(ValueError, match="is the folder of the pictures"):
        pipe_on(folder, folder)
    before = (folder / "image.png").read_bytes()
    with pytest.raises(ValueError, match="holds the picture itself"):
        pipe_on(folder / "image.png", folder)
    assert (folder / "image.png").read_bytes() == before
    pipe_on(folder, folder / "first")
    folders, report = pipe_on(folder, folder / "second")  # results of another run lie below the pictures
    assert list(folders) == ["image.png"] and report.states == {"computed": 1}
    deep = tmp_path / "up" / "in" / "in"
    deep.mkdir(parents=True)
    scene.image.save(deep / "a.png")
    for _ in range(2):  # the second time, results lie among the pictures
        assert list(pipe_on(tmp_path / "up" / "in", tmp_path / "up")[0]) == ["in/a.png"]
    (deep / "request.json").write_text("{}")  # somebody else's
    assert len(pictures.find_images(deep)) == 1


def test_places_and_numbers_that_cannot_be_are_one_sentence(tmp_path, pipe, scene):
    scene.image.save(tmp_path / "a.png")
    for image in ("", " ", "a\0b", "~nobody-of-that-name/a.png", "toyscapes:" + "9" * 5000):
        with pytest.raises((ValueError, OSError)):
            pictures.find_images(image)
    source = pictures.find_images(tmp_path / "a.png")
    for output in ("", " ", "a\0b", "~nobody-of-that-name"):
        with pytest.raises(ValueError, match="output_dir="):
            segment_all(pipe, source, output, **QUICK)
    for wrong in ({"seed": -1}, {"seed": 2**70}, {"seed": "0"}, {"output_difference_maps": "no"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            segment_all(pipe, source, tmp_path / "out", **QUICK | wrong)
    for shard in (0, False, None, 1, "0/2\n", " 0/2", "9" * 5000 + "/2"):
        with pytest.raises(ValueError, match="shard="):
            parse_shard(shard)


def test_all_that_is_done_for_a_picture_shares_the_cores(tmp_path, monkeypatch):
    """Rivals and scores are computed outside of the pipeline, whose stages share by themselves."""
    inside = []

    @contextmanager
    def sharing(device):
        inside.append(device)
        yield
        inside.clear()

    monkeypatch.setattr("emerdiff_lib.runs.task.sharing_cores", sharing)
    (tmp_path / "a.txt").write_text("a word")
    work, seen = Words(tmp_path / "out"), []
    compute = work.compute
    monkeypatch.setattr(work, "compute", lambda item: seen.append(list(inside)) or compute(item))
    results_of(work, [Item("a", str(tmp_path / "a.txt"))])
    assert seen == [[torch.device("cpu")]]
