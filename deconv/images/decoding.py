"""From the bytes of one image file to upright 8-bit RGB.

What a person would expect of each kind of file:

- grey and palette images keep their colours; transparency is laid on white, as most viewers and pages show it;
- CMYK is converted without its colour profile, and profiles of RGB images are left aside too;
- 16-bit grey is scaled by the range that its samples can hold (65535 becomes 255), not by the darkest and brightest
  pixel; 16-bit colour keeps the high byte of each sample, which is the same to within one step;
- 32-bit samples have no agreed range and are refused; of animations and multi-page files the first picture counts;
- the EXIF orientation is obeyed, where it can be read;
- a file whose texts, colour profile or EXIF are broken or large is read without them: its pixels are good.

Plain JPEG goes through torchvision's decoder where torchvision has one, everything else through Pillow; both give the
same pixels.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torchvision.io import ImageReadMode

from deconv.errors import UnreadableImage, first_line
from deconv.images.members import Member
from deconv.images.metadata import without_metadata

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "PPM")
SUFFIXES = tuple(".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm".split())
OTHER_SUFFIXES = tuple(".gif .avif .heic .heif .jxl .jp2 .j2k .tga .svg .psd .exr .hdr .dng .cr2 .nef .arw".split())
"""What pictures are called that are not read here."""
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
# Importing torchvision.io registers this operation. Its wrapper there, decode_jpeg, warns at every call since
# torchvision 0.29 that it will be removed (torchcodec succeeds it: as fast, the same pixels, but one more package).
_HAS_FAST_JPEG = hasattr(torch.ops.image, "decode_jpeg")


def decode(member: Member) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image in the bytes of a JPEG, PNG, WebP, BMP, TIFF or PPM file as upright RGB.

    Raises UnreadableImage, with the reason, for one that is missing, cut, of another format or too large
    (more pixels than PIL.Image.MAX_IMAGE_PIXELS; found out before anything is decoded).
    """
    try:
        return _decode_bytes(member.read())
    except Exception as error:  # on damaged bytes the decoders raise nearly every type there is
        raise UnreadableImage(
            f"{member} cannot be read ({reason_of(error)}); expected a whole JPEG, PNG, WebP, BMP, TIFF or PPM image: "
            "replace or remove it"
        ) from error


def _decode_bytes(data: np.ndarray) -> np.ndarray:
    try:
        return _upright_pixels(data)
    except Exception as error:
        cause = error
    for bare in without_metadata(data.tobytes()):
        try:
            return _upright_pixels(np.frombuffer(bytearray(bare), np.uint8))
        except Exception as error:  # what is wrong with the pixels is the truer reason
            cause = error
    raise cause


def _upright_pixels(data: np.ndarray) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _refuse_bomb(image)
        # 8-bit YCbCr JPEG, the usual kind, and its multi-picture relative: Pillow calls both RGB.
        plain_jpeg = image.format in ("JPEG", "MPO") and image.mode == "RGB"
        pixels = _torchvision_pixels(data) if plain_jpeg and _HAS_FAST_JPEG else pillow_pixels(image)
        # Read after decoding: Pillow itself turns TIFFs upright while it loads them and then drops the tag.
        return _upright(pixels, _orientation(image))


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # on damaged EXIF Pillow raises nearly every type there is
        return 1


def _refuse_bomb(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"{image.width} x {image.height} pixels, more than the {limit} of PIL.Image.MAX_IMAGE_PIXELS")


def _torchvision_pixels(data: np.ndarray) -> np.ndarray:
    pixels: torch.Tensor = torch.ops.image.decode_jpeg(torch.from_numpy(data), ImageReadMode.RGB.value, False)
    return pixels.permute(1, 2, 0).numpy()


def pillow_pixels(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Return a picture's pixels as 8-bit RGB, not turned. Raises ValueError for samples that have no agreed range."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _deep_grey_pixels(image)
    if image.mode in ("I", "F"):
        raise ValueError("samples of 32 bits or signed ones, which have no agreed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        return np.array(_on_white(image))
    return np.array(image.convert("RGB"))


def _deep_grey_pixels(image: Image.Image) -> np.ndarray:
    """Grey of 9 to 16 bits to 8, rounded; Pillow's own conversion would clip at 255."""
    tags = getattr(image, "tag_v2", {})
    top = 2 ** tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0] - 1
    levels = np.arange(2**16).clip(max=top)
    eight_bits = ((levels * 255 + top // 2) // top).astype(np.uint8)  # looked up: arithmetic would need 4 bytes a step
    return np.repeat(eight_bits[np.asarray(image)][:, :, None], 3, axis=2)


def _on_white(image: Image.Image) -> Image.Image:
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image.convert("RGBA"))
    return page.convert("RGB")


def _upright(pixels: np.ndarray, orientation: object) -> np.ndarray:
    """Undoes the eight EXIF orientations; other values are taken as upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def reason_of(error: Exception) -> str:
    """Return why an image cannot be read, in one line that is the same in every process."""
    if isinstance(error, UnidentifiedImageError):  # its own words hold a memory address, and records must not
        return "not an image of a format known here"
    return first_line(error)
