import pytest

from shoal.features import load_encoder
from tests.features.examples import write_weights


@pytest.fixture(scope="session")
def vit_spec(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "vit.safetensors", "test_vit")


@pytest.fixture(scope="session")
def vit(vit_spec):
    return load_encoder(vit_spec)
