"""Recognises how a folder of labelled images is arranged, and lists its images.

Four arrangements are read, also one or two folders down:

1. "split/class": `{train,valid,test}/<Class>/*`
2. "class": `<Class>/*`
3. "split/images/class": `{train,validation}/images/<class>/*`, annotations beside `images`
4. "flat": `IMAGES/<class>_<n>.jpg`, annotations beside `IMAGES`
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from metal_defects.config import DataSchema, SplitName, normalise_name
from metal_defects.data.manifest import LeftOut
from metal_defects.errors import DataError

IMAGE_SUFFIXES = frozenset({".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_DOCUMENT_SUFFIXES = frozenset(
    {".xml", ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".yaml", ".yml", ".html", ".pdf", ".db", ".ini", ".log"}
)
_IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "jpegimages"})
_ANNOTATION_FOLDERS = frozenset({"annotation", "annotations", "label", "labels", "xml", "xmls"})
_NUMBERED = (
    re.compile(r"(?P<name>.*[^\W\d_].*?)[\s_-]+\(?\d+\)?"),
    re.compile(r"(?P<name>.*[^\W\d_])\(?\d+\)?"),
)
_MAX_NESTING = 2
_MAX_NAMES_SHOWN = 8


@dataclass(frozen=True)
class LabelledFile:
    """A file that should be an image of a class.

    Attributes:
        path: relative to the root of the set, POSIX.
        label: class name.
        split: "train", "valid" or "test" where the folders say so.
    """

    path: str
    label: str
    split: SplitName | None


@dataclass(frozen=True)
class ImageSet:
    """What a folder holds, by names alone: no image was opened.

    Attributes:
        root: folder that all paths start at.
        layout: one of the four names above.
        classes: class names in order.
        files: sorted by path.
        rejected: images whose class or split is unknown, sorted by path.
        annotations: XML files, by stem; sorted.
    """

    root: Path
    layout: str
    classes: tuple[str, ...]
    files: tuple[LabelledFile, ...]
    rejected: tuple[LeftOut, ...]
    annotations: dict[str, tuple[str, ...]]


def read_image_set(folder: Path, schema: DataSchema) -> ImageSet:
    """List the labelled images in or below `folder`.

    Args:
        folder: the set, or a folder that holds it one or two levels down.
        schema: classes with their aliases, and the names of split folders.

    Raises:
        DataError: nothing like an image set is there, or several are, or none of its classes is in the schema.
    """
    root = find_image_root(folder, schema)
    if root is None:
        raise DataError(
            "There is no image set here: expected train/valid/test folders, one folder per class, or images named "
            f"<class>_<n>, at most {_MAX_NESTING} folders down. Got {folder} instead."
        )
    paths, rejected = [], []
    for path in _walk(root):
        if path.isprintable():
            paths.append(path)
        else:  # a name that is not UTF-8 or holds line breaks cannot be written to a CSV file
            shown = ascii(path)[1:-1]
            detail = f"{shown}: rename it with printable UTF-8 characters."
            rejected.append(LeftOut(path=shown, reason="bad_name", detail=detail))
    splits = _SplitNames(schema)
    located = {path: _locate(path, splits) for path in paths if not _is_document(path)}
    has_splits = any(place.split for place in located.values())
    in_folders = any(place.folder for place in located.values() if place.split or not has_splits)
    names = [place.class_name(in_folders) for place in located.values() if place.split or not has_splits]
    spellings = _class_spellings(schema, names)
    files = []
    for path, place in located.items():
        name = place.class_name(in_folders)
        label = spellings.get(normalise_name(name)) if name else None
        if has_splits and not place.split:
            detail = f"{path}: not in a train, valid or test folder."
            rejected.append(LeftOut(path=path, reason="no_split", detail=detail))
        elif label:
            files.append(LabelledFile(path, label, place.split))
        elif PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
            detail = f"{path}: no class of that name. Got '{name or ''}'."
            rejected.append(LeftOut(path=path, reason="unknown_class", detail=detail))
    if not files:
        raise _no_known_class(root, names, schema)
    has_image_folder = any(place.in_image_folder for place in located.values())
    classes = tuple(schema.classes) if schema.classes != "auto" else tuple(sorted({file.label for file in files}))
    return ImageSet(
        root,
        _layout_name(has_splits, in_folders, has_image_folder),
        classes,
        tuple(files),
        tuple(sorted(rejected, key=lambda item: item.path)),
        _index_annotations(paths),
    )


def find_image_root(folder: Path, schema: DataSchema) -> Path | None:
    """The folder, at most two levels down, where an image set starts; None where there is none.

    Raises:
        DataError: several sets lie side by side.
    """
    level = [folder]
    for _ in range(_MAX_NESTING + 1):
        found = [candidate for candidate in level if _starts_set(candidate, schema)]
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in found[:_MAX_NAMES_SHOWN])
            raise DataError(f"Several image sets lie side by side; point data.path at one of them. Got {names}.")
        if found:
            return found[0]
        level = [child for parent in level for child in _subfolders(parent)]
    return None


def name_of(path: str) -> str | None:
    """The class part of a file name `<class>_<n>.<suffix>`; None where there is no number."""
    stem = PurePosixPath(path).stem
    matches = (pattern.fullmatch(stem) for pattern in _NUMBERED)
    return next((match["name"] for match in matches if match), None)


class _SplitNames:
    """Looks up which split a folder name means."""

    def __init__(self, schema: DataSchema) -> None:
        self._split_of = {
            normalise_name(spelling): split for split, names in schema.split.names.items() for spelling in names
        }

    def __call__(self, folder: str) -> SplitName | None:
        return self._split_of.get(normalise_name(folder))


@dataclass(frozen=True)
class _Place:
    """What the path of a file says about it: split, folder of its class (if any), class part of its own name."""

    split: SplitName | None
    folder: str | None
    own_name: str | None
    in_image_folder: bool

    def class_name(self, in_folders: bool) -> str | None:
        return self.folder if in_folders else self.own_name


def _locate(path: str, splits: _SplitNames) -> _Place:
    folders = list(PurePosixPath(path).parts[:-1])
    split: SplitName | None = None
    in_image_folder = False
    for _ in range(2):  # train/images or images/train
        if folders and not split and splits(folders[0]):
            split = splits(folders.pop(0))
        elif folders and not in_image_folder and folders[0].casefold() in _IMAGE_FOLDERS:
            in_image_folder = bool(folders.pop(0))
    return _Place(split, folders[0] if folders else None, name_of(path), in_image_folder)


def _starts_set(folder: Path, schema: DataSchema) -> bool:
    splits = _SplitNames(schema)
    subfolders = _subfolders(folder)
    if any(splits(child.name) == "train" or child.name.casefold() in _IMAGE_FOLDERS for child in subfolders):
        return True
    with_images = [child for child in subfolders if any(_is_image_name(name) for name in _file_names(child))]
    if len(with_images) >= 2 or any(normalise_name(child.name) in _schema_spellings(schema) for child in with_images):
        return True
    is_flat = any(_is_image_name(name) and name_of(name) for name in _file_names(folder))
    return is_flat and not any(_starts_set(child, schema) for child in subfolders)


def _schema_spellings(schema: DataSchema) -> dict[str, str]:
    """From normalised spelling to class name; empty for `classes: auto`."""
    if schema.classes == "auto":
        return {}
    return {normalise_name(text): name for name, aliases in schema.classes.items() for text in (name, *aliases)}


def _class_spellings(schema: DataSchema, names: list[str | None]) -> dict[str, str]:
    """From normalised spelling to class name; of several spellings of an automatic class the first one stays."""
    spellings = _schema_spellings(schema)
    if schema.classes != "auto":
        return spellings
    for name in sorted({name for name in names if name}):
        spellings.setdefault(normalise_name(name), name)
    return spellings


def _no_known_class(root: Path, names: list[str | None], schema: DataSchema) -> DataError:
    found = sorted({name for name in names if name})
    if schema.classes == "auto" or not found:
        return DataError(f"There are no images that a class could be told of. Got {root} instead.")
    more = ", …" if len(found) > _MAX_NAMES_SHOWN else ""
    return DataError(
        f"None of the classes in schema.yaml ({', '.join(schema.classes)}) is in {root}. Add the spellings there, or "
        f"set classes: auto to take the names as they are. Got {', '.join(found[:_MAX_NAMES_SHOWN])}{more} instead."
    )


def _layout_name(has_splits: bool, in_folders: bool, has_image_folder: bool) -> str:
    if not in_folders:
        return "split/flat" if has_splits else "flat"
    if not has_splits:
        return "class"
    return "split/images/class" if has_image_folder else "split/class"


def _index_annotations(paths: list[str]) -> dict[str, tuple[str, ...]]:
    index: dict[str, list[str]] = {}
    for path in paths:
        if path.lower().endswith(".xml"):
            index.setdefault(PurePosixPath(path).stem, []).append(path)
    return {stem: tuple(found) for stem, found in index.items()}


def _walk(root: Path) -> Iterator[str]:
    """Files below `root`, relative, in the order of their POSIX paths; a linked folder is entered once."""
    found = []
    entered = {root.resolve()}
    for folder, subfolders, names in os.walk(root, onerror=_raise, followlinks=True):
        subfolders.sort()
        targets = {name: (Path(folder) / name).resolve() for name in subfolders if not _is_hidden(name)}
        subfolders[:] = [name for name, target in targets.items() if target not in entered]
        entered.update(targets.values())
        relative = Path(folder).relative_to(root)
        found += [(relative / name).as_posix() for name in names if not _is_hidden(name)]
    return iter(sorted(found))


def _raise(error: OSError) -> None:
    raise error


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not _is_hidden(entry.name)]
    return [folder / name for name in sorted(names) if name.casefold() not in _ANNOTATION_FOLDERS]


def _file_names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_file() and not _is_hidden(entry.name)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _is_image_name(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _is_document(path: str) -> bool:
    """Annotations, read-me files and the like, which belong to a data set without being images."""
    pure = PurePosixPath(path)
    if pure.suffix.lower() in _DOCUMENT_SUFFIXES or path.lower().endswith((".tar.gz", ".tgz", ".zip", ".tar")):
        return True
    return any(part.casefold() in _ANNOTATION_FOLDERS for part in pure.parts[:-1])
