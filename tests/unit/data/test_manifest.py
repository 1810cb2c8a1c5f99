"""The manifest as later stages read it."""

from pathlib import Path

from metal_defects.data.manifest import read_boxes, read_manifest


def test_boxes_come_as_shares_with_their_classes(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    rows = ["path,width,height,boxes", 'a.jpg,200,100,"[[50, 25, 100, 100, ""Scratches""]]"', "b.jpg,10,10,[]"]
    path.write_text("\n".join(rows), encoding="utf-8")
    manifest = read_manifest(path)
    assert list(manifest) == ["a.jpg", "b.jpg"]
    boxes, classes = read_boxes(manifest["a.jpg"])
    assert boxes.tolist() == [[0.25, 0.25, 0.5, 1.0]] and classes == ["Scratches"]
    assert read_boxes(manifest["b.jpg"])[0].shape == (0, 4)
