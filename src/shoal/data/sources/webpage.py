"""The files that a web page, and the pages below it, have links to."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from shoal.data.connecting import CONNECTIONS
from shoal.data.kinds import is_image_name
from shoal.data.storage import Storage
from shoal.data.threads import map_in_threads
from shoal.errors import UserError

_LOG = logging.getLogger("shoal")
_DEEPEST, _MOST = 32, 50_000  # web pages of web pages, which may lead round in circles


def web_entries(storage: Storage) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Name, address and what the server says of each file that a page, and the pages below it, have links to."""
    base, links = _files_below(storage)

    def asked(link: str) -> tuple[str, Mapping[str, Any]]:
        try:
            return link, storage.info(link)
        except OSError:  # it is reported when it is read
            return link, {}

    for link, info in map_in_threads(asked, links, threads=CONNECTIONS, ahead=2 * CONNECTIONS):
        yield _path_of(link)[len(base) :], link, info


def _files_below(storage: Storage) -> tuple[str, list[str]]:
    """The path that all files share, and their addresses."""
    first = storage.page(storage.path)
    root = urlsplit(first[0])
    own = _path_of(first[0])
    base = own.rpartition("/")[0] + "/"
    pages, files, seen = deque([(first, 0)]), dict[str, str](), {base, own}
    below = deque[tuple[str, int]]()
    while pages or below:
        if pages:
            (page, text), depth = pages.popleft()
        else:
            address, depth = below.popleft()
            try:
                page, text = storage.page(address)
            except UserError as error:
                if not isinstance(error.__cause__, PermissionError | FileNotFoundError):
                    raise
                _LOG.warning("%s Its contents are skipped.", error)
                continue
        if len(seen) - len(files) > _MOST:
            raise UserError(f"there are more than {_MOST} pages below {storage.url}: give one of them.")
        for link in _links(text, page):
            path = _path_of(link)
            inside = urlsplit(link).netloc.lower() == root.netloc.lower() and path.startswith(base)
            key = path if path == own else _key(link)
            if not inside or key in seen or depth > _DEEPEST:
                continue
            seen.add(key)
            if path.endswith("/"):
                below.append((link, depth + 1))
            else:
                files[key] = link
    return base, [*files.values()]


def _path_of(address: str) -> str:
    """The path of an address, in which ``%7E`` and ``~`` are one letter."""
    return unquote(urlsplit(address).path)


def _key(link: str) -> str:
    """What two links to one file have in common.

    What follows "?" is the order of an index, or the size of ``1.png``; of ``img?id=1`` it tells images apart.
    """
    path, query = _path_of(link), urlsplit(link).query
    return path if not query or path.endswith("/") or is_image_name(path) else f"{path}?{query}"


def _links(text: str, page: str) -> Iterator[str]:
    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attrs if name in ("href", "src") and value and tag in ("a", "img"))

    found: list[str] = []
    Links().feed(text)
    for value in found:
        try:
            yield urljoin(page, value).partition("#")[0]
        except ValueError:  # an address with half a bracket
            continue
