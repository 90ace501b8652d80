import numpy as np
import pytest
from PIL import Image

from pipeline.config import SignalsConfig
from pipeline.errors import InputError
from pipeline.signals import coordinates, load_signals

pytestmark = pytest.mark.fast


@pytest.fixture
def images(tmp_path):
    """Two classes of small grey images."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.fromarray(rng.integers(0, 256, (9, 12), dtype=np.uint8)).save(
                tmp_path / name / f"{number}.png"
            )
    return tmp_path


def folder(path, size=8) -> SignalsConfig:
    return SignalsConfig(source="folder", path=path, size=size)


def test_digits_are_the_1797_of_scikit_learn():
    signals = load_signals(SignalsConfig(source="digits"))
    assert signals.values.shape == (1797, 8, 8, 1)
    assert (signals.values.min(), signals.values.max()) == (0, 1)
    assert signals.class_names == tuple("0123456789")


def test_a_folder_gives_classes_by_subfolder(images):
    signals = load_signals(folder(images))
    assert signals.values.shape == (10, 8, 8, 1)
    assert signals.class_names == ("cat", "dog")
    assert signals.labels.tolist() == [0] * 5 + [1] * 5


def test_one_colour_image_makes_all_rgb(images):
    Image.new("RGB", (9, 12), (255, 0, 0)).save(images / "cat" / "red.jpg")
    signals = load_signals(folder(images))
    assert signals.values.shape == (11, 8, 8, 3)
    np.testing.assert_array_equal(signals.values[0, ..., 0], signals.values[0, ..., 2])


def test_a_limit_takes_signals_evenly(images):
    signals = load_signals(folder(images).model_copy(update={"limit": 4}))
    assert signals.labels.tolist() == [0, 0, 1, 1]


def test_images_that_cannot_be_decoded_are_named_and_keep_their_place(images, caplog):
    whole = load_signals(folder(images)).values
    broken = images / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (images / "dog" / "4.png").write_text("not a picture")
    values = load_signals(folder(images)).values
    assert np.isnan(values[8:]).all()
    np.testing.assert_array_equal(values[:8], whole[:8])
    assert "2 of 10 signals of" in caplog.text
    assert "cannot be read and are left out: dog/3.png cannot be decoded (" in caplog.text


def test_images_of_which_none_can_be_decoded_are_no_signals(images):
    for file in images.glob("*/*.png"):
        file.write_text("not a picture")
    with pytest.raises(
        InputError, match=r"found 10 and none of them is; the first: cat/0\.png cannot be decoded"
    ):
        load_signals(folder(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: folder(None), "signals.path must say where source 'folder' is, got null"),
        (lambda path: folder(path / "nowhere"), "found none at"),
        (
            lambda path: folder(path),
            "must hold images, directly or in one subfolder per class, found none",
        ),
        (
            lambda path: SignalsConfig(source="digits", size=28),
            "signals.size must be null or 8 for source 'digits', got 28",
        ),
    ],
)
def test_bad_sources_say_what_was_expected(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        load_signals(make(tmp_path))


def test_coordinates_run_over_rows_then_columns():
    grid = coordinates((2, 3))
    np.testing.assert_allclose(grid, [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]])


def test_the_digest_sees_values_labels_and_names(images):
    signals = load_signals(folder(images))
    assert signals.digest() == load_signals(folder(images)).digest()
    Image.new("L", (9, 12)).save(images / "cat" / "0.png")
    assert signals.digest() != load_signals(folder(images)).digest()
