"""Decodes, resizes and crops picture files on the host.

OpenCV decodes in a third of Pillow's time; Pillow decodes what OpenCV does not. Pillow resizes test images, as
torchvision does: its filters average when they shrink. OpenCV's bicubic filter does not, so Pillow's resizes crops too.
"""

import dataclasses
import functools
import io
import os
import pathlib
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from dn_jax.config.schema import Interpolation
from dn_jax.errors import UserError

# Pillow's names of the formats that are read. Its others are documents, films, or made by another program than Pillow.
_FORMATS = (
  *("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI", "SUN"),
  *("TGA", "TIFF", "WEBP"),
)
# Not known by their first bytes. A camera's raw file begins like a TIFF, which is a thumbnail of it.
_BY_SUFFIX_ALONE = frozenset({"DIB", "PCX", "TGA"})
_RAW_LIKE = frozenset({"TIFF"})

# `Reading` has the limit.
Image.MAX_IMAGE_PIXELS = None
# OpenCV and Pillow say what is wrong with a damaged file on stderr; here a line names the file. The libraries within
# OpenCV do so too, see `dn_jax.system.stderr`.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")

# Most times that a picture may be longer than wide: resized to the network's height, it has to fit memory.
_LONGEST = 100

# Of PFM and Radiance, which OpenCV would cut to whole numbers.
_FLOATS = (b"PF\n", b"Pf\n", b"#?RADIANCE", b"#?RGBE")
_NO_RANGE = "has {} values, of which it does not say what is white; save it with 8 or 16 bits"


class BadPictureError(UserError):
  """A file that is no picture, or a damaged one."""


@dataclasses.dataclass(frozen=True)
class Reading:
  """How files are decoded and resized.

  max_pixels:    of a file; more make it a bad one, known from its header
  bit_depth:     bits that the values of 16-bit files use; None: all
  channels:      of the image: 3, or 1 for grey
  interpolation: of a resized image
  """

  max_pixels: int = 100_000_000
  bit_depth: int | None = None
  channels: int = 3
  interpolation: Interpolation = "bilinear"


@functools.cache
def suffixes() -> frozenset[str]:
  """The suffixes of the formats that are read, in small letters."""
  return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in (*_FORMATS, "MPO"))


def is_image(path: str) -> bool:
  """Whether a file is an image by its suffix, or else by its header; a damaged file with the right suffix is one."""
  suffix = os.path.splitext(path)[1].lower()
  if suffix in suffixes():
    return True
  known = set(_FORMATS) - _BY_SUFFIX_ALONE - (_RAW_LIKE if suffix else frozenset())
  try:
    with Image.open(path, formats=sorted(known)):
      return True
  except Image.DecompressionBombError:
    return True
  except Exception:  # Of many kinds, for what only begins like an image.
    return False


def decode(content: bytes, name: object, how: Reading = Reading()) -> np.ndarray:
  """Decodes a picture file; of several pictures in it, the first.

  Grey becomes three equal channels, or with `how.channels` 1 colours become grey. Transparency is dropped, 16 bits
  become 8, and EXIF's orientation is followed.

  Args:
    content: of the file.
    name: of the file, for the message.
    how: its limit, and the depth of 16 bits.

  Returns:
    uint8 [height, width, channels], RGB or grey.

  Raises:
    BadPictureError: the file is empty, damaged, no picture, too large, more than 100 times as long as wide, or of
      floating point or whole numbers other than 8 and 16 bits without sign.
  """
  check_size(content, name, how.max_pixels)
  if content.startswith(_FLOATS):
    raise BadPictureError(f"{name}: {_NO_RANGE.format('floating-point')}")
  picture = _whole_depth(content) if how.bit_depth else _by_opencv(content, cv2.IMREAD_COLOR_RGB)
  if picture is not None and picture.dtype == np.uint16:
    if _in_planes(content):
      raise BadPictureError(f"{name}: is a TIFF of separate planes, of which no depth can be read; save it otherwise")
    picture = np.minimum(picture >> (how.bit_depth - 8), 255).astype(np.uint8)
  if picture is None:
    picture = _by_pillow(content, name)
  if picture is None:
    what = "is empty" if not content else "is no image that can be read, or a damaged one"
    raise BadPictureError(f"{name}: {what}")
  if picture.dtype != np.uint8:
    raise BadPictureError(f"{name}: {_NO_RANGE.format(picture.dtype)}")
  height, width = picture.shape[:2]
  if max(height, width) > _LONGEST * min(height, width):
    raise BadPictureError(f"{name}: is {width}x{height} pixels, more than {_LONGEST} times as long as wide")
  return grey(picture) if how.channels == 1 else picture


def grey(picture: np.ndarray) -> np.ndarray:
  """uint8 [height, width, 1]: the grey values of RGB [height, width, 3] by ITU-R BT.601."""
  return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]


def check_size(content: bytes, name: object, limit: int) -> None:
  """Raises `BadPictureError` where a file's header says that it has more pixels than a limit."""
  try:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
      width, height = image.size
  except Exception:  # Of many kinds, for a damaged file, which the decoder refuses.
    return
  if width * height > limit:
    raise BadPictureError(f"{name}: has {width:,} x {height:,} pixels; --data.max-pixels {limit} allows fewer")


def bits_used(content: bytes) -> int | None:
  """The bits that a 16-bit file's values use; None for one of 8 bits, and one that cannot be read."""
  if content[:2] == b"\xff\xd8" or (content[1:4] == b"PNG" and content[24:25] != b"\x10"):
    return None
  picture = None if _in_planes(content) else _whole_depth(content)
  return int(picture.max()).bit_length() if picture is not None and picture.dtype == np.uint16 else None


