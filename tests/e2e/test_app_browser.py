"""The app in a real headless Chromium: upload, result, download, ZIP, model page, phone width."""

import csv
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import BINARY, DRIVER, Browser, run_app
from support.toy_bundles import COLOURS, paint, save, write_bundle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BINARY and DRIVER), reason="needs chromium and chromedriver"),
]
PHONE = (390, 800)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("app")
    with run_app(write_bundle(folder / "bundle"), folder) as address:
        yield address


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "browser") as browser:
        browser.open(address)
        browser.wait_for("Which defect is it?")
        yield browser
        assert "Traceback" not in browser.text


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two of each colour."""
    return [save(tmp_path / f"{colour}_{seed}.png", paint(colour, seed=seed)) for colour in COLOURS for seed in (1, 2)]


def test_one_image_is_answered(page: Browser, images: list[Path]) -> None:
    page.upload(images[0])
    page.wait_for("answered in")
    assert "Red" in page.find("Red", ".md-answer b").text
    assert "Red_1.png · 80 × 80 px" in page.text
    page.click(page.find("Show where the model looked", "label"))
    page.wait_for("evidence for Red fell")


def test_downloads_hold_what_the_table_shows(page: Browser, images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    page.upload(*images, broken)
    page.wait_for("6 of 6 images")
    assert "1 file has no answer" in page.text and "broken.png" in page.text
    page.click(page.find("CSV · 6 answers"))
    page.click(page.find("JSON · 6 answers"))
    text = page.wait_for_download(".csv").read_text(encoding="utf-8-sig")
    rows = {row["name"]: row for row in csv.DictReader(text.splitlines())}
    value = json.loads(page.wait_for_download(".json").read_text(encoding="utf-8"))
    assert rows.keys() == {path.name for path in [*images, broken]}
    for path in images:
        row, answer = rows[path.name], next(one for one in value["results"] if one["name"] == path.name)
        assert row["label"] == answer["label"] == path.name.split("_")[0]
        assert float(row["confidence"]) == answer["confidence"] == max(float(row[colour]) for colour in COLOURS)
        assert row["sha256"] == answer["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert rows["broken.png"]["error"] == value["failures"][0]["error"]["code"] == "empty"


def test_row_of_the_table_opens_its_image(page: Browser, images: list[Path]) -> None:
    page.upload(*images)
    page.wait_for("6 of 6 images")
    table = page.wait_until("return document.querySelector('[data-testid=stDataFrame] canvas')")
    name = page.find(".png", ".md-facts").text
    right, bottom = table.size["width"] / 2, table.size["height"] / 2
    page.click(table, round(20 - right), round(40 + 48 * 3.5 - bottom))
    page.wait_until("return !document.querySelector('.md-facts').innerText.includes(arguments[0])", name)


def test_filter_narrows_table_and_download(page: Browser, images: list[Path]) -> None:
    page.upload(*images)
    page.wait_for("6 of 6 images")
    page.click(page.find("Green", "[data-testid=stButtonGroup] button"))
    page.wait_for("2 of 6 images")
    page.click(page.find("CSV · 2 answers"))
    text = page.wait_for_download(".csv").read_text(encoding="utf-8-sig")
    assert {row["label"] for row in csv.DictReader(text.splitlines())} == {"Green"}


def test_archive_is_opened(page: Browser, images: list[Path], tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in images:
            target.write(path, f"line 3/{path.name}")
    page.upload(archive)
    page.wait_for("6 of 6 images")


def test_samples_and_model_page(page: Browser) -> None:
    page.click(page.find("Try the 18 drawn samples"))
    page.wait_for("18 of 18 images")
    page.click(page.find("How good is this model?", "a"))
    page.wait_for("Limits of use")
    assert "Colours" in page.text
    page.click(page.find("Inspect", "a"))
    page.wait_for("18 of 18 images")


def test_phone_width(page: Browser, images: list[Path]) -> None:
    """Nothing sticks out to the side, in any state."""
    page.resize(*PHONE)
    page.wait_for("Bring images")
    assert _width(page) <= PHONE[0]
    page.upload(images[0])
    page.wait_for("answered in")
    assert _width(page) <= PHONE[0]
    page.upload(*images)
    page.wait_for("6 of 6 images")
    assert _width(page) <= PHONE[0]
    page.click(page.find("How good is this model?", "a"))
    page.wait_for("Limits of use")
    assert _width(page) <= PHONE[0]


def _width(page: Browser) -> int:
    return page.run("return document.querySelector('[data-testid=stMain]').scrollWidth")
