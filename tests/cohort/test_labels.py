import csv
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mri_ray.archive.storage import Location
from mri_ray.cohort.labels import (
    CLASSES,
    DEFAULT_CLASSES,
    LABELS,
    ROW_KEYS,
    Level,
    bring,
    class_words,
    labels_from_file,
    labels_from_folders,
    match,
    refuse_one_class,
    shared_patients,
    together,
)
from mri_ray.errors import ConfigError, LabelError

NORMAL, TUMOR = range(2)


def folder_labels(keys, classes=DEFAULT_CLASSES):
    table, unlabelled = labels_from_folders(keys, classes)
    assert table.num_rows + unlabelled == len(keys)
    return dict(zip(table["key"].to_pylist(), table["label"].to_pylist(), strict=True))


@pytest.fixture
def labels_file(tmp_path):
    """Write a labels file and read it: text or bytes as CSV, a dict of columns as Parquet."""

    def read(content, classes=DEFAULT_CLASSES, key_of=None, **options):
        path = tmp_path / "labels.any"  # the content tells the format
        if isinstance(content, dict):
            pq.write_table(pa.table(content), path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return labels_from_file(Location.of(str(path)), classes, key_of, **options)

    return read


# classes


@pytest.mark.parametrize(("name", "word"), [(name, word) for name in CLASSES for word in DEFAULT_CLASSES[name]])
def test_every_default_word_labels_its_folder_in_any_spelling(name, word):
    for spelling in (word, word.upper(), word.replace("_", " "), word.replace("_", "-"), word.title().replace("_", "")):
        assert folder_labels([f"Training/{spelling}/1.jpg"]) == {f"Training/{spelling}/1.jpg": CLASSES.index(name)}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"tumor": ["yes"]}, "classes: must name exactly normal and tumor, got"),
        ({"tumor": ["yes"], "normal": ["no"], "other": ["x"]}, "classes: must name exactly normal and tumor, got"),
        ({"tumor": [], "normal": ["no"]}, "classes.tumor: must list at least one folder name"),
        ({"tumor": "yes", "normal": ["no"]}, "classes.tumor: must list at least one folder name, got 'yes'"),
        ({"tumor": ["mass", "No Tumor"], "normal": ["no_tumor"]}, "'No Tumor' already means normal"),
        ({"tumor": ["Normal"], "normal": ["no"]}, "'Normal' already means normal; a word has one class"),
        ({"tumor": ["yes"], "normal": ["no/tumor"]}, "classes.normal: must hold names of single folders"),
        ({"tumor": ["yes", "_"], "normal": ["no"]}, "classes.tumor: must hold names of single folders, got '_'"),
    ],
)
def test_a_word_speaks_for_one_class(classes, message):
    with pytest.raises(ConfigError, match=message):
        class_words(classes)


def test_spellings_of_one_word_may_stand_in_one_class():
    assert class_words({"tumor": ["yes", "Yes"], "normal": ["no_tumor", "notumor"]}) == {"notumor": 0, "yes": 1}


# folders


def test_the_nearest_folder_tells():
    found = folder_labels(["tumor/no/a.png", "no/x/yes/y/b.png", "no/yes.png", "./YES/c.png", "no\\yes\\d.png"])
    assert list(found.values()) == [NORMAL, TUMOR, NORMAL, TUMOR, TUMOR]
    assert "./YES/c.png" in found  # keys stay as the archive has them


def test_objects_outside_the_named_folders_are_counted():
    table, unlabelled = labels_from_folders(["pred/a.png", "yes", "yes/b.png", "yesterday/c.png"], DEFAULT_CLASSES)
    assert (table["key"].to_pylist(), unlabelled) == (["yes/b.png"], 3)
    assert table["patient"].null_count == table["study_date"].null_count == 1


def test_arrow_keys_in_chunks_are_fine():
    keys = pa.chunked_array([["yes/a.png"], ["no/b.png", "c.png"]])
    assert folder_labels(keys) == {"yes/a.png": TUMOR, "no/b.png": NORMAL}
    assert folder_labels([]) == {}


# files


