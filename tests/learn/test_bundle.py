import json
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.archive.storage import Location
from mri_ray.errors import BundleError
from mri_ray.learn.bundle import CARD, DOCUMENT, FORMAT, WEIGHTS, Bundle, load, module, save
from mri_ray.learn.model import build
from mri_ray.learn.settings import NAMES, ModelConfig
from mri_ray.prepare.settings import PrepareConfig

SMALL = ModelConfig(input_size=32, width=4, blocks=2, dense=8)
PREPARE = PrepareConfig(size=32)
FACTS = {
    "metrics": {"test": {"n": 40, "accuracy": 0.925, "accuracy_interval": [0.8, 0.974], "auroc": None}},
    "training": {"fingerprint": "f00d", "counts": {"train": 300, "test": 40}, "split": "group", "seed": 7},
    "versions": {"torch": "2.9"},
}


def a_bundle(model: ModelConfig = SMALL, **changes) -> Bundle:
    given = {"weights": build(model, seed=3).state_dict(), "refer": (0.25, 0.75), "temperature": 1.5, **FACTS}
    prepare = PrepareConfig(size=model.input_size)
    return Bundle(**{"model": model, "prepare": prepare, **given, **changes})


@pytest.fixture
def saved(tmp_path) -> Location:
    location = Location.of(str(tmp_path / "bundle"))
    save(a_bundle(), location)
    return location


def edit(location: Location, **changes) -> None:
    document = json.loads(location.read(DOCUMENT))
    location.write(DOCUMENT, json.dumps({**document, **changes}).encode())


def refused(location: Location, *words: str) -> None:
    with pytest.raises(BundleError) as info:
        load(location)
    for word in (location.uri, *words):
        assert word in str(info.value)


def test_a_saved_bundle_comes_back_whole(root):
    bundle, location = a_bundle(), root / "models" / "first"
    assert save(bundle, location) == bundle.digest
    again = load(location)
    assert again.digest == bundle.digest
    assert sorted(location.keys()) == sorted([CARD, DOCUMENT, WEIGHTS])
    for item in fields(Bundle):
        if item.name != "weights":
            assert getattr(again, item.name) == getattr(bundle, item.name), item.name
    assert list(again.weights) == list(bundle.weights)
    for name, tensor in bundle.weights.items():
        assert torch.equal(again.weights[name], tensor), name
        assert again.weights[name].dtype == tensor.dtype


@pytest.mark.parametrize("name", NAMES)
def test_every_network_keeps_its_answers(tmp_path, name):
    model = replace(SMALL, name=name)
    net = build(model, seed=3).eval()
    save(a_bundle(model, weights=net.state_dict()), Location.of(str(tmp_path)))
    again = module(load(Location.of(str(tmp_path))))
    assert not again.training
    images = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again(images), net(images))


def test_a_bundle_keeps_its_own_weights():
    net = build(SMALL, seed=3).to(memory_format=torch.channels_last)
    bundle = a_bundle(weights=net.state_dict())
    digest = replace(bundle).digest
    with torch.no_grad():
        for parameter in [*net.parameters(), *module(bundle).parameters()]:
            parameter.add_(1)
    assert replace(bundle).digest == digest == a_bundle().digest


def test_saving_over_another_bundle_leaves_the_new_one(root):
    save(a_bundle(), root)
    other = a_bundle(weights=build(SMALL, seed=4).state_dict())
    save(other, root)
    assert load(root).digest == other.digest


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_save_cut_short_leaves_nothing_loadable(saved, monkeypatch, written):
    whole, count = Location.write, 0

    def failing(self, key, data, **options):
        nonlocal count
        if count == written:
            raise OSError("the disk is full")
        count += 1
        return whole(self, key, data, **options)

    monkeypatch.setattr(Location, "write", failing)
    with pytest.raises(OSError, match="disk is full"):
        save(a_bundle(weights=build(SMALL, seed=4).state_dict()), saved)
    refused(saved, DOCUMENT, "must be there")


DECISIVE = {
    "threshold": 0.6,
    "refer": None,
    "temperature": 2.0,
    "labels": ("clear", "tumor"),
    "knots": ((0.0, -1.0), (1.0, 2.0)),
    "study_threshold": 0.3,
    "model": replace(SMALL, dropout=0.1),
    "prepare": replace(PREPARE, window_percentiles=(1.0, 99.0)),
    "weights": build(SMALL, seed=4).state_dict(),
}


def test_the_digest_names_what_decides_an_answer_and_nothing_else():
    bundle = a_bundle()
    digests = {replace(bundle, **{name: value}).digest for name, value in DECISIVE.items()}
    assert len(digests | {bundle.digest}) == len(DECISIVE) + 1
    assert replace(bundle, metrics={}, training={"seed": 8}, versions={"torch": "3"}).digest == bundle.digest


