"""What /v1/predict answers, by the app alone."""

import asyncio
import base64
import dataclasses
import io
import json
import logging
import threading
import zipfile

import httpx
import numpy as np
import pytest
from PIL import Image

from mri_ray.archive.storage import Location
from mri_ray.decode.read import read
from mri_ray.endpoint import answers, lane, reading
from mri_ray.endpoint.logs import JsonLines
from mri_ray.endpoint.settings import EndpointConfig, LimitsConfig
from mri_ray.learn import bundle as bundles
from mri_ray.predict.predictor import Predictor
from mri_ray.prepare.slices import prepare
from mri_ray.records import Flag, Slice
from tests.endpoint.small import SIZE, Client, bundle_of, lane_of, png


def zipped(**members: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as pack:
        for name, data in members.items():
            pack.writestr(name, data)
    return held.getvalue()


def test_one_picture_is_answered_as_the_predictor_answers_it(make, bundle):
    ask = Client(make())
    found = ask("POST", "/v1/predict", content=png(3))
    assert found.status_code == 200
    document = found.json()
    (item,) = read(io.BytesIO(png(3)), "x")
    expected = Predictor(bundle).predict(prepare(item, bundle.prepare).pixels[None])
    (answer,) = document["slices"]
    assert answer["probability"] == pytest.approx(float(expected.probability[0]), abs=1e-6)
    assert (answer["decision"], answer["frame"]) == (expected.decision[0].value, 0)
    assert document["bundle"] == bundle.digest
    assert document["study"]["probability"] == answer["probability"]
    assert document["operating_point"]["threshold"] == 0.4
    assert document["timings_ms"]["total"] > 0
    assert document["request_id"] == found.headers["x-request-id"]


def test_a_form_gives_the_same_answer_as_the_body_itself(make):
    ask = Client(make())
    raw = ask("POST", "/v1/predict", content=png()).json()
    form = ask("POST", "/v1/predict", files={"file": ("DOE^JANE.png", png())}, data={"note": "text beside it"}).json()
    assert form["slices"] == raw["slices"]
    assert "DOE" not in json.dumps(form)


def test_a_study_in_a_zip_has_every_slice_a_study_and_what_failed(make):
    found = Client(make())("POST", "/v1/predict", content=zipped(**{"DOE/1": png(1), "DOE/2": png(2), "bad": b"?"}))
    assert found.status_code == 200
    document = found.json()
    assert [one["member"] for one in document["slices"]] == [0, 1]
    assert [(one["member"], one["reason"]) for one in document["failed"]] == [(2, "unknown.format")]
    mean = np.mean([one["probability"] for one in document["slices"]])
    assert document["study"]["probability"] == pytest.approx(mean, abs=1e-6)
    assert "DOE" not in found.text


@pytest.mark.parametrize("flags", [set(), {Flag.BLANK}, {Flag.LOCALIZER}, {Flag.BLANK, Flag.DERIVED}, {Flag.LOSSY}])
@pytest.mark.parametrize("number", range(3))
def test_one_slice_is_the_study_that_tables_make_of_it(bundle, number, flags):
    picture = reading.upload(png(number), EndpointConfig().decode, bundle.prepare, slices=1).pictures[0]
    held = dataclasses.replace(picture, flags=frozenset(flags))
    found = Predictor(bundle).predict(held.pixels[None])
    threshold, refer = bundle.of_studies
    quick = answers.of_one(held, float(found.probability[0]), threshold, refer)
    assert quick == answers.of_several([answers.row(held, found, 0)], threshold, refer)


def test_a_heat_map_lies_over_the_prepared_picture(make):
    found = Client(make())("POST", "/v1/predict?heatmap=png", content=png())
    image = Image.open(io.BytesIO(base64.b64decode(found.json()["slices"][0]["heatmap"])))
    assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")


def test_a_person_is_shown_the_head_where_the_model_sees_how_its_sides_differ(make, bundle):
    plain = dataclasses.replace(bundle.prepare, median=0.4)
    compares = dataclasses.replace(bundle, prepare=dataclasses.replace(plain, asymmetry=0.05))
    answer = Client(make(lanes=[lane_of(compares)]))("POST", "/v1/predict?picture=png", content=png()).json()
    (item,) = read(io.BytesIO(png()), "x")
    shown = Image.open(io.BytesIO(base64.b64decode(answer["slices"][0]["picture"])))
    assert np.array_equal(np.asarray(shown.convert("L")), prepare(item, plain).pixels[0])
    expected = Predictor(compares).predict(prepare(item, compares.prepare).pixels[None])
    assert answer["slices"][0]["probability"] == pytest.approx(float(expected.probability[0]), abs=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"no picture", 415, "unknown.format"),
        (b"GIF89a" + bytes(40), 415, "unsupported.format"),
        (png()[:60], 422, None),
        (png(side=8), 422, "undersized.image"),
        (b"", 422, None),
        (zipped(), 422, "empty.pack"),
    ],
)
def test_what_gives_no_slice_is_a_problem_with_its_reason(make, body, status, reason):
    found = Client(make())("POST", "/v1/predict", content=body)
    assert found.status_code == status
    assert found.headers["content-type"] == "application/problem+json"
    document = found.json()
    assert {"type", "title", "status", "detail"} <= document.keys()
    if reason:
        assert (document["reason"], bool(document["remedy"])) == (reason, True)


