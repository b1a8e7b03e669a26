"""What the benchmark of scale counts and reckons is true, and the harness is linear in the number of pictures."""

import os

import pandas as pd
import pytest

from emerdiff_lib.benchmark import million, scale
from emerdiff_lib.benchmark.empty import Ready, WatchedStore, counting, pictures, write
from emerdiff_lib.experiments.manifest import read_manifest
from emerdiff_lib.runs.harness import run
from emerdiff_lib.runs.store import JsonStore
from emerdiff_lib.settings import real

CONTENT = {"a.bin": bytes(5000), "b.txt": b"text"}


def folders(output):
    return Ready(WatchedStore(output, {}, write), result=CONTENT)


def records(output):
    return Ready(JsonStore(output, {}), result={"numbers": [1, 2]})


def test_operations_are_those_that_happen(tmp_path):
    with counting() as found:
        (tmp_path / "f").mkdir()  # 1
        (tmp_path / "f" / "a").write_text("x")  # 2
        os.replace(tmp_path / "f" / "a", tmp_path / "f" / "b")  # 3
        (tmp_path / "f" / "b").read_text()  # 4
        (tmp_path / "f" / "b").unlink()  # 5
        assert not (tmp_path / "f" / "b").exists()  # asks, and opens nothing
        os.listdir(tmp_path)  # 6
        (tmp_path / "f").rmdir()  # 7
    (tmp_path / "after").write_text("x")
    assert found == [7]


def test_a_picture_s_operations_grow_by_those_of_one_more_file(tmp_path):
    """Written, its digest read, moved under the lock; read once more where it is verified."""
    one, two = (
        Ready(WatchedStore(tmp_path / n, {}, write), result=dict.fromkeys(n, b"x")) for n in ("a", "ab")
    )
    less, more = scale.operations(one, 5), scale.operations(two, 5)
    grown = {name: more[name] - less[name] for name in more if name.startswith("operations")}
    assert grown == pytest.approx({"operations, written": 3, "operations, kept": 1, "operations, locked": 1})
    assert 0 < less["ms locked"] < 1000


@pytest.mark.parametrize("make", [folders, records])
def test_room_on_the_disk_is_what_du_says(tmp_path, make):
    run(make(tmp_path / "out"), pictures(5), progress=False)
    found, size, number, blocks = scale.on_disk(tmp_path / "out", 5), 0, 0, 0
    for place, names, files in os.walk(tmp_path / "out"):
        names[:] = [name for name in names if name != ".partial"]
        for path in (os.path.join(place, name) for name in names + files):
            size, number = size + os.stat(path).st_size, number + 1
            blocks += os.stat(path).st_blocks
    assert found == pytest.approx({"kB": size / 5e3, "kB on disk": blocks * 512 / 5e3, "inodes": number / 5})
    if make is folders:  # in each picture's folder two files and the record, below photos/; the lock
        assert number == 5 * 4 + 2


def test_two_processes_write_into_one_folder_and_find_everything_kept(tmp_path):
    rates = scale.throughput(folders, tmp_path / "out", 11, processes=2)
    assert set(rates) == {"written / s", "kept / s"} and all(real(0)("rate", rate) for rate in rates.values())
    assert len(list((tmp_path / "out" / "photos").iterdir())) == 11


def test_the_harness_is_linear(tmp_path):
    table = scale.harness(tmp_path, [2000, 20_000])
    growth = table.loc[20_000] / table.loc[2000]
    assert growth["µs / picture"] < 5  # ten times as much for each, were it quadratic
    assert (growth.drop("µs / picture") < 1.3).all() and (table["bytes / item"] < 2000).all()
    listed = scale.listing(tmp_path / "listed", 500)
    assert 100 < listed["bytes / picture listed"] <= listed["bytes at the peak / picture listed"] < 5000


def test_a_million_is_reckoned_as_by_hand():
    picture = pd.DataFrame(
        {
            million.FOLDERS: {
                "kB on disk": 64.0,
                "inodes": 9.0,
                "operations, written": 40.0,
                "operations, kept": 9.0,
                "operations, locked": 10.0,
                "ms locked": 0.5,
            },
            million.RECORDS: {
                "kB on disk": 4.0,
                "inodes": 1.0,
                "operations, written": 5.0,
                "operations, kept": 2.0,
            },
        }
    ).T
    rates = pd.DataFrame({(store, n): {"kept / s": 500.0 * n} for store in picture.index for n in (1, 2)}).T
    table = million.extrapolate(picture, rates, seconds_per_picture=8, metadata_rate=1000)
    assert table.loc[million.FOLDERS].tolist() == pytest.approx(
        [64, 9, 2000 / 3600, 2.5, 200, 800, 16_000]  # 8 s × 1000 / 40; × 1000 / 10; 8 s / 0.5 ms
    )
    assert table.loc[million.RECORDS].tolist()[:5] == pytest.approx([4, 1, 2000 / 3600, 2000 / 3600, 1600])
    assert table.loc[million.RECORDS].isna().sum() == 2  # no lock
    driver = pd.DataFrame(
        {"µs / picture": {10: 8.0, 100: 6.0}, "bytes / picture at the peak": {10: 900.0, 100: 600.0}}
    )
    engines = pd.DataFrame({"pictures / s": {"local": 300.0}})
    said = " ".join(million.describe(table, driver, engines, 8, 720))
    for words in (
        "2222 GPU-hours",
        "720 TFLOP a picture: 90 TFLOP/s",
        "64 GB",
        "9.0 million inodes",
        "metadata operations is reached first, by 200 workers",
        "0.75 times as much as among 10",
        "0.6 GB of its memory",
        "enough for 2400 such workers",
    ):
        assert words in said, words


@pytest.mark.slow
def test_the_command_writes_its_manifest(tmp_path):
    scale.main(["--records", "20", "--pictures", "6", "--output", str(tmp_path)])
    manifest = read_manifest(tmp_path / "manifest.json")
    assert len(manifest["tables"]) == 7 and len(manifest["notes"]) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]  # what was measured on is gone


def test_too_few_records_are_refused():
    with pytest.raises(ValueError, match="--records=3"):
        scale.main(["--records", "3"])
