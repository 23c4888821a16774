"""What leaves of names, ids, dates and paths, and that nothing does without a key."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mri_ray.archive.pseudonym import (
    SITE_KEY,
    SITE_KEY_FILE,
    URIS,
    Identifiers,
    identifying,
    names_patient,
    site_key,
)
from mri_ray.errors import ConfigError, IdentifierError
from mri_ray.records import Header

KEY = "a key of this site, long enough"
HEADER = Header(
    patient="PID-0042",
    patient_name="Müller^Änne",
    study_uid="1.2.3",
    series_uid="1.2.3.4",
    sop_uid="1.2.3.4.5",
    acquired=date(2024, 3, 1),
    position_mm=(10.0, 20.0, -30.0),
    normal=(0.0, 0.0, 1.0),
    manufacturer="SIEMENS",
    field_strength_t=3.0,
)
KEYS = ("patient_key", "study_key", "series_key", "instance_key")


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv(SITE_KEY, KEY)
    return KEY


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.delenv(SITE_KEY, raising=False)
    monkeypatch.delenv(SITE_KEY_FILE, raising=False)


def test_pseudonyms_are_the_same_in_every_run_and_say_nothing(key):
    columns = Identifiers().columns(HEADER)
    assert columns == Identifiers().columns(HEADER)
    for name in KEYS:
        assert len(columns[name]) == 32
        assert int(columns[name], 16) >= 0
    assert len({columns[name] for name in KEYS}) == 4
    assert columns["position_mm"] == -30.0
    assert columns["manufacturer"] == "SIEMENS"


def test_another_key_gives_other_pseudonyms(key, monkeypatch):
    one = Identifiers().columns(HEADER)
    monkeypatch.setenv(SITE_KEY, KEY[::-1])
    other = Identifiers().columns(HEADER)
    assert all(one[name] != other[name] for name in KEYS)


def test_kinds_are_kept_apart(key):
    identifiers = Identifiers()
    assert identifiers.key_of("study", "1.2.3") != identifiers.key_of("series", "1.2.3")
    assert identifiers.key_of("patient", " PID-0042 ") == identifiers.key_of("patient", "PID-0042")


def test_dates_move_by_days_of_the_patient(key):
    moved = Identifiers().columns(HEADER)["acquired"]
    assert 1 <= (HEADER.acquired - moved).days <= 365
    later = Header(patient=HEADER.patient, acquired=date(2024, 9, 17))
    assert (Identifiers().columns(later)["acquired"] - moved).days == 200
    assert Identifiers().columns(Header(acquired=date(2024, 9, 17)))["acquired"] is None
    assert Identifiers().columns(Header(patient="x", acquired=date.min))["acquired"] is None


def test_keep_and_drop_need_no_key(no_key):
    kept = Identifiers(headers="keep").columns(HEADER)
    assert [kept[name] for name in KEYS] == ["PID-0042", "1.2.3", "1.2.3.4", "1.2.3.4.5"]
    assert kept["acquired"] == HEADER.acquired
    dropped = Identifiers(headers="drop").columns(HEADER)
    assert [dropped[name] for name in (*KEYS, "acquired")] == [None] * 5
    assert dropped["field_strength_t"] == 3.0


def test_without_a_key_identifiers_stop_the_run_and_pictures_do_not(no_key):
    identifiers = Identifiers()
    assert identifiers.columns(Header())["patient_key"] is None
    with pytest.raises(IdentifierError, match=r"MRI_RAY_SITE_KEY.*identifiers=drop") as caught:
        identifiers.columns(HEADER)
    assert "PID" not in str(caught.value)


def test_a_node_with_another_key_is_refused(key, monkeypatch):
    identifiers = Identifiers()  # made on the driver
    monkeypatch.setenv(SITE_KEY, KEY[::-1])
    with pytest.raises(IdentifierError, match="the same on every node"):
        identifiers.columns(HEADER)


def test_the_key_may_lie_in_a_file(no_key, monkeypatch, tmp_path):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    monkeypatch.setenv(SITE_KEY_FILE, str(path))
    assert site_key() == KEY.encode()
    path = tmp_path / "other"
    path.write_text("short")
    monkeypatch.setenv(SITE_KEY_FILE, str(path))
    with pytest.raises(ConfigError, match="at least 16"):
        site_key()
    monkeypatch.setenv(SITE_KEY_FILE, str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="FileNotFoundError"):
        site_key()


def test_the_key_is_in_no_value_that_travels(key):
    identifiers = Identifiers(uris="pseudonym")
    assert KEY not in repr(identifiers)
    assert len(identifiers.id_key()) == 32
    assert Identifiers(uris="keep").id_key() == b""


@given(st.text(), st.text())
def test_different_values_have_different_pseudonyms(one, other):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SITE_KEY, KEY)
        identifiers = Identifiers()
        same = identifiers.key_of("patient", one) == identifiers.key_of("patient", other)
    assert same == (one.strip() == other.strip())


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("archive/MULLER/1.dcm", False),  # another spelling is another word
        ("archive/müller_anne/1.dcm", True),
        ("archive/MÜLLER^ÄNNE/1.dcm", True),
        ("archive/pid0042.dcm", True),
        ("x/PID-0042/1", True),
        ("x/pid-0043/1", False),
        ("x/mullerian/1", False),
    ],
)
def test_a_path_that_names_the_patient_is_noticed(path, found):
    assert names_patient(path, HEADER) is found


def test_a_name_in_a_script_without_blanks_is_noticed():
    assert names_patient("by-name/欧阳琇瑛麟_1939/1.dcm", Header(patient_name="Ouyang^Xiuyinglin=欧阳^琇瑛麟"))


def test_short_names_are_in_any_path():
    assert not names_patient("series/xu/1.dcm", Header(patient="12", patient_name="Xu^Li"))


def test_what_identifies():
    assert not identifying(Header(manufacturer="x", field_strength_t=1.5))
    assert identifying(Header(sop_uid="1.2"))


def test_free_text_that_names_the_patient_is_left_out(key):
    header = Header(patient="PID-0042", patient_name="Müller^Änne", body_part="HEAD Änne", manufacturer="pid0042")
    columns = Identifiers().columns(header)
    assert (columns["body_part"], columns["manufacturer"]) == (None, None)
    assert Identifiers(headers="keep").columns(header)["body_part"] == "HEAD Änne"
    assert Identifiers().columns(Header(patient="PID-0042", body_part="HEAD"))["body_part"] == "HEAD"


def test_tables_without_pseudonyms_do_not_depend_on_the_key(key, monkeypatch):
    one = [Identifiers(headers=headers, uris=uris).names for headers in ("drop", "pseudonym") for uris in URIS]
    monkeypatch.setenv(SITE_KEY, KEY[::-1])
    other = [Identifiers(headers=headers, uris=uris).names for headers in ("drop", "pseudonym") for uris in URIS]
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, False, False, False]


def test_paths_without_a_key_are_refused_for_their_own_reason(no_key):
    with pytest.raises(IdentifierError, match=r"uris: pseudonyms for paths need a site key.*or give uris=keep"):
        Identifiers(headers="drop", uris="pseudonym").id_key()