def test_more_slices_than_allowed_are_too_large(make):
    found = Client(make(limits=LimitsConfig(slices=1)))("POST", "/v1/predict", content=zipped(a=png(1), b=png(2)))
    assert (found.status_code, found.json()["reason"]) == (413, "oversized.frames")


def test_memory_and_heat_maps_of_many_slices_are_bounded(make):
    pack = zipped(a=png(1), b=png(2))
    drawn = Client(make(limits=LimitsConfig(heat_maps=1)))
    found = drawn("POST", "/v1/predict?heatmap=png", content=pack)
    assert (found.status_code, found.json()["reason"]) == (413, "oversized.frames")
    assert drawn("POST", "/v1/predict", content=pack).status_code == 200
    app = make(limits=LimitsConfig(slices=3, held_slices=3))

    async def both() -> list[int]:
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            asked = [client.post("/v1/predict", content=pack) for _ in range(6)]
            return [found.status_code for found in await asyncio.gather(*asked)]

    statuses = asyncio.run(both())
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    # Whatever was refused, nothing is still counted.
    assert [Client(app)("POST", "/v1/predict", content=pack).status_code for _ in range(3)] == [200] * 3


def test_a_picture_that_comes_alone_is_computed_in_its_own_turn_and_what_comes_beside_it_together(make, bundle):
    predictor, asked, others = Predictor(bundle), [], threading.Event()

    async def ask(pictures):
        asked.append(("together", len(pictures)))
        if asked.count(("together", 1)) == 2:
            others.set()
        return predictor.predict(pictures)

    def at_once(pictures):
        asked.append(("at once", len(pictures)))
        assert others.wait(20)
        return predictor.predict(pictures)

    app = make(lanes=[dataclasses.replace(lane_of(bundle), ask=ask, at_once=at_once)])

    async def post(*bodies: bytes) -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await asyncio.gather(*(client.post("/v1/predict", content=body) for body in bodies))

    three = asyncio.run(post(*map(png, range(3))))
    assert sorted(asked) == [("at once", 1), ("together", 1), ("together", 1)]
    (alone,) = asyncio.run(post(png(1)))
    assert asked[3:] == [("at once", 1)]
    asyncio.run(post(zipped(a=png(0), b=png(1))))
    assert asked[4:] == [("together", 2)]
    assert [found.status_code for found in three] == [200] * 3
    assert three[1].json()["slices"] == alone.json()["slices"]


def test_traffic_is_shared_and_a_shadow_is_asked_but_not_believed(make):
    first, second, shadow = (bundle_of(seed) for seed in (1, 2, 3))
    lanes = [lane_of(first, share=1), lane_of(second, share=3), lane_of(shadow, shadow=True)]
    app = make(lanes=lanes)
    told = []

    class Watching:
        def scored(self, lane, upload, found, timings_ms):
            pass

        def shadowed(self, lane, shadow, found, theirs):
            told.append((lane.bundle.digest, shadow.bundle.digest, found.probability, theirs.probability))

        def changed(self, lanes):
            pass

    app.state.service.watched(Watching())
    ids = [f"{number:08d}" for number in range(40)]
    ask = Client(app)
    by = [ask("POST", "/v1/predict", content=png(), headers={"X-Request-ID": one}).json()["bundle"] for one in ids]
    assert by.count(first.digest) + by.count(second.digest) == 40
    assert 1 <= by.count(first.digest) < by.count(second.digest)
    again = ask("POST", "/v1/predict", content=png(), headers={"X-Request-ID": ids[0]})
    assert again.json()["bundle"] == by[0]
    assert told
    assert {entry[1] for entry in told} == {shadow.digest}


def test_shadows_hold_no_more_than_requests_may(make):
    released, asked = threading.Event(), []
    shadow = lane_of(bundle_of(3), shadow=True)

    async def ask(pictures):
        asked.append(len(pictures))
        await asyncio.to_thread(released.wait, 20)
        return shadow.predictor.predict(pictures)

    app = make(
        lanes=[lane_of(bundle_of(1)), dataclasses.replace(shadow, ask=ask)],
        limits=LimitsConfig(slices=3, held_slices=3),
    )

    async def several() -> list[int]:
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            found = [(await client.post("/v1/predict", content=png(number))).status_code for number in range(6)]
        released.set()
        await app.state.service.settled()
        return found

    assert asyncio.run(several()) == [200] * 6
    assert asked == [1, 1, 1]


def test_logs_tell_ids_and_counts_and_no_names(make, caplog):
    with caplog.at_level(logging.INFO, "mri_ray"):
        Client(make())("POST", "/v1/predict?heatmap=png", files={"file": ("DOE^JANE.png", png())})
    facts = [record.facts for record in caplog.records if hasattr(record, "facts")]
    assert any(entry.get("key_id") == "local" and sum(entry["decisions"].values()) == 1 for entry in facts)
    assert any(entry.get("status") == 200 for entry in facts)
    assert "DOE" not in json.dumps(facts)


