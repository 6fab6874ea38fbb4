"""What is to come on one GPU in a replay, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count

ARRIVAL, END, SEEN, MOVED, LOOK, POLICY, GONE = range(7)
"""A cell is sent, a cell ends, its end is seen, a move ends, the loop may look, another policy, a kernel's end."""
WHATEVER = -1
"""The generation of a look that counts whatever happens until then."""


class Agenda:
    """Events before `span` microseconds, of one instant in the order in which they were added.

    Each is of a seat, by its number, and of that seat's generation; or of no seat, and then its number says what it is
    about. `tick` is the time between two looks of the loop when nothing wakes it.
    """

    def __init__(self, span: int, tick: int) -> None:
        self._span, self._tick = span, tick
        self._events: list[tuple[int, int, int, int, int]] = []  # at, serial, kind, number, generation
        self._serial = count()

    def add(self, at: int, kind: int, number: int, generation: int = 0) -> None:
        """It will happen then."""
        heappush(self._events, (at, next(self._serial), kind, number, generation))

    def instants(self) -> Iterator[int]:
        """Each instant at which something happens, those included that are added on the way."""
        while self._events and self._events[0][0] < self._span:
            yield self._events[0][0]

    def due(self, now: int) -> Iterator[tuple[int, int, int]]:
        """Kind, number and generation of all that happens at `now`, what is added for `now` meanwhile included."""
        while self._events and self._events[0][0] == now:
            yield heappop(self._events)[2:]

    def look(self, at: int) -> None:
        """The loop looks at its first tick at or after `at`."""
        self.add(self.tick_from(at), LOOK, -1, WHATEVER)

    def tick_from(self, at: int) -> int:
        """The first look of the loop at or after `at`, if nothing wakes it before."""
        return -(-at // self._tick) * self._tick
