"""The Hugging Face hub: data sets, ``hf://owner/name[/config][@split]``, by their Parquet files; models of others."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from shoal.data.listing import Source
from shoal.data.sources.folder import walk
from shoal.data.sources.parquet import parquet_source
from shoal.errors import UserError

_LOG = logging.getLogger("shoal")
SCHEME = "hf://"
_SPEC = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(@(?P<split>[\w.-]+))?")
_MODEL = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_NOT_SHARED = ["state.safetensors", "tensorboard/*", "wandb/*", "profile.*"]
_CONVERTED = "refs/convert/parquet"  # the hub's own conversion of data sets in other formats


def hub_source(spec: str) -> Source:
    """Read the images of a data set of the hub, all splits if none is named.

    ``huggingface_hub`` caches it, and finds it there without a network.

    Raises:
        UserError: ``huggingface_hub`` is missing, the hub cannot be reached, there is no such data set, config or
            split, or it has no Parquet files.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(f"{spec} is not a data set: write hf://owner/name, hf://owner/name/config or …@split.")
    hub = _hub()
    name, config, split = match["name"], match["config"] or "", match["split"] or ""
    names, revision, local = _files_of(hub, name)
    chosen = _chosen(names, config, split, f"{SCHEME}{name}")
    options = {"revision": revision, "allow_patterns": chosen, "local_files_only": local}
    try:
        folder = hub.snapshot_download(name, repo_type="dataset", **options)
    except Exception as error:  # depends on the version of huggingface_hub and on its download backend
        raise UserError(f"cannot download {spec}: {_first_line(error)}; try again to resume the download.") from error
    return parquet_source(Path(folder), chosen)


def hub_model(spec: str) -> Path:
    """The files of a model of the hub, ``hf://owner/name[@revision]``, in its cache: weights, or the folder of a run.

    Raises:
        UserError: ``huggingface_hub`` is missing, the hub cannot be reached, or there is no such model.
    """
    match = _MODEL.fullmatch(spec)
    if match is None:
        raise UserError(f"{spec} is not a model of the hub: write hf://owner/name, or hf://owner/name@revision.")
    hub = _hub()
    name = match["name"]
    options = {"revision": match["revision"], "ignore_patterns": _NOT_SHARED}
    try:
        check_reachable()
        return Path(hub.snapshot_download(name, **options))
    except (
        hub.errors.RepositoryNotFoundError,
        hub.errors.RevisionNotFoundError,
        hub.errors.HFValidationError,
    ) as error:
        advice = "check the name; a private or gated one needs 'hf auth login'"
        raise UserError(
            f"the hub has no model {name}{spec.partition('@')[1]}{match['revision'] or ''}: {advice}."
        ) from error
    except Exception as error:  # depends on the version of huggingface_hub and on its download backend
        try:
            found = Path(hub.snapshot_download(name, local_files_only=True, **options))
        except Exception:  # nothing is there, or only a part
            advice = "connect to the network, or download it elsewhere and give its folder or file"
            raise UserError(f"cannot reach the hub for {spec} ({_first_line(error)}): {advice}.") from error
        _LOG.warning("the hub cannot be reached: using the files of %s that were downloaded before", spec)
        return found


def check_reachable() -> None:
    """Raise an OSError at once if there is no network: the hub's client would retry for half a minute, with warnings.

    Behind a proxy this cannot be known, and nothing is raised.
    """
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not getproxies():
        address = urlsplit(constants.ENDPOINT)
        socket.create_connection((address.hostname or "", address.port or 443), timeout=10).close()


def _hub() -> Any:
    try:
        import huggingface_hub.errors  # slow, and optional
    except ImportError as error:
        raise UserError("hf:// needs huggingface_hub: pip install 'shoal[hub]'.") from error
    return huggingface_hub


def _files_of(hub: Any, name: str) -> tuple[list[str], str | None, bool]:
    """Return the Parquet files of a data set, their revision, and whether only local files can be used.

    Raises:
        UserError: there is no such data set, it has no Parquet files, or the hub cannot be reached.
    """
    for revision in (None, _CONVERTED):
        try:
            check_reachable()
            found = hub.HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
        except hub.errors.RevisionNotFoundError:
            continue
        except (hub.errors.RepositoryNotFoundError, hub.errors.HFValidationError) as error:
            advice = "check the name; a private or gated one needs 'hf auth login'"
            raise UserError(f"the hub has no data set {name}: {advice}.") from error
        except Exception as error:  # as above
            return _local_files(hub, name, error)
        if names := sorted(file for file in found if file.endswith(".parquet")):
            return names, revision, False
    raise UserError(f"{SCHEME}{name} has no Parquet files and no conversion to Parquet: download it as a folder.")


def _local_files(hub: Any, name: str, reason: Exception) -> tuple[list[str], str | None, bool]:
    """Return what has been downloaded before."""
    for revision in (None, _CONVERTED):
        try:
            folder = hub.snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
        except Exception as error:  # nothing or only a part is there; newer versions say where
            folder = getattr(error, "snapshot_path", "")
        names = [file for file in walk(Path(folder)) if file.endswith(".parquet")] if folder else []
        if names:
            _LOG.warning("the hub cannot be reached: using the files of %s%s that were downloaded before", SCHEME, name)
            return names, revision, True
    advice = "connect to the network, or download its Parquet files elsewhere and give their folder"
    raise UserError(f"cannot reach the hub for {SCHEME}{name} ({_first_line(reason)}): {advice}.") from reason


def _chosen(names: Sequence[str], config: str, split: str, spec: str) -> list[str]:
    """Select the files of a config, which is a folder, and of a split, which begins the name of a file or its folder.

    A folder ``data`` or ``default``, or the only folder, is the default config.
    """
    configs: dict[str, list[str]] = {}
    for name in names:
        folder = name.split("/")[0] if "/" in name else "data"
        configs.setdefault(folder, []).append(name)
    only = next(iter(configs)) if len(configs) == 1 else next((n for n in ("data", "default") if n in configs), "")
    wanted = config or only
    if wanted not in configs:
        what = f"no config {config}" if config else "several configs"
        raise UserError(f"{spec} has {what}: give one of {_some(configs)}, as in {spec}/{next(iter(configs))}.")
    if not split:
        return configs[wanted]
    splits: dict[str, list[str]] = {}
    for name in configs[wanted]:
        file = Path(name)
        numbered = file.stem.isdigit()
        part = file.parent.name.removeprefix("partial-") if numbered else re.split(r"-\d|\.", file.name)[0]
        splits.setdefault(part, []).append(name)
    if split not in splits:
        raise UserError(f"{spec} has no split {split}: give one of {_some(splits)}, as in {spec}@{next(iter(splits))}.")
    return splits[split]


def _some(names: dict[str, list[str]]) -> str:
    return ", ".join(list(names)[:20]) + (", …" if len(names) > 20 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
