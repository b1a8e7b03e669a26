"""The explorer: point at a picture and see what follows from its stored responses, with or without a kernel."""

from .page import page, save_page
from .payload import payload
from .widget import Explorer, explore
from .workbench import Workbench

__all__ = ["Explorer", "Workbench", "explore", "page", "payload", "save_page"]
