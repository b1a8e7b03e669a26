"""The explorer: point at an image and see what follows from its stored responses, with or without a kernel."""

from .widget import Explorer, explore, page, payload, save_page
from .workbench import Workbench