def test_csv_columns_are_read_as_text(labels_file):
    table = labels_file("\ufeffnote,study_date,path,label,patient_id\n1,19960909,a.png,Tumor,007\nx,,b/c.png,0,\n")
    assert table.to_pylist() == [
        {"key": "a.png", "label": TUMOR, "patient": "007", "study_date": "19960909", "level": "path"},
        {"key": "b/c.png", "label": NORMAL, "patient": None, "study_date": None, "level": "path"},
    ]


def test_labels_may_be_classes_words_or_numbers(labels_file):
    table = labels_file("path,label\na,tumor\nb,NORMAL\nc,1\nd,0\ne,glioma\nf,No Tumor\ng, yes \n")
    assert table["label"].to_pylist() == [1, 0, 1, 0, 1, 0, 1]
    classes = {"tumor": ["1", "2", "3"], "normal": ["9"]}
    assert labels_file("path,label\na,3\nb,tumor\nc,9\nd,0\n", classes)["label"].to_pylist() == [1, 1, 0, 0]
    assert labels_file("path,label\na,1.0\nb,0.0\n")["label"].to_pylist() == [1, 0]


def test_names_of_columns_count_in_any_case(labels_file):
    (row,) = labels_file("Path, LABEL ,Patient_ID\na.png,yes,007\n").to_pylist()
    assert (row["key"], row["label"], row["patient"]) == ("a.png", TUMOR, "007")
    table = labels_file({"Path": ["a.png"], "Label": ["no"]})
    assert table["label"].to_pylist() == [NORMAL]


@pytest.mark.parametrize(
    "label",
    [
        ["tumor", "no"],
        pa.array(["tumor", "no"]).dictionary_encode(),
        pa.array(["tumor", "no"], pa.large_string()),
        pa.array([1, 0], pa.int64()),
        pa.array([1, 0], pa.float64()),
        pa.array([True, False]),
    ],
)
def test_parquet_columns_may_have_any_plain_type(labels_file, label):
    columns = {"label": label, "path": ["a", "b"], "patient_id": [7.0, float("nan")]}
    table = labels_file({**columns, "study_date": pa.array([0, None], pa.timestamp("ms")), "other": [[1], [2]]})
    assert table["label"].to_pylist() == [TUMOR, NORMAL]
    assert table["patient"].to_pylist() == ["7", None]
    assert table["study_date"].to_pylist() == ["1970-01-01", None]


