"""Clusters of 32 photos, as the tests of results have them."""

import pytest
from tests.results.conftest import clusters, network, photos, template, weights  # noqa: F401

from shoal.results.deciding import record
from shoal.results.result import Result

ODD = "<fish> & \"דגים\" 'ü'|b"


@pytest.fixture
def decided(clusters):  # noqa: F811 - the fixture
    """The folder with decisions: two names that are the same, an odd one, an image nowhere, one moved, one confirmed.

    Returns the folder and the cluster of each colour.
    """
    result = Result.load(clusters)
    labels = result.assignments.labels.tolist()
    found = {name.partition("-")[0]: label for name, label in zip(result.ids, labels, strict=True)}
    with result.folder.alone():
        record(
            result,
            [
                {"do": "rename", "cluster": found["red"], "name": ODD.replace(" & ", "\n&\x07")},
                {"do": "rename", "cluster": found["green"], "name": "same"},
                {"do": "rename", "cluster": found["blue"], "name": "same"},
                {"do": "move", "images": ["blue-0.png"], "cluster": -1},
                {"do": "move", "images": ["blue-1.png"], "cluster": found["red"]},
                {"do": "confirm", "images": ["red-0.png"]},
            ],
        )
    return clusters, found
