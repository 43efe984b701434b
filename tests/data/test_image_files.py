"""Picture files, against Pillow and by definition."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from photographs import jpeg, photograph
from PIL import Image

from dn_jax.data import image_files

PICTURE = photograph(0)


def encoded(image, kind, **options):
  content = io.BytesIO()
  image.save(content, kind, **options)
  return content.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff"])
def test_pictures_of_all_kinds_become_three_channels_as_pillow_has_them(mode, kind):
  try:
    content = encoded(Image.fromarray(PICTURE).convert("RGBA" if mode == "LA" else "RGB").convert(mode), kind)
  except OSError:
    pytest.skip(f"there is no {kind} of mode {mode}")
  expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
  found = image_files.decode(content, "picture")
  assert found.dtype == np.uint8
  assert found.shape == expected.shape
  # Decoders of JPEG and WebP may round differently.
  assert np.abs(found - expected).max() <= (4 if kind in ("jpeg", "webp") else 0)


def test_sixteen_bits_become_eight():
  deep = PICTURE.astype(np.uint16) * 256 + 77
  content = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
  assert np.array_equal(image_files.decode(content, "picture"), PICTURE)


def test_exif_turns_a_picture_upright():
  exif = Image.Exif()
  exif[0x112] = 6  # The camera lay on its side.
  found = image_files.decode(jpeg(PICTURE, exif=exif), "picture")
  assert found.shape == (80, 60, 3)
  assert np.abs(found.astype(int) - np.rot90(PICTURE, -1)).mean() < 4


@pytest.mark.parametrize(
  ("content", "message"),
  [(b"", "x: is empty"), (b"a text file\n", "x: is no image"), (jpeg(PICTURE)[:600], "x: is no image that can be")],
)
def test_what_is_no_picture_is_named(content, message):
  with pytest.raises(image_files.BadPictureError, match=message):
    image_files.decode(content, "x")


def test_a_line_of_pixels_is_no_picture():
  for height, width, taken in ((2, 200, True), (200, 2, True), (2, 201, False), (1001, 10, False)):
    content = jpeg(np.zeros((height, width, 3), np.uint8))
    if taken:
      assert image_files.decode(content, "x").shape == (height, width, 3)
      continue
    with pytest.raises(
      image_files.BadPictureError, match=f"x: is {width}x{height} pixels, more than 100 times as long"
    ):
      image_files.decode(content, "x")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
  with pytest.raises(image_files.BadPictureError, match=r"none\.jpg: cannot be read \(No such file"):
    image_files.read(tmp_path / "none.jpg")


@pytest.mark.parametrize(
  ("shape", "expected"), [((60, 80), (32, 42)), ((80, 60), (42, 32)), ((32, 99), (32, 99)), ((10, 10), (32, 32))]
)
def test_the_shorter_side_is_resized_and_the_other_rounded_down(shape, expected):
  assert image_files.with_short_side(photograph(1, *shape), 32).shape == (*expected, 3)


def test_ten_crops_are_corners_centre_and_mirror_images():
  picture = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
  ten = image_files.ten_crops(picture, 4)
  by_hand = [picture[:4, :4], picture[:4, 5:], picture[3:, :4], picture[3:, 5:], picture[2:6, 2:6]]
  assert np.array_equal(ten[:5], by_hand)
  assert np.array_equal(ten[5:], [crop[:, ::-1] for crop in by_hand])
  assert np.array_equal(image_files.ten_crops(picture[:4, :4], 4)[0], picture[:4, :4])


def test_a_crop_larger_than_the_picture_is_refused():
  with pytest.raises(ValueError, match="an image of 60x80 pixels has no crop of 61x61"):
    image_files.centre_crop(PICTURE, 61)


def test_random_crops_have_the_published_areas_and_aspects():
  rng = np.random.default_rng(0)
  height, width = 300, 400
  found = np.array([image_files.random_area(height, width, rng) for _ in range(20000)])
  assert (found[:, 2] > 0).mean() == 1.0
  top, left, tall, wide = found.T
  assert (top + tall <= height).all()
  assert (left + wide <= width).all()
  assert top.min() == left.min() == 0
  shares = tall * wide / (height * width)
  assert 0.078 < shares.min() < 0.085
  assert 0.95 < shares.max() <= 1
  # What fits whatever its aspect (a side of at most 300 pixels) is of uniform area: 8 to 56 %.
  small = shares[shares < 0.56]
  counts, _ = np.histogram(small, 12, (0.08, 0.56))
  expected = len(small) / 12
  assert (
    sum((count - expected) ** 2 / expected for count in counts) < 31.3
  )  # Chi-squared, 11 degrees: once in a thousand.
  aspects = wide / tall
  assert 0.74 < aspects.min() < 0.76
  assert 1.32 < aspects.max() < 1.35
  of_small = aspects[shares < 0.56]
  # As often tall as wide, and of the longer sides' ratio half below 7/6... for a draw below 1 its inverse counts.
  assert abs((of_small > 1).mean() - 0.5) < 0.02


def test_a_picture_so_long_that_no_crop_fits_gives_its_middle():
  long = photograph(3, 8, 400)
  assert image_files.random_area(8, 400, np.random.default_rng(0))[2] in (0, *range(1, 9))
  crop = image_files.random_area_crop(long, 16, np.random.default_rng(1))
  assert crop.shape == (16, 16, 3)
  assert image_files.random_area(1, 4000, np.random.default_rng(0)) == (0, 0, 0, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_bicubic_filter_is_pillows_as_torchvision_and_timm_take_it(channels):
  class Corner:
    """Draws the upper left part, 48 x 48 of the 60 x 80 pixels."""

    def uniform(self, low, high):
      return 48 * 48 / (60 * 80) if high == 1 and low < 0.1 else 1.0

    def random(self):
      return 0.0

    def integers(self, stop):
      return 0

  def by_pillow(picture, size):
    whole = Image.fromarray(picture if channels == 3 else picture[..., 0])
    return np.asarray(whole.resize(size, Image.Resampling.BICUBIC)).reshape(*size[::-1], channels)

  picture = PICTURE if channels == 3 else image_files.grey(PICTURE)
  for side, size in ((40, (53, 40)), (90, (120, 90))):
    found = image_files.with_short_side(picture, side, "bicubic")
    np.testing.assert_array_equal(found, by_pillow(picture, size))
    assert not np.array_equal(found, image_files.with_short_side(picture, side))
  for side in (24, 64):
    crop = image_files.random_area_crop(picture, side, Corner(), "bicubic")
    np.testing.assert_array_equal(crop, by_pillow(picture[:48, :48], (side, side)))
    assert not np.array_equal(crop, image_files.random_area_crop(picture, side, Corner()))
  # Where no crop fits, the middle of the picture resized so.
  long = picture[:1].repeat(3, axis=0)[:, :60]
  never = image_files.random_area_crop(np.tile(long, (1, 20, 1)), 16, np.random.default_rng(0), "bicubic")
  assert never.shape == (16, 16, channels)


def test_a_crop_of_everything_is_the_picture_resized():
  class Everything:
    def uniform(self, low, high):
      return 1.0

    def random(self):
      return 0.0

    def integers(self, stop):
      return 0

  square = photograph(2, 64, 64)
  found = image_files.random_area_crop(square, 32, Everything())
  # Halved, the average of two by two.
  expected = square.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
  assert np.abs(found - expected).max() <= 1


def deep(values, kind=".png"):
  return cv2.imencode(kind, values)[1].tobytes()


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_twelve_bits_in_sixteen_are_stretched_where_asked_and_warned_of(kind):
  ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
  content = deep(ramp, kind)
  assert image_files.decode(content, "x").max() == 15
  found = image_files.decode(content, "x", image_files.Reading(bit_depth=12))
  assert np.array_equal(found, np.repeat(ramp[..., None] // 16, 3, axis=2))
  # A value beyond the depth is white.
  beyond = deep(np.full((8, 8), 5000, np.uint16), kind)
  assert (image_files.decode(beyond, "x", image_files.Reading(bit_depth=12)) == 255).all()
  assert image_files.bits_used(content) == 12
  assert image_files.shallow(12) == (
    "16-bit images use 12 bits, so that they become 0 to 15 of 255; --data.bit-depth 12 takes these for all"
  )


def test_what_uses_all_bits_or_has_eight_is_not_warned_of():
  for content in (deep(np.full((8, 8), 65535, np.uint16)), deep(PICTURE), jpeg(PICTURE), b"none", b""):
    assert image_files.shallow(image_files.bits_used(content)) is None
  # Eight bits stay what they are.
  assert np.array_equal(image_files.decode(deep(PICTURE), "x", image_files.Reading(bit_depth=12)), PICTURE[..., ::-1])


RAMP = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)


def tiff(values, order="<", planar=False):
  """An uncompressed TIFF of uint16 [height, width, channels], as the standard has it."""
  height, width, channels = values.shape
  strips = [plane.tobytes() for plane in values.astype(f"{order}u2").transpose(2, 0, 1)]
  strips = strips if planar else [values.astype(f"{order}u2").tobytes()]
  place, at, extra = 8 + len(b"".join(strips)), 8, b""
  offsets = []
  for strip in strips:
    offsets.append(at)
    at += len(strip)
  tags = [(256, [width]), (257, [height]), (258, [16] * channels), (259, [1]), (262, [2]), (273, offsets)]
  tags += [(277, [channels]), (278, [height]), (279, list(map(len, strips))), (284, [2 if planar else 1])]
  entries = b""
  for tag, numbers in tags:
    packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
    if len(packed) > 4:
      packed, extra = struct.pack(f"{order}I", place + 6 + 12 * len(tags) + len(extra)), extra + packed
    entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
  head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, place)
  return head + b"".join(strips) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + extra


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_sixteen_bit_tiff_has_its_own_colours(order):
  values = np.random.RandomState(0).randint(0, 4096, (20, 30, 3)).astype(np.uint16)
  content = tiff(values, order)
  # Pillow reads the upper eight bits of it: the file is what it should be.
  assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), values >> 8)
  assert np.array_equal(image_files.decode(content, "x", image_files.Reading(bit_depth=12)), values >> 4)
  assert np.abs(image_files.decode(content, "x").astype(int) - values / 257).max() < 1
  assert image_files.bits_used(content) == 12


def test_a_sixteen_bit_tiff_of_separate_planes_is_refused_rather_than_taken_for_others():
  values = np.random.RandomState(0).randint(0, 4096, (20, 30, 3)).astype(np.uint16)
  content = tiff(values, planar=True)
  assert np.abs(image_files.decode(content, "x").astype(int) - values / 257).max() < 1
  with pytest.raises(image_files.BadPictureError, match="x: is a TIFF of separate planes, of which no depth can be"):
    image_files.decode(content, "x", image_files.Reading(bit_depth=12))
  assert image_files.bits_used(content) is None


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "gif"])
def test_colours_turn_to_the_grey_values_of_pillow(mode, kind):
  try:
    content = encoded(Image.fromarray(PICTURE).convert("RGBA" if mode == "LA" else "RGB").convert(mode), kind)
  except OSError:
    pytest.skip(f"there is no {kind} of mode {mode}")
  expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB").convert("L")).astype(int)
  found = image_files.decode(content, "x", image_files.Reading(channels=1))
  assert (found.dtype, found.shape) == (np.uint8, (60, 80, 1))
  assert np.abs(found[..., 0] - expected).max() <= (3 if kind == "jpeg" else 1)


def test_crops_of_grey_images_are_those_of_three_equal_channels():
  grey = image_files.grey(PICTURE)
  alike = np.repeat(grey, 3, axis=2)
  for crop in (
    lambda image: image_files.with_short_side(image, 40),
    lambda image: image_files.centre_crop(image, 32),
    lambda image: image_files.ten_crops(image, 32),
    lambda image: image_files.random_area_crop(image, 24, np.random.default_rng(3)),
    lambda image: image_files.random_area_crop(image, 90, np.random.default_rng(3)),
  ):
    found = crop(grey)
    assert found.shape[-1] == 1
    assert np.array_equal(np.repeat(found, 3, axis=-1), crop(alike))


@pytest.mark.parametrize("how", [image_files.Reading(), image_files.Reading(bit_depth=12)])
@pytest.mark.parametrize(
  ("content", "values"),
  [
    (encoded(Image.fromarray(RAMP), "tiff"), "floating-point"),
    (encoded(Image.fromarray(RAMP), "ppm"), "floating-point"),
    (deep(np.dstack([255 * RAMP] * 3), ".pfm"), "floating-point"),
    (deep(np.dstack([RAMP] * 3), ".hdr"), "floating-point"),
    (encoded(Image.fromarray((65535 * RAMP).astype(np.int32)), "tiff"), "32-bit"),
  ],
)
def test_values_without_a_known_range_are_no_image(content, values, how):
  with pytest.raises(image_files.BadPictureError, match=f"x: has {values} values, of which it does not say what"):
    image_files.decode(content, "x", how)


def test_what_opencv_reads_as_floating_point_is_no_image():
  content = deep(np.dstack([255 * RAMP] * 3), ".tiff")
  with pytest.raises(image_files.BadPictureError, match="x: has float32 values"):
    image_files.decode(content, "x", image_files.Reading(bit_depth=12))


def test_sixteen_bits_that_pillow_alone_reads_become_eight():
  # SGI, of two bytes a value.
  values = np.arange(16 * 16, dtype=np.uint16).reshape(16, 16) * 257
  header = struct.pack(">hbbHHHHll4s80sl404s", 474, 0, 2, 2, 16, 16, 1, 0, 65535, b"", b"", 0, b"")
  content = header + values[::-1].astype(">u2").tobytes()
  assert np.array_equal(image_files.decode(content, "x")[..., 0], values >> 8)


def test_an_image_of_too_many_pixels_is_refused_by_its_header():
  side, chunk = (
    15000,
    lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)),
  )
  header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
  bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
  with pytest.raises(image_files.BadPictureError) as refused:
    image_files.decode(bomb, "x.png")
  assert str(refused.value) == "x.png: has 15,000 x 15,000 pixels; --data.max-pixels 100000000 allows fewer"
  with pytest.raises(image_files.BadPictureError, match="a damaged one"):
    image_files.decode(bomb, "x.png", image_files.Reading(max_pixels=side * side))
  content = jpeg(PICTURE)
  assert image_files.decode(content, "x", image_files.Reading(max_pixels=60 * 80)).shape == (60, 80, 3)
  with pytest.raises(image_files.BadPictureError, match="has 80 x 60 pixels"):
    image_files.decode(content, "x", image_files.Reading(max_pixels=60 * 80 - 1))


def test_opencv_says_nothing_of_a_damaged_file(capfd):
  for kind in ("gif", "tiff", "png", "avif"):
    with pytest.raises(image_files.BadPictureError):
      image_files.decode(encoded(Image.fromarray(PICTURE), kind)[:300], "x")
  assert capfd.readouterr().err == ""
