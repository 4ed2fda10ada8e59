"""Connections to storages by fsspec: time limits, packages that are missing, and servers that are not there."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import threading
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from shoal.data.urls import redacted
from shoal.errors import UserError

CONNECTIONS = 32
"""Requests at once: at 20 ms each that is 1 600 images a second."""

S3, _GOOGLE, _AZURE = ("s3", "s3a"), ("gs", "gcs"), ("az", "abfs", "abfss")
PATIENT = (*_GOOGLE, *_AZURE)
"""Schemes whose packages ask again themselves, for a minute, and cannot be told not to."""
_ENDPOINTS = {"hf": "endpoint"} | dict.fromkeys(_AZURE, "account_url")
"""Of these and the like, the attribute of their file systems that has the address of the server."""
_CONNECT, SILENCE = 10, 30  # seconds until a connection is there, and without a byte
_FIRST_CONNECT = 5  # seconds until one is there where it is only tried
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http", "sftp": "sftp"}
_EXTRAS |= {"ssh": "sftp", "az": "azure", "abfs": "azure", "abfss": "azure", "adl": "azure", "hf": "hub"}
_CHAIN = re.compile(r"^\w+::|::\w[\w+.-]*://")  # not the "::" of an IPv6 host, or of a name
_LOGGERS = ("fsspec", "s3fs", "gcsfs", "adlfs", "paramiko", "aiobotocore", "botocore", "aiohttp", "asyncio", "google")
_SILENT = logging.NullHandler()


def connect(url: str, scheme: str, *, fresh: bool = False) -> tuple[Any, str]:
    """The file system of an address, a ``fresh`` one if that is asked for, and its path there."""
    import fsspec.core

    for name in _LOGGERS:  # without a handler, tracebacks with whole addresses would go to the terminal
        logging.getLogger(name).addHandler(_SILENT)
    if _CHAIN.search(url):
        raise UserError(
            f"shoal does not read chains of addresses such as {redacted(url)}: give the address of the archive itself."
        )
    if scheme in S3 and "@" in urlsplit(url).netloc:
        raise UserError(
            f"an address of {scheme}:// has no place for credentials: give {redacted(url)}, and set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    if scheme in _GOOGLE:  # which looks for credentials first, also on the network
        _try_connection(_google())
    try:
        fs, path = fsspec.core.url_to_fs(scheme + url[len(scheme) :], **_options(scheme), skip_instance_cache=fresh)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        advice = f"pip install 'shoal[{extra}]'" if extra else " ".join(redacted(str(error)).split()).rstrip(".")
        raise UserError(f"{scheme}:// needs a package that is missing: {advice}.") from None
    if scheme in _ENDPOINTS:
        _try_connection(str(getattr(fs, _ENDPOINTS[scheme], "")))
    if scheme in S3:
        fs.retries = 1  # requests are made again here
    if scheme in ("sftp", "ssh"):
        fs.ftp.get_channel().settimeout(SILENCE)
    return fs, str(path)


def _google() -> str:
    """The address of Google's storage, or of what stands for it."""
    import fsspec.config

    found = fsspec.config.conf.get("gs", {}).get("endpoint_url") or os.environ.get("STORAGE_EMULATOR_HOST", "default")
    if found in ("", "default"):
        return "https://storage.googleapis.com"
    return str(found) if "://" in found else f"http://{found}"


@cache
def _try_connection(url: str) -> None:
    """Connect to the server of an address, or to the proxy in between, in a few seconds.

    Raises:
        OSError: that is not possible.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        return
    known = {} if proxy_bypass(parts.netloc) else getproxies()
    proxy = known.get(parts.scheme, known.get("all", ""))
    met = urlsplit(proxy) if "://" in proxy else parts
    failed: list[OSError] = []

    def connect() -> None:
        try:
            port = met.port or (443 if met.scheme == "https" else 80)
            socket.create_connection((met.hostname or "", port), _FIRST_CONNECT).close()
        except OSError as error:
            failed.append(error)

    # A name that nobody resolves is looked up for as long as the system likes, in a thread that no one waits for.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(2 * _FIRST_CONNECT)
    if failed or thread.is_alive():
        raise OSError(errno.EHOSTUNREACH, f"no connection to {met.hostname}")


def _options(scheme: str) -> dict[str, Any]:
    """Time limits and connections, where fsspec's configuration does not set them."""
    import fsspec.config

    known = fsspec.config.conf.get(scheme, {})
    if scheme in S3:
        own = {"max_pool_connections": CONNECTIONS, "connect_timeout": _CONNECT, "read_timeout": SILENCE}
        own |= {"retries": {"total_max_attempts": 1}}  # type: ignore[dict-item]
        return {"config_kwargs": own | known.get("config_kwargs", {}), "use_listings_cache": False}
    if scheme in ("http", "https"):
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=SILENCE)
        return {"client_kwargs": {"timeout": limit} | known.get("client_kwargs", {})}
    if scheme in ("sftp", "ssh"):
        return {name: _CONNECT for name in ("timeout", "banner_timeout", "auth_timeout") if name not in known}
    if scheme in _GOOGLE:
        return {"requests_timeout": SILENCE} if "requests_timeout" not in known else {}
    return {}