def test_a_path_may_stand_twice_when_its_rows_agree(labels_file):
    table = labels_file("path,label,patient_id\na/b.png,yes,\nc.png,no,q\n./a\\b.png,1,p\n/a//./b.png,tumor,p\n")
    assert table.select(["key", "label", "patient"]).to_pylist() == [
        {"key": "a/b.png", "label": TUMOR, "patient": "p"},
        {"key": "c.png", "label": NORMAL, "patient": "q"},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,label\na,1\n./x.png,yes\nb,0\nx.png,no\n",
            r"rows 2 and 4: label .* got two \(tumor, normal\)$",
        ),
        ("path,label\na,1\n,0\n", "data row 2: path must not be empty"),
        ("path,label\na,1\nb, \n", "data row 2: label must not be empty; fill it in or take the row out"),
        ("path,label\na,1\nb,maybe\n", r"data row 2: label must be one of 0, 1, .*glioma.*yes .*, got 'maybe'"),
        (
            "file,label,age\na,1,7\n",
            r"must have the columns path \(or sop_uid, series_uid, study_uid\) and label, found file, label, age",
        ),
        (
            "path;label\na;1\n",
            r"must have the columns path \(or sop_uid, series_uid, study_uid\) and label, found path;label",
        ),
        ("path,label,path\na,1,b\n", "column path must occur once, found 2 of it"),
        ("path,label,Path\na,1,b\n", "column path must occur once, found 2 of it"),
        ("", r"must have the columns path \(or sop_uid, series_uid, study_uid\) and label, found none"),
        ("path,label\n", "must hold at least one row below its header, got none"),
        ("path,label\na,1\nb,0,9\n", "data row 2: must have 2 columns, got 3"),
        (b"path,label\n\xff\xfe,1\n", "must be CSV .* or Parquet"),
        (b"PAR1 and then nothing", "must be CSV .* or Parquet"),
        ({"path": ["a"], "label": [None]}, "data row 1: label must not be empty"),
        ({"path": ["a"], "label": [0.5]}, "label must be one of .*, got '0.5'"),
        ({"path": ["a", "b"], "label": [1, -1]}, "data row 2: label must be one of .*, got '-1'"),
        ({"path": ["a"], "label": [[1]]}, "must be CSV .* or Parquet"),
        ({"name": ["a"]}, r"must have the columns path \(or sop_uid, series_uid, study_uid\) and label, found name"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_why(labels_file, content, message):
    with pytest.raises(LabelError, match=message) as caught:
        labels_file(content)
    assert "labels.any" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "path,label,patient_id\na,1,SECRET^NAME\n./a,1,OTHER\n",
        "path,label,patient_id\na,1,SECRET^NAME,surplus\n",
        "path,label,patient_id\na,1\nSECRET^NAME",
        "SECRET^NAME,1\nother,0\n",  # no header
        "SECRET^NAME;1\nother;0\n",
        "study_uid,label\n1.2.SECRET,tumor\n1.2.SECRET,normal\n",
        "label,study_uid\n1.2.SECRET,tumor\n",  # in the wrong order
        "series_uid,label\n1.2.SECRET,\n",
        "sop_uid,label\n1.2.SECRET,1\n",  # no key_of
    ],
)
def test_no_message_quotes_a_patient(labels_file, content):
    with pytest.raises(LabelError) as caught:
        labels_file(content)
    error = caught.value
    while error is not None:
        assert "SECRET" not in str(error)
        error = error.__cause__ or error.__context__


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LabelError, match=r"nowhere.csv: cannot be read"):
        labels_from_file(Location.of(str(tmp_path / "nowhere.csv")), DEFAULT_CLASSES)


# matching


def test_labels_come_in_the_order_of_the_keys(labels_file):
    labels = labels_file("path,label,patient_id\nx/a.png,1,p\n.\\x\\b.png,0,q\ngone.png,0,q\ne\u0301.png,1,\n")
    found = match(["x/b.png", "readme.md", "x/a.png", "./x/b.png", "\u00e9.png"], labels)
    assert found.label.tolist() == [NORMAL, -1, TUMOR, NORMAL, TUMOR]
    assert found.label.dtype == np.int8
    assert found.patient == ["q", None, "p", "q", None]
    assert (found.unlabelled, found.labels_without_file) == (1, 1)


def test_one_class_alone_is_refused():
    labels, _ = labels_from_folders(["yes/a", "no/b", "yes/c"], DEFAULT_CLASSES)
    with pytest.raises(LabelError, match="both classes must occur, but all 2 labelled objects are tumor"):
        match(["yes/a", "yes/c", "other"], labels)


def test_labels_that_meet_no_object_are_refused_with_examples(labels_file):
    labels = labels_file("path,label\ndata/a.png,1\ndata/b.png,0\n")
    with pytest.raises(LabelError, match=r"none of 2 labelled paths \(such as data/a.png\) is among 1 .* a.png\)"):
        match(["a.png"], labels)
    none, _ = labels_from_folders(["x/a.png"], DEFAULT_CLASSES)
    with pytest.raises(LabelError, match=r"none of 1 objects \(such as x/a.png\) lies in a folder .* labels file"):
        match(["x/a.png"], none)
    with pytest.raises(LabelError, match="the archive holds none"):
        match([], none)


