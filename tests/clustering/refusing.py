"""What tests of refusals share."""

import pytest

from shoal.errors import UserError

by_every_metric = pytest.mark.parametrize("metric", ["euclidean", "cosine"])


def refused(call, *args, match=".", **settings):
    """The call raises a UserError that reads like a sentence."""
    with pytest.raises(UserError, match=match) as caught:
        call(*args, **settings)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value).split()) >= 5
