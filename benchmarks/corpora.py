"""What becomes of each file of some folders and archives: kept, skipped with a reason, or silently ignored (must be 0).

    python benchmarks/corpora.py FOLDER [FOLDER ...] [--reasons] [--size 224]
    python benchmarks/corpora.py --made                 # the kinds of corpus.py, in a temporary folder

Files are counted here without shoal's own listing. Each source is read in a process of its own, all images decoded to
squares, so that peak memory is that of this source. The status is 1 if a file was ignored.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from corpus import write_corpus
from shoal.data import find_source, map_blobs
from shoal.data.greys import Scale
from shoal.data.kinds import CLOSED_FOLDER, HIDDEN_FOLDER, OUTPUT, PASSED_FOLDERS, damaged, kind_of_reason
from shoal.data.reading import ToSquare, decode_blob
from shoal.data.sources.others import in_words

_OUTPUTS = ("clustering.safetensors", "state.safetensors")


def files_in(source: Path) -> tuple[int, int]:
    """Count the files of a folder or an archive, and how many of these lie in folders that are passed over as such."""
    names = list(_names(source))
    passed = sum(any(_is_passed(part) for part in name.split("/")[:-1]) for name in names)
    return len(names), passed


def _names(source: Path) -> Iterator[str]:
    if source.is_dir():
        entered = set()
        for folder, subfolders, files in os.walk(source, followlinks=True):
            real = os.path.realpath(folder)
            if real in entered or any(name in files for name in _OUTPUTS):
                subfolders.clear()
                continue
            entered.add(real)
            yield from (os.path.relpath(os.path.join(folder, name), source) for name in files)  # noqa: PTH118
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            yield from (entry.filename for entry in archive.infolist() if not entry.is_dir())
    elif tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            yield from (entry.name for entry in tar if not entry.isdir())


def _is_passed(folder: str) -> bool:
    return folder.lower() in PASSED_FOLDERS or (folder.startswith(".") and folder not in (".", ".."))


def account(path: Path, size: int) -> dict[str, Any]:
    """Read a source, and say what became of its files."""
    start = time.perf_counter()
    n_files, n_passed = files_in(path)
    source = find_source(path)
    listing = source.listing()
    others = listing.others if source.others is None else source.others
    reasons: list[str] = []
    notes = kept = 0
    with closing(map_blobs(partial(decode_blob, ToSquare(size), Scale()), listing)) as results:
        for name, found in zip(listing.ids, results, strict=True):
            if isinstance(found.pixels, str):
                reasons.append(found.pixels)
                if not path.is_dir() and name == path.name:
                    n_files += 1  # a damaged archive, which stands for what is missing
            else:
                kept += 1
                notes += bool(found.note)
    folders = {kind.name for kind in (HIDDEN_FOLDER, OUTPUT, CLOSED_FOLDER)}
    beside = {k: n for k, n in others.counts.items() if k not in folders and k.lower() not in PASSED_FOLDERS}
    told = kept + len(reasons) + sum(beside.values())
    return {
        "files": n_files,
        "kept": kept,
        "in part": notes,
        "skipped": len(reasons),
        "no image": sum(beside.values()),
        "in passed folders": n_passed,
        "ignored": n_files - n_passed - told,
        "seconds": time.perf_counter() - start,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "reasons": dict(Counter(_short(reason) for reason in reasons).most_common()),
        "beside": dict(others.counts),
    }


def _short(reason: str) -> str:
    """A reason without what is different in each file."""
    known = kind_of_reason(reason)
    if reason in (known.refusal, damaged(known, "no image")):
        return reason
    return " ".join(word for word in reason.split(":")[0].split() if not word.isdigit())


def _in_own_process(path: Path, size: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(path), "--size", str(size), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{path}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print a row for each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--made", action="store_true", help="write the corpus and read it")
    parser.add_argument("--reasons", action="store_true", help="say why files were skipped")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps(account(arguments.paths[0], arguments.size)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if arguments.made:
            write_corpus(Path(folder) / "corpus")
        paths = [*arguments.paths, *([Path(folder) / "corpus"] if arguments.made else [])]
        return _table(paths, arguments.size, reasons=arguments.reasons)


def _table(paths: list[Path], size: int, *, reasons: bool) -> int:
    columns = ("files", "kept", "in part", "skipped", "no image", "in passed folders", "ignored")
    print("  ".join(columns), " seconds  peak MB  source")
    ignored = 0
    for path in paths:
        found = _in_own_process(path, size)
        ignored += found["ignored"]
        row = "  ".join(f"{found[name]:>{len(name)}}" for name in columns)
        print(f"{row}  {found['seconds']:7.1f}  {found['peak']:7.0f}  {path}", flush=True)
        if reasons:
            for reason, n in found["reasons"].items():
                print(f"{n:>8}  {reason}")
            if found["beside"]:
                print(f"          beside: {in_words(found['beside'])}")
    print(f"silently ignored {ignored}")
    return int(ignored != 0)


if __name__ == "__main__":
    raise SystemExit(main())
