"""A drive that goes away while its images are read: told from files that are broken, since it may come back."""

from __future__ import annotations

import errno
import os

from shoal.data.file_stats import NO_STAT, stat_file
from shoal.data.listing import Listing
from shoal.errors import UserError

_NAMES = (
    *("ENOENT", "EIO", "ESTALE", "ENOTCONN", "ENODEV", "ENXIO", "ENOMEDIUM", "EREMOTEIO", "ETIMEDOUT"),
    *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNRESET", "ECONNABORTED"),
)
_CODES = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
_REASONS = frozenset(os.strerror(code).lower() for code in _CODES)
_NO_FILE = os.strerror(errno.ENOENT).lower()

UNREACHED = "not reached: "
"""Begins the reason of an image that its storage did not give: another time it may."""

_IN_A_ROW = 10
"""Reads that fail one after the other: bad sectors of a card spoil fewer."""


class LostError(UserError):
    """The images cannot be reached any more, as when their drive has gone away; what was read before is kept."""

    def __init__(self, name: str, reason: str, kept: str = "") -> None:
        bring = "bring their folder or drive back"
        if reason.startswith(UNREACHED):
            bring = "check the network and the credentials, or wait until their storage has recovered"
        super().__init__(
            f"the images cannot be reached any more ({name}: {reason}): {bring}, then run the same command again{kept}."
        )


def out_of_reach(reason: str | Exception) -> bool:
    """Whether an image could not be read because it, or its drive, was not there: another time it may be."""
    if isinstance(reason, Exception):
        return isinstance(reason, OSError) and reason.errno in _CODES
    return reason in _REASONS or reason.startswith(UNREACHED)


class Reach:
    """Watches the reading of a listing for a drive that has gone away."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._read: list[int] = []
        self._failed = 0

    def saw(self, row: int) -> None:
        """An image was read; the first and the last of them are looked for when another is missing."""
        self._read = [*self._read[:1], row]
        self._failed = 0

    def is_lost(self, row: int, reason: str) -> bool:
        """Whether not only this image cannot be reached, but nor can those that were read before it."""
        if not out_of_reach(reason):
            return False
        if reason != _NO_FILE:
            self._failed += 1
            return self._failed >= _IN_A_ROW
        if not len(self._listing.files):
            return False
        path = self._listing.files[row]
        if path.is_symlink() or not self._read:  # a link to nowhere is not a loss
            return False
        return all(stat_file(self._listing.files[each]) == NO_STAT for each in self._read)
