"""The scikit-learn face."""

import inspect
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import shoal
from shoal.cli.main import main
from shoal.clustering import UMAPHDBSCAN, KMeans
from shoal.evaluation import clustering_scores
from shoal.results.result import Result
from shoal.training import loop
from tests.runs import tiny_images, write_pictures

SETTINGS = {
    "backbone.width": 4,
    "backbone.depth": 1,
    "method.hidden": 16,
    "method.dim": 8,
    "optim.batch_size": 16,
    "optim.warmup_epochs": 1,
    "cluster_from": 1,
    "precision": "float32",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path / "cache"))


def propos(**changes):
    return shoal.ProPos(n_clusters=4, epochs=2, settings=SETTINGS, random_state=0, **changes)


def forms(tmp_path):
    """The same 40 images in every form a fit takes."""
    pixels = tiny_images().pixels
    write_pictures(tmp_path / "pictures")
    files = sorted((tmp_path / "pictures").rglob("*.png"), key=lambda path: int(path.stem))[:40]
    yield pixels
    yield pixels.numpy()
    yield pixels.permute(0, 2, 3, 1).contiguous().numpy()
    yield pixels.float() / 255
    yield tiny_images()
    yield files
    yield [str(path) for path in files]


@pytest.mark.slow
def test_every_form_of_the_same_images_gives_the_same_clusters(tmp_path):
    settings = {**SETTINGS, "data.size": 8}
    found = [shoal.ProPos(4, epochs=2, settings=settings).fit(X).labels_ for X in forms(tmp_path)]
    for labels in found:
        assert labels.shape == (40,)
        np.testing.assert_array_equal(labels, found[0])


def test_fitted_attributes_agree_with_each_other():
    pixels = tiny_images().pixels.numpy()
    model = propos().fit(pixels)
    assert model.embedding_.shape == (40, 8)
    assert model.cluster_centers_.shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(model.embedding_, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal((model.embedding_ @ model.cluster_centers_.T).argmax(1), model.labels_)
    own = (model.embedding_ * model.cluster_centers_[model.labels_]).sum(1)
    np.testing.assert_allclose(model.distances_, 1 - own, atol=1e-5)
    np.testing.assert_array_equal(model.predict(pixels), model.labels_)
    np.testing.assert_allclose(model.transform(pixels), model.embedding_, atol=1e-5)
    np.testing.assert_array_equal(propos().fit_predict(pixels), model.labels_)


def test_parameters_are_those_of_scikit_learn():
    model = propos()
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(n_clusters=3, epochs=1).fit(tiny_images()).cluster_centers_.shape == (3, 8)
    assert not hasattr(clone(model), "labels_")


def test_settings_go_by_the_names_of_flags():
    flag = propos().set_params(settings=SETTINGS | {"optim.batch-size": 8, "cluster-from": 0})
    field = propos().set_params(settings=SETTINGS | {"optim.batch_size": 8, "cluster_from": 0})
    assert flag._config() == field._config()


def test_features_go_into_a_pipeline():
    from sklearn.cluster import KMeans

    labels = make_pipeline(propos(), KMeans(4, n_init=1, random_state=0)).fit_predict(tiny_images().pixels.numpy())
    assert labels.shape == (40,)


def test_save_and_load_predict_the_same(tmp_path):
    pixels = tiny_images().pixels
    model = propos().fit(pixels)
    model.save(tmp_path / "model")
    loaded = shoal.ProPos.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(pixels), model.labels_)
    np.testing.assert_array_equal(loaded.cluster_centers_, model.cluster_centers_)
    assert loaded.n_clusters == 4
    with pytest.raises(shoal.UserError, match="already holds a run"):
        model.save(tmp_path / "model")
    with pytest.raises(shoal.UserError, match="a run of propos, not of byol"):
        shoal.BYOL.load(tmp_path / "model")


