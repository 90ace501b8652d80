"""Image folders from cameras, archives and hubs: what is read as what, and what is left out."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals import NO_LABEL, Signals, load_signals

pytestmark = pytest.mark.fast

FORMATS = {".jpg": "JPEG", ".mpo": "JPEG", ".tif": "TIFF", ".jp2": "JPEG2000", ".pgm": "PPM"}
PICTURES = (".png", ".bmp", ".gif", ".webp", ".tiff", ".jpeg", ".avif", *FORMATS)


def tree(root: Path, *files: str) -> Path:
    """Make pictures by suffix, folders for names with a final slash, else files of one letter."""
    for name in files:
        file = root / name
        if name.endswith("/"):
            file.mkdir(parents=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        suffix = file.suffix.lower()
        if suffix in PICTURES and not file.name.startswith("."):
            picture = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
            with open(file, "wb") as content:
                picture.save(content, FORMATS.get(suffix, suffix[1:].upper()))
        else:
            file.write_text("x")
    return root


def load(path: Path, **fields) -> Signals:
    return load_signals(SignalsConfig(source="folder", path=path, **fields))


def placed(signals: Signals) -> dict[str, str]:
    """Name, class and, if the source has splits, split of each signal."""
    nobody = np.zeros(len(signals), bool)
    test, validation = (
        nobody if own is None else own for own in (signals.held_out, signals.validation)
    )
    names = (*signals.class_names, "-")
    return {
        name: names[label] + (" test" if is_test else " validation" if is_validation else "")
        for name, label, is_test, is_validation in zip(
            signals.names, signals.labels, test, validation, strict=True
        )
    }


LAYOUTS = {
    "images without classes": ({"1.png": "-", "2.JPG": "-"}, {}),
    "one folder alone is no class": ({"DCIM/100CANON/1.jpg": "-", "DCIM/100CANON/2.jpg": "-"}, {}),
    "one folder beside images is no class": ({"1.png": "-", "backup/2.png": "-"}, {}),
    "images beside classes": (
        {"cat/1.png": "cat", "dog/1.png": "dog"},
        {"1.png": "of no class, beside folders of classes"},
    ),
    "folders inside a class belong to it": (
        {"cat/1.png": "cat", "cat/a/b/2.png": "cat", "dog/a/1.png": "dog"},
        {},
    ),
    "an image beside the folder of the classes": (
        {"data/cat/1.png": "cat", "data/dog/1.png": "dog"},
        {"logo.png": "of no class, beside folders of classes"},
    ),
    "an image beside the folder of the splits": (
        {
            "data/train/cat/1.png": "cat",
            "data/train/dog/1.png": "dog",
            "data/val/dog/1.png": "dog validation",
        },
        {"logo.png": "beside folders of splits"},
    ),
    "splits deep inside, beside others": (
        {
            "leaves/leaves/train/oak/1.jpg": "oak",
            "leaves/leaves/train/fir/1.jpg": "fir",
            "leaves/leaves/valid/oak/1.jpg": "oak validation",
        },
        {"test/test/Oak1.jpg": "beside folders of splits"},
    ),
    "one level too high": (
        {"archive/photos/cat/1.png": "cat", "archive/photos/dog/1.png": "dog"},
        {"archive/readme.md": ".md is not read"},
    ),
    "what operating systems leave": (
        {"cat/1.png": "cat", "dog/1.png": "dog"},
        {
            name: "hidden"
            for name in (".thumbs/1.png", "cat/._1.png", "__MACOSX/cat/1.png", "dog/Thumbs.db")
        }
        | {
            f"{name}/": "hidden"
            for name in ("#recycle", "@Recycle", "RECYCLER", "System Volume Information")
        }
        | {"cat/desktop.ini": "hidden", ".DS_Store": "hidden"},
    ),
    "what is no image": (
        {"cat/1.png": "cat", "dog/1.png": "dog"},
        {
            "cat/1.heic": ".heic is not read",
            "cat/2.HEIC": ".heic is not read",
            "labels.csv": ".csv is not read",
            "dog/1": "no suffix is not read",
            "empty/": "an empty folder",
        },
    ),
    "a test split": (
        {
            "train/cat/1.png": "cat",
            "train/dog/1.png": "dog",
            "test/cat/1.png": "cat test",
            "test/dog/1.png": "dog test",
        },
        {},
    ),
    "all splits and more": (
        {
            "data/Training/cat/1.png": "cat",
            "data/Training/dog/1.png": "dog",
            "data/Valid/cat/1.png": "cat validation",
            "data/Testing/dog/1.png": "dog test",
        },
        {"data/extra/cat/1.png": "beside folders of splits"},
    ),
    "a validation split alone": (
        {"train2017/1.jpg": "-", "val2017/1.jpg": "- validation"},
        {"annotations/all.json": ".json is not read"},
    ),
    "splits that are called twice": (
        {
            "seg_train/seg_train/sea/1.jpg": "sea",
            "seg_train/seg_train/ice/1.jpg": "ice",
            "seg_test/seg_test/sea/1.jpg": "sea test",
        },
        {"seg_pred/seg_pred/1.jpg": "beside folders of splits"},
    ),
    "splits of one folder each": (
        {"train/images/1.jpg": "-", "valid/images/1.jpg": "- validation"},
        {"train/labels/1.txt": ".txt is not read"},
    ),
    "splits of each class": (
        {
            "bottle/train/good/1.png": "bottle",
            "bottle/test/broken/1.png": "bottle test",
            "cable/train/good/1.png": "cable",
            "cable/test/bent/1.png": "cable test",
        },
        {"bottle/ground_truth/broken/1.png": "beside folders of splits"},
    ),
    "splits of one class": (
        {"bus/1.png": "bus", "car/train/1.png": "car", "car/test/1.png": "car test"},
        {},
    ),
    "a class in one split only": (
        {"train/good/1.png": "good", "test/broken/1.png": "broken test"},
        {},
    ),
    "a test split without classes": (
        {"train/cat/1.png": "cat", "train/dog/1.png": "dog"},
        {"test/1.png": "of no class, beside folders of classes"},
    ),
    "other splits in a folder that is no class": (
        {"train/cat/images/1.png": "cat", "train/dog/images/1.png": "dog"},
        {
            "val/images/1.png": "of no class, beside folders of classes",
            "test/unknown/1.png": "of no class, beside folders of classes",
        },
    ),
    "a class of the train split alone in another": (
        {"train/cat/1.png": "cat", "train/dog/1.png": "dog", "test/dog/1.png": "dog test"},
        {},
    ),
    "words for splits that are run together": (
        {
            "trainingSet/cat/1.png": "cat",
            "trainingSet/dog/1.png": "dog",
            "testSet/dog/1.png": "dog test",
        },
        {},
    ),
    "words for splits with endings": (
        {
            "traindata/cat/1.png": "cat",
            "traindata/dog/1.png": "dog",
            "testdata/dog/1.png": "dog test",
        },
        {},
    ),
    "a class that is called as a split is": (
        {"car/1.png": "car", "plane/1.png": "plane", "train/1.png": "train"},
        {},
    ),
    "classes with a split's name in theirs": (
        {"train_station/1.png": "train_station", "test_tube/1.png": "test_tube"},
        {},
    ),
    "a train split alone": (
        {"train/cat/1.png": "cat", "train/dog/1.png": "dog"},
        {},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_taken_and_what_is_left_out(tmp_path, monkeypatch, layout):
    monkeypatch.setattr("pipeline.signals.taken.SHOWN", 100)
    taken, left_out = LAYOUTS[layout]
    signals = load(tree(tmp_path, *taken, *left_out))
    assert placed(signals) == taken
    assert bool(signals.class_names) == all(name != "-" for name in taken.values())
    line, _, rest = signals.taken.partition("; left out: ")
    assert line.startswith(f"{len(taken)} images, ")
    assert "\n" not in signals.taken
    for name, why in left_out.items():
        shown = name.split("/")[0] if name.startswith((".thumbs", "__MACOSX")) else name
        assert shown.rstrip("/") in rest
        assert f"({why})" in rest
    assert bool(rest) == bool(left_out)


@pytest.mark.parametrize("suffix", [*PICTURES, ".PNG", ".JpEg"])
def test_every_format_that_is_decoded_is_found_by_its_suffix(tmp_path, suffix):
    signals = load(tree(tmp_path, f"a/1{suffix}", f"b/1{suffix}"))
    assert signals.taken == "2 images, 2 classes (a, b), no splits of their own"
    assert not signals.failures


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["test/cat/1.png", "test/dog/1.png"], "must hold a train split, found only test: set"),
        (["test/1.png", "val/1.png"], "must hold a train split, found only test, validation"),
        (
            ["train_images/1.png", "test_images/1.png", "train_masks/1.png", "test_masks/1.png"],
            "one set of splits, found test_images, train_images and test_masks, train_masks",
        ),
        (
            [f"{size}/{name}/1.png" for size in "ab" for name in ("train/x", "train/y", "val/x")],
            "must hold one set of splits, found them in a and in b: set",
        ),
        (["a/1.heic", "b/"], r"found none; left out: b \(an empty folder\), a/1\.heic \(\.heic is"),
    ],
)
def test_folders_that_cannot_be_understood_say_why(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        load(tree(tmp_path, *files))


def test_links_take_nothing_twice_and_lead_nowhere(tmp_path):
    root = tree(tmp_path / "root", "cat/1.png", "dog/1.png")
    outside = tree(tmp_path / "outside", "1.png")
    for link, target in {
        "cat/up": "..",
        "self": "self",
        "kitten": "cat",
        "dog/latest.png": "1.png",
        "dog/gone.png": "nowhere",
        "fox": outside,
        "wolf": outside,
    }.items():
        os.symlink(target, root / link)
    os.mkfifo(root / "dog" / "pipe.png")
    signals = load(root)
    failed = {"dog/gone.png": "dog", "dog/pipe.png": "dog"}
    assert placed(signals) == failed | {
        "cat/1.png": "cat",
        "dog/1.png": "dog",
        "fox/1.png": "fox",
    }
    assert {signals.called(i) for i in signals.failures} == failed.keys()
    for left_out in (
        "self (no suffix is not read)",
        "kitten, wolf, cat/up (the same folder as another)",
        "dog/latest.png (the same file as another)",
    ):
        assert left_out in signals.taken


def test_names_are_of_one_unicode_form_and_may_be_any_bytes(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    tree(tmp_path, f"train/{apart}/1.png", "train/dog/1.png", f"test/{composed}/1.png")
    folder = os.fsencode(tmp_path / "train") + b"/\xff"
    os.mkdir(folder)
    shutil.copy(tmp_path / "train" / "dog" / "1.png", folder + b"/1.png")
    signals = load(tmp_path)
    assert signals.class_names == ("\\xff", composed, "dog")
    names = [signals.class_names[label] for label in signals.labels[signals.held_out]]
    assert names == [composed]


def test_a_limit_and_an_empty_split_say_what_was_taken(tmp_path):
    signals = load(tree(tmp_path, *(f"{number}.png" for number in range(6))), limit=3)
    assert (signals.labels == NO_LABEL).all()
    assert signals.taken == "6 images, no classes, no splits of their own; of these 3, evenly"


def test_the_line_stays_one_line_whatever_files_are_called(tmp_path):
    files = [f"1.{number}" for number in range(100)]
    signals = load(tree(tmp_path, "a/1.png", "b/1.png", "x\n\x1b[31m.txt", *files))
    assert signals.taken.isprintable()
    assert signals.taken.count("is not read") == 12
    assert signals.taken.endswith(", 89 more for other reasons")
    (tmp_path / "c\nd").mkdir()
    shutil.copy(tmp_path / "a" / "1.png", tmp_path / "c\nd")
    assert r"3 classes (a, b, c\nd)" in load(tmp_path).taken