def test_what_the_network_sees_comes_back_and_the_card_says_so(tmp_path):
    bundle = a_bundle(prepare=replace(PREPARE, median=0.4, asymmetry=0.05))
    save(bundle, location := Location.of(str(tmp_path)))
    assert load(location).prepare == bundle.prepare
    assert "32 x 32 grey pixels, of how a head differs from its own mirror image." in location.read(CARD).decode()


def test_all_that_calibrates_and_decides_comes_back_and_answers_the_same(tmp_path):
    knots = ((-1, -3), (0, 0), (2, 1))
    bundle = a_bundle(
        knots=knots, study_threshold=0.3, study_refer=(0.2, 0.4), operating={"slices": {"bound": "lower"}}
    )
    save(bundle, Location.of(str(tmp_path)))
    again = load(Location.of(str(tmp_path)))
    assert (again.knots, again.of_studies) == (((-1.0, -3.0), (0.0, 0.0), (2.0, 1.0)), (0.3, (0.2, 0.4)))
    assert again.operating == bundle.operating
    assert again.calibrated([3.0, -3.0]).tolist() == [1.0, -6.0]  # the temperature is 1.5
    assert a_bundle().of_studies == (0.5, (0.25, 0.75))  # those of slices


def test_a_bundle_of_before_there_were_such_is_read_and_keeps_its_digest(saved):
    document = json.loads(saved.read(DOCUMENT))
    for name in ("knots", "study_threshold", "study_refer", "operating"):
        del document[name]
    saved.write(DOCUMENT, json.dumps(document).encode())
    assert load(saved).digest == document["digest"] == a_bundle().digest


def test_papers_stand_beside_the_bundle(tmp_path):
    location = Location.of(str(tmp_path))
    save(a_bundle(), location, {CARD: "# A card", "checklist.md": "# A list"})
    assert location.read(CARD) == b"# A card"
    assert location.read("checklist.md") == b"# A list"


def test_the_digest_does_not_depend_on_how_numbers_are_written(tmp_path):
    whole = a_bundle(replace(SMALL, dropout=0), temperature=2, threshold=1, refer=[0, 1])
    save(whole, Location.of(str(tmp_path)))
    assert load(Location.of(str(tmp_path))).digest == whole.digest
    assert (
        whole.digest == a_bundle(replace(SMALL, dropout=0.0), temperature=2.0, threshold=1.0, refer=(0.0, 1.0)).digest
    )


@pytest.mark.parametrize("name", [DOCUMENT, WEIGHTS])
def test_a_missing_file_is_named(root, name):
    save(a_bundle(), root)
    root.delete(name)
    refused(root, name, "must be there")


def test_a_folder_that_is_not_there_is_no_bundle(root):
    refused(root / "nothing", DOCUMENT, "must be there")


@settings(max_examples=60, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True))
def test_one_altered_byte_of_the_weights_is_found(tmp_path_factory, position):
    location = Location.of(str(tmp_path_factory.mktemp("altered")))
    save(a_bundle(), location)
    data = bytearray(location.read(WEIGHTS))
    data[int(position * len(data))] ^= 0xFF
    location.write(WEIGHTS, bytes(data))
    refused(location, WEIGHTS)


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x04N."], ids=["empty", "short", "pickle"])
def test_weights_that_are_no_safetensors_are_refused(saved, data):
    saved.write(WEIGHTS, data)
    refused(saved, WEIGHTS, "safetensors")


def test_weights_of_another_bundle_are_found(saved, tmp_path):
    other = Location.of(str(tmp_path / "other"))
    save(a_bundle(weights=build(SMALL, seed=4).state_dict()), other)
    saved.write(WEIGHTS, other.read(WEIGHTS))
    refused(saved, WEIGHTS, "digest", load(other).weights_digest)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"threshold": 0.4}, "digest"),
        ({"temperature": 1.0}, "digest"),
        ({"refer": None}, "digest"),
        ({"labels": ["tumor", "normal"]}, "digest"),
        ({"model": {"input_size": 32, "width": 4, "blocks": 2, "dense": 8, "dropout": 0.1}}, "digest"),
        ({"prepare": {"size": 48}}, "prepare"),
        ({"weights_digest": "0" * 32}, "digest"),
        ({"digest": "0" * 32}, "digest"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_altered_settings_are_found(saved, changes, word):
    edit(saved, **changes)
    refused(saved, DOCUMENT, word, "altered")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"note": "x"}, ("note", "no field", "'x'")),
        ({"model": {"widht": 4}}, ("model.widht", "no field", "4")),
        ({"prepare": {"sise": 32}}, ("prepare.sise", "no field")),
        ({"threshold": "0.5"}, ("threshold", "number", "'0.5'")),
        ({"threshold": None}, ("threshold", "number", "None")),
        ({"threshold": float("nan")}, ("threshold", "finite", "nan")),
        ({"model": {"width": 4.5}}, ("model.width", "integer", "4.5")),
        ({"model": {"width": 0}}, ("model.width", "from 1", "0")),
        ({"model": {"name": "vgg"}}, ("model.name", "cnn", "'vgg'")),
        ({"refer": [0.1]}, ("refer.1", "required")),
        ({"metrics": []}, ("metrics", "[]")),
        ({"format": FORMAT + 1}, ("format", str(FORMAT), str(FORMAT + 1), "newer")),
        ({"format": 0}, ("format", "got 0")),
        ({"format": True}, ("format", "got True")),
        ({"format": "1"}, ("format", "got '1'")),
    ],
    ids=str,
)
def test_a_broken_rule_is_named_with_its_field_and_value(saved, changes, words):
    edit(saved, **changes)
    refused(saved, DOCUMENT, *words)


