"""Which pictures a study looks at: counts and parts that are possible, and one sentence for those that are not."""

import pytest

from emerdiff_lib.experiments.selection import check_range, command, execution, first_pictures
from emerdiff_lib.runs.harness import Execution


def test_the_first_pictures_are_those_that_there_are():
    assert first_pictures(3, 1000) == range(3) and first_pictures(1_000_000, 5) == range(5)
    for limit, said in (
        (0, "limit=0 leaves no picture"),
        (-1, "limit=-1"),
        (2.5, "limit=2.5"),
        ("all", "limit='all'"),
    ):
        with pytest.raises(ValueError, match=said):
            first_pictures(limit, 1000)
    with pytest.raises(ValueError, match="num_scenes=0"):
        first_pictures(0, 1000, "num_scenes")


def test_a_range_lies_inside_the_data():
    names = ("first_scene", "num_scenes")
    assert check_range(200, 12, 1000, names) == range(200, 212)
    assert check_range(999, 1, 1000, names) == range(999, 1000)
    for first, count, said in (
        (-5, 1, "first_scene=-5"),
        (1000, 1, "first_scene=1000"),
        (990, 11, "1 to 10"),
        (0, 0, "num_scenes=0"),
    ):
        with pytest.raises(ValueError, match=said):
            check_range(first, count, 1000, names)


def test_a_command_reads_settings_as_json():
    args = command("what it does", "runs/somewhere").parse_args(
        ["--settings", '{"modulation_timestep": 41}', "--shard", "0/2", "--workers", "3"]
    )
    assert args.settings == {"modulation_timestep": 41} and execution(args) == Execution("local", 3, "0/2")
    assert args.num_masks is None and str(args.output) == "runs/somewhere"
