"""EMP-SSL has an estimator and a recipe for one's own photos, as the other methods have."""

import shoal
from shoal.config import load_recipe, recipe_names
from shoal.methods import METHODS


def test_the_estimator_of_emp_is_shoals_own():
    assert shoal.estimator_of("emp") is shoal.EMP
    assert shoal.EMP(n_clusters=3).get_params()["n_clusters"] == 3
    assert "EMP" in shoal.__all__


def test_every_method_has_an_estimator_by_its_own_name():
    for name in ("byol", "cc", "emp", "moco", "pcl", "propos", "simclr", "simsiam"):
        assert name in METHODS
        assert getattr(shoal, shoal.estimator_of(name).__name__) is shoal.estimator_of(name)


def test_there_is_a_recipe_of_emp_for_photos():
    assert "emp-folder" in recipe_names()
    assert load_recipe("emp-folder").method.name == "emp"
