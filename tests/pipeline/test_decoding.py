"""Decoded images of every mode, compared with what a viewer shows."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pipeline.signals.decoding import FORMATS, decode_image

pytestmark = pytest.mark.fast

GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], -1)
ALPHA = np.array([[255, 255, 255], [0, 0, 51]], np.uint8)


TAGS = {
    "Orientation": 274,
    "SamplesPerPixel": 277,
    "XResolution": 282,
    "ExtraSamples": 338,
    "SampleFormat": 339,
}


def saved(image: Image.Image | np.ndarray, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(depth: int, colour_type: int, rows: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 2 x 3 points that Pillow does not write; `rows` has two rows of its type."""
    header = struct.pack(">IIBBBBB", 3, len(rows), depth, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    content = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in content
    )


def tiff(photometric: int, bits: int, data: bytes, order: str = "<", **tags: int) -> bytes:
    """A TIFF of 2 x 3 points of kinds that Pillow does not write; `tags` by name."""
    channels = tags.setdefault("SamplesPerPixel", 1)
    depths = struct.pack(f"{order}{channels}H", *[bits] * channels)
    entries = {TAGS[name]: (1, struct.pack(f"{order}HH", value, 0)) for name, value in tags.items()}
    for tag, value in {
        256: 3,
        257: 2,
        259: 1,
        262: photometric,
        273: 8,
        278: 2,
        279: len(data),
    }.items():
        entries[tag] = (1, struct.pack(f"{order}HH", value, 0))
    place = struct.pack(f"{order}I", 8 + len(data))
    entries[258] = (channels, depths.ljust(4, b"\0") if channels < 3 else place)
    directory = b"".join(
        struct.pack(f"{order}HHI", tag, 3, count) + value
        for tag, (count, value) in sorted(entries.items())
    )
    start = struct.pack(f"{order}HI", 42, 8 + len(data) + len(depths))
    magic = (b"II" if order == "<" else b"MM") + start
    return magic + data + depths + struct.pack(f"{order}H", len(entries)) + directory + bytes(4)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    alpha = alpha.reshape(2, 3, 1) / 255
    return colours.reshape(2, 3, -1) / 255 * alpha + 1 - alpha