@pytest.mark.slow
def test_a_saved_model_is_a_whole_result(tmp_path, capsys):
    write_pictures(tmp_path / "pictures")
    model = shoal.ProPos(4, epochs=1, settings=SETTINGS | {"data.size": 8}).fit(tmp_path / "pictures")
    model.save(tmp_path / "model")
    loaded = shoal.ProPos.load(tmp_path / "model")
    loaded.save(tmp_path / "copy")
    for name in ("model", "copy"):
        assert main(["sort", str(tmp_path / name), "--copy", str(tmp_path / f"sorted {name}"), "--yes"]) == 0
    pages = [each.report(tmp_path / f"{i}.html").read_text() for i, each in enumerate((model, loaded))]
    assert all("class 0/" in page for page in pages)
    assert main(["train", "--resume", str(tmp_path / "model")]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    loaded.fit(tiny_images()).save(tmp_path / "other")
    assert len(shoal.ProPos.load(tmp_path / "other").predict(tiny_images())) == 40


def test_a_saved_model_serves_the_command(tmp_path):
    propos().fit(tiny_images().pixels).save(tmp_path / "model")
    np.save(tmp_path / "new.npy", tiny_images().pixels.numpy())
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "new.npy"), "--out", str(tmp_path / "a.csv")]) == 0


def test_out_is_a_whole_run_folder(tmp_path):
    propos(out=tmp_path / "run").fit(tiny_images())
    assert (tmp_path / "run" / "report.html").exists()
    assert shoal.ProPos.load(tmp_path / "run").predict(tiny_images()).shape == (40,)


def test_byol_clusters_too():
    model = shoal.BYOL(4, epochs=1, settings={k: v for k, v in SETTINGS.items() if k != "cluster_from"})
    assert model.fit(tiny_images()).labels_.max() < 4


@pytest.mark.parametrize(
    ("fit", "sentence"),
    [
        (lambda: propos().fit("nowhere"), "nowhere"),
        (lambda: propos().fit([]), "image"),
        (lambda: shoal.ProPos(settings={"method.name": "cc"}).fit(tiny_images()), "ProPos is the method"),
        (lambda: shoal.ProPos(settings={"method": {"name": "cc"}}).fit(tiny_images()), "ProPos is the method"),
        (lambda: propos().fit(np.zeros((3, 2))), "shape"),
        (lambda: propos().fit(np.full((8, 8, 8), np.nan)), "NaN"),
        (lambda: shoal.ProPos(50, settings=SETTINGS).fit(tiny_images()), "50 clusters need at least as many images"),
        (lambda: shoal.ProPos(1).fit(tiny_images()), "n_clusters: input should be greater than or equal to 2"),
        (lambda: shoal.ProPos(settings={"epochs.x": 3}).fit(tiny_images()), "no setting 'epochs.x'"),
        (lambda: shoal.ProPos(random_state=2**70).fit(tiny_images()), "seed: input should be less than"),
        (lambda: shoal.ProPos(settings={"epoch": 3}).fit(tiny_images()), "did you mean 'epochs'"),
        (lambda: shoal.ProPos(recipe="byol-digits").fit(tiny_images()), "one of byol, not of propos"),
        (lambda: shoal.ProPos(recipe=3).fit(tiny_images()), "recipe is the name of a recipe or the path of"),
        (lambda: shoal.ProPos(recipe=Path("no.yaml")).fit(tiny_images()), "no.yaml"),
        (lambda: shoal.ProPos(recipe="propos-digit").fit(tiny_images()), "did you mean 'propos-digits'"),
    ],
)
def test_mistakes_are_value_errors_with_a_sentence(fit, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        fit()
    assert isinstance(error.value, shoal.UserError)


def test_an_unfitted_estimator_says_so():
    with pytest.raises(NotFittedError, match="call fit first"):
        shoal.ProPos().predict(tiny_images())


def test_a_fit_leaves_torchs_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    propos().fit(tiny_images())
    assert torch.equal(torch.rand(3), expected)


def test_broken_files_of_a_list_get_no_cluster(tmp_path):
    write_pictures(tmp_path / "pictures")
    files = sorted((tmp_path / "pictures").rglob("*.png"))[:40]
    files[7].write_bytes(b"no image")
    model = propos().fit(files)
    labels = model.labels_
    assert labels.shape == model.distances_.shape == model.predict(files).shape == (40,)
    assert model.embedding_.shape == model.transform(files).shape == (40, 8)
    assert np.isnan(model.embedding_[7]).all()
    assert propos().fit(str(tmp_path / "pictures")).labels_.shape == (199,)
    assert labels[7] == -1
    others = files[:7] + files[8:]
    np.testing.assert_array_equal(np.delete(labels, 7), propos().fit(others).labels_)


def test_a_refused_setting_is_not_kept():
    model = propos()
    before = model.get_params()
    for wrong in ({"optim.foo": 1}, {"optim.lr": "fast"}):
        with pytest.raises(shoal.UserError):
            model.set_params(**wrong)
        assert model.get_params() == before
    model.set_params(**{"optim.lr": 0.1})


def test_a_second_fit_that_cannot_begin_leaves_the_first(tmp_path):
    model = propos(out=tmp_path / "run").fit(tiny_images())
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    for wrong in ({"n_clusters": 500}, {"n_clusters": 4, "backbone.weights": "nosuch"}):
        with pytest.raises(shoal.UserError):
            model.set_params(**wrong).fit(tiny_images())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"settings": ["a"]}, "settings are values by name"),
        ({"settings": {3: 4}}, "settings are values by name"),
        ({"out": 3}, "out is the path of a folder to write, or None, not 3"),
        ({"out": ""}, "out is the path of a folder to write, or None, not ''"),
    ],
)
def test_parameters_of_another_kind(wrong, sentence):
    with pytest.raises(shoal.UserError, match=sentence):
        shoal.ProPos(**wrong).fit(tiny_images())


