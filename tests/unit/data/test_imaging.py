"""Decoding: every kind of file that cameras and people produce, and refusal of what is not an image."""

import pickle
import time
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from metal_defects.config import ImageSchema
from metal_defects.data.imaging import ImageError, Preprocessor, decode_image, resize_image
from metal_defects.errors import DataError

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP", "GIF")
LIMITS = ImageSchema(formats=FORMATS, min_side=8, max_side=512, max_bytes=2_000_000)
NOISE = np.random.default_rng(7).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def refuse(source: Path | bytes, limits: ImageSchema = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_image(source, limits)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "1"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "RGB"), ("PNG", "RGBA"),
        ("TIFF", "1"), ("TIFF", "L"), ("TIFF", "LA"), ("TIFF", "P"), ("TIFF", "RGB"), ("TIFF", "RGBA"),
        ("TIFF", "CMYK"), ("TIFF", "YCbCr"), ("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
        ("BMP", "1"), ("BMP", "L"), ("BMP", "P"), ("BMP", "RGB"), ("GIF", "L"), ("GIF", "P"), ("WEBP", "RGB"),
        ("WEBP", "RGBA"),
    ],
)  # fmt: skip
def test_every_mode_decodes_to_its_colours(kind: str, mode: str) -> None:
    flat = Image.new("RGB", (64, 48), (200, 200, 200) if mode in {"1", "L", "LA"} else (200, 60, 30)).convert(mode)
    expected = np.asarray(flat.convert("RGB"), int)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    decoded = decode_image(encode(flat, kind, **options), LIMITS)
    assert decoded.dtype == np.uint8 and decoded.shape == (48, 64, 3)
    assert np.abs(decoded - expected).max() <= (4 if kind == "JPEG" or mode == "YCbCr" else 0)


def test_path_and_bytes_agree_whatever_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "wrong.jpg"
    path.write_bytes(encode(NOISE, "PNG"))
    assert np.array_equal(decode_image(path, LIMITS), NOISE)
    assert np.array_equal(decode_image(path.read_bytes(), LIMITS), NOISE)


@pytest.mark.parametrize(("high", "white"), [(200, 255), (900, 1023), (4000, 4095), (16000, 16383), (65535, 65535)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_grey_is_scaled_by_the_depth_that_holds_its_largest_value(kind: str, high: int, white: int) -> None:
    deep = np.linspace(0, high, 48 * 64).reshape(48, 64).astype(np.uint16)
    decoded = decode_image(encode(deep, kind), LIMITS)
    assert np.array_equal(decoded[..., 0], np.rint(deep * (255 / white)))
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


def test_32_bit_integers_scale_like_16_bit_ones() -> None:
    deep = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    as_32_bits = encode(Image.fromarray(deep.astype(np.int32)), "TIFF")
    assert np.array_equal(decode_image(as_32_bits, LIMITS), decode_image(encode(deep, "TIFF"), LIMITS))


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_float_images_range_to_1_or_as_integers(scale: float) -> None:
    shares = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    decoded = decode_image(encode(Image.fromarray(shares * np.float32(scale)), "TIFF"), LIMITS)
    assert np.abs(decoded[..., 1] - 255 * shares).max() <= 0.51


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 1e12])
def test_values_that_mean_nothing_are_refused(bad: float) -> None:
    values = np.full((48, 64), 0.5, np.float32)
    values[3, 5] = bad
    assert refuse(encode(Image.fromarray(values), "TIFF")).reason == "values"


