"""Pictures and the page: contents, legible names, and errors if something cannot be drawn."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from flows.cli import main
from pipeline.archive.summary import in_words
from pipeline.archive.write import seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.config import FitConfig, SignalsConfig, SirenConfig, ZooConfig
from pipeline.errors import InputError
from pipeline.exchange.exporting import export_zoo
from pipeline.figures.accuracies import draw_dependence
from pipeline.figures.confusion import draw_confusion
from pipeline.figures.picture import (
    COLOURS,
    GREY,
    INK,
    caption,
    contrast,
    picture,
    text_on,
)
from pipeline.figures.reconstructions import COLUMN_WIDTH, choose, draw_reconstructions, render
from pipeline.figures.weights import filters_of, mosaic
from pipeline.figures.zoo import picture_of
from pipeline.progress import no_progress
from pipeline.report.page import isolated
from pipeline.signals import load_signals
from pipeline.zoos.build import fit_shard, plan_zoo
from tests.pipeline.foreign import bring_in, mnist_tree

SVG = "{http://www.w3.org/2000/svg}"
NAMES = [
    "猫と犬",
    "собака",
    "قطة",
    "कुत्ता",
    "$5 to $10",
    "<b>bold</b>",
    "a\nb",
    "",
    "x" * 90,
    "y" * 90,
]


def text_of(file: Path) -> list[str]:
    return ["".join(each.itertext()) for each in ET.parse(file).iter(f"{SVG}text")]


def test_a_confusion_matrix_has_every_name_in_any_script_as_text(tmp_path):
    draw_confusion(np.eye(10) * 5, NAMES, tmp_path / "c.svg")
    drawn = text_of(tmp_path / "c.svg")
    for name in NAMES:
        assert drawn.count(caption(name, 28)) == (2 if name else drawn.count(""))
    assert drawn.count("100") == 10


def test_a_name_that_no_text_can_hold_is_drawn_all_the_same(tmp_path):
    names = ["a\x00b", "c\x1b[31md", "e\ufffe", "\u202egnp.x", "g\ud800h"]
    draw_confusion(np.eye(5), names, tmp_path / "c.svg")
    assert {"a�b", "c�[31md", "e�", "�gnp.x", "g�h"} <= set(text_of(tmp_path / "c.svg"))


def test_names_that_would_look_alike_are_numbered(tmp_path):
    names = [f"{'one and the same beginning ' * 3}{i}{' and the same end' * 2}" for i in range(3)]
    draw_confusion(np.eye(3), names, tmp_path / "c.svg")
    assert {"0", "1", "2"} <= {text.split()[0] for text in text_of(tmp_path / "c.svg")}


def test_the_names_of_a_hundred_classes_have_room(tmp_path):
    """Side by side, each name needs more room than the height of its letters."""
    names = [f"class of things number {i}" for i in range(100)]
    draw_confusion(np.eye(100) * 3, names, tmp_path / "c.svg")
    root = ET.parse(tmp_path / "c.svg").getroot()
    places = {}
    for text in root.iter(f"{SVG}text"):
        found = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)|", text.get("transform", ""))
        label = "".join(text.itertext())
        if label.startswith("class") and "rotate(-90" not in text.get("transform", ""):
            places[label] = float(found[2] or text.get("y"))
    heights = sorted(places.values())
    assert len(places) == 100
    assert min(np.diff(heights)) > 8  # points: the size of the letters


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("cat", 14, "cat"),
        ("a class name that is long", 14, "a class n…long"),
        ("猫と犬と鳥と魚", 10, "猫と犬…魚"),
        (" two\n words ", 14, "two words"),
        ("", 14, ""),
    ],
)
def test_a_caption_keeps_both_ends_of_a_name(name, width, expected):
    assert caption(name, width) == expected


def test_classes_of_built_in_signals_are_above_their_columns_in_full():
    for source in ("waves", "wide-waves", "distances"):
        for name in load_signals(SignalsConfig(source=source, size=4)).class_names:
            assert caption(name, COLUMN_WIDTH) == name


@pytest.fixture(scope="module")
def with_failures(tmp_path_factory) -> Zoo:
    """Two views of 40 digits; in each class, all INRs of one signal and one of another failed."""
    folder = tmp_path_factory.mktemp("failures")
    config = ZooConfig(
        signals=SignalsConfig(limit=60),
        views=2,
        inr=SirenConfig(hidden=(3, 2)),
        fit=FitConfig(max_steps=1),
    )
    plan = plan_zoo(config, folder)
    train = next(shard for shard in plan.shards if shard.split == "train").source_index
    values = plan.signals.values.copy()
    for label in range(10):
        plan.signals.values[min(train[plan.signals.labels[train] == label])] = np.nan
    for shard in plan.shards:
        fit_shard(config, folder, plan.signals, shard)
    plan.signals.values[:] = values
    return seal_zoo(folder)


def test_members_that_failed_are_not_drawn_where_others_have_weights(with_failures, tmp_path):
    status = with_failures.catalog["status"].to_pylist()
    assert status.count("failed") >= 20
    columns = choose(with_failures)
    assert [column.title for column in columns] == [str(digit) for digit in range(10)]
    for column in columns:
        rows = with_failures.catalog.take(column.rows).to_pylist()
        assert [row["status"] for row in rows] == ["ok", "ok"]
        assert {row["source_index"] for row in rows} == {column.source}
        assert [row["view"] for row in rows] == [0, 1]
    draw_reconstructions(with_failures, tmp_path / "x.svg", load_signals(SignalsConfig(limit=60)))
    assert "failed" not in (tmp_path / "x.svg").read_text()


def test_what_is_drawn_is_what_the_catalog_says_of_it(zoo):
    signals = load_signals(zoo.record.config.signals)
    for row in (0, 399):
        member = zoo.catalog.slice(row, 1).to_pylist()[0]
        error = render(zoo, row, (8, 8)) - signals.values[member["source_index"]]
        assert -10 * np.log10(np.square(error).mean()) == pytest.approx(member["psnr"], abs=0.01)


def test_reconstructions_of_an_imported_zoo_are_drawn_without_originals(built_zoo, tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    command = ["--format", "dwsnets", "--out"]
    assert main(["zoo", "export", str(built_zoo), *command, str(theirs)]) == 0
    (theirs / "dwszoo.json").unlink()  # as others write it: nothing says how to run a member
    settings = ["--set", "activation=sine", "--set", "omega=30", "--set", "output_offset=0.5"]
    assert main(["zoo", "import", str(theirs), *settings, *command, str(ours)]) == 0
    assert main(["zoo", "render", str(ours), "--out", str(tmp_path / "x.svg")]) == 0
    drawn = text_of(tmp_path / "x.svg")
    assert "INR 1" in drawn
    assert "original" not in drawn
    assert "without originals: the zoo was imported, its coordinates taken as (y, x)" in drawn
    assert set(map(str, range(10))) <= set(drawn)


def test_of_an_imported_zoo_that_says_nothing_of_its_activations_weights_are_drawn(tmp_path):
    mnist_tree(tmp_path / "theirs", "training", range(12))
    zoo = bring_in("dwsnets", tmp_path / "theirs", tmp_path / "zoo", splits="drawn")
    with pytest.raises(
        InputError,
        match=r"cannot run members of .*: its record does not say what their activations are",
    ):
        draw_reconstructions(zoo, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
    shown = picture_of(zoo)
    assert re.search("The weights .* does not say what their activations are", shown.reasoned)
    shown.draw(zoo, tmp_path / "x.svg")
    drawn = text_of(tmp_path / "x.svg")
    assert "layers.0.weight 3x2" in drawn
    export_zoo(zoo, "huggingface", tmp_path / "hub", no_progress)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "The weights of some members" in card
    assert str(tmp_path) not in card  # which others read


def test_kernels_and_rows_that_read_images_are_pictures():
    kernels = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    filters = filters_of(kernels, ())
    np.testing.assert_array_equal(filters, kernels.reshape(6, 4, 5))
    np.testing.assert_array_equal(filters_of(kernels.reshape(2, 60), (4, 5)), filters)
    assert filters_of(kernels.reshape(2, 60), ()) is None
    assert filters_of(kernels.reshape(2, 60), (7, 5)) is None
    tiles = mosaic(filters)  # three beside each other, two lines
    assert tiles.shape == (2 * 4 + 1, 3 * 5 + 2)
    np.testing.assert_array_equal(tiles[5:, 6:11], kernels[1, 1])
    assert np.isnan(tiles[4]).all()


def test_every_figure_of_a_report_has_both_kinds_beside_it(tmp_path):
    draw_confusion(np.eye(3), "abc", tmp_path / "c")
    assert ET.parse(tmp_path / "c.svg").getroot().tag == f"{SVG}svg"
    with Image.open(tmp_path / "c.png") as drawn:
        assert drawn.format == "PNG"


CONES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""Linear RGB as colour-blind people see it (Machado et al. 2009, severity 1)."""


