import jaxtyping
import pytest


@pytest.fixture
def without_type_checks():
    """As users have it: scikit-learn's checks hand over wrong types on purpose."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
