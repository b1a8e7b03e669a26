"""The explorer: point at a picture and see what follows from its stored responses, with or without a kernel."""

from .page import page, save_page
from .payload import payload
from .widget import Explorer, explore

__all__ = ["Explorer", "explore", "page", "payload", "save_page"]