DEEP = np.array([[0, 257, 4096], [32768, 51400, 65535]], np.uint16)
DEEP_COLOUR = (COLOUR.astype(">u2") * 256 + 200).astype(">u2")
TWELVE = np.array([[0, 1, 2047], [2048, 3000, 4095]])
FRACTIONS = np.array([[0, 0.125, 0.25], [0.5, 0.75, 1]], np.float32)
LAB = np.array(
    [[[138, 81, 70], [0, 0, 0], [255, 0, 0]], [[128, 0, 0], [224, 175, 80], [83, 66, 145]]]
)
LAB_SEEN = np.array(
    [[[255, 0, 0], [0, 0, 0], [255, 255, 255]], [[119, 119, 119], [0, 255, 0], [0, 0, 255]]]
)
TWELVE_PACKED = bytes.fromhex("0000017ff0800bb8fff0")
PREMULTIPLIED = np.round(np.dstack([COLOUR * (ALPHA[..., None] / 255), ALPHA])).astype(np.uint8)
PALETTE = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
PALETTE.putpalette(COLOUR.reshape(-1).tolist())
EXACT, ROUNDED = 1e-6, 0.6 / 255
MODES = {
    "1": (saved(Image.fromarray(GREY > 127)), GREY[..., None] > 127, EXACT),
    "1 with tRNS": (saved(Image.fromarray(GREY > 127), transparency=0), np.ones((2, 3, 1)), EXACT),
    "L": (saved(GREY), GREY[..., None] / 255, EXACT),
    "L with tRNS": (
        saved(GREY, transparency=51),
        np.where(GREY == 51, 255, GREY)[..., None] / 255,
        EXACT,
    ),
    "2 bits with tRNS": (
        png(2, 0, np.array([[0b000110_00], [0b111001_00]], np.uint8), (b"tRNS", b"\0\1")),
        np.array([[0, 255, 170], [255, 170, 255]])[..., None] / 255,
        EXACT,
    ),
    "4 bits with tRNS": (
        png(4, 0, np.array([[0x02, 0x40], [0xF2, 0x10]], np.uint8), (b"tRNS", b"\0\2")),
        np.array([[0, 255, 68], [255, 255, 17]])[..., None] / 255,
        EXACT,
    ),
    "LA": (saved(np.stack([GREY, ALPHA], -1)), on_white(GREY, ALPHA), ROUNDED),
    "P": (saved(PALETTE), COLOUR / 255, EXACT),
    "P of grey": (saved(Image.fromarray(GREY).convert("P")), np.stack([GREY] * 3, -1) / 255, EXACT),
    "P with tRNS": (
        saved(PALETTE, transparency=bytes(ALPHA.reshape(-1))),
        on_white(COLOUR, ALPHA),
        ROUNDED,
    ),
    "P of GIF": (
        saved(PALETTE, "GIF", transparency=4),
        on_white(COLOUR, np.array([255, 255, 255, 255, 0, 255])),
        EXACT,
    ),
    "PA": (
        saved(Image.merge("PA", (PALETTE, Image.fromarray(ALPHA))), "TIFF"),
        on_white(COLOUR, ALPHA),
        ROUNDED,
    ),
    "RGB": (saved(COLOUR), COLOUR / 255, EXACT),
    "RGB with tRNS": (
        saved(COLOUR, transparency=tuple(COLOUR[1, 1].tolist())),
        on_white(COLOUR, np.array([255, 255, 255, 255, 0, 255])),
        EXACT,
    ),
    "RGBA": (saved(np.dstack([COLOUR, ALPHA])), on_white(COLOUR, ALPHA), ROUNDED),
    "RGBA of WebP": (
        saved(np.dstack([COLOUR, ALPHA]), "WEBP", lossless=True),
        on_white(COLOUR, ALPHA),
        ROUNDED,
    ),
    "RGBa": (
        tiff(2, 8, PREMULTIPLIED.tobytes(), SamplesPerPixel=4, ExtraSamples=1),
        on_white(COLOUR, ALPHA),
        3 / 255,
    ),
    "La": (
        tiff(1, 8, PREMULTIPLIED[..., [0, 3]].tobytes(), SamplesPerPixel=2, ExtraSamples=1),
        on_white(GREY, ALPHA),
        3 / 255,
    ),
    "RGBX": (
        tiff(2, 8, np.dstack([COLOUR, ALPHA]).tobytes(), SamplesPerPixel=4, ExtraSamples=0),
        COLOUR / 255,
        EXACT,
    ),
    "CMYK": (saved(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"), COLOUR / 255, EXACT),
    "CMYK of JPEG": (
        saved(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "JPEG"),
        np.tile([1.0, 0, 0], (2, 3, 1)),
        0.02,
    ),
    "YCbCr": (saved(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF"), COLOUR / 255, 0.02),
    "LAB": (tiff(8, 8, LAB.astype(np.uint8).tobytes(), SamplesPerPixel=3), LAB_SEEN / 255, 0.1),
    "I;16": (saved(DEEP), DEEP[..., None] / 65535, EXACT),
    "I;16 with tRNS": (
        saved(DEEP, transparency=257),
        np.where(DEEP == 257, 65535, DEEP)[..., None] / 65535,
        EXACT,
    ),
    "I;16 of TIFF": (saved(DEEP, "TIFF"), DEEP[..., None] / 65535, EXACT),
    "I;16 of JPEG 2000": (
        saved(DEEP, "JPEG2000", irreversible=False),
        DEEP[..., None] / 65535,
        EXACT,
    ),
    "I;16B": (tiff(1, 16, DEEP.astype(">u2").tobytes(), ">"), DEEP[..., None] / 65535, EXACT),
    "white is zero": (tiff(0, 16, DEEP.tobytes()), 1 - DEEP[..., None] / 65535, EXACT),
    "8 bits, white is zero": (tiff(0, 8, GREY.tobytes()), 1 - GREY[..., None] / 255, EXACT),
    "I of PGM": (
        saved(Image.fromarray(DEEP.astype(np.int32)), "PPM"),
        DEEP[..., None] / 65535,
        EXACT,
    ),
    "PGM to 1000": (
        b"P5 3 2 1000\n" + np.array([0, 1, 250, 500, 750, 1000], ">u2").tobytes(),
        np.array([[0, 0.001, 0.25], [0.5, 0.75, 1]])[..., None],
        1e-5,
    ),
    "12 bits": (tiff(1, 12, TWELVE_PACKED), TWELVE[..., None] / 4095, EXACT),
    "F": (saved(FRACTIONS, "TIFF"), FRACTIONS[..., None], EXACT),
    "16 bits of RGB": (png(16, 2, DEEP_COLOUR), DEEP_COLOUR / 65535, 1 / 255),
}


@pytest.mark.parametrize("name", MODES)
def test_an_image_of_any_mode_is_what_a_viewer_shows(name):
    data, seen, tolerance = MODES[name]
    pixels = decode_image(data, None).pixels
    values = pixels / 255 if pixels.dtype == np.uint8 else pixels
    assert values.shape == seen.shape
    np.testing.assert_allclose(values, seen, rtol=0, atol=tolerance)


TURNS = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""The visible picture for a stored one, by EXIF orientation."""


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "16 bits"])
def test_an_image_is_turned_as_exif_says(format, orientation):
    exif = Image.Exif()
    exif[TAGS["Orientation"]] = orientation
    stored = DEEP if format == "16 bits" else COLOUR.repeat(16, 0).repeat(16, 1)
    options = {"quality": 100} | ({"lossless": True} if format == "WEBP" else {})
    data = saved(stored, "PNG" if format == "16 bits" else format, exif=exif, **options)
    pixels = decode_image(data, None).pixels
    values = pixels / 255 if pixels.dtype == np.uint8 else pixels
    seen = TURNS[orientation](stored.reshape(*stored.shape[:2], -1) / np.iinfo(stored.dtype).max)
    assert values.shape == seen.shape
    assert np.abs(values - seen).mean() < (0.03 if format == "JPEG" else EXACT)


DAMAGED = {
    "no EXIF": (b"nonsense", 1),
    "cut short": (b"MM\0", 1),
    "a text for a number": (  # orientation 6, and the resolution as text
        b"MM\0*\0\0\0\x08\0\x02"
        + struct.pack(">HHIHH", TAGS["Orientation"], 3, 1, 6, 0)
        + struct.pack(">HHI4sI", TAGS["XResolution"], 2, 3, b"72\0\0", 0),
        6,
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_costs_no_image(format, name):
    exif, orientation = DAMAGED[name]
    image = COLOUR.repeat(16, 0).repeat(16, 1)
    options = {"quality": 100} | ({"lossless": True} if format == "WEBP" else {})
    pixels = decode_image(saved(image, format, exif=b"Exif\0\0" + exif, **options), None).pixels
    seen = TURNS[orientation](image)
    assert pixels.shape == seen.shape
    assert np.abs(pixels / 255 - seen / 255).mean() < (0.03 if format == "JPEG" else EXACT)


def test_deep_grey_keeps_its_shades_when_it_is_resized():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = decode_image(saved(ramp), 16).pixels
    assert pixels.shape == (16, 16, 1)
    blocks = ramp.reshape(16, 4, 16, 4).mean((1, 3)) / 65535
    np.testing.assert_allclose(pixels[2:-2, 2:-2, 0], blocks[2:-2, 2:-2], atol=2e-3)
    assert len(np.unique(pixels)) == 256


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(format):
    frames = [Image.fromarray(np.full((4, 5, 3), shade, np.uint8)) for shade in (30, 200)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    decoded = decode_image(data, None)
    assert decoded.has_more_frames
    np.testing.assert_array_equal(decoded.pixels, 30)
    assert not decode_image(saved(frames[0], format), None).has_more_frames


def test_the_preview_in_a_cameras_jpeg_is_no_frame():
    pictures = [Image.fromarray(np.full((16, 16, 3), shade, np.uint8)) for shade in (30, 200)]
    data = saved(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    decoded = decode_image(data, None)
    assert not decoded.has_more_frames
    np.testing.assert_allclose(decoded.pixels, 30, atol=2)


def text_chunk() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 2**21, zip=True)
    return saved(GREY, pnginfo=text)


def many_points() -> bytes:
    """A PNG whose header says 50,000 x 50,000."""
    data = bytearray(saved(GREY))
    data[16:24] = struct.pack(">II", 50_000, 50_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
WRONG = {
    "a large text": (text_chunk(), "Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK"),
    "many points": (many_points(), r"Image size \(2500000000 pixels\) exceeds limit"),
    "nothing": (b"", "empty"),
    "text": (b"not a picture", "not an image in one of the formats PNG, JPEG, WEBP"),
    "cut PNG": (saved(NOISE)[:200], "image file is truncated"),
    "cut JPEG": (saved(NOISE, "JPEG")[:-30], "image file is truncated"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image"),
    "array": (b"\x93NUMPY" + bytes(200), "not an image"),
    "32 bits": (
        tiff(1, 32, np.arange(6, dtype=np.int32).tobytes()),
        "TIFF of mode 'I' does not define",
    ),
    "signed": (tiff(1, 8, bytes(6), SampleFormat=2), "signed numbers"),
    "signed 16 bits": (tiff(1, 16, bytes(12), SampleFormat=2), "TIFF of mode 'I' does not define"),
    "bright": (saved(FRACTIONS * 255, "TIFF"), "must have numbers from 0 to 1, found 0 to 255"),
    "not finite": (saved(FRACTIONS * np.float32("nan"), "TIFF"), "must have numbers from 0 to 1"),
    "16 bits and tRNS": (
        png(16, 2, DEEP_COLOUR, (b"tRNS", bytes(6))),
        "a transparent colour with 16 bits per channel",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_right_is_a_text_that_says_why(name):
    data, reason = WRONG[name]
    problem = decode_image(data, None).pixels
    assert isinstance(problem, str)
    assert re.match(rf"cannot be decoded \({reason}", problem)
    assert problem == decode_image(bytes(bytearray(data)), None).pixels
    assert " at 0x" not in problem


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_change_of_any_byte_raises(format, data):
    whole = saved(COLOUR.repeat(8, 0).repeat(8, 1), format)
    place = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.sampled_from([b"", bytes([whole[place] ^ 255]), bytes(8)]))
    changed = whole[:place] + change + (whole[place + len(change) :] if change else b"")
    decoded = decode_image(changed, 4).pixels
    assert isinstance(decoded, str) or decoded.shape in ((4, 4, 1), (4, 4, 3))
