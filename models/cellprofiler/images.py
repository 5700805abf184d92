"""Images of one channel: grey TIFF and PNG of 8 or 16 bits (and what else Pillow reads as that), values as stored."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from ground.documents import regular
from ground.errors import BadInput
from ground.files import atomic_path

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY = {"L": "uint8", "I;16": "uint16", "I;16B": "uint16", "I;16L": "uint16", "I;16N": "uint16"}
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said in the error's line


@dataclass(frozen=True)
class Header:
    """What an image's file says of it.

    Attributes:
        height, width: in pixels.
        dtype: of its pixels, "uint8" or "uint16".
    """

    height: int
    width: int
    dtype: str

    @property
    def bits(self) -> int:
        return 8 if self.dtype == "uint8" else 16


def header(path: Path) -> Header:
    """Size and depth of an image, without decoding it.

    Raises:
        BadInput: no such file, no image, several pages, colours, or pixels of another kind.
    """
    return _look(path, decode=False)[0]


def read(path: Path) -> np.ndarray:
    """(H, W) uint8 or uint16, values as stored.

    Raises:
        BadInput: as `header`, or the pixels are damaged.
    """
    pixels = _look(path, decode=True)[1]
    assert pixels is not None
    return pixels


def _look(path: Path, decode: bool) -> tuple[Header, np.ndarray | None]:
    try:
        regular(path)
        with open(path, "rb") as file:
            magic = file.read(4)
        if magic in _TIFF:
            return _tiff(path, decode)
        return _other(path, decode)
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadInput(f"{path}: no such image") from None
    except Exception as error:  # decoders raise whatever damaged bytes make them
        line = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadInput(f"{path}: not a readable image ({line})") from None


def _tiff(path: Path, decode: bool) -> tuple[Header, np.ndarray | None]:
    with tifffile.TiffFile(path) as file:
        if len(file.pages) != 1:
            raise BadInput(f"{path}: has {len(file.pages)} pages; an image has one, of one channel")
        page = file.pages.first
        if len(page.shape) != 2 or page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise BadInput(
                f"{path}: is no grey image (shape {page.shape}, {tifffile.PHOTOMETRIC(page.photometric).name})"
            )
        found = Header(*page.shape, dtype=_depth(path, str(page.dtype)))
        if not decode:
            return found, None
        try:
            pixels = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            pixels = None
    if pixels is None:  # a compression that tifffile leaves to a library that need not be here
        return _other(path, decode)
    if pixels.shape != (found.height, found.width):
        raise BadInput(f"{path}: not a readable image (pixels are missing)")
    return found, np.ascontiguousarray(pixels, found.dtype)


def _other(path: Path, decode: bool) -> tuple[Header, np.ndarray | None]:
    with Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames != 1:
            raise BadInput(f"{path}: has {frames} pages; an image has one, of one channel")
        if image.mode not in _GREY:
            raise BadInput(f"{path}: is no grey image of 8 or 16 bits (Pillow's mode {image.mode})")
        found = Header(image.height, image.width, _GREY[image.mode])
        pixels = np.asarray(image).astype(found.dtype) if decode else None
    return found, pixels


def _depth(path: Path, dtype: str) -> str:
    if dtype not in ("uint8", "uint16"):
        raise BadInput(f"{path}: has {dtype} pixels; 8 and 16 bits without sign are read")
    return dtype


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) uint8 as a grey PNG, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=3)
