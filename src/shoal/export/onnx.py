"""Backbone and clustering as one ONNX graph, which runs without shoal and PyTorch.

images float32 (b, 3, h, w), RGB in [0, 1]; images_2 … of networks that prepare them otherwise
  ─►  cluster int64 (b), confidence (b), probabilities (b, k), features (b, d)

An image that belongs nowhere has cluster −1 and all probabilities 0.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from shoal.errors import UserError
from shoal.files import atomic_write

OUTPUTS = ("cluster", "confidence", "probabilities", "features")

AGREES = 1e-3
"""Largest difference to PyTorch that rounding explains: of features relative to their largest, and of probabilities."""


@dataclass(frozen=True)
class Deviation:
    """Largest absolute difference between what the graph and PyTorch say of some images, and how many these were."""

    features: float
    probabilities: float
    n_images: int


class Classifier(nn.Module):
    """A backbone and a clustering of its features, one after the other."""

    numbers: Tensor

    def __init__(self, backbone: nn.Module, clustering: nn.Module, numbers: Int64[Tensor, "k"]) -> None:
        super().__init__()
        self.backbone = backbone
        self.clustering = clustering
        self.register_buffer("numbers", numbers)

    def forward(
        self, *images: Float[Tensor, "b 3 _h _w"]
    ) -> tuple[Int64[Tensor, "b"], Float[Tensor, "b"], Float[Tensor, "b k"], Float[Tensor, "b d"]]:
        """Cluster, its probability, that of each cluster, and the features."""
        features = self.backbone(*images)
        probabilities = self.clustering(features)
        confidence, place = probabilities.max(1)
        numbers = torch.where(confidence > 0, self.numbers[place], -1)  # −1: it belongs nowhere
        return numbers, confidence, probabilities, features


def export_onnx(
    backbone: nn.Module,
    clustering: nn.Module,
    pixels: Sequence[UInt8[Tensor, "m 3 _h _w"]],
    path: Path,
    *,
    preparation: Sequence[Mapping[str, str]],
    numbers: Int64[Tensor, "k"],
    names: Mapping[int, str],
) -> Deviation:
    """Write the graph, once it has said of real images what PyTorch says of them.

    Args:
        backbone: images in [0, 1] in, in each of the ways they are prepared in, and features out; it normalises them.
        clustering: of ``as_module``.
        pixels: some images for each input, which the graph is tried on; others must have their size.
        path: of the file.
        preparation: how an image is brought to the size of each input, by name, for the file's metadata.
        numbers: of the clusters, in the order of their probabilities.
        names: of clusters that have one, for the metadata.

    Raises:
        UserError: what it takes is not installed, the graph says something else, or the path cannot be written.
    """
    check_installed()
    classifier = Classifier(copy.deepcopy(backbone), copy.deepcopy(clustering), numbers).cpu().eval()
    images = [each.cpu().float() / 255 for each in pixels]
    model = _graph(classifier, images)
    about = {"input": "RGB in [0, 1]; mean and deviation are in the graph"}
    for number, (each, how) in enumerate(zip(images, preparation, strict=True), 1):
        prefix = "" if number == 1 else f"{input_name(number)}."
        h, w = each.shape[2:]
        about |= {f"{prefix}{key}": value for key, value in {"size": f"{w} x {h}", **how}.items()}
    about["numbers"] = json.dumps(numbers.tolist())
    about["clusters"] = json.dumps({str(number): name for number, name in names.items()})
    for key, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"shoal.{key}", value
    content = model.SerializeToString()
    deviation = _compare(classifier, content, images)
    atomic_write(path, content)
    return deviation


def input_name(number: int) -> str:
    """What an input is called: ``images``, then ``images_2``."""
    return "images" if number == 1 else f"images_{number}"


def check_installed() -> None:
    """Raise a UserError if the packages that write and run ONNX are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'shoal[onnx]'.") from error


def _graph(classifier: nn.Module, images: Sequence[Float[Tensor, "m 3 _h _w"]]) -> Any:
    # A batch of one would be taken for fixed.
    example = tuple(each[:2] if len(each) > 1 else each.repeat(2, 1, 1, 1) for each in images)
    batch = torch.export.Dim("b")
    with warnings.catch_warnings(), torch.no_grad():
        for category in (DeprecationWarning, FutureWarning, UserWarning):  # of torch about its own inside
            warnings.filterwarnings("ignore", category=category, module=r"torch|onnx|onnxscript|onnx_ir|copyreg")
        program = torch.onnx.export(
            classifier,
            example,
            input_names=[input_name(number) for number in range(1, len(images) + 1)],
            output_names=list(OUTPUTS),
            dynamic_shapes={"images": tuple({0: batch} for _ in images)},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _compare(classifier: nn.Module, content: bytes, images: Sequence[Float[Tensor, "m 3 _h _w"]]) -> Deviation:
    """How far the graph is from PyTorch.

    Raises:
        UserError: too far.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = {input_name(number): each.numpy() for number, each in enumerate(images, 1)}
    cluster, confidence, probabilities, features = session.run(list(OUTPUTS), given)
    with torch.no_grad():
        expected = [value.numpy() for value in classifier(*images)]
    of_features = float(np.abs(features - expected[3]).max())
    of_probabilities = float(np.abs(probabilities - expected[2]).max())
    second = np.sort(expected[2], 1)[:, -2] if expected[2].shape[1] > 1 else 0
    clear = expected[1] - second > 2 * AGREES
    same = (cluster == expected[0])[clear].all() and np.array_equal(confidence, probabilities.max(1))
    if not (same and of_features <= AGREES * np.abs(expected[3]).max() and of_probabilities <= AGREES):
        raise UserError(
            f"the ONNX graph differs from PyTorch by {of_features:.2g} in features and {of_probabilities:.2g} in "
            "probabilities, so it was not written: try another backbone, or other versions of onnxruntime and torch."
        )
    return Deviation(of_features, of_probabilities, len(images[0]))