parts = st.sampled_from(["yes", "no", "a", "b c", "tumor", "\u00fc", "x.png"])
spellings = st.sampled_from(["{}", "./{}", "/{}", ".\\{}", "././{}", ".//{}"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(parts, min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_every_spelling_of_a_path_meets_it(paths, data):
    keys = ["yes/always.png", "no/always.png", *("/".join(path) for path in paths)]
    other = []
    for key in keys:
        joint = data.draw(st.sampled_from(["/", "\\", "//", "/./", "\\.\\"]))
        other.append(data.draw(spellings).format(key.replace("/", joint)))
    straight, crooked = (labels_from_folders(names, DEFAULT_CLASSES)[0] for names in (keys, other))
    found = [match(names, labels) for names in (keys, other) for labels in (straight, crooked)]
    assert all(np.array_equal(one.label, found[0].label) for one in found)
    assert all(one.labels_without_file == 0 for one in found)


# studies, series and instances


def key_of(level, uid):
    return f"{level}:{uid}"


def results(**columns):
    count = len(next(iter(columns.values())))
    empty = dict.fromkeys(ROW_KEYS.values(), pa.nulls(count, pa.string()))
    return pa.table({**empty, **{name: pa.array(values, pa.string()) for name, values in columns.items()}})


@pytest.mark.parametrize(
    ("column", "level"), [("study_uid", Level.STUDY), ("series_uid", Level.SERIES), ("sop_uid", Level.INSTANCE)]
)
def test_labels_by_uid_meet_the_keys_of_their_level(labels_file, column, level):
    labels = labels_file(f"{column},label,patient_id\n1.2,tumor,p\n 1.3 ,normal,q\n1.4,normal,\n", key_of=key_of)
    assert labels.schema.equals(LABELS)
    assert labels["key"].to_pylist() == [f"{level}:1.2", f"{level}:1.3", f"{level}:1.4"]
    assert set(labels["level"].to_pylist()) == {level.value}
    keys = [None, f"{level}:1.3", "1.2", f"{level}:1.2", f"{level}:1.2"]
    found = match(["same"] * 5, labels, results(**{ROW_KEYS[level]: keys}))
    assert found.label.tolist() == [-1, NORMAL, -1, TUMOR, TUMOR]
    assert found.patient == [None, "q", None, "p", "p"]
    assert (found.unlabelled, found.labels_without_file, found.weak) == (2, 1, 2)
    for other in set(ROW_KEYS.values()) - {ROW_KEYS[level]}:
        with pytest.raises(LabelError, match=r"none of 3 labelled (series|studies|instances) is that of any of 5"):
            match(["same"] * 5, labels, results(**{other: keys}))


def test_a_file_goes_by_its_finest_column(labels_file):
    content = "study_uid,sop_uid,label,series_uid\n1,1.1,tumor,2\n1,1.2,normal,2\n"
    assert labels_file(content, key_of=key_of)["key"].to_pylist() == ["instance:1.1", "instance:1.2"]
    assert labels_file(f"path,{content}".replace("\n1", "\na/b,1", 1).replace("\n1", "\nc,1"))["key"].to_pylist() == [
        "a/b",
        "c",
    ]


def test_a_uid_may_stand_twice_when_its_rows_agree(labels_file):
    assert labels_file("study_uid,label\n1.2,1\n1.2,tumor\n", key_of=key_of).num_rows == 1
    with pytest.raises(
        LabelError, match=r"rows 1 and 2: label of one study_uid must agree, got two \(tumor, normal\)$"
    ):
        labels_file("study_uid,label\n1.2,1\n1.2,0\n", key_of=key_of)
    with pytest.raises(LabelError, match="rows 1 and 2: label of one study_uid must agree"):
        labels_file("study_uid,label\n1.2,1\n1.3,0\n", key_of=lambda level, uid: "one")


@pytest.mark.parametrize("key_of", [None, lambda level, uid: None])
def test_labels_by_uid_need_keys(labels_file, key_of):
    with pytest.raises(LabelError, match=r"labels by study_uid .* `identifiers: pseudonym` with a site key, or `ident"):
        labels_file("study_uid,label\n1.2,1\n", key_of=key_of)


def test_what_tells_of_uids_is_not_said_when_nothing_matches(labels_file):
    labels = labels_file("study_uid,label\n1.2.SECRET,1\n", key_of=lambda level, uid: uid)
    with pytest.raises(
        LabelError, match=r"none of 1 labelled studies is that of any of 1 slices; .* site key"
    ) as caught:
        match(["SECRET.dcm"], labels, results(study_key=["1.3.SECRET"]))
    assert "SECRET" not in str(caught.value)


def test_paths_are_said_only_where_they_may_be(labels_file):
    labels = labels_file("path,label\nSECRET/a.png,1\n")
    with pytest.raises(LabelError, match="none of 1 labelled paths is among 1 objects;") as caught:
        match(["SECRET/b.png"], labels, quote=False)
    assert "SECRET" not in str(caught.value)
    with pytest.raises(LabelError, match=r"data row 1: label must be one of .*, got another") as caught:
        labels_file("label,path\nSECRET/a.png,1\n", quote=False)
    assert "SECRET" not in str(caught.value)
    with pytest.raises(LabelError, match="none of 1 objects lies in a folder that") as caught:
        match(["SECRET/b.png"], labels_from_folders([], DEFAULT_CLASSES)[0], quote=False)
    assert "SECRET" not in str(caught.value)


def test_members_of_packs_have_paths(labels_file):
    labels = labels_file("path,label\na.zip!/x/1.png,0\n./a.zip!//x\\2.png,1\nb.tar!/inner.zip!/1.png,0\nc.zip,1\n")
    keys = ["a.zip!/x/1.png", "a.zip!/x/2.png", "a.zip!/x/3.png", "b.tar!/inner.zip!/1.png", "x/1.png"]
    found = match(keys, labels)
    assert found.label.tolist() == [NORMAL, TUMOR, -1, NORMAL, -1]
    assert (found.unlabelled, found.labels_without_file, found.weak) == (2, 1, 0)


def test_the_label_of_a_pack_is_that_of_its_members_unless_they_have_their_own(labels_file):
    labels = labels_file("path,label,patient_id\na.zip,tumor,p\na.zip!/in.zip,normal,q\na.zip!/in.zip!/y.png,tumor,r\n")
    keys = ["a.zip!/1.png", "a.zip!/x/2.png", "a.zip!/in.zip!/x.png", "a.zip!/in.zip!/y.png", "b.zip!/1.png", "a.zip"]
    found = match(keys, labels)
    assert found.label.tolist() == [TUMOR, TUMOR, NORMAL, TUMOR, -1, TUMOR]
    assert found.patient == ["p", "p", "q", "r", None, "p"]
    assert (found.labels_without_file, found.weak) == (0, 3)


def test_folders_in_and_around_packs_tell():
    keys = ["yes/a.zip!/1.png", "yes/a.zip!/no/1.png", "a.zip!/yes/1.png", "yes.zip!/1.png"]
    assert list(folder_labels(keys).values()) == [TUMOR, NORMAL, TUMOR]


def test_tumor_labels_that_cover_several_slices_are_weak():
    volumes = ["yes/a.nii"] * 5 + ["no/b.nii"] * 5 + ["yes/c.png"]
    found = match(volumes, labels_from_folders(volumes, DEFAULT_CLASSES)[0])
    assert (found.weak, found.labels_without_file, found.unlabelled) == (5, 0, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1), min_size=1),
    st.sampled_from(list(ROW_KEYS)),
)
def test_every_row_has_the_label_of_its_key_and_counts_say_so(keys, known, level):
    labels = pa.table(
        [list(known), list(known.values()), *[pa.nulls(len(known), pa.string())] * 2, [level.value] * len(known)],
        schema=LABELS,
    )
    found = bring(["x"] * len(keys), labels, results(**{ROW_KEYS[level]: keys}))
    assert found.label.tolist() == [known.get(key, -1) for key in keys]
    assert found.unlabelled == sum(key not in known for key in keys)
    assert found.labels_without_file == sum(key not in keys for key in known)
    assert found.weak == sum(known.get(key) == TUMOR and keys.count(key) > 1 for key in keys)


# real data


@pytest.mark.parametrize("name", ["lesion_px", "lesion_pixels", "mask_pixels"])
def test_sizes_of_lesions_come_with_the_labels(labels_file, name):
    table = labels_file(f"path,label,{name}\na.png,tumor,12\nb.png,tumor,\nc.png,normal,0\nvolume.nii,tumor,99\n")
    found = bring(["c.png", "b.png", "volume.nii", "x.png", "a.png", "volume.nii"], table)
    # What a label tells of a whole volume is the size on none of its slices.
    np.testing.assert_array_equal(found.lesion_px, [0, np.nan, np.nan, np.nan, 12, np.nan])
    assert np.isnan(bring(["a.png"], labels_file("path,label\na.png,tumor\n")).lesion_px).all()


def test_the_side_of_a_split_comes_with_the_labels(labels_file):
    table = labels_file("path,label,split\na.png,tumor,train\nb.png,normal,\nc.zip,normal,Test\n")
    found = bring(["c.zip!/x.png", "b.png", "d.png", "a.png", "c.zip!/y.png"], table)
    assert found.split == ["Test", None, None, "train", "Test"]
    parts = [
        (np.array([1]), bring(["a.png"], table)),
        (np.array([0]), bring(["a.png"], labels_file("path,label\na.png,1\n"))),
    ]
    assert together(parts, 2).split == [None, "train"]
    with pytest.raises(LabelError, match=r"data rows 1 and 2: split of one path must agree, got two"):
        labels_file("path,label,split\na.png,tumor,train\na.png,tumor,test\n")


@pytest.mark.parametrize("size", ["large", "-3", "1;2"])
def test_a_size_that_is_no_number_is_refused(labels_file, size):
    with pytest.raises(LabelError, match="mask_pixels must be a number of pixels"):
        labels_file(f"path,label,mask_pixels\na.png,tumor,{size}\n")


def test_kaggle_folders_give_the_numbers_of_its_table(mri_data):
    root = mri_data / "kaggle"
    keys = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    table, unlabelled = labels_from_folders(keys, DEFAULT_CLASSES)
    with (mri_data / "kaggle.csv").open(newline="") as source:
        truth = {row["path"]: row["label"] for row in csv.DictReader(source)}
    found = dict(zip(table["key"].to_pylist(), (CLASSES[label] for label in table["label"].to_pylist()), strict=True))
    assert unlabelled == 0
    assert Counter(found.values()) == Counter(truth.values()) == {"tumor": 987, "normal": 1504}
    assert found == truth


def test_the_lgg_labels_file_matches_every_slice(mri_data):
    root = mri_data / "lgg"
    keys = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    found = match(keys, labels_from_file(Location.of(str(mri_data / "lgg.csv")), DEFAULT_CLASSES))
    assert (len(keys), found.unlabelled, found.labels_without_file) == (2605, 0, 0)
    assert Counter(found.label.tolist()) == {TUMOR: 900, NORMAL: 1705}
    assert len(set(found.patient)) == 72
    assert None not in found.patient


def test_labels_matched_apart_come_together_in_the_order_of_the_rows():
    rows = [["a.png", "b.png"], ["a.png", "c.png", "d.png"]]
    tables = [
        pa.table([["a.png"], [1], ["p"], ["2001"], ["path"]], schema=LABELS),
        pa.table([["c.png", "a.png", "x.png"], [0, 0, 1], [None, "p", None], [None] * 3, ["path"] * 3], schema=LABELS),
    ]
    places = [np.array([3, 0]), np.array([1, 2, 4])]
    parts = [(mine, bring(keys, table)) for mine, keys, table in zip(places, rows, tables, strict=True)]
    found = together(parts, 5)
    assert found.label.tolist() == [-1, 0, 0, 1, -1]
    assert found.patient == [None, "p", None, "p", None]
    assert found.study_date == [None, None, None, "2001", None]
    assert (found.unlabelled, found.labels_without_file) == (2, 1)
    assert shared_patients(found.patient, np.array([0, 1, 1, 0, 1])) == 1
    assert shared_patients(found.patient, np.zeros(5, int)) == 0
    assert together(parts[:1], 2) is parts[0][1]
    with pytest.raises(LabelError, match="both classes must occur, but all 2 labelled"):
        refuse_one_class(np.array([1, -1, 1], np.int8))
    one = match(["a.png"], tables[0], alone=False)
    assert one.label.tolist() == [1]
