"""A small S3 server for measurements: it lists and serves a folder as a bucket, and makes each request wait.

It answers ListObjectsV2, HeadObject and GetObject, in a tenth of the processor time of moto's server, so that on a
small machine the client is measured and not the server. Signatures are not checked.

    python benchmarks/s3_server.py FOLDER [--delay 0.02]

prints its port; on SIGTERM it prints the processor seconds that it took, and how many requests there were.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import resource
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_PAGE = 1000  # keys of an answer, as S3 has it


class Bucket:
    """A folder as a bucket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = sorted(_files(folder, ""))
        self.n_requests = 0

    def listed(self, query: dict[str, list[str]]) -> bytes:
        """A page of keys under a prefix."""
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = [key for key in self.keys if key.startswith(prefix) and key > after]
        page = keys[: int(query.get("max-keys", [str(_PAGE)])[0])]
        rows = "".join(map(self._row, page))
        more = len(page) < len(keys) and page
        next_page = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{next_page}{rows}</ListBucketResult>"
        ).encode()

    def _row(self, key: str) -> str:
        found = (self.folder / key).stat()
        when = datetime.fromtimestamp(int(found.st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        size, tag = f"<Size>{found.st_size}</Size>", f"<ETag>&quot;{_tag(found)}&quot;</ETag>"
        return f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>{tag}{size}</Contents>"

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[str, bytes]:
        """Status and headers, and the body."""
        self.n_requests += 1
        parts = urlsplit(target)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        if not key:
            return "200 OK\r\nContent-Type: application/xml\r\n", self.listed(parse_qs(parts.query))
        start, _, end = headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        try:
            with (self.folder / key).open("rb") as file:
                found = os.fstat(file.fileno())
                file.seek(int(start))
                data = file.read(int(end) + 1 - int(start) if end else -1)
        except OSError:
            return "404 Not Found\r\n", b"" if method == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>"
        status = "200 OK"
        if "range" in headers:
            last = int(start) + len(data) - 1
            status = f"206 Partial Content\r\nContent-Range: bytes {start}-{last}/{found.st_size}"
        when = datetime.fromtimestamp(int(found.st_mtime), UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        return f'{status}\r\nETag: "{_tag(found)}"\r\nLast-Modified: {when}\r\n', data


def _files(folder: Path, prefix: str) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _files(Path(entry.path), f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}"


def _tag(found: os.stat_result) -> str:
    return hashlib.blake2b(f"{found.st_size} {found.st_mtime_ns}".encode(), digest_size=16).hexdigest()


async def serve(folder: Path, delay: float) -> None:
    """Serve until SIGTERM."""
    bucket, ended = Bucket(folder), asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *rest = head.decode("latin-1").strip().split("\r\n")
                method, target, _ = first.split(" ", 2)
                pairs = (line.partition(":") for line in rest)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                await asyncio.sleep(delay)
                status, body = bucket.answer(method, target, headers)
                writer.write(f"HTTP/1.1 {status}Content-Length: {len(body)}\r\n\r\n".encode())
                if method != "HEAD":
                    writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, bucket.n_requests, flush=True)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a folder as a bucket.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0.02)
    given = parser.parse_args()
    sys.exit(asyncio.run(serve(given.folder, given.delay)))
