"""What is under review: a result, and results of the other layers of its density once they were asked for."""

from __future__ import annotations

import contextlib
import threading

from shoal.results.cluster_images import layer_result
from shoal.results.result import Result
from shoal.review.session import Session


class Desk:
    """Reviews of one result and of its layers, of which the page shows one at a time.

    Each has a folder, decisions and a lock of its own, and stays open until the end.
    """

    def __init__(self, result: Result) -> None:
        """The caller holds the folder.

        Raises:
            UserError: as ``Session``.
        """
        self.session = Session(result)
        self._opened = {self.session.place: self.session}
        self._held = contextlib.ExitStack()
        self._lock = threading.Lock()

    @property
    def sessions(self) -> list[Session]:
        """All that are open, the first one first."""
        return [*self._opened.values()]

    def take(self, n_clusters: int) -> Session:
        """Show the layer with this many clusters, whose result is made if there is none.

        Raises:
            UserError: there is no such layer, another process changes its result, or its folder cannot be written.
        """
        with self._lock:
            result = layer_result(self.session.result, n_clusters)
            place = result.folder.path.resolve()
            if place not in self._opened:
                self._held.enter_context(result.folder.alone())
                self._opened[place] = Session(result)
            self.session = self._opened[place]
            return self.session

    def write_if_idle(self) -> None:
        """Write the tables that are behind.

        Raises:
            UserError: a folder cannot be written.
        """
        for session in self.sessions:
            session.write_if_idle()

    def close(self) -> None:
        """Write tables and reports where anything was decided.

        Raises:
            UserError: a folder cannot be written.
        """
        with self._held, contextlib.ExitStack() as closing:
            for session in self.sessions:
                closing.callback(session.close)
