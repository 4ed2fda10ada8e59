"""A sorting of the photos, and what a folder holds."""

import torch

from shoal.sort.plan import plan_sort


def planned(photos, into, clusters=(0, 0, 1, 0, 0, 1, -1), names=None):
    folder, ids = photos
    return plan_sort(ids, [folder / name for name in ids], torch.tensor(clusters), names or {1: "cats"}, into, [folder])


def tree(folder):
    """All files and links with their contents, and all folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = path.readlink()
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found