@pytest.mark.slow
def test_a_second_fit_writes_its_folder_anew(tmp_path):
    model = propos(out=tmp_path / "run")
    first = model.fit(tiny_images()).labels_
    second = model.set_params(random_state=5).fit(tiny_images()).labels_
    assert (tmp_path / "run.earlier-1" / "report.html").exists()
    for path, labels in (("run.earlier-1", first), ("run", second)):
        np.testing.assert_array_equal(Result.load(tmp_path / path).labels.numpy(), labels)
    with pytest.raises(shoal.UserError, match="already holds a run"):  # of another estimator
        clone(model).fit(tiny_images())


def test_a_warm_start_goes_on_with_the_network():
    images = tiny_images()
    model = propos().set_params(settings={**SETTINGS, "optim.lr": 1e-9, "optim.weight_decay": 0})
    first = model.fit(images).features(images)
    warm = model.set_params(random_state=4, warm_start=True).fit(images).features(images)
    cold = model.set_params(warm_start=False).fit(images).features(images)
    assert np.corrcoef(first.ravel(), warm.ravel())[0, 1] > 0.95
    assert np.corrcoef(first.ravel(), cold.ravel())[0, 1] < 0.9
    with pytest.raises(shoal.UserError, match="these settings make another one"):
        model.set_params(warm_start=True, settings={**SETTINGS, "backbone.width": 8}).fit(images)
    model.set_params(settings={**SETTINGS, "backbone.weights": "others.safetensors"})
    with pytest.raises(shoal.UserError, match=r"backbone\.weights names another start: set warm_start=False"):
        model.fit(images)


@pytest.mark.parametrize(
    ("kind", "given", "sentence"),
    [
        (shoal.ProPos, {"epoch": 1}, "ProPos has no parameter 'epoch': did you mean 'epochs'?"),
        (shoal.CC, {"lr": 0.1}, "CC has no parameter 'lr': did you mean settings={'optim.lr': ...}?"),
        (shoal.PCL, {"granularity": (250,)}, "did you mean settings={'method.granularities': ...}?"),
        (shoal.BYOL, {"zzz": 1}, "it has n_clusters, recipe, epochs, settings"),
        (KMeans, {"n_cluster": 3}, "KMeans has no parameter 'n_cluster': did you mean 'n_clusters'?"),
        (UMAPHDBSCAN, {"min_size": 3}, "did you mean 'min_cluster_size'?"),
    ],
)
def test_a_parameter_that_there_is_not_gets_a_hint(kind, given, sentence):
    with pytest.raises(TypeError, match=re.escape(sentence)):
        kind(**given)
    assert "n_clusters" in inspect.signature(kind).parameters or kind is UMAPHDBSCAN


