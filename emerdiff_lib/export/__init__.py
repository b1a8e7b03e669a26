"""Segmentations as files: this library's own, and those that others read."""

from .files import FORMATS, check_formats, join_coco, load_output, save_output, write_formats
from .shapes import polygons, prompts, segment_table