def test_before_a_bundle_is_loaded_nothing_is_ready(make):
    app = make()
    app.state.service._lanes = None
    ask = Client(app)
    assert ask("GET", "/healthz").status_code == 200
    for method, path in (("GET", "/readyz"), ("POST", "/v1/predict"), ("GET", "/v1/model")):
        found = ask(method, path, content=png())
        assert (found.status_code, found.headers["retry-after"]) == (503, "1")


def test_what_keeps_bundles_from_answering_is_told_by_its_kind(make):
    app = make()
    app.state.service._lanes, app.state.service.refused = None, "BundleError"
    ask = Client(app)
    for method, path in (("GET", "/readyz"), ("GET", "/v2/health/ready"), ("POST", "/v1/predict")):
        found = ask(method, path, content=png())
        assert (found.status_code, found.headers["content-type"]) == (503, "application/problem+json")
        assert found.json()["refused"] == "BundleError"


def test_the_model_is_told(make, bundle):
    (told,) = Client(make())("GET", "/v1/model").json()["bundles"]
    assert (told["bundle"], told["input_size"], told["labels"]) == (bundle.digest, SIZE, ["normal", "tumor"])


def test_the_card_is_told_as_it_lies_beside_its_bundle(make, tmp_path):
    lanes = []
    for seed in (1, 2, 3):
        place = Location.of(str(tmp_path / str(seed)))
        bundles.save(bundle_of(seed), place, {bundles.CARD: f"# Größe {seed}"})
        lanes.append(dataclasses.replace(lane_of(bundle_of(seed), shadow=seed == 1), card=lane.card(place)))
    ask = Client(make(lanes=lanes))
    found = ask("GET", "/v1/model/card")
    assert (found.text, found.headers["content-type"]) == ("# Größe 2", "text/markdown; charset=utf-8")
    for number, one in enumerate(lanes, start=1):
        assert ask("GET", f"/v1/model/card?bundle={one.bundle.digest}").text == f"# Größe {number}"
    assert ask("GET", "/v1/model/card?bundle=x").status_code == 404
    assert Client(make())("GET", "/v1/model/card").status_code == 404


@pytest.mark.parametrize(
    ("data", "told"), [(None, None), (b"x" * (lane.CARD_BYTES + 1), None), (b"caf\xe9", "caf\ufffd")]
)
def test_a_card_that_cannot_be_told_is_no_fault(tmp_path, data, told):
    if data is not None:
        (tmp_path / bundles.CARD).write_bytes(data)
    assert lane.card(Location.of(str(tmp_path))) == told


def test_slices_of_the_decoder_are_those_of_the_upload(bundle):
    found = reading.upload(zipped(a=png(1), b=png(2)), EndpointConfig().decode, bundle.prepare, slices=9)
    items = [item for item in read(io.BytesIO(zipped(a=png(1), b=png(2))), "x") if isinstance(item, Slice)]
    for picture, item in zip(found.pictures, items, strict=True):
        assert np.array_equal(picture.pixels, prepare(item, bundle.prepare).pixels)


_BROKEN = ("*=a; {0}*0=b", "*" + "1" * 5000 + "=b", "*=undefined''b", "*=idna''b")


@pytest.mark.parametrize("broken", _BROKEN)
def test_forms_with_broken_parameters_are_refused(make, broken):
    ask = Client(make())
    of_header = {"Content-Type": "multipart/form-data; boundary" + broken.format("boundary")}
    assert ask("POST", "/v1/predict", content=b"x", headers=of_header).status_code == 422
    part = f"--b\r\nContent-Disposition: form-data; filename{broken.format('filename')}\r\n\r\nx\r\n--b--\r\n"
    found = ask(
        "POST", "/v1/predict", content=part.encode(), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert found.status_code in (415, 422)


def test_members_are_numbered_in_the_order_stored_also_behind_one_that_fails(make):
    document = Client(make())("POST", "/v1/predict", content=zipped(bad=b"?", a=png(1), b=png(2))).json()
    assert [one["member"] for one in document["slices"]] == [1, 2]
    assert [one["member"] for one in document["failed"]] == [0]


def test_what_nobody_foresaw_is_logged_by_id_and_place_and_not_by_its_words(make, caplog):
    lane = lane_of(bundle_of(1))

    def fail(pictures):
        raise RuntimeError("DOE^JANE")

    lane.predictor.predict = fail
    with caplog.at_level(logging.INFO, "mri_ray"):
        found = Client(make(lanes=[lane]))("POST", "/v1/predict", content=png())
    assert (found.status_code, found.headers["content-type"]) == (500, "application/problem+json")
    assert found.headers["x-content-type-options"] == "nosniff"
    assert len(found.headers["x-request-id"]) == 32
    (record,) = [record for record in caplog.records if record.exc_info]
    line = json.loads(JsonLines().format(record))
    assert line["error"] == "RuntimeError"
    assert any("fail" in place for place in line["at"])
    assert "DOE" not in json.dumps(line)