def test_features_are_those_of_the_backbone():
    images = tiny_images()
    settings = {"backbone.width": 4, "optim.batch_size": 20, "precision": "float32"}
    model = shoal.CC(4, epochs=1, settings=settings).fit(images)
    found = model.features(images)
    assert (found.shape, model.transform(images).shape) == ((40, 16), (40, 4))
    with torch.no_grad():
        expected = model._finished.trained.method.eval().represent(images.pixels.float() / 255)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_grid_search_chooses_by_a_score_without_labels():
    pixels = tiny_images().pixels.numpy()
    grid = {"optim.lr": [0.05, 0.1], "method__momentum": [0.9, 0.99]}
    search = GridSearchCV(propos().set_params(epochs=1), grid, cv=2).fit(pixels)
    assert len(search.cv_results_["params"]) == 4
    scores = search.cv_results_["mean_test_score"]
    assert search.best_score_ == scores.max()
    assert ((scores >= -1) & (scores <= 1)).all()
    best = search.best_estimator_
    assert best.settings == SETTINGS | {key.replace("__", "."): value for key, value in search.best_params_.items()}
    by_scikit_learn = silhouette_score(best.transform(pixels), best.predict(pixels), metric="cosine")
    assert best.score(pixels) == pytest.approx(by_scikit_learn, abs=1e-5)
    assert best.score(pixels, np.zeros(40)) == best.score(pixels)


def test_single_settings_are_parameters():
    model = propos()
    changed = clone(model).set_params(**{"optim.lr": 0.3, "n_clusters": 3})
    assert changed.get_params()["optim.lr"] == 0.3
    assert changed.n_clusters == 3
    assert model.settings == SETTINGS
    assert "optim.lr" not in changed.get_params(deep=False)
    assert clone(changed).get_params() == changed.get_params()
    for wrong in ("optim.lrr", "optim__lrr", "n_cluster"):
        with pytest.raises(ValueError, match="there is no setting"):
            clone(model).set_params(**{wrong: 1})
    with pytest.raises(ValueError, match="greater than 0"):
        clone(model).set_params(**{"optim.lr": -1})


class Labelled(torch.utils.data.Dataset):
    """The images of these tests as a data set of torch, with labels."""

    def __init__(self, rows=range(40), broken=()):
        self.images, self.rows, self.broken = tiny_images(), rows, broken

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError("gone")
        row = self.rows[index]
        return self.images.pixels[row], f"kind {self.images.targets[row]}"


SMALL = {**SETTINGS, "data.size": 8}


def test_a_data_set_is_taken_everywhere_and_its_labels_only_by_scores():
    model = shoal.ProPos(4, epochs=2, settings=SMALL, random_state=0).fit(Labelled())
    plain = shoal.ProPos(4, epochs=2, settings=SMALL, random_state=0).fit(tiny_images().pixels)
    np.testing.assert_array_equal(model.labels_, plain.labels_)
    np.testing.assert_array_equal(model.embedding_, plain.embedding_)
    np.testing.assert_array_equal(model.predict(image for image in tiny_images().pixels), plain.labels_)
    np.testing.assert_array_equal(model.transform(dict(enumerate(tiny_images().pixels))), plain.transform(Labelled()))
    accuracy = clustering_scores(tiny_images().targets, plain.labels_)["acc"]
    for found in (model.evaluate(Labelled()), plain.evaluate(tiny_images().pixels, tiny_images().targets)):
        assert found.scores["acc"] == accuracy


