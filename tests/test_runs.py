"""Runs over many images: truthful about what was computed from what, whole after any accident, equal on every engine."""

import errno
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from threading import RLock
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from tqdm.auto import tqdm

from emerdiff_lib import EmerDiffPipeline, Toyscapes
from emerdiff_lib.datasets.images import find_images
from emerdiff_lib.export import load_output
from emerdiff_lib.runs import keys, progress
from emerdiff_lib.runs.cached_map import KILLED, _dumps, cached_map, check_execution
from emerdiff_lib.runs.keys import model_key, sample_key
from emerdiff_lib.runs.results import FolderError, folder_name

from .conftest import pipeline, refusal, run_cells, seeded

ROOT = Path(__file__).parents[1]
QUICK = {"num_masks": 2, "modulation_timestep": 21, "noise_ensemble_size": 1}


def segment_all(pipe, samples, output_dir, seed=0, formats=(), maps=False, execution=None, **chosen):
    """Notebook 05's: ({name: folder}, results)."""
    given = {"__name__": "__main__", "pipe": pipe, "samples": samples, "chosen": chosen, "seed": seed}
    given |= {"Path": Path, "torch": torch}
    given |= {"output_dir": output_dir, "output_difference_maps": maps, "mask_batch_size": None}
    given |= {"formats": formats, "show": 0, "nb": SimpleNamespace(execution=execution or {})}
    cells = run_cells("05_segmentation", given, "def segment", "timed(segment_all)")
    return cells["folders"], cells["results"]


@pytest.fixture
def texts(tmp_path):
    """{name: path} of 12 small files."""
    folder = tmp_path / "texts"
    folder.mkdir()
    paths = {f"{number:02}.txt": folder / f"{number:02}.txt" for number in range(12)}
    for number, path in enumerate(paths.values()):
        path.write_text("word " * (number + 1))
    return paths


def count_words(texts, output, seed=0, seconds=0.0, trouble=None, files=False, **execution):
    """Words of text files, counted by :func:`cached_map`; ``trouble`` {name: what goes wrong with it}."""
    trouble = trouble or {}

    def count(path):
        time.sleep(seconds)
        kind = trouble.get(path.name, "")
        if kind == "value":
            raise ValueError("it has no words")
        if kind == "memory":
            raise MemoryError("Unable to allocate 9 TiB")
        if kind == "interrupt":
            raise KeyboardInterrupt
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "change":
            path.write_text("something else")
        text = path.read_text()
        return {"seed": seed, "words": len(text.split()), "share": len(text) / 7, "text": text * 50}

    def write(result, folder):
        if trouble.get(f"{result['words'] - 1:02}.txt") == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        (folder / "words.json").write_text(json.dumps(result))
        (folder / "text.txt").write_text(result["text"])

    key = {"study": "words", "seed": seed}
    text_of = lambda path: {"text": path.read_text()}
    return cached_map(count, texts, output, key, text_of, write=write if files else None, **execution)


