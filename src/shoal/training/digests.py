"""What a state was saved with, as hashes: the config of its run, and the files of its plugins."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from shoal.config import PLUGINS, RunConfig, dumped, plugins_of, to_dict
from shoal.plugins import digest_of

_LOG = logging.getLogger("shoal")

ADDED: tuple[tuple[str, str, object], ...] = (
    ("", "smooth_features", False),
    ("backbone", "freeze", 0),
    ("optim", "backbone_lr_scale", 1),
    ("data", "range", None),
    ("data", "every", ""),
    ("augment", "own", []),
    ("augment", "views", 2),
    ("augment", "side", None),
    ("augment", "neighbours", 0),
)
"""Settings that came after the first runs were saved, by section ("" for none) and name, and what these runs did."""


def config_digest(config: RunConfig) -> str:
    """Hash of the config but for the paths of the images and of the weights it began with, which may have moved."""
    raw = to_dict(replace(config, data=replace(config.data, path="", root="")))
    raw.pop(PLUGINS, None)  # these may have moved as well
    del raw["backbone"]["weights"]
    del raw["recompute"]  # it changes no bit
    # Runs that began before there were these settings can be resumed.
    if not raw["augment"]["neighbours"]:
        del raw["augment"]["neighbour_p"]
    for section, name, before in ADDED:
        settings = raw[section] if section else raw
        if settings[name] == before:
            del settings[name]
    if raw["method"].get("boost_from") is None:
        raw["method"] = {name: value for name, value in raw["method"].items() if not name.startswith("boost_")}
    return hashlib.blake2b(dumped(raw).encode(), digest_size=16).hexdigest()


def plugin_digests(config: RunConfig) -> dict[str, str]:
    """The state of each plugin's file, by the name of what it has."""
    digests = {name: digest_of(origin) for name, origin in plugins_of(config).items()}
    return {name: digest for name, digest in digests.items() if digest}


def warn_of_changed_plugins(config: RunConfig, before: Mapping[str, str], saved: Path) -> None:
    """Say which plugins are others than ``plugin_digests`` told when ``saved`` was written."""
    now, where = plugin_digests(config), plugins_of(config)
    for name, then in before.items():
        if then != now.get(name):
            _LOG.warning(f"{where.get(name, '')} has changed since {saved} was saved: {name!r} is used as it is now.")