def shallow(bits: int | None) -> str | None:
  """A warning about 16-bit files whose values use so few bits that most images are dark; else None."""
  if bits is None or not 9 <= bits <= 14:
    return None
  return (
    f"16-bit images use {bits} bits, so that they become 0 to {(2**bits - 1) >> 8} of 255; "
    f"--data.bit-depth {bits} takes these for all"
  )


def _by_opencv(content: bytes, flags: int) -> np.ndarray | None:
  """[height, width, 3]; None for what OpenCV cannot read."""
  try:
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
  except cv2.error:
    return None


def _whole_depth(content: bytes) -> np.ndarray | None:
  """RGB [height, width, 3] with all bits of the file; None for what OpenCV cannot read.

  OpenCV 5.0 returns other values of a 16-bit RGB TIFF when it is asked for RGB.
  """
  picture = _by_opencv(content, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
  return None if picture is None else np.ascontiguousarray(picture[..., ::-1])


def _in_planes(content: bytes) -> bool:
  """Whether a file is a TIFF whose channels lie one after another, which OpenCV takes for pixels at 16 bits."""
  if content[:2] not in (b"II", b"MM"):
    return False
  try:
    with Image.open(io.BytesIO(content), formats=("TIFF",)) as image:
      tags = image.tag_v2
      return tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) > 1 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) != 1
  except Exception:  # Of many kinds, for a damaged file.
    return False


def _by_pillow(content: bytes, name: object) -> np.ndarray | None:
  """uint8 [height, width, 3]; None for what Pillow cannot read either.

  Raises:
    BadPictureError: its values are of 32 bits, which Pillow would cut to 0 to 255.
  """
  try:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
      mode = image.mode
      picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
  except Exception:  # Of many kinds, for a damaged file.
    return None
  if mode in ("I", "F"):
    raise BadPictureError(f"{name}: {_NO_RANGE.format('floating-point' if mode == 'F' else '32-bit')}")
  return picture


def read(path: pathlib.Path, how: Reading = Reading()) -> np.ndarray:
  """`decode` of a file.

  Raises:
    BadPictureError: it cannot be read or decoded.
  """
  try:
    return decode(path.read_bytes(), path, how)
  except OSError as error:
    raise BadPictureError(f"{path}: cannot be read ({error.strerror})") from None


def with_short_side(picture: np.ndarray, size: int, interpolation: Interpolation = "bilinear") -> np.ndarray:
  """Resizes uint8 [height, width, channels] to a shorter side of `size`; the longer is rounded down (torchvision)."""
  height, width = picture.shape[:2]
  short = min(height, width)
  if short == size:
    return picture
  return _resized(picture, size * height // short, size * width // short, interpolation)


def _resized(picture: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
  """uint8 [height, width, channels], by Pillow."""
  whole = Image.fromarray(picture if picture.shape[2] > 1 else picture[..., 0])
  resized = whole.resize((width, height), Image.Resampling[interpolation.upper()])
  return np.asarray(resized).reshape(height, width, -1)


def centre_crop(picture: np.ndarray, size: int) -> np.ndarray:
  """The central [size, size, channels], rounded as torchvision does.

  Raises:
    ValueError: the picture is smaller.
  """
  _check_larger(picture, size)
  top, left = (round((length - size) / 2) for length in picture.shape[:2])
  return picture[top : top + size, left : left + size]


def ten_crops(picture: np.ndarray, size: int) -> np.ndarray:
  """The crops of the paper's 10-crop test: four corners and the centre, and their mirror images.

  Returns:
    uint8 [10, size, size, channels]: top left, top right, bottom left, bottom right, centre; then each mirrored.

  Raises:
    ValueError: the picture is smaller.
  """
  _check_larger(picture, size)
  near, far = slice(None, size), slice(-size, None)
  corners = [picture[rows, columns] for rows in (near, far) for columns in (near, far)]
  five = np.stack([*corners, centre_crop(picture, size)])
  return np.concatenate([five, five[:, :, ::-1]])


def _check_larger(picture: np.ndarray, size: int) -> None:
  if min(picture.shape[:2]) < size:
    raise ValueError(f"an image of {picture.shape[0]}x{picture.shape[1]} pixels has no crop of {size}x{size}")


def random_area_crop(
  picture: np.ndarray, size: int, rng: np.random.Generator, interpolation: Interpolation = "bilinear"
) -> np.ndarray:
  """ImageNet's training crop (Szegedy et al. 2015), as fb.resnet.torch draws it, resized to [size, size, channels].

  Area: uniform from 8 % to all of the picture's; aspect: uniform from 3/4 to 4/3, turned by a quarter with probability
  1/2; place: uniform. After ten draws that do not fit, the middle of the picture.
  """
  top, left, height, width = random_area(*picture.shape[:2], rng)
  if not height:
    return centre_crop(with_short_side(picture, size, interpolation), size)
  crop = picture[top : top + height, left : left + width]
  if interpolation == "bicubic":
    return _resized(crop, size, size, interpolation)
  # Averages when it shrinks, interpolates when it enlarges.
  how = cv2.INTER_AREA if min(height, width) > size else cv2.INTER_LINEAR
  return cv2.resize(crop, (size, size), interpolation=how).reshape(size, size, -1)


def random_area(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
  """Draws the crop's (top, left, height, width) in a picture of height x width; zeros where none fits."""
  for _ in range(10):
    area, aspect = height * width * rng.uniform(0.08, 1.0), rng.uniform(3 / 4, 4 / 3)
    sides = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    tall, wide = sides if rng.random() < 0.5 else sides[::-1]
    if 0 < tall <= height and 0 < wide <= width:
      return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
  return 0, 0, 0, 0
