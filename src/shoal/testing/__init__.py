"""Checks of what shoal expects of code of one's own, in the manner of scikit-learn's ``check_estimator``.

    from shoal.testing import check_method

    def test_my_method():
        check_method(MyMethod)

Each check is a clause of the contract. The first that is broken raises a ``UserError``, one sentence that says which,
and the line of the plugin where its own code failed.
"""

from __future__ import annotations

from shoal.config import RunConfig
from shoal.data.augmentation import named
from shoal.methods import METHODS
from shoal.testing.data import check_augmentation, check_source
from shoal.testing.method import check_method


def check_plugins(config: RunConfig) -> None:
    """Check what a run takes from plugins, with the run's settings; what ships with shoal is checked by its tests.

    Raises:
        UserError: naming the first clause that is broken.
    """
    if METHODS.origin(config.method.name):
        check_method(METHODS[config.method.name], config.method)
    for spec in config.augment.own:
        check_augmentation(named(spec))


__all__ = ["check_augmentation", "check_method", "check_plugins", "check_source"]
