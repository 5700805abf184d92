"""Projects of stained cells: the configuration, the index, locations, images, and a store of crops."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from models.cellprofiler.__main__ import main
from tests.hostile import Case
from tests.hostile.documents import JSONS, WRONG, put
from tests.hostile.words import search

CONFIG, INDEX = "inputs/config/cells.json", "inputs/metadata/index.csv"
STORE, TABLE = "outputs/single-cells/store.json", "outputs/single-cells/sc-metadata.csv"
# of each field, those of WRONG that are right
FIELDS: dict[str, tuple[Any, ...]] = {
    "dataset": (),
    "dataset.metadata": (),
    "dataset.metadata.label_field": (),
    "dataset.images": (),
    "dataset.images.channels": (),
    "dataset.images.bits": (None,),
    "dataset.images.width": (None, 3, 10**30),
    "dataset.locations": (),
    "dataset.locations.mode": (None,),
    "dataset.locations.box_size": (3,),
    "dataset.locations.area_coverage": (None, True),
    "train.partition": (None, {}),
    "train.partition.split_field": (None, "", "x", "../../x", "a\nb"),
    "train.sampling": (None, {}),
}
STORED: dict[str, tuple[Any, ...]] = {
    "format": (),
    "kind": (),
    "channels": (),
    "classes": (),
    "box": (),
    "dtype": (),
    "shards": (),
    "pixels": ("", "x", "../../x", "a\nb"),
}
TABLES = {
    "empty": "",
    "only names": "Metadata_Plate,Metadata_Well,Metadata_Site,Compound,Split,DNA,ER\n",
    "no names": "1,2\n3,4\n",
    "binary": b"\x00\x01\x02",
    "latin": b"Metadata_Plate\n\xff\n",
    "utf-16": "Metadata_Plate\n".encode("utf-16"),
    "twice": "Metadata_Plate,Metadata_Plate\na,b\n",
    "unclosed": 'Metadata_Plate\n"a\n',
    "ragged": "Metadata_Plate\na,b,c\n",
    "large": "a" * 70 * 2**20,
}


def cases(plates: Path) -> Iterator[Case]:
    """Args:
    plates: a project with a store.
    """
    config, about = (json.loads((plates / file).read_text()) for file in (CONFIG, STORE))
    config["train"]["sampling"] = {"factor": 1.0}
    group = "plates: configuration"
    for name, text in JSONS.items():
        yield Case(group, name, partial(_written, plates, CONFIG, text, "check"))
        if name in ("nothing", "a number", "null", "many values", "large", "latin", "deep", "NaN", "empty"):
            yield Case("plates: store.json", name, partial(_written, plates, STORE, text, "search"))
    for group, file, content, fields, verb in (
        ("plates: configuration", CONFIG, config, FIELDS, "check"),
        ("plates: store.json", STORE, about, STORED, "search"),
    ):
        for keys, right in fields.items():
            for number, value in enumerate(WRONG):
                if not any(value is good or (value == good and type(value) is type(good)) for good in right):
                    text = json.dumps(put(content, keys, value))
                    name = f"{keys}: {number} {value!r}"[:60]
                    yield Case(group, name, partial(_written, plates, file, text, verb))
    for keys in ("dataset", "dataset.images.channels", "dataset.locations.box_size", "dataset.metadata.label_field"):
        text = json.dumps(put(config, keys, ...))
        yield Case("plates: configuration", f"{keys} missing", partial(_written, plates, CONFIG, text, "check"))
    for keys in STORED:
        text = json.dumps(put(about, keys, ...))
        yield Case("plates: store.json", f"{keys} missing", partial(_written, plates, STORE, text, "search"))
    for name, table in TABLES.items():
        yield Case("plates: tables", f"index {name}", partial(_written, plates, INDEX, table, "check"))
        yield Case("plates: tables", f"cells {name}", partial(_written, plates, TABLE, table, "search"))
    index, cells = (plates / INDEX).read_text(), (plates / TABLE).read_text()
    head, first, rest = index.split("\n", 2)
    for name, old, new in (
        ("outside", first.split(",")[-1], "../../../../etc/passwd"),
        ("absolute", first.split(",")[-1], "/etc/passwd"),
        ("device", first.split(",")[-1], "/dev/zero"),
        ("no image", first.split(",")[-1], ""),
        ("control character", "P-1", "P\x1b-1"),
        ("plate of a path", "P-1", "../P-1"),
    ):
        text = "\n".join([head, first.replace(old, new, 1), rest])
        yield Case("plates: tables", f"index {name}", partial(_written, plates, INDEX, text, "sample"))
    for name, old, new in (
        ("shard", "Shard", "Shart"),
        ("label", "lupin", "lupine"),
        ("split", "Training", "Train"),
        ("class", "Class_Name", "Class"),
    ):
        text = cells.replace(old, new)
        yield Case("plates: tables", f"cells {name}", partial(_written, plates, TABLE, text, "search"))
    image = "inputs/images/" + first.split(",")[-1]
    for name, raw in {
        "empty": b"",
        "no image": b"hello",
        "cut off": (plates / image).read_bytes()[:20],
        "a bomb": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x00\x00\x00\x00",
    }.items():
        yield Case("plates: images", name, partial(_written, plates, image, raw, "sample"))
    for verb, *more in (
        ("check",),
        ("sample",),
        ("prepare",),
        ("profile", "--model", "m.safetensors"),
        ("predict", "--model", "m.safetensors", "-o", "p.h5"),
        ("split", "--by", "plates"),
        ("aggregate", "-o", "wells.csv"),
        ("evaluate", "--label", "Compound", "-o", "out"),
    ):
        words = [verb, "no", *more]
        yield Case("plates: no project", verb, lambda _, words=words: partial(main, words))


def _written(plates: Path, file: str, content: str | bytes, verb: str, folder: Path) -> Callable[[], int]:
    root = folder / "plates"
    shutil.copytree(plates, root, copy_function=os.link)
    (root / file).unlink()
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    (root / file).write_bytes(raw)
    if verb == "check":
        return partial(main, ["check", str(root), "--project"])
    if verb == "sample":
        for table in root.glob("inputs/locations/*/*.csv"):
            if len(table.read_text().splitlines()) == 1:  # a site without a cell is a line of its own
                text = f"{table.read_text()}20,20\n"
                table.unlink()
                table.write_text(text)
        return partial(main, ["sample", str(root), "--store", "another", "--processes", "1"])
    space = f"family: cellprofiler\ndata: {{project: {root}}}\nspace: {{LR: {{uniform: [0.001, 0.1]}}}}\n"
    return search(root, folder, space=space.replace("{", "{{").replace("}", "}}"))
