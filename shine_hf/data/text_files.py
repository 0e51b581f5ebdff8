"""Read text files in common encodings: UTF-8 with or without a byte order mark, UTF-16, UTF-32; gzipped or not."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def suffix_of(path: str | Path) -> str:
    """Return the suffix in lower case, ignoring `.gz`."""
    path = Path(path)
    return Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()


def locate(path: str | Path) -> Path:
    """Return the path of a file, or of its gzipped version (`.gz` added).

    Raises:
        FileNotFoundError: if neither exists.
    """
    path = Path(path)
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no file {path}" + ("" if path.suffix == ".gz" else f" (nor {path.name}.gz)"))


def read_text(path: Path) -> str:
    """Read a text file, gzipped or not, and convert line ends to `\\n`.

    Raises:
        ValueError: for a damaged gzip file, or an encoding that is not recognized, e.g. Latin-1.
    """
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: the gzip file is damaged or incomplete; copy it again") from error
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), None)
    if encoding is None:
        # JSON and CSV begin with an ASCII character: a zero byte next to it means UTF-16 without a byte order mark.
        encoding = {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(
            (content[:1] == b"\0", content[1:2] == b"\0"), "utf-8"
        )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{path}: damaged {encoding.upper()} text; copy the file again") from error
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{content[error.start]:02X} is not UTF-8. The file seems to be Latin-1 (Windows-1252); convert it: "
            f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > new-{path.name}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