def tree(folder: Path) -> dict[str, bytes]:
    """{relative path: content} of all files but locks and the progress of shards."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    files = [path for path in files if not path.name.startswith("progress-")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def counts(results) -> tuple[int, int, int]:
    """(kept, computed, failed)"""
    return len(results) - results.computed, results.computed, len(results.failures)


@contextmanager
def nudged(network):
    """Within the context, one weight of a network is another."""
    weight = next(network.parameters()).data
    first = (0,) * weight.ndim
    before = weight[first].clone()
    weight[first] += 0.01
    yield
    weight[first] = before


def test_every_part_of_a_model_is_part_of_its_key():
    pipe = pipeline()
    before = model_key(pipe)
    assert before == model_key(pipeline())
    for name in ("unet", "vae", "text_encoder"):
        with nudged(getattr(pipe, name)):
            after = model_key(pipe)
        assert [part for part in before if after[part] != before[part]] == [name]
    assert model_key(pipe) == before
    pipe.tokenizer.add_tokens(["zeppelin"])
    pipe.scheduler.register_to_config(steps_offset=0)
    pipe.vae.register_to_config(scaling_factor=0.5)
    differ = [part for part, value in model_key(pipe).items() if value != before[part]]
    assert sorted(differ) == ["scheduler", "tokenizer", "vae"]
    assert model_key(pipeline().to(torch.bfloat16))["unet"] != before["unet"]
    with torch.autocast("cpu", torch.bfloat16):
        assert model_key(pipe)["autocast"] == "bfloat16"


CHANGES = {
    "tiling": lambda pipe: pipe.pipe.vae.enable_tiling(),
    "FreeU": lambda pipe: pipe.pipe.enable_freeu(0.9, 0.2, 1.4, 1.6),
    "a hook": lambda pipe: pipe.denoiser.mid_block.register_forward_hook(lambda module, args, out: 2 * out),
    "a forward": lambda pipe: setattr(pipe.denoiser.mid_block, "forward", lambda x, *_, **__: x),
    "a method": lambda pipe: setattr(pipe.vae, "encode", lambda *_: None),
    "the pipeline's": lambda pipe: setattr(pipe.pipe, "encode_prompt", lambda *_: None),
    "a processor": lambda pipe: pipe.pipe.unet.set_attn_processor(AttnProcessor()),
    "dropout": lambda pipe: [setattr(m, "p", 0.1) for m in pipe.denoiser.modules() if hasattr(m, "p")],
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_done_to_a_loaded_model_is_part_of_its_key(change, scene):
    pipe = pipeline()
    before = model_key(pipe)
    pipe(scene.image, generator=seeded(), **QUICK)
    assert model_key(pipe) == before  # use alone changes nothing
    CHANGES[change](pipe)
    assert model_key(pipe) != before


def test_a_labelled_image_is_known_by_its_files(tmp_path):
    from emerdiff_lib.datasets import open_dataset

    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    scene = Toyscapes.from_seed(1500)
    image, labels = tmp_path / "images" / "a.png", tmp_path / "labels" / "a.png"
    scene.image.save(image)
    Image.fromarray(scene.coarse_labels).save(labels)
    (tmp_path / "classes.txt").write_text("\n".join(Toyscapes.coarse_class_names))
    data = lambda: open_dataset("folder", tmp_path, "")
    before = sample_key(data(), 0)
    for path, part in ((image, "image"), (labels, "labels")):
        stamp, pixels = path.stat(), np.array(Image.open(path))
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(path)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # dates say nothing
        after = sample_key(data(), 0)
        assert [name for name in before if after[name] != before[name]] == [part]
        before = after
    assert keys.dataset_key(data()) == keys.dataset_key(data())
    (tmp_path / "classes.txt").write_text("\n".join([*Toyscapes.coarse_class_names[:-1], "another"]))
    assert keys.dataset_key(data())["classes"] != keys.digest(list(Toyscapes.coarse_class_names))


def test_settings_and_versions_are_part_of_a_segmentation(tmp_path, pipe, monkeypatch):
    look = lambda spec="toyscapes:1500-1501", **more: segment_all(
        pipe, find_images(spec), tmp_path / "out", **QUICK | more
    )[1]
    assert counts(look()) == (0, 2, 0) and counts(look()) == (2, 0, 0)
    changes = {"seed": 1, "maps": True, "modulation_strength": 9.0, "formats": ["npz"]}
    for change in ({name: value} for name, value in changes.items()):
        assert counts(look(**change)) == (0, 2, 0), change
    assert list((tmp_path / "out").glob("*/arrays.npz"))
    assert counts(look()) == (0, 2, 0) and counts(look("toyscapes:1501-1502")) == (1, 1, 0)
    assert not list((tmp_path / "out").glob("*/arrays.npz"))
    monkeypatch.setattr(keys, "__version__", "99.0")
    assert counts(look()) == (0, 2, 0)


@pytest.mark.parametrize("files", [False, True])
def test_a_damaged_record_is_computed_again(texts, tmp_path, files):
    look = lambda: count_words(texts, tmp_path / "out", files=files)
    results = look()
    assert results[0] == (results.folder("00.txt") if files else {"seed": 0, "words": 1} | results[0])
    whole = tree(tmp_path / "out")
    for number, name in enumerate([name for name in whole if "/" in name][:9]):
        path, content = tmp_path / "out" / name, whole[name]
        torn = (content[: len(content) // 2], content.replace(b"word", b"w0rd", 1) + b" ", b"")
        path.write_bytes(torn[number % 3])
        if path.name != "request.json":
            assert "damaged" in refusal(lambda: list(results))
        assert counts(look()) == (11, 1, 0), name
        after = tree(tmp_path / "out")
        assert {f"{name}.changed"} >= after.keys() - whole.keys() and after.items() >= whole.items(), name
        path.with_name(f"{path.name}.changed").unlink(missing_ok=True)


def test_a_record_put_into_another_run_by_hand_is_not_used(texts, tmp_path):
    folders = [count_words(texts, tmp_path, seed).folder("00.txt") for seed in (0, 1)]
    shutil.copytree(folders[1], folders[0], dirs_exist_ok=True)
    results = count_words(texts, tmp_path, 0)
    assert counts(results) == (11, 1, 0) and [result["seed"] for result in results] == [0] * 12


def test_an_image_that_changes_while_it_is_worked_on_is_not_kept(texts, tmp_path):
    results = count_words(texts, tmp_path / "out", trouble={"00.txt": "change"})
    assert "was changed while" in results.failures["00.txt"]
    look = lambda **more: counts(count_words(texts, tmp_path / "out", **more))
    assert look() == (11, 1, 0) and look() == (12, 0, 0)
    texts["03.txt"].write_text("another text")
    assert look() == (11, 1, 0)
    assert look(seed=1) == (0, 12, 0) and look() == (12, 0, 0)  # results of both are there


def test_names_that_look_alike_have_folders_of_their_own():
    names = ["a.png", "A.png", "a.jpg", "q?b.png", "q*b.png", "x/a.png", ".partial/a.png", "é" * 120]
    folders = [folder_name(name) for name in names]
    assert len({folder.casefold() for folder in folders}) == len(names)
    assert all(re.fullmatch(r"[\w.-]{1,60}", folder) and folder[0] != "." for folder in folders)


THINGS = product(["words.json", "request.json", "failures.json"], ["file", "link", "pipe", "folder"])


@pytest.mark.parametrize("place, thing", [*THINGS, (".emerdiff", "link"), (".emerdiff", "file")])
def test_nothing_is_written_over_what_no_run_wrote(texts, tmp_path, place, thing):
    output, original = tmp_path / "out", tmp_path / "original"
    output.mkdir()
    original.write_text("precious")
    target = output / place
    make = {"file": lambda: target.write_text("mine"), "link": lambda: target.symlink_to(original)}
    (make | {"pipe": lambda: os.mkfifo(target), "folder": target.mkdir})[thing]()
    before = os.lstat(target)
    with pytest.raises(FolderError, match="in the way|is a link|cannot be written"):
        count_words({"": texts["03.txt"]}, output, files=True)
    assert os.lstat(target)[1:7] == before[1:7] and original.read_text() == "precious"


def test_what_somebody_has_changed_is_renamed_and_not_lost(texts, tmp_path):
    results = count_words(texts, tmp_path, files=True)
    for i, (name, kept) in enumerate((("text.txt", ""), ("request.json", ""), ("text.txt", "-2"))):
        words = json.dumps({"key": f"my own words {i}", "files": {"a\0b": ""}})
        (results.folder("05.txt") / name).write_text(words)
        assert counts(count_words(texts, tmp_path, files=True)) == (11, 1, 0)
        assert (results.folder("05.txt") / f"{name}.changed{kept}").read_text() == words
    assert len(count_words({"05.txt": texts["05.txt"]}, tmp_path, seed=1, files=True)) == 1
    assert "damaged or of another run" in refusal(lambda: results.get("05.txt"))
    count_words({name: texts[name] for name in ("05.txt", "07.txt")}, tmp_path, files=True)
    index = pd.read_csv(tmp_path / "index.csv").set_index("image").folder  # of earlier runs as well
    assert len(index) == 12 and index["05.txt"] == results.folder("05.txt").name
    count_words({"=HYPERLINK(1)": texts["05.txt"]}, tmp_path / "formula", files=True)
    assert "\n./=HYPERLINK(1)," in (tmp_path / "formula" / "index.csv").read_text()  # text to a spreadsheet
    twins = dict.fromkeys(("scene072590/color/frame.png", "scene122495/color/frame.png"), texts["05.txt"])
    assert "would have one folder" in refusal(lambda: count_words(twins, tmp_path, files=True))


def test_one_bad_image_stops_nothing(texts, tmp_path):
    trouble = {"03.txt": "value", "05.txt": "memory"}
    results = count_words(texts, tmp_path / "out", trouble=trouble)
    assert counts(results) == (0, 10, 2) and results.failures["03.txt"] == "it has no words"
    assert "out of memory" in results.failures["05.txt"] and "failed: 03.txt: it has no words" in str(results)
    assert [result["words"] for result in results] == [1, 2, 3, 5, 7, 8, 9, 10, 11, 12]
    failures = tmp_path / "out" / "failures.json"
    assert json.loads(failures.read_text()) == results.failures
    assert counts(count_words(texts, tmp_path / "out")) == (10, 2, 0) and not failures.exists()
    with pytest.raises(ValueError, match="None of the 1 images could be used"):
        count_words({"a": texts["00.txt"]}, tmp_path / "other", trouble={"00.txt": "value"})


def test_a_folder_that_cannot_be_written_to_is_said_before_any_work(texts, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FolderError, match="cannot be written"):
            count_words(texts, output, trouble={"00.txt": "interrupt"})
    for output in ("", " ", "a\0b", "~nobody-of-that-name"):
        assert "output_dir=" in refusal(lambda output=output: count_words(texts, output))


RUN = """
import signal, sys
from pathlib import Path
from tests.test_runs import count_words
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it
folder, seconds, workers = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
texts = {path.name: path for path in sorted((folder / "texts").iterdir())}
count_words(texts, folder / "out", seconds=seconds, workers=workers)  # unguarded, as a notebook that became a script
"""


def start_run(folder, seconds, workers):
    """A process of its own, in a session of its own, that counts the words of ``folder``/texts."""
    (folder / "run.py").write_text(RUN)
    return subprocess.Popen(
        [sys.executable, folder / "run.py", folder, str(seconds), str(workers)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_the_run_and_loses_nothing(texts, tmp_path, workers):
    with pytest.raises(FolderError, match="No space left.*what is finished is kept"):
        count_words(texts, tmp_path / "out", trouble={"08.txt": "full"}, files=True, workers=workers)
    kept, computed, failed = counts(count_words(texts, tmp_path / "out", files=True))
    assert kept > 0 and kept + computed == 12
    count_words(texts, tmp_path / "calm", files=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")


@pytest.mark.parametrize("files", [False, True])
def test_killed_at_random_moments_a_run_ends_as_if_undisturbed(texts, tmp_path, files):
    count_words(texts, tmp_path / "calm", files=files)
    rng = random.Random(0)

    def forked():
        tqdm.set_lock(RLock())  # or one killed while it holds the lock that forks share would stop everybody
        count_words(texts, tmp_path / "killed", seconds=0.004, files=files)

    for _ in range(20):
        child = get_context("fork").Process(target=forked)
        child.start()
        time.sleep(rng.uniform(0.005, 0.06))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    count_words(texts, tmp_path / "killed", files=files)
    assert tree(tmp_path / "killed") == tree(tmp_path / "calm")


def test_two_runs_at_once_do_not_mix_in_a_folder(texts, tmp_path):
    child = start_run(tmp_path, seconds=0.3, workers=1)  # no fork: killed, it would keep tqdm's lock for good
    try:
        while not list((tmp_path / "out").glob("*/00-*/request.json")):
            assert child.poll() is None
            time.sleep(0.01)
        assert "Another run is at work" in refusal(lambda: count_words(texts, tmp_path / "out"), FolderError)
        assert counts(count_words(texts, tmp_path / "out", shard="0/2")) >= (1, 0, 0)  # a shard has its own
    finally:
        child.kill()
        child.communicate()


def test_progress_is_by_the_clock_and_without_what_was_kept(tmp_path, monkeypatch):
    now, file, seen = [0.0], tmp_path / "progress.json", []
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def outcomes():
        for number, state in enumerate(5 * ["kept"] + 3 * ["computed"] + ["failed", "computed"]):
            now[0] += 0 if state == "kept" else 10
            yield f"{number}", (state, "")

    for _ in progress.with_progress(outcomes(), 10, "images", file):
        seen.append(json.loads(file.read_text()))
    assert seen[0] == seen[5] == {"done": 0, "total": 10, "failed": 0}
    speed = {"seconds_per_image": 10.0, "seconds_left": 10}
    assert seen[9] == {"done": 9, "total": 10, "failed": 1} | speed
    assert json.loads(file.read_text()) == {"done": 10, "total": 10, "failed": 1}


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", num_cpus=2)
    yield
    ray.shutdown()


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_every_engine_makes_what_one_process_makes_though_a_worker_dies(texts, tmp_path, engine, request):
    if engine == "ray":
        request.getfixturevalue("cluster")
    count_words(texts, tmp_path / "one")
    trouble = {"04.txt": "value", "07.txt": "kill"}
    results = count_words(texts, tmp_path / "two", trouble=trouble, engine=engine, workers=2)
    assert results.failures == {"04.txt": "it has no words", "07.txt": KILLED}
    assert counts(count_words(texts, tmp_path / "two", engine=engine, workers=2)) == (10, 2, 0)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_worker_that_dies_before_it_works_does_not_end_the_run(texts, tmp_path):
    def kill_the_first():
        spawned = lambda: [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]
        while not (workers := spawned()):
            time.sleep(0.01)
        workers[0].kill()

    threading.Thread(target=kill_the_first, daemon=True).start()
    results = count_words(texts, tmp_path / "out", workers=2)
    assert len(results) >= 8 and set(results.failures.values()) <= {KILLED}
    assert counts(count_words(texts, tmp_path / "out"))[2] == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(texts, tmp_path, how):
    for number in range(100):
        (tmp_path / "texts" / f"more {number:03}.txt").write_text("word " * number)
    runner = start_run(tmp_path, seconds=0.05, workers=2)
    done = lambda: len(list((tmp_path / "out").glob("*/*/request.json")))
    while done() < 5 and runner.poll() is None:
        time.sleep(0.05)
    children = psutil.Process(runner.pid).children(recursive=True)
    if how == signal.SIGINT:
        os.killpg(runner.pid, how)  # as a terminal does: everybody gets it
    else:
        runner.send_signal(how)
    _, said = runner.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive and children and (how == signal.SIGKILL or "KeyboardInterrupt" in said)
    texts = {path.name: path for path in (tmp_path / "texts").iterdir()}
    kept, computed, failed = counts(count_words(texts, tmp_path / "out"))
    assert kept >= 5 and (kept + computed, failed) == (112, 0)


def test_shards_of_a_folder_make_what_one_run_makes(texts, tmp_path):
    count_words(texts, tmp_path / "one")
    for shard in ("0/3", "1/3", "2/3"):
        assert counts(count_words(texts, tmp_path / "shared", shard=shard)) == (0, 4, 0)
        count_words(texts, tmp_path / f"part {shard[0]}", shard=shard)
        shutil.copytree(tmp_path / f"part {shard[0]}", tmp_path / "copied", dirs_exist_ok=True)
    for folder in ("shared", "copied"):
        assert counts(count_words(texts, tmp_path / folder)) == (12, 0, 0)
        assert tree(tmp_path / folder) == tree(tmp_path / "one")


def test_what_no_run_can_be_is_one_sentence(monkeypatch):
    for shard in ("3/3", "1", "a/b", "-1/3", "0/0", 0, "0/2\n"):
        assert "shard=" in refusal(lambda shard=shard: check_execution(shard=shard))
    for execution, said in (({"engine": "slurm"}, "'ray'"), ({"workers": 0}, "workers=0")):
        with pytest.raises(ValueError, match=said):
            check_execution(**execution)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "emerdiff-workbook[ray]" in refusal(lambda: check_execution(engine="ray"))


def test_a_pipeline_travels_by_name_and_variant_or_not_at_all(pipe, tmp_path):
    samples, two = find_images("toyscapes:1500-1501"), {"execution": {"workers": 2}}
    segment_all(pipe, samples, tmp_path / "one", **QUICK)
    segment_all(pipe, samples, tmp_path / "two", **two, **QUICK)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="under autocast"):
        segment_all(pipe, samples, tmp_path / "three", **two, **QUICK)
    changed = pipeline()
    with nudged(changed.unet), pytest.raises(ValueError, match="no longer the model"):
        segment_all(changed, samples, tmp_path / "three", **two, **QUICK)
    changed.save_pretrained(tmp_path / "variants")
    with nudged(changed.denoiser):
        changed.save_pretrained(tmp_path / "variants", variant="fp16")
    loaded = EmerDiffPipeline.from_pretrained(tmp_path / "variants", variant="fp16")
    assert model_key(loaded) != model_key(EmerDiffPipeline.from_pretrained(tmp_path / "variants"))
    assert pickle.loads(_dumps(loaded)).variant == "fp16"  # which raises an error for other weights
    changed.model_name = None
    with pytest.raises(ValueError, match="put together by hand"):
        segment_all(changed, samples, tmp_path / "three", **two, **QUICK)


def test_a_folder_of_images_is_segmented_and_kept(tmp_path, pipe, scene):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    small = scene.image.resize((96, 64))
    for name in ("deeper/img.jpg", "img.jpg", "img.png"):
        small = small.rotate(90, expand=True)
        small.save(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    output = tmp_path / "in" / "results"  # below the images: never read as input
    find = lambda: find_images(tmp_path / "in")
    folders, results = segment_all(pipe, find(), output, seed=1, **QUICK)
    assert counts(results) == (0, 3, 1) and "cannot be read" in results.failures["bad.png"]
    again, second = segment_all(pipe, find(), output, seed=1, **QUICK)
    assert again == folders and counts(second) == (3, 0, 1)
    assert len(find_images(tmp_path / "in")) == 4  # results are never input, wherever they lie
    assert set(folders) == {"deeper/img.jpg", "img.jpg", "img.png"} and len(set(folders.values())) == 3
    for name, folder in folders.items():
        kept, path = load_output(folder), tmp_path / "in" / name
        fresh = pipe(path, generator=seeded(1), **QUICK)
        for part in ("labels", "baseline_labels", "coarse_masks", "mask_embeddings", "settings"):
            assert np.array_equal(kept[part], fresh[part]), part
    other = tmp_path / "b"
    other.mkdir()
    scene.image.save(other / "img.jpg")  # another image of the same name into the same folder
    _, third = segment_all(pipe, find_images(other), output, seed=1, **QUICK)
    assert counts(third) == (0, 1, 0)
    _, fourth = segment_all(pipe, find_images(other), other, **QUICK)  # beside the image, which stays
    assert counts(fourth) == (0, 1, 0) and [one.name for one in find_images(other)] == ["img.jpg"]
    alone, _ = segment_all(pipe, find_images(other / "img.jpg"), tmp_path / "alone", **QUICK)
    assert alone == {"img.jpg": tmp_path / "alone"} and (tmp_path / "alone" / "labels.png").exists()
