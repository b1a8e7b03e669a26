"""Importing the library asks PyTorch, in time, for threads that sleep and for large pages, and loads nothing that takes long."""

import os
import subprocess
import sys

import pytest

# What stands in the environment when torch is first looked for
LOOK = """
import os, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ["OMP_WAIT_POLICY"], os.environ["THP_MEM_ALLOC_ENABLE"])
            sys.exit()
sys.meta_path.insert(0, Finder())
import emerdiff_lib
assert not {"torch", "diffusers", "numpy"} & sys.modules.keys()  # names load when they are used
emerdiff_lib.EmerDiffPipeline
"""


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE", "THP_MEM_ALLOC_ENABLE": "0"}])
def test_wishes_are_there_in_time_and_the_user_s_win(given):
    wishes = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}
    unset = {name: value for name, value in os.environ.items() if name not in wishes}
    said = subprocess.check_output([sys.executable, "-c", LOOK], env=unset | given, text=True)
    assert said.split() == list((wishes | given).values())


def test_the_pipeline_loads_no_more_than_diffusers():
    """Of what takes a second: what it needs for one step is loaded there."""
    code = "import sys; from diffusers import DiffusionPipeline; before = set(sys.modules); import emerdiff_lib.pipeline"
    code += "; print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    more = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert "emerdiff_lib" in more and not more & {"sklearn", "skimage", "pandas", "matplotlib", "pyarrow"}
