"""Decodes images to arrays, by Pillow's modes."""

import io
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""Formats that are opened. Of Pillow's others, some have no signature, and EPS runs a program."""
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""TIFF tags."""
WHITE_IS_ZERO, SIGNED = 0, 2
"""A value of PHOTOMETRIC and one of SAMPLE_FORMAT."""
ORIENTATION = 274
"""EXIF tag."""
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Pillow's name of the transposition that turns a stored image upright, by ORIENTATION."""


class Decoded(NamedTuple):
    pixels: np.ndarray | str
    """`(height, width, 1 or 3)`, uint8, or float32 in [0, 1] for grey of more than 8 bits; or a
    text that says why there are none."""
    has_more_frames: bool = False


def decode_image(source: Path | bytes, size: int | None) -> Decoded:
    """Decode an image as an image viewer shows it, and resize it to `size` x `size`, if given.

    It is turned upright according to EXIF, transparency becomes white, and only the first of
    several frames is used.
    """
    try:
        with warnings.catch_warnings(), opened(source) as file:
            warnings.simplefilter("ignore")  # Pillow's warnings do not name the image
            return decode_file(file, size)
    except Exception as error:  # noqa: BLE001 decoders raise undocumented errors
        return Decoded(f"cannot be decoded ({reason_of(error)})")


def reason_of(error: Exception) -> str:
    """The message of an error, in one line without the file name."""
    says = getattr(error, "strerror", None) or " ".join(str(error).split())
    return says[:200] or type(error).__name__


def opened(source: Path | bytes) -> io.BufferedIOBase:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not stat.S_ISREG(source.stat().st_mode):  # opening a pipe would block
        raise ValueError("not a file")
    return open(source, "rb")


def decode_file(file: Any, size: int | None) -> Decoded:
    from PIL import Image, UnidentifiedImageError

    if not file.read(1):
        raise ValueError("empty")
    try:
        image: Any = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    check_meaning(image)
    spread_transparency(image)
    # The second image in a camera's JPEG (MPO) is a preview or a depth map.
    has_more_frames = getattr(image, "is_animated", False) and image.format != "MPO"
    image = upright(image)
    is_deep = image.mode not in GREY_MODES + COLOUR_MODES
    flat = Image.fromarray(fractions_of_white(image)) if is_deep else on_white(image)
    if size is not None and flat.size != (size, size):
        flat = flat.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(flat).clip(0, 1) if is_deep else np.asarray(flat)
    return Decoded(pixels[..., None] if pixels.ndim == 2 else pixels, has_more_frames)


def check_meaning(image: "ImageFile"):
    """Raises ValueError if an image does not define which values are black and white.

    To be called before the image is loaded.
    """
    is_known = image.mode in (*GREY_MODES, *COLOUR_MODES, *SIXTEEN_BIT_MODES, "F")
    if not is_known and (image.mode, image.format) != ("I", "PPM"):
        raise ValueError(
            f"{image.format} of mode {image.mode!r} does not define which value is white"
        )
    if tags(image).get(SAMPLE_FORMAT, (0,))[0] == SIGNED:
        raise ValueError("signed numbers, which do not define which value is black")
    if image.mode == "RGB" and "transparency" in image.info and ";16" in str(image.tile):
        raise ValueError("a transparent colour with 16 bits per channel, of which Pillow keeps 8")


def upright(image: "PillowImage") -> "PillowImage":
    """The image turned upright according to EXIF, or as stored if EXIF is damaged, as viewers do.

    ImageOps.exif_transpose would rewrite all of EXIF, and fails if any of it is invalid.
    """
    from PIL import Image

    image.load()  # EXIF may follow the pixels; TIFF is turned here
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 damaged EXIF raises undocumented errors
        return image
    return image.transpose(Image.Transpose[turn]) if turn else image


def spread_transparency(image: "ImageFile"):
    """Scale the transparent shade of 2 and 4 bit grey to 0..255: Pillow scales only the pixels."""
    spread = {"L;2": 85, "L;4": 17}
    if "transparency" in image.info and image.tile and image.tile[0].args in spread:
        image.info["transparency"] *= spread[image.tile[0].args]


def tags(image: "PillowImage") -> dict:
    return getattr(image, "tag_v2", {})


def fractions_of_white(image: "PillowImage") -> np.ndarray:
    """`(height, width)` float32 in [0, 1] of an image with more than 8 bits of grey.

    Raises ValueError for values outside this range.
    """
    white = 1 if image.mode == "F" else 2 ** tags(image).get(BITS_PER_SAMPLE, (16,))[0] - 1
    numbers = np.asarray(image)
    values = np.divide(numbers, white, dtype=np.float32)
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"must have numbers from 0 to {white}, found {values.min():g} to {values.max():g}"
        )
    if tags(image).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = 1 - values
    if "transparency" in image.info:
        values[numbers == image.info["transparency"]] = 1
    return values


def on_white(image: "PillowImage") -> "PillowImage":
    """An image of at most 8 bits per channel as L or RGB, with transparency replaced by white."""
    from PIL import Image

    plain, layered = ("L", "LA") if image.mode in GREY_MODES else ("RGB", "RGBA")
    if not image.has_transparency_data:
        return image.convert(plain)
    image = image.convert(layered)
    white = Image.new(layered, image.size, "white")
    return Image.alpha_composite(white, image).convert(plain)
