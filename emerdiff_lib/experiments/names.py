"""Moved to :mod:`emerdiff_lib.studies.names`; here until every study has moved."""

from ..studies.names import *  # noqa: F403
