"""A hundred processes import the same: the first keeps what it compiled, though the environment says not to."""

import os
import sys

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
