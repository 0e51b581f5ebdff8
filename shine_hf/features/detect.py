"""Detect the layout in which a path or a Hub repository stores features."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ..encoders.folders import SETTINGS_FILE
from ..specs import Spec
from .base import KINDS, PUBLIC_SOURCES, FeatureStore, Kind, known_kinds
from .files import Hdf5Features, file_features, tar_members
from .formats import FORMATS
from .packed import INDEX_FILE, PackedFeatures, is_packed

# Kind -> suffixes of its files. Error messages suggest the first kind with a suffix: `i3d:` is an older name of `npy:`.
SUFFIXES = {"npy": (".npy",), "i3d": (".npy",), "npz": (".npz",), "pt": (".pt", ".pth")}
HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf", ".he5")
TAR_SUFFIXES = (".tar",)
# Archives without random access to their files.
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
# owner/name, optionally with a path or a revision, as an hf:// URL, or as a URL from the browser.
_HUB_NAME = re.compile(
    r"(?:hf://datasets/|https://huggingface\.co/datasets/)?(?P<repo>[\w.-]+/[\w.-]+?)"
    r"(?:@(?P<of_repo>[\w.-]+)|/(?:tree|blob|resolve)/(?P<of_url>[\w.-]+))?"
    r"(?:/(?P<path>[\w./ -]+?))?(?:@(?P<of_path>[\w./-]+))?/?"
)


def local_path(where: str) -> Path:
    """Return the local path: `where` itself, or the downloaded copy of a dataset repository on the Hub.

    Args:
        where: A path, or `owner/name[/path in the repository][@revision]`, or a URL of the Hub.

    Raises:
        FileNotFoundError: if `where` is neither, or the repository contains no features.
    """
    path = Path(where).expanduser()
    name = _HUB_NAME.fullmatch(where)
    if path.exists() or name is None or where.startswith((".", "/", "~")):
        return path
    import httpx2
    from huggingface_hub import HfApi, snapshot_download

    inside = name["path"].strip("/") if name["path"] else ""
    repository = {"repo_id": name["repo"], "revision": name["of_repo"] or name["of_url"] or name["of_path"]}
    patterns = [f"{inside}/*", inside] if inside else [f"*{suffix}" for suffix in _all_suffixes()]
    try:
        folder = snapshot_download(
            **repository, repo_type="dataset", allow_patterns=[*patterns, f"*{SETTINGS_FILE}", f"*{INDEX_FILE}"]
        )
        path = Path(folder, inside)
        names = [] if path.exists() else HfApi().list_repo_files(**repository, repo_type="dataset")
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise FileNotFoundError(
            f"{where!r} is neither a local path nor a readable dataset repository on the Hub: {error}"
        ) from error
    if not path.exists():
        hint = "; download and unpack the archive" if any(n.lower().endswith(_COMPRESSED) for n in names) else ""
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise FileNotFoundError(
            f"the dataset repository {name['repo']} has no {inside or 'features'}: it contains {shown or 'nothing'}{hint}"
        )
    return path


def open_detected(spec: Spec, rows: Sequence[Mapping] | None = None, clip_length: float = 0.5) -> FeatureStore:
    """Open the features at a bare path or Hub name.

    Raises:
        FileNotFoundError: if there are no features.
        ValueError: if the layout is ambiguous. The message says what was found and how to choose.
    """
    path = local_path(spec.where)
    if not path.exists():
        if re.match(r"[a-z0-9_]+:", spec.where):
            raise ValueError(
                f"unknown feature store {spec.where!r}: expected a path, or one of {known_kinds()} and a path"
            )
        raise FileNotFoundError(f"no features at {spec.where!r}: no such file or folder. {PUBLIC_SOURCES}")
    store = _open_folder(path) if path.is_dir() else _open_file(path)
    return _named(store, store.spec.partition(":")[0], spec.where, path)


def _open_file(path: Path) -> FeatureStore:
    name = path.name.lower()
    if name.endswith(HDF5_SUFFIXES):
        return Hdf5Features(path)
    if name.endswith(TAR_SUFFIXES):
        return _open_tar("", path)
    if name.endswith(_COMPRESSED):
        raise ValueError(f"{path} is compressed, which does not allow random access: unpack it and pass the folder")
    raise ValueError(
        f"{path} is not a feature store: expected a folder, an HDF5 file ({', '.join(HDF5_SUFFIXES)}) or an uncompressed .tar"
    )


def _open_folder(folder: Path) -> FeatureStore:
    """Open a packed folder; else a folder with one file per key; else the only HDF5 file, tar or subfolder with features."""
    if is_packed(folder):
        return PackedFeatures(folder)
    names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    suffix = _only_suffix(names, folder)
    if suffix:
        return file_features(_kind_of(suffix), folder, suffix)
    inner = [folder / name for name in names if _contains_features(folder / name)]
    # An archive may still be next to the folder that was unpacked from it.
    inner = inner or [folder / name for name in names if name.lower().endswith(_COMPRESSED)]
    if not inner:
        raise FileNotFoundError(
            f"{folder} contains no features: expected {', '.join(_all_suffixes())} files or a packed folder. {PUBLIC_SOURCES}"
        )
    if len(inner) > 1:
        raise ValueError(
            f"{folder} contains several feature stores ({', '.join(path.name for path in inner)}): pass the path of one, or join several "
            "with + to concatenate them"
        )
    return _open_folder(inner[0]) if inner[0].is_dir() else _open_file(inner[0])


def _contains_features(path: Path) -> bool:
    if path.is_dir():
        return is_packed(path) or any(
            entry.name.endswith(_all_suffixes()) or (entry.is_dir() and _contains_features(Path(entry.path)))
            for entry in os.scandir(path)
            if not entry.name.startswith(".")
        )
    return path.name.lower().endswith((*HDF5_SUFFIXES, *TAR_SUFFIXES))


def _open_tar(kind: str, path: Path) -> FeatureStore:
    folders: dict[str, list[str]] = {}
    for name in tar_members(path):
        if name.endswith(SUFFIXES[kind] if kind else tuple(FORMATS)):
            folder, _, file = name.rpartition("/")
            folders.setdefault(folder, []).append(file)
    if not folders:
        raise FileNotFoundError(f"{path} contains no {', '.join(SUFFIXES[kind] if kind else FORMATS)} files")
    if len(folders) > 1:
        raise ValueError(
            f"{path} contains several folders of features ({', '.join(sorted(folders))}): unpack it and pass one of them"
        )
    folder, names = folders.popitem()
    suffix = _only_suffix(names, path)
    return file_features(kind or _kind_of(suffix), path, suffix, folder)


def _only_suffix(names: Iterable[str], where: Path) -> str:
    """Return the suffix of [`FORMATS`] that the files have; empty if none has one.

    Raises:
        ValueError: if they have different suffixes.
    """
    counts = Counter(suffix for name in names for suffix in FORMATS if name.endswith(suffix))
    if len(counts) > 1:
        found = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.most_common())
        kinds = " or ".join(f"{_kind_of(suffix)}:{where}" for suffix in counts)
        raise ValueError(f"{where} contains files of several kinds ({found}): write {kinds} to choose")
    return next(iter(counts), "")


def _kind_of(suffix: str) -> str:
    return next(kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes)


def _all_suffixes() -> tuple[str, ...]:
    return (*FORMATS, *HDF5_SUFFIXES, *TAR_SUFFIXES, ".arrow")


def _open_files(spec: Spec, rows: Sequence[Mapping] | None, clip_length: float) -> FeatureStore:
    """Open a folder or tar of files of one kind."""
    path = local_path(_where(spec))
    if path.is_file():
        return _named(_open_tar(spec.kind, path), spec.kind, spec.where, path)
    suffixes = SUFFIXES[spec.kind]
    folder = _inside(path, suffixes, lambda file: file.parent)
    found = next((s for s in suffixes if folder.is_dir() and any(folder.glob(f"*{s}"))), suffixes[0])
    return _named(file_features(spec.kind, folder, found), spec.kind, spec.where, path)


def _open_hdf5(spec: Spec, rows: Sequence[Mapping] | None, clip_length: float) -> FeatureStore:
    path = local_path(_where(spec))
    return _named(Hdf5Features(_inside(path, HDF5_SUFFIXES, lambda file: file)), spec.kind, spec.where, path)


def _open_packed(spec: Spec, rows: Sequence[Mapping] | None, clip_length: float) -> FeatureStore:
    path = local_path(_where(spec))
    return _named(PackedFeatures(_inside(path, (INDEX_FILE,), lambda file: file.parent)), spec.kind, spec.where, path)


def _inside(folder: Path, endings: tuple[str, ...], place: Callable[[Path], Path]) -> Path:
    """Return where the files with these endings are: in the folder itself if it contains any, else in the only such place below it.

    Raises:
        ValueError: if there are several places.
    """
    if not folder.is_dir():
        return folder
    for files in (folder.iterdir(), folder.rglob("*")):
        places = sorted({place(file) for file in files if file.name.endswith(endings) and file.name[0] != "."})
        if len(places) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in places[:5])
            raise ValueError(f"{folder} contains several feature stores ({names}): pass the path of one")
        if places:
            return places[0]
    return folder


def _named(store: FeatureStore, kind: str, where: str, path: Path) -> FeatureStore:
    """Name a downloaded store by its Hub name instead of its cache folder, and return it."""
    if path != Path(where).expanduser():
        for part in (store, *getattr(store, "stores", ())):
            part.spec = f"{kind}:{where}"
    return store


def _where(spec: Spec) -> str:
    if not spec.where:
        raise ValueError(f"feature store {spec.kind}: the path is missing; expected {spec.kind}:PATH")
    return spec.where


KINDS |= {
    "": Kind(open_detected, {}),
    **{kind: Kind(_open_files, {}) for kind in SUFFIXES},
    "hdf5": Kind(_open_hdf5, {}),
    "packed": Kind(_open_packed, {}),
}
