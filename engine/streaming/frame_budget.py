"""One budget of bytes for all frames of a stream that are in flight, from decoding to the last of their outputs."""

import threading


class FrameBudget:
    """Counts the bytes of the frames in flight; there is room for a next one where it keeps them within ``most``.

    A next frame is taken to be as large as the largest so far, since its size is known only once it is decoded. Where
    none is in flight there is room for a frame of any size. One thread takes, any thread gives back.
    """

    def __init__(self, most: int):
        self.most = most
        self.taken = 0
        self._largest = 0
        self._changed = threading.Condition()

    def has_room(self, seconds: float) -> bool:
        """Whether there is room for a next frame now, or within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.taken or self.taken + self._largest <= self.most, seconds)

    def take(self, size: int, uses: int) -> "Share":
        """Takes the bytes of a frame that was decoded; they are given back once it was used so often."""
        with self._changed:
            self.taken += size
            self._largest = max(self._largest, size)
        return Share(self, size, uses)

    def _used(self, share: "Share") -> None:
        with self._changed:
            share.uses -= 1
            if share.uses == 0:
                self.taken -= share.size
                self._changed.notify_all()


class Share:
    """The bytes of one frame; ``uses`` counts the outputs that are still to write it."""

    def __init__(self, budget: FrameBudget, size: int, uses: int):
        self.size, self.uses = size, uses
        self._budget = budget

    def used(self) -> None:
        """Says that an output is done with the frame, whether it could write it or not."""
        self._budget._used(self)