@pytest.mark.parametrize("kind", ["rgba", "palette"])
def test_transparent_pixels_are_black(kind: str) -> None:
    rgba = np.dstack([NOISE, np.full((48, 64), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    if kind == "rgba":
        decoded = decode_image(encode(rgba), LIMITS)
        assert np.array_equal(decoded[20:], NOISE[20:])
    else:
        indices = Image.new("P", (64, 48), 1)
        indices.putpalette([255, 0, 0, 0, 255, 0])
        indices.paste(0, (0, 0, 64, 20))
        decoded = decode_image(encode(indices, transparency=0), LIMITS)
        assert (decoded[20:] == (0, 255, 0)).all()
    assert not decoded[:20].any()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_first_frame_of_several(kind: str) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode_image(data, LIMITS)[0, 0].tolist() == pytest.approx([250, 0, 0], abs=6)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_eight_orientations_show_the_same_upright_picture(kind: str) -> None:
    turns = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that a camera undoes
    upright = Image.fromarray(np.kron(NOISE[:6, :8], np.ones((8, 8, 1), np.uint8)))
    for orientation, turn in turns.items():
        stored = upright if turn is None else upright.transpose(Image.Transpose(turn))
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
        decoded = decode_image(encode(stored, kind, exif=exif, **options), LIMITS)
        difference = np.abs(decoded.astype(int) - np.asarray(upright, int))
        assert difference.max() <= 8, orientation


def test_damaged_exif_costs_a_warning_but_not_the_image(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", logger="metal_defects")
    data = encode(NOISE, "PNG", exif=b"Exif\0\0XX*\0rubbish")
    assert np.array_equal(decode_image(data, LIMITS), NOISE)
    assert "EXIF" in caplog.text


@pytest.mark.parametrize("kind", FORMATS)
def test_every_truncation_is_refused(kind: str) -> None:
    data = encode(NOISE, kind)
    reasons = {refuse(data[: len(data) * tenth // 10]).reason for tenth in range(1, 10)}
    assert reasons <= {"truncated", "not_an_image"}
    assert refuse(data[: len(data) * 6 // 10]).reason == "truncated"


@given(
    st.binary(min_size=1, max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"BM", b"GIF89a"]),
)
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_an_image_or_an_image_error(tail: bytes, magic: bytes) -> None:
    try:
        assert decode_image(magic + tail, LIMITS).shape[2] == 3
    except ImageError as error:
        assert error.reason and str(error)


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_a_changed_byte_never_escapes_as_another_error(position: int, value: int) -> None:
    for kind in ("PNG", "JPEG", "TIFF", "GIF"):
        data = bytearray(encode(NOISE[:16, :16], kind))
        data[position % len(data)] = value
        with suppress(ImageError):
            decode_image(bytes(data), LIMITS)


def test_reasons(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    assert refuse(text).reason == "not_an_image"
    assert "notes.png" in str(refuse(text))
    assert refuse(b"").reason == "empty"
    assert refuse(tmp_path / "absent.png").reason == "unreadable"
    assert refuse(tmp_path).reason == "unreadable"
    assert refuse(encode(NOISE, "PPM")).reason == "format"
    assert refuse(encode(NOISE[:7])).reason == "too_small"
    assert refuse(encode(np.zeros((20, 513), np.uint8))).reason == "too_many_pixels"
    assert refuse(encode(NOISE), LIMITS.model_copy(update={"max_bytes": 100})).reason == "too_large"
    assert refuse(encode(NOISE), LIMITS.model_copy(update={"formats": ("jpeg",)})).reason == "format"
    assert isinstance(refuse(b""), DataError)


def test_what_phones_write_counts_as_jpeg() -> None:
    frames = [Image.fromarray(NOISE), Image.fromarray(NOISE[::2, ::2])]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(BytesIO(data)).format == "MPO"
    assert decode_image(data, LIMITS).shape == (48, 64, 3)


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_a_bomb_is_refused_by_its_header(side: int, recwarn: pytest.WarningsRecorder) -> None:
    data = encode(Image.new("1", (side, side)))
    started = time.perf_counter()
    assert refuse(data).reason == "too_many_pixels"
    assert time.perf_counter() - started < 0.2
    assert not [warning for warning in recwarn if "PIL" in str(warning.filename)]


def test_pillow_is_quiet_and_its_own_limit_is_untouched(capfd: pytest.CaptureFixture) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    data = encode(NOISE, "TIFF")
    odd = [data[: len(data) * tenth // 10] for tenth in range(1, 10)]
    odd.append(encode(NOISE, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for item in odd:
            with suppress(Exception), Image.open(BytesIO(item)) as image:
                image.getexif()
        assert seen, "these files were chosen because Pillow remarks on them"
        seen.clear()
        for item in odd:
            with suppress(ImageError):
                decode_image(item, LIMITS)
    assert not seen
    assert capfd.readouterr() == ("", "")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(refuse(b"")))
    assert error.reason == "empty" and "no content" in str(error)


@given(
    st.integers(8, 90), st.integers(8, 90), st.integers(8, 64),
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]), st.integers(0, 255),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_resizing_keeps_a_flat_image_flat(height: int, width: int, size: int, method: str, level: int) -> None:
    flat = np.full((height, width, 3), level, np.uint8)
    resized = resize_image(flat, size, method)
    assert resized.shape == (size, size, 3) and resized.dtype == np.uint8
    assert (resized == level).all()


def test_resizing_averages_when_it_shrinks() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 200
    assert np.abs(resize_image(stripes, 8, "bilinear").astype(int) - 100).max() <= 8
    assert set(np.unique(resize_image(stripes, 8, "nearest"))) <= {0, 200}


def test_resizing_refuses_other_arrays() -> None:
    for wrong in (NOISE[..., 0], NOISE.astype(np.float32), np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(ValueError, match="Got"):
            resize_image(wrong, 8, "bilinear")


def test_preprocessor_decodes_resizes_and_pickles() -> None:
    preprocess = pickle.loads(pickle.dumps(Preprocessor(32, "bilinear", LIMITS)))
    result = preprocess(encode(NOISE))
    assert np.array_equal(result, resize_image(NOISE, 32, "bilinear"))
    result[:] = 0  # writable, and its own
    assert preprocess(encode(NOISE)).any()


@pytest.mark.parametrize("shape", [(60, 120, 3), (120, 60, 3), (20, 400, 3), (400, 20, 3), (8, 9, 3)])
def test_letterbox_keeps_the_shape_and_mirrors_the_rest(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    prepare = Preprocessor(96, "bilinear", LIMITS, "letterbox")
    pixels, frame = prepare.place(image)
    assert pixels.shape == (96, 96, 3) and pixels.dtype == np.uint8
    assert (frame.width / frame.height) == pytest.approx(shape[1] / shape[0], rel=0.15)
    alone = np.asarray(Image.fromarray(image).resize((frame.width, frame.height), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels[frame.top : frame.top + frame.height, frame.left : frame.left + frame.width], alone)
    assert np.array_equal(pixels, frame.fill(alone)) and np.array_equal(pixels, prepare(encode(image)))
    assert np.array_equal(pixels, resize_image(image, 96, "bilinear", "letterbox"))
    assert np.array_equal(pixels, pickle.loads(pickle.dumps(prepare))(image))


def test_letterbox_and_stretch_agree_on_a_square() -> None:
    square = NOISE[:, :48]
    boxed, stretched = (Preprocessor(32, "bilinear", LIMITS, fit)(square) for fit in ("letterbox", "stretch"))
    assert np.array_equal(boxed, stretched)


def test_letterbox_takes_the_upright_shape() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(Image.fromarray(NOISE), "PNG", exif=exif)
    frame = Preprocessor(64, "bilinear", LIMITS, "letterbox").place(turned)[1]
    assert (frame.width, frame.height) == (48, 64)
