"""``shoal export``: a result for other programs."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from shoal.cli.flags import Command, ResultPath
from shoal.cli.sort import tell_left_out
from shoal.cli.terminal import complain, say
from shoal.errors import UserError
from shoal.files import expand_home, real
from shoal.progress import counted

if TYPE_CHECKING:
    from shoal.export.xmp import Written
    from shoal.results.result import Result

TRIED = 8
"""Images that an exported network is tried on."""

_SHOWN = 3
"""Sidecars that are named in a line."""


@dataclass(frozen=True)
class ExportCommand(Command):
    """Write a result for other programs: its network, or the clusters as sidecars or as a data set.

    CSV and Parquet are there already, as RESULT/assignments.csv and .parquet; 'shoal sort' makes folders.
    """

    result: ResultPath
    """The folder that 'shoal train' or 'shoal cluster' wrote."""
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """The .onnx file or the folder to write, or a .safetensors file for the weights of a run's backbone, which timm
    loads, with a model card. Nothing is overwritten; sidecars that are there are added to."""
    to: Literal["onnx", "xmp", "label-studio", "fiftyone"] = "onnx"
    """What to write: network and clusters as one graph, an XMP sidecar with the cluster as a keyword for each image
    (beside the images that lie in PATH, by their names for others), or a data set for Label Studio or FiftyOne."""

    licence: Annotated[str, tyro.conf.arg(metavar="ID", help_behavior_hint="")] = ""
    """For weights: the licence in the model card, by its Hugging Face Hub identifier, such as cc-by-4.0."""

    def run(self) -> int:
        """Write it."""
        path = expand_home(self.path)
        if self.to == "onnx" and path.suffix.lower() == ".safetensors":
            return export_backbone(self.result, path, self.licence)
        if self.licence:
            raise UserError("--licence is for the model card of weights: give a .safetensors file, or leave it out.")
        return export_network(self.result, path) if self.to == "onnx" else self._export_images(path)

    def _export_images(self, folder: Path) -> int:
        from shoal.progress import open_progress
        from shoal.results.result import Result

        if real(self.result) in (real(folder), *real(folder).parents):
            raise UserError(f"{folder} is the folder of the clusters, or lies in it: give a folder of its own.")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file: give a folder.")
        result = Result.load(self.result)
        _tell_changes(result)
        with open_progress(quiet=False) as progress:
            counter = progress.counter("exporting")
            if self.to == "xmp":
                from shoal.export.xmp import export_xmp

                _tell_sidecars(export_xmp(result, folder, counter), folder)
            elif self.to == "label-studio":
                from shoal.export.label_studio import CONFIG, TASKS, export_label_studio

                n, by_person = export_label_studio(result, folder, counter)
                said = f", {by_person} of them annotated by a person" if by_person else ""
                say(f"tasks        {folder / TASKS}, {counted(n, 'image')}{said}\nlabels       {folder / CONFIG}")
            else:
                from shoal.export.fiftyone import LABELS, export_fiftyone

                say(f"labels       {folder / LABELS}, {counted(export_fiftyone(result, folder, counter), 'image')}")
        return 0


def check_onnx_name(result: Path, path: Path) -> None:
    """Raise a UserError for what is not called as an ONNX file; it may have been meant as another format."""
    ending = path.suffix.lower()
    if ending in (".csv", ".parquet"):
        raise UserError(f"the table is there already: {result / 'assignments'}{ending}; copy it.")
    if ending != ".onnx":
        raise UserError(
            f"{path} should end in .onnx or .safetensors, or say with --to what to write: xmp, label-studio or "
            "fiftyone."
        )


def export_backbone(folder: Path, file: Path, licence: str) -> int:
    """Write the weights of a run's backbone, once plain timm has made the same features with them."""
    from shoal.export.weights import check_licence, export_weights
    from shoal.features.weights import Note
    from shoal.results.atlas import example_images
    from shoal.results.result import Result

    if file.exists():
        raise UserError(f"{file} exists already: give another name.")
    if licence:
        check_licence(licence)
    result = Result.load(folder)
    if result.encoder is None or result.encoder.kind != "run" or not result.folder.model.is_file():
        raise UserError(
            f"{folder} is not a training run, so it has no weights of its own: its config.yaml names the network."
        )
    images = example_images(result.folder.atlas, TRIED, result.network.input_size)
    done = export_weights(folder, file, images, licence)
    note: Note = done.note
    if done.config is not None:
        hub = f"{done.config}, with which timm.create_model('hf-hub:OWNER/NAME', pretrained=True) loads it"
    elif note.stem == "native":
        hub = "none: there is a config.json of something else, so give the weights a folder of their own to share"
    else:
        hub = "none: timm has no network with this stem, so the card has the lines that make it"
    say(
        f"weights      {done.file}, {done.file.stat().st_size / 1e6:.1f} MB, {note.architecture}"
        f"{'' if note.stem == 'native' else ' with the stem for small images'}\n"
        f"checked      on {counted(done.n_images, 'image')}: features of plain timm differ by at most "
        f"{done.deviation:.1e} of the largest\nfor timm     {hub}\nmodel card   {done.card}\n"
        f"licence      {licence or 'none yet: give --licence, such as cc-by-4.0, or put it into the card'}"
    )
    return 0


def export_network(folder: Path, file: Path) -> int:
    """Write the graph, once it has been compared with PyTorch."""
    from shoal.export.onnx import check_installed, export_onnx
    from shoal.results.atlas import example_images
    from shoal.results.networks import module_of
    from shoal.results.result import Result

    check_onnx_name(folder, file)
    if file.exists():
        raise UserError(f"{file} exists already: give another name.")
    check_installed()
    result = Result.load(folder)
    network, inputs = module_of(result)
    images = [example_images(result.folder.atlas, TRIED, each.input_size) for each in inputs]
    model, embedded = result.model, result.embedded
    ranges = {} if embedded is None else embedded.ranges
    deviation = export_onnx(
        network,
        model.as_module(),
        images,
        file,
        preparation=[{**each.preparing.about, "ranges": json.dumps(dict(ranges))} for each in inputs],
        numbers=model.numbers,
        names=result.names,
    )
    say(
        f"network      {file}, {file.stat().st_size / 1e6:.1f} MB\n"
        f"checked      on {counted(deviation.n_images, 'image')}: features differ from PyTorch's by at most "
        f"{deviation.features:.1e}, probabilities by {deviation.probabilities:.1e}"
    )
    return 0


def _tell_changes(result: Result) -> None:
    """Say which images are left out.

    Raises:
        UserError: features were clustered, or there is no image left.
    """
    from shoal.results.changes import changes_of, none_left

    lines = changes_of(result)
    if not len(result.present):
        raise none_left(result)
    tell_left_out(result, lines)


def _tell_sidecars(done: Written, folder: Path) -> None:
    """Say what has been written, and what could not be.

    Raises:
        UserError: nothing was written where something should have been.
    """
    counts = {"new": done.new, "added to": done.merged, "up to date": done.unchanged}
    left = "; ".join(f"{path}: {why}" for path, why in done.left[:_SHOWN])
    more = f"; and {len(done.left) - _SHOWN} more" if len(done.left) > _SHOWN else ""
    if not any(counts.values()):
        raise UserError(f"no sidecar was written. {left}{more}." if left else "there is no sidecar to write.")
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    say(f"sidecars     in {shlex.quote(str(folder))}: {told}")
    if done.left:
        complain(f"{counted(len(done.left), 'sidecar')} not written: {left}{more}.")
