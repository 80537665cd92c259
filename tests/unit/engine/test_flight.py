"""A shared answer that is stopped before anything of it has run: those who wait for it are told, and whoever keeps it."""

import pytest

from trunkline.engine.flight import Flight, Source
from trunkline.engine.turn_record import Recorder
from trunkline.model.errors import BackendUnavailable
from trunkline.telemetry.outcome import Outcome


async def test_what_is_stopped_before_it_begins_ends_for_everybody() -> None:
    told: list[Recorder | None] = []

    async def ask() -> Source:
        raise AssertionError("nobody is to be asked any more")

    async def ended(flight: Flight, recorder: Recorder | None) -> None:
        told.append(recorder)

    flight = Flight(ask, ended, outcome=Outcome(), alone=lambda _: None, lasts=True)
    reader = flight.join(Outcome())
    flight.stop()
    with pytest.raises(BackendUnavailable, match="shutting down"):
        await reader.opened()
    assert (told, flight.over) == ([None], True)
