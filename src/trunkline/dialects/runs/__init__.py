"""Runs: a background response seen as a piece of work, with events that say what happens instead of how it is put together.

Only a view. A run and its response are one thing with one log; this reads the response's events and objects and writes the run's.
So it needs nothing kept of its own, and what it says of a run is the same before and after a restart.
"""

from trunkline.dialects.runs.create import read_choice, read_create
from trunkline.dialects.runs.events import RunEvents, end_of, name_of
from trunkline.dialects.runs.names import response_id_of, run_id_of
from trunkline.dialects.runs.objects import RunObjects, RunReport

__all__ = [
    "RunEvents",
    "RunObjects",
    "RunReport",
    "end_of",
    "name_of",
    "read_choice",
    "read_create",
    "response_id_of",
    "run_id_of",
]
