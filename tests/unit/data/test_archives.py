"""Archives: what is unpacked, and what is refused."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from metal_defects.data.archives import UnpackLimits, is_archive_name, unpack, unpack_beside
from metal_defects.errors import DataError

FILES = {"set/a/1.png": b"one", "set/b/2.png": b"two" * 100, "set/empty.txt": b""}


def make_zip(path: Path, files: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], **attributes: object) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    return make_zip(path, files) if path.suffix == ".zip" else make_tar(path, files)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz", "set.tgz"])
def test_unpacks_every_kind(tmp_path: Path, name: str) -> None:
    assert is_archive_name(name.upper())
    folder = unpack_beside(make(tmp_path / name, FILES), tmp_path / "downloads")
    assert read_tree(folder) == FILES


def test_kind_is_told_by_content_not_suffix(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", FILES).rename(tmp_path / "set.tar.gz")
    assert read_tree(unpack_beside(archive, tmp_path / "d")) == FILES


def test_unpacks_once(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "set.zip", FILES)
    folder = unpack_beside(archive, tmp_path / "d")
    (folder / "marker").touch()
    assert unpack_beside(archive, tmp_path / "d") == folder
    assert (folder / "marker").exists()
    other = unpack_beside(make_zip(tmp_path / "set.zip", {"a": b"other"}), tmp_path / "d")
    assert other != folder


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../evil.png", "points outside"),
        ("a/../../evil.png", "points outside"),
        ("..\\evil.png", "points outside"),
        ("/etc/evil.png", "absolute"),
        ("\\evil.png", "absolute"),
        ("C:/evil.png", "absolute"),
        ("a/b\nc.png", "control characters"),
    ],
)
def test_refuses_names_that_escape(tmp_path: Path, suffix: str, name: str, problem: str) -> None:
    downloads = tmp_path / "inner" / "downloads"
    archive = make(tmp_path / f"set.{suffix}", {"a/1.png": b"1", name: b"evil"})
    with pytest.raises(DataError, match=problem):
        unpack_beside(archive, downloads)
    assert not list(tmp_path.rglob("evil*"))
    assert list(downloads.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_refuses_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "set.tar", {"a": b""}, type=kind, linkname="/etc/passwd")
    with pytest.raises(DataError, match="link or a device"):
        unpack_beside(archive, tmp_path / "d")


def test_refuses_links_in_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "set.zip", {"a": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(DataError, match="link or a device"):
        unpack_beside(archive, tmp_path / "d")


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("limits", "excess"),
    [
        (UnpackLimits(files=2), "more than 2 files"),
        (UnpackLimits(total_bytes=300), "more than 300 bytes"),
        (UnpackLimits(ratio=20, ratio_from_bytes=1000), "20 times"),
    ],
)
def test_refuses_bombs(tmp_path: Path, suffix: str, limits: UnpackLimits, excess: str) -> None:
    archive = make(tmp_path / f"set.{suffix}", {**FILES, "zeros": bytes(1_000_000)})
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=excess):
        unpack(archive, tmp_path / "out", limits)
    assert not (tmp_path / "out" / "zeros").exists()


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar"])
def test_refuses_damaged_archives_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    import random

    noise = random.Random(0).randbytes(50_000)
    archive = make(tmp_path / f"set.{suffix}", {"a/1.png": noise, "a/2.png": noise[::-1]})
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError):
        unpack_beside(archive, tmp_path / "d")
    assert list((tmp_path / "d").iterdir()) == []


def test_refuses_wrong_checksum_in_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "set.zip", FILES)
    data = bytearray(archive.read_bytes())
    data[45] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        unpack_beside(archive, tmp_path / "d")


def test_refuses_encrypted_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "set.zip", {"a": b"1"})
    data = bytearray(archive.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[6] |= 1
    data[directory + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match="encrypted"):
        unpack_beside(archive, tmp_path / "d")


def test_refuses_what_is_no_archive(tmp_path: Path) -> None:
    page = tmp_path / "set.zip"
    page.write_text("<html>Please log in</html>")
    with pytest.raises(DataError, match=r"complete .* archive.*set\.zip"):
        unpack_beside(page, tmp_path / "d")


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_refuses_a_name_that_is_file_and_folder(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match="file and a folder"):
        unpack_beside(make(tmp_path / f"set.{suffix}", {"a": b"1", "a/b": b"2"}), tmp_path / "d")