@pytest.mark.parametrize("name", ["format", "digest", "threshold", "refer", "metrics"])
def test_every_field_is_required(saved, name):
    document = json.loads(saved.read(DOCUMENT))
    del document[name]
    saved.write(DOCUMENT, json.dumps(document).encode())
    refused(saved, DOCUMENT, name)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000], ids=repr)
def test_a_document_that_is_no_json_object_is_refused(saved, data):
    saved.write(DOCUMENT, data)
    refused(saved, DOCUMENT)


def _nan_weights():
    weights = build(SMALL).state_dict()
    next(iter(weights.values())).fill_(float("nan"))
    return weights


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("tumor", "tumor")}, r"labels: .* got \('tumor', 'tumor'\)"),
        ({"labels": ("tumor",)}, "labels: "),
        ({"labels": ("", "tumor")}, "labels: "),
        ({"temperature": 0.0}, "temperature: must be above 0.* got 0.0"),
        ({"temperature": float("nan")}, "temperature: .* got nan"),
        ({"threshold": 1.5}, "threshold: must be from 0 to 1, got 1.5"),
        ({"threshold": float("nan")}, "threshold: .* got nan"),
        ({"refer": (0.75, 0.25)}, "refer: "),
        ({"refer": (0.6, 0.8)}, r"refer: .* got \(0.6, 0.8\) with threshold 0.5"),
        ({"refer": (0.2, 1.5)}, "refer: "),
        ({"refer": (0.2, 0.6, 0.8)}, "refer: "),
        ({"study_threshold": 2.0}, "study_threshold: must be from 0 to 1"),
        ({"study_threshold": 0.5, "study_refer": (0.6, 0.8)}, "study_refer: must be"),
        ({"study_refer": (0.2, 0.8)}, "study_refer: needs a study_threshold"),
        ({"knots": ((0.0, 1.0),)}, "knots: must be two or more"),
        ({"knots": ((0.0, 1.0), (1.0, 1.0))}, "knots: must be two or more"),
        ({"knots": ((1.0, 1.0), (0.0, 2.0))}, "knots: must be two or more"),
        ({"knots": ((0.0, 1.0), (1.0, float("inf")))}, "knots: must be two or more"),
        ({"knots": ((0.0, 1.0, 2.0), (1.0, 2.0, 3.0))}, "knots: must be two or more"),
        ({"prepare": PrepareConfig(size=48)}, "prepare.size: must be model.input_size 32, got 48"),
        ({"metrics": {"auroc": float("nan")}}, "metrics: must be .* JSON"),
        ({"training": {"rows": {1, 2}}}, "training: must be .* JSON"),
        ({"weights": {}}, "weights: must fit model cnn"),
        ({"weights": build(replace(SMALL, width=8)).state_dict()}, "weights: must fit model cnn"),
        ({"weights": build(SMALL).double().state_dict()}, "weights: must fit model cnn"),
        ({"weights": {**build(SMALL).state_dict(), "extra": torch.zeros(1)}}, "extra"),
        ({"weights": _nan_weights()}, "weights: must be finite"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bundle_checks_itself(changes, message):
    with pytest.raises(BundleError, match=message):
        a_bundle(**changes)


def test_the_card_tells_what_a_reader_must_know(saved):
    card = saved.read(CARD).decode()
    bundle = load(saved)
    for words in (
        bundle.digest,
        "no diagnosis",
        "| fingerprint | f00d |",
        "| counts.train | 300 |",
        "| split | group |",
        "| test.accuracy | 0.925 (0.8 to 0.974) |",
        "| test.auroc | not defined |",
        "from 0.25 to below 0.75 are referred",
        "python -m jobs.score",
    ):
        assert words in card
    assert saved.uri.removeprefix("file://") not in card
    assert "None were recorded." not in card


def test_the_card_of_a_bundle_without_figures_says_so(tmp_path):
    location = Location.of(str(tmp_path))
    save(a_bundle(refer=None, metrics={}), location)
    card = location.read(CARD).decode()
    assert "None were recorded." in card
    assert "No band" in card
