"""PyTorch is asked for threads that sleep and for large pages before it is loaded, but where the user said otherwise."""

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
"""


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE", "THP_MEM_ALLOC_ENABLE": "0"}])
def test_wishes_are_there_in_time_and_the_user_s_win(given):
    wishes = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1"}
    unset = {name: value for name, value in os.environ.items() if name not in wishes}
    said = subprocess.check_output([sys.executable, "-c", LOOK], env=unset | given, text=True)
    assert said.split() == list((wishes | given).values())
