"""From an encoded image to numbers: what each of Pillow's modes stands for."""

import io
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""Kinds of file that are opened. Of Pillow's others some are known by their suffix alone, and one runs a program (EPS)."""
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF."""
WHITE_IS_ZERO, SIGNED = 0, 2
"""A value of PHOTOMETRIC and one of SAMPLE_FORMAT."""
ORIENTATION = 274
"""Tag of EXIF."""
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What Pillow calls the turn from the stored image to the one that is seen, by ORIENTATION."""


class Decoded(NamedTuple):
    pixels: np.ndarray | str
    """`(height, width, 1 or 3)`, uint8 or, where the file has more than 8 bits of grey, float32 in [0, 1]; a text says why
    there are none."""
    has_more_frames: bool = False


def decode_image(source: Path | bytes, size: int | None) -> Decoded:
    """What an image viewer shows: turned upright as EXIF says, on white where it is transparent, of several frames the first.

    Resized to `size` x `size` where that is given.
    """
    try:
        with warnings.catch_warnings(), opened(source) as file:
            warnings.simplefilter("ignore")  # those of Pillow do not say which image they are about
            return decode_file(file, size)
    except Exception as error:  # noqa: BLE001 what decoders raise on unexpected bytes is not documented
        return Decoded(f"cannot be decoded ({reason_of(error)})")


def reason_of(error: Exception) -> str:
    """What an error says, in one line without the file's name."""
    says = getattr(error, "strerror", None) or " ".join(str(error).split())
    return says[:200] or type(error).__name__


def opened(source: Path | bytes) -> io.BufferedIOBase:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not stat.S_ISREG(source.stat().st_mode):  # to open a pipe is to wait for a writer
        raise ValueError("not a file")
    return open(source, "rb")


def decode_file(file: io.BufferedIOBase, size: int | None) -> Decoded:
    from PIL import Image, UnidentifiedImageError

    if not file.read(1):
        raise ValueError("empty")
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    check_meaning(image)
    spread_transparency(image)
    # The second picture of a camera's JPEG (MPO) is a preview or a map of depths.
    has_more_frames = getattr(image, "is_animated", False) and image.format != "MPO"
    image = upright(image)
    is_deep = image.mode not in GREY_MODES + COLOUR_MODES
    flat = Image.fromarray(fractions_of_white(image)) if is_deep else on_white(image)
    if size is not None and flat.size != (size, size):
        flat = flat.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(flat).clip(0, 1) if is_deep else np.asarray(flat)
    return Decoded(pixels[..., None] if pixels.ndim == 2 else pixels, has_more_frames)


def check_meaning(image: "PillowImage"):
    """Raises ValueError where the numbers of an image that is not loaded do not say what is black and what is white."""
    is_known = image.mode in (*GREY_MODES, *COLOUR_MODES, *SIXTEEN_BIT_MODES, "F")
    if not is_known and (image.mode, image.format) != ("I", "PPM"):
        raise ValueError(f"{image.format} of mode {image.mode!r} does not say what number is white")
    if tags(image).get(SAMPLE_FORMAT, (0,))[0] == SIGNED:
        raise ValueError("signed numbers, which do not say what number is black")
    if image.mode == "RGB" and "transparency" in image.info and ";16" in str(image.tile):
        raise ValueError("16 bits a channel and a transparent colour, of which Pillow keeps 8")


def upright(image: "PillowImage") -> "PillowImage":
    """The image turned as EXIF says; as it is stored where that is damaged, as in viewers.

    ImageOps.exif_transpose would write all of EXIF anew, and fails where any of it is not as it should be.
    """
    from PIL import Image

    image.load()  # EXIF may come after the pixels; TIFF is turned here
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # noqa: BLE001 what damaged EXIF raises is not documented
        return image
    return image.transpose(Image.Transpose[turn]) if turn else image


def spread_transparency(image: "PillowImage"):
    """Pillow spreads grey of 2 and 4 bits over 0 to 255, but not the shade that is transparent."""
    spread = {"L;2": 85, "L;4": 17}
    if "transparency" in image.info and image.tile and image.tile[0].args in spread:
        image.info["transparency"] *= spread[image.tile[0].args]


def tags(image: "PillowImage") -> dict:
    return getattr(image, "tag_v2", {})


def fractions_of_white(image: "PillowImage") -> np.ndarray:
    """`(height, width)` float32 in [0, 1] of an image with more than 8 bits of grey.

    Raises ValueError where fractions are outside of [0, 1].
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
    """An image of at most 8 bits a channel as L or RGB."""
    from PIL import Image

    plain, layered = ("L", "LA") if image.mode in GREY_MODES else ("RGB", "RGBA")
    if not image.has_transparency_data:
        return image.convert(plain)
    image = image.convert(layered)
    white = Image.new(layered, image.size, "white")
    return Image.alpha_composite(white, image).convert(plain)
