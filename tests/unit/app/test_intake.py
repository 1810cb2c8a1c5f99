"""What visitors hand over: names made safe, archives opened within bounds, damage told and never raised."""

import random
import zipfile
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metal_defects.app.intake import Intake, ZipLimits, clean_path, open_uploads
from metal_defects.data.imaging import ImageError

MAX_BYTES = 1_000_000


def make_zip(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def open_zip(data: bytes, limits: ZipLimits | None = None) -> Intake:
    return open_uploads([("all.zip", BytesIO(data))], MAX_BYTES, limits)


def test_loose_files_are_read_when_they_are_asked_for() -> None:
    streams = [BytesIO(b"one"), BytesIO(b"two")]
    intake = open_uploads([("a.png", streams[0]), ("b.png", streams[1])], MAX_BYTES)
    assert [(item.name, item.read(), item.read()) for item in intake.items] == [
        ("a.png", b"one", b"one"), ("b.png", b"two", b"two"),
    ]  # fmt: skip


def test_members_are_images_without_clutter() -> None:
    members = {"x/a.png": b"1", "__MACOSX/x/a.png": b"2", ".DS_Store": b"3", "Thumbs.db": b"4", "folder/": b""}
    intake = open_zip(make_zip(members))
    assert [(item.name, item.read()) for item in intake.items] == [("x/a.png", b"1")]
    assert not intake.failures


def test_archive_is_told_by_its_content() -> None:
    intake = open_uploads([("photo.png", BytesIO(make_zip({"a.png": b"1"})))], MAX_BYTES)
    assert [item.name for item in intake.items] == ["a.png"]


@pytest.mark.parametrize(
    ("members", "limits", "code"),
    [
        ({}, None, "empty"),
        ({f"{n}.png": b"1" for n in range(5)}, ZipLimits(files=4), "unsafe_archive"),
        ({"a.png": bytes(500), "b.png": bytes(501)}, ZipLimits(total_bytes=1000), "unsafe_archive"),
        ({f"{n}.png": bytes(MAX_BYTES) for n in range(3)}, None, "unsafe_archive"),
    ],
)
def test_archive_beyond_the_bounds_is_not_opened(
    members: dict[str, bytes], limits: ZipLimits | None, code: str
) -> None:
    intake = open_zip(make_zip(members), limits)
    assert [failure.code for failure in intake.failures] == [code]
    assert not intake.items


def test_members_that_cannot_be_read_are_named() -> None:
    large = random.Random(0).randbytes(MAX_BYTES + 1)
    data = make_zip({"large.png": large, "inner.zip": b"PK", "secret.png": b"1", "good.png": b"2"}, zipfile.ZIP_STORED)
    place = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 1)
    encrypted = data[: place + 8] + b"\x01" + data[place + 9 :]
    intake = open_zip(encrypted)
    assert {failure.name: failure.code for failure in intake.failures} == {
        "large.png": "too_large", "inner.zip": "nested_archive", "secret.png": "encrypted",
    }  # fmt: skip
    assert [item.name for item in intake.items] == ["good.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@given(seed=st.integers(0, 2**32))
def test_damage_is_told_and_never_raised(method: int, seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(make_zip({"größe.png": chance.randbytes(300), "b.png": bytes(300)}, method))
    for _ in range(chance.randint(1, 6)):
        data[chance.randrange(4, len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(4, len(data)) :]
    for item in open_zip(bytes(data)).items:
        try:
            assert len(item.read()) <= MAX_BYTES
        except ImageError as error:
            assert error.reason == "truncated"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("../../etc/passwd", "etc/passwd"), ("C:\\images\\a.png", "images/a.png"), ("a\x00\u202eb.png", "ab.png"),
        ("", "unnamed"), ("/", "unnamed"), ("line 3/größe.png", "line 3/größe.png"),
    ],
)  # fmt: skip
def test_names_are_made_safe(raw: str, clean: str) -> None:
    assert clean_path(raw) == clean


@given(st.text())
def test_every_name_can_be_shown(raw: str) -> None:
    name = clean_path(raw)
    assert name and len(name) <= 120
    assert ".." not in name.split("/") and not name.startswith("/")
