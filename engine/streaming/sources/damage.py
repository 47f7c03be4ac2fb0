"""What a source cannot decode: left out, counted and said, or the end of the source."""

import logging

from utils.errors import IncompleteError

log = logging.getLogger(__name__)

SHOWN = 3  # damaged places that are logged at once; the others are counted


class Damage:
    """The damaged places of a source; with ``skip`` they are left out and counted, otherwise the first one ends it."""

    def __init__(self, skip: bool):
        self.skip, self.count = skip, 0
        self._first = ""

    def note(self, place: str, reason: str, count: int = 1) -> None:
        """Counts a place, or ``count`` of them; raises ``IncompleteError`` without ``skip``."""
        self.count += count
        self._first = self._first or f"{place} ({reason})"
        if not self.skip:
            raise IncompleteError(f"{self._first}; --on-damage skip leaves it out and goes on")
        if self.count <= SHOWN:
            more = "; further ones are counted" if self.count == SHOWN else ""
            log.warning("damaged: %s (%s): left out, and the stream goes on%s", place, reason, more)

    def __str__(self) -> str:
        if self.count <= 1:
            return f"a damaged place is left out, {self._first}" if self.count else ""
        return f"{self.count} damaged places are left out, the first {self._first}"