@pytest.mark.parametrize("cones", CONES.values(), ids=CONES)
def test_the_colours_are_distinct_for_the_colour_blind(cones):
    assert least_difference(COLOURS, cones) > 15
    assert least_difference(COLOURS[:2], cones) > 40
    red_and_green = ("#c44e52", "#4f9d69")
    assert (least_difference(red_and_green, cones) > 40) == (cones is CONES["tritan"])


def least_difference(colours, cones) -> float:
    """The least distance in CIELAB between two of the colours, as seen with these cones."""
    seen = np.array([linear(to_rgb(colour)) for colour in colours]) @ np.array(cones).T
    xyz = (
        seen.clip(0, 1)
        @ np.array([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]]).T
    )  # over the white point
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], 1)
    return min(np.linalg.norm(one - other) for one, other in combinations(lab, 2))


def linear(rgb) -> np.ndarray:
    rgb = np.array(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def test_text_can_be_read_on_every_ground():
    assert min(contrast(INK, "white"), contrast(GREY, "white")) > 4.5
    assert contrast("black", "white") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)  # WCAG's example
    grounds = matplotlib.colormaps["Blues"](np.linspace(0, 1, 50))
    assert min(contrast(text_on(ground), ground) for ground in grounds) > 4.5
    assert {text_on(ground) for ground in grounds} == {"black", "white"}


