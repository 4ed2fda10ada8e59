"""Addresses of images in storages, ``s3://bucket/photos``: what is written of them holds no password and no key.

Credentials belong into fsspec's own configuration. Where an address holds some nevertheless, they stay in the memory of
this process: everything else has the address without them (``public``), and ``private`` gives it back to who connects.
"""

from __future__ import annotations

import os
import re

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")
_WHOLE_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://[^\s'\"<>]+")
_SECRET = r"[\w.-]*(?:sig|token|key|secret|credential|passw|auth|policy|expires)[\w.-]*"
_SECRET_QUERY = re.compile(rf"\?(?:[^?]*&)?{_SECRET}=", re.IGNORECASE)
_SECRET_VALUE = re.compile(rf"([?&]{_SECRET}=)[^&\s'\")]+", re.IGNORECASE)
_WITH_USERS = ("sftp", "ssh", "ftp", "smb")
"""Schemes under which the name of a user is kept: a key or an agent may log it in."""
_WEB = ("http", "https")
_SHORTEST = 4
"""Characters of a part of an address that is looked for in messages: shorter ones are in any text."""

_private: dict[str, str] = {}


def scheme_of_url(spec: str) -> str:
    """The scheme of an address in lower case; '' for paths, also for a file that has such a name."""
    found = _URL.match(spec)
    return found[1].lower() if found and not os.path.lexists(spec) else ""


def is_url(spec: str) -> bool:
    """Tell an address, ``scheme://...``, from a path."""
    return scheme_of_url(spec) != ""


def public(spec: str) -> str:
    """An address without passwords, keys and signatures, which ``private`` has from now on; paths as they are.

    The query of a web address may be a key whatever its name, so none is kept.
    """
    scheme = scheme_of_url(spec)
    if not scheme:
        return spec
    shown = _without_secrets(scheme, spec[len(scheme) + 3 :])
    if shown != spec:
        _private[shown] = spec
    return shown


def private(shown: str) -> str:
    """The address that was given where ``public`` made ``shown`` of it, in this process."""
    return _private.get(shown, shown)


def _without_secrets(scheme: str, rest: str) -> str:
    if scheme in _WEB:
        rest = rest.partition("#")[0].partition("?")[0]
    elif found := _SECRET_QUERY.search(rest):
        rest = rest[: found.start()]
    end = rest.find("/") if "/" in rest else len(rest)
    port = rest[:end].rpartition(":")[2]
    if ":" in rest[:end] and not port.isdigit() and "@" not in rest[:end] and "@" in rest:
        end = len(rest)  # a password with a slash in it
    users, at, _ = rest[:end].rpartition("@")
    if at and (":" in users or scheme in _WEB):
        name = users.partition(":")[0] if scheme in _WITH_USERS else ""
        rest = (f"{name}@" if name else "") + rest[len(users) + 1 :]
    return f"{scheme}://{rest}"


def redacted(text: str) -> str:
    """A message without what is secret of the addresses in it, whole or in parts."""
    text = _WHOLE_URL.sub(lambda found: _without_secrets(scheme_of_url(found[0]), found[0].partition("://")[2]), text)
    for shown, spec in _private.items():
        for part in _secret_parts(shown, spec):
            text = text.replace(part, "…")
    return _SECRET_VALUE.sub(r"\1…", text)


def _secret_parts(shown: str, spec: str) -> list[str]:
    """Pieces of an address that are not in what is shown of it, the longest first."""
    pieces = {piece for piece in re.split(r"[/:@?&=#]", spec) if len(piece) >= _SHORTEST and piece not in shown}
    return sorted(pieces, key=len, reverse=True)


def is_within(inner: str, outer: str) -> bool:
    """Whether an address lies in another, or is it."""
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")