def test_broken_items_of_a_data_set_get_no_cluster():
    model = shoal.ProPos(4, epochs=1, settings=SMALL).fit(Labelled(broken=(7,)))
    assert model.labels_[7] == model.predict(Labelled(broken=(7,)))[7] == -1
    assert np.isnan(model.transform(Labelled(broken=(7,)))[7]).all()
    found = model.evaluate(tiny_images().pixels, [None if i == 7 else i % 4 for i in range(40)])
    assert (found.figures.labelled, found.trained_on) == (39, 39)
    with pytest.raises(shoal.UserError, match="cannot read the image 7"):
        shoal.ProPos(4, epochs=1, settings=SMALL | {"data.strict": True}).fit(Labelled(broken=(7,)))


def test_held_out_images_are_scored(tmp_path):
    model = shoal.ProPos(4, epochs=2, settings=SMALL, random_state=0).fit(Labelled(range(30)))
    model.save(tmp_path / "model")
    rest = Labelled(range(25, 40))
    clusters, targets = model.predict(rest), tiny_images().targets[25:40]
    for each in (model, shoal.ProPos.load(tmp_path / "model")):
        found = each.evaluate(rest)
        assert found.scores == clustering_scores(targets, clusters)
        assert (found.figures.images, found.trained_on) == (15, 5)
        assert "5 of these images are among those that the clusters were made of" in found.as_text()
    assert found.matched_before == model.evaluate(rest, [f"kind {i}" for i in targets.tolist()]).matched_before
    assert model.evaluate(rest, ["other"] * 15).matched_before is None
    refused = {
        "3 labels were given for 15 images": [0] * 3,
        "1 label was given for 15 images": [0],
        "not a table: give a column": SimpleNamespace(columns=range(15)),
        "scores need labels": [None] * 15,
    }
    for sentence, labels in refused.items():
        with pytest.raises(shoal.UserError, match=sentence):
            model.evaluate(rest, labels)
    with pytest.raises(shoal.UserError, match="scores need labels"):
        model.evaluate(tiny_images().pixels)


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises KeyboardInterrupt, also where a shell started the tests in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_fit_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    whole = shoal.ProPos(4, epochs=3, settings=SMALL, out=tmp_path / "whole").fit(Labelled())
    steps = []

    def step(run, pixels):
        steps.append(run.steps_done)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
        return train_step(run, pixels)

    train_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", step)
    model = shoal.ProPos(4, epochs=3, settings=SMALL, out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt, match="stopped and saved: the same fit, with out="):
        model.fit(Labelled())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "were given in Python, so it is resumed there: fit the same images" in capsys.readouterr().err
    with pytest.raises(shoal.UserError, match="holds an interrupted run with other settings"):
        clone(model).set_params(epochs=4).fit(Labelled())
    with pytest.raises(shoal.UserError, match=r"images of .* have changed"):
        clone(model).fit(Labelled(range(39)))
    np.testing.assert_array_equal(model.fit(Labelled()).labels_, whole.labels_)
    np.testing.assert_array_equal(model.embedding_, whole.embedding_)
    assert steps == [0, 1, 2, 3, 4, 5]


def test_a_second_fit_that_cannot_be_written_leaves_the_first(tmp_path, monkeypatch):
    images = tiny_images()
    model = propos(out=tmp_path / "run").fit(images)
    labels, predicted, features = model.labels_.copy(), model.predict(images), model.transform(images)

    def full(*_args):
        raise shoal.UserError("the disk is full")

    monkeypatch.setattr("shoal.estimators.base.write_result", full)
    with pytest.raises(shoal.UserError, match="the disk is full"):
        model.set_params(n_clusters=3, random_state=5).fit(tiny_images(36))
    np.testing.assert_array_equal(model.labels_, labels)
    np.testing.assert_array_equal(model.predict(images), predicted)
    np.testing.assert_array_equal(model.transform(images), features)
    assert len(model.cluster_centers_) == 4