PAGE = Path(__file__).parents[2] / "pipeline" / "report" / "page.html"


def test_the_text_of_the_page_can_be_read_in_light_and_dark():
    schemes = re.findall(r":root \{ (.*) \}", PAGE.read_text())
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w+);", scheme))
        page = colours.pop("page")
        line = colours.pop("line")
        assert min(contrast(colour, page) for colour in colours.values()) > 4.5
        assert contrast(line, page) < 4.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.jpg", r"x.jpg: expected a name that ends in .png or .svg"),
        ("x.pdf", r"expected a name that ends in .png or .svg"),
        ("x", r"expected a name that ends in .png or .svg"),
        ("nowhere/x.png", "expected a folder .*nowhere, found none"),
        ("folder.png", "expected a file, found a folder"),
    ],
)
def test_a_picture_is_what_its_name_says_or_not_written(built_zoo, tmp_path, capsys, name, message):
    (tmp_path / "folder.png").mkdir()
    assert main(["zoo", "render", str(built_zoo), "--out", str(tmp_path / name)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_picture_may_have_the_longest_name_there_is(built_zoo, tmp_path):
    path = tmp_path / f"{'x' * 251}.png"
    assert main(["zoo", "render", str(built_zoo), "--out", str(path)]) == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to_is_named(built_zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert main(["zoo", "render", str(built_zoo), "--out", str(tmp_path / "x.png")]) == 2
    assert f"x.png: expected that {tmp_path} can be written to" in capsys.readouterr().err


def test_a_name_neither_turns_nor_colours_what_stands_beside_it():
    classes = {"train": {"\u202eevil": 2, "\x1b[31mred": 1, "two\nlines": 3, "\u05d3\u05d5": 4}}
    assert (
        in_words(classes)
        == "train (\ufffdevil: 2, \ufffd[31mred: 1, two lines: 3, \u05d3\u05d5: 4)"
    )
    assert in_words({"\u05d3\u05d5": 4}, isolated) == "\u2068\u05d3\u05d5\u2069: 4"


@pytest.mark.parametrize(("name", "format"), [("x.png", "PNG"), ("X.PNG", "PNG"), ("x.svg", None)])
def test_a_picture_is_drawn_in_the_format_of_its_name(built_zoo, tmp_path, name, format):
    assert main(["zoo", "render", str(built_zoo), "--out", str(tmp_path / name)]) == 0
    if format:
        with Image.open(tmp_path / name) as picture:
            assert picture.format == format
    else:
        assert ET.parse(tmp_path / name).getroot().tag == f"{SVG}svg"


@pytest.mark.parametrize("command", [["zoo", "build", "smoke"], ["run", "smoke"]])
@pytest.mark.parametrize("name", ["zoo.tar", "zoo.parquet", "Zoo.ZIP"])
def test_a_folder_is_not_named_as_a_file(tmp_path, capsys, command, name):
    assert main([*command, "--out", str(tmp_path / name)]) == 2
    assert f"{name} would be a folder but is named like a file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_character_that_no_font_has_is_drawn_as_its_code(tmp_path, monkeypatch, caplog):
    from matplotlib.figure import Figure

    from pipeline.figures import fonts

    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", list)
    figure = Figure()
    text = figure.text(0.5, 0.5, "the 猫 sat")
    fonts.set_fonts(figure)
    assert text.get_text() == r"the \u732b sat"
    assert "no font on this machine has 猫" in caplog.text


def test_a_logarithmic_axis_has_numbers(tmp_path):
    values = pa.chunked_array([np.geomspace(1e-4, 1, 50)])
    with picture(tmp_path / "x.svg", 3, 2) as figure:
        draw_dependence(figure.subplots(), "learning_rate", values, np.linspace(0, 100, 50))
    drawn = text_of(tmp_path / "x.svg")
    assert {"0.001", "0.01", "0.1"} <= set(drawn)
    assert not any("$" in text for text in drawn)
