"""Structured files: search spaces, published spaces and templates, what studies and ensembles say of themselves."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ensembles.__main__ import main as ensembles
from studies.__main__ import main as studies
from tests.hostile import Case
from tests.hostile.words import search

HEAD = "family: ndt\nspace: {MODEL.DROPOUT: {uniform: [0.1, 0.5]}}\n"
MERGES = "".join(f"b{i}: &b{i} {{<<: [*b{i - 1}, *b{i - 1}]}}\n" for i in range(1, 45))
LAUGHS = "".join(f"b{i}: &b{i} [*b{i - 1}, *b{i - 1}]\n" for i in range(1, 45))
SPACES = {
    "empty": "",
    "null": "null",
    "a list": "- a\n- b",
    "a word": "hello",
    "a number": "42",
    "tabs": "\tfamily: ndt",
    "binary": "\x00\x01",
    "unclosed": "family: {",
    "unclosed text": 'family: "',
    "two documents": f"{HEAD}---\n{HEAD}",
    "bad escape": 'a: "\\ud800"',
    "directive": "%YAML 9.9\n---\na: 1",
    "python": "!!python/object/apply:os.system [id]",
    "python name": "a: !!python/name:os.system",
    "local tag": "a: !secret x",
    "deep": "a: " + "[" * 60 + "]" * 60,
    "very deep": "[" * 100_000,
    "deep mappings": "{a: " * 5000,
    "laughs": f"b0: &b0 [x, x]\n{LAUGHS}",
    "merges": f"b0: &b0 {{x: 1}}\n{MERGES}",
    "in itself": "a: &a [*a]",
    "in itself, mapped": "a: &a {b: *a}",
    "no anchor": "a: *b",
    "many aliases": "a: &a x\nb: [" + "*a, " * 200 + "]",
    "many values": "a:\n" + "- 1\n" * 200_000,
    "hours": "a: 1" + ":1" * 200_000,
    "hours of a float": "a: 1" + ":1" * 200 + ".5",
    "digits": "a: " + "9" * 100_000,
    "hexadecimal": "a: 0x" + "f" * 100_000,
    "70 bits": "budget: {samples: 1180591620717411303424}",
    "no such date": "a: 2020-99-99",
    "key of a list": "? [a]\n: 1",
    "twice": f"{HEAD}family: xtcav",
    "unknown key": f"{HEAD}spaces: {{}}",
    "no family": "space: {a: {uniform: [0, 1]}}",
    "no space": "family: ndt",
    "family a list": HEAD.replace("ndt", "[ndt]"),
    "family unknown": HEAD.replace("ndt", "nd"),
    "family a path": HEAD.replace("ndt", "../ndt"),
    "family empty": HEAD.replace("ndt", "''"),
    "space empty": "family: ndt\nspace: {}",
    "space a list": "family: ndt\nspace: [a]",
    "data a list": f"{HEAD}data: [1]",
    "data with a date": f"{HEAD}data: {{path: 2020-01-01}}",
    "data without end": f"{HEAD}data: {{path: .inf}}",
    "data keyed by numbers": f"{HEAD}data: {{1: 2}}",
    "data of a set": f"{HEAD}data: {{path: !!set {{a}}}}",
    "fixed a word": f"{HEAD}fixed: x",
    "description a list": f"{HEAD}description: [a]",
    "budget a list": f"{HEAD}budget: [1]",
    "budget word": f"{HEAD}budget: {{samples: many}}",
    "budget none": f"{HEAD}budget: {{samples: 0}}",
    "budget true": f"{HEAD}budget: {{keep: true}}",
    "budget key": f"{HEAD}budget: {{sample: 1}}",
    "budget endless": f"{HEAD}budget: {{samples: .inf}}",
    "budget huge": f"{HEAD}budget: {{samples: 99999999999}}",
    "both fixed and searched": f"{HEAD}fixed: {{MODEL.DROPOUT: 0.1}}",
    "many dimensions": "family: ndt\nspace:\n" + "".join(f"  a{i}: {{uniform: [0, 1]}}\n" for i in range(2000)),
    "data nothing": f"{HEAD}data: {{}}",
    "data unknown": f"{HEAD}data: {{paths: x}}",
    "data path a number": f"{HEAD}data: {{path: 3}}",
    "data path empty": f"{HEAD}data: {{path: ''}}",
    "data nul": f'{HEAD}data: {{path: "a\\0b"}}',
    "generator": f"{HEAD}data: {{generator: x}}",
    "generator options": f"{HEAD}data: {{generator: lorenz, options: [1]}}",
    "generator option": f"{HEAD}data: {{generator: lorenz, options: {{x: 1}}}}",
    "generator without end": f"{HEAD}data: {{generator: lorenz, options: {{bins: 1000000000}}}}",
    "generator word": f"{HEAD}data: {{generator: lorenz, options: {{bins: x}}}}",
    "dataset up": f"{HEAD}data: {{dataset: ../../x}}",
    "dataset a list": f"{HEAD}data: {{dataset: [a]}}",
    "bin width": f"{HEAD}data: {{dataset: mc_maze, bin_ms: x}}",
}
DOMAINS = [
    "{}",
    "null",
    "3",
    "[0, 1]",
    "{uniform: 1}",
    "{uniform: []}",
    "{uniform: [1]}",
    "{uniform: [1, 2, 3]}",
    "{uniform: [2, 1]}",
    "{uniform: [1, 1]}",
    "{uniform: [0, .inf]}",
    "{uniform: [.nan, 1]}",
    "{uniform: [-1.0e+308, 1.0e+308]}",
    "{uniform: [a, b]}",
    "{uniform: [true, false]}",
    "{uniform: {a: 1}}",
    "{loguniform: [0, 1]}",
    "{loguniform: [-1, 1]}",
    "{randint: [0.5, 2]}",
    "{randint: [0, 1.0e+30]}",
    "{lograndint: [0, 5]}",
    "{randint: [3, 3]}",
    "{choice: []}",
    "{choice: 1}",
    "{choice: [2020-01-01]}",
    "{choice: [{a: 1}]}",
    "{choice: [.nan]}",
    "{choice: [!!binary aGk=]}",
    "{unifrom: [0, 1]}",
    "{uniform: [0, 1], choice: [1]}",
    "{uniform: [0, 1], wen: {a: 1}}",
    "{uniform: [0, 1], when: {}}",
    "{uniform: [0, 1], when: 3}",
    "{uniform: [0, 1], when: {b: 1}}",
    "{uniform: [0, 1], when: {MODEL.DROPOUT: 1}}",
    "{uniform: [0.1, 5]}",
    "{choice: [" + "1, " * 3000 + "]}",
    "{q: [0, 1]}",
]
JSONS = {
    "empty": "",
    "null": "null",
    "a list": "[]",
    "nothing": "{}",
    "a number": "3",
    "unclosed": "{",
    "NaN": '{"a": {"low": NaN, "high": 1}}',
    "Infinity": '{"a": {"low": 0, "high": Infinity}}',
    "1e999": '{"a": {"low": 0, "high": 1e999}}',
    "deep": "[" * 100_000,
    "deep mappings": '{"a":' * 20_000,
    "deep and whole": '{"a":' * 60 + "1" + "}" * 60,
    "digits": '{"a": {"low": ' + "9" * 10_000 + ', "high": 1}}',
    "70 bits": '{"a": {"low": 0, "high": 1180591620717411303424}}',
    "twice": '{"a": {"low": 0, "high": 1}, "a": {"low": 0, "high": 2}}',
    "an entry a list": '{"a": [0, 1]}',
    "unknown key": '{"a": {"low": 0, "high": 1, "hi": 2}}',
    "no high": '{"a": {"low": 0}}',
    "kind": '{"a": {"low": 0, "high": 1, "sample_fn": "normal"}}',
    "kind a list": '{"a": {"low": 0, "high": 1, "sample_fn": [1]}}',
    "options a number": '{"a": {"opts": 3}}',
    "words": '{"a": {"low": "x", "high": "y"}}',
    "null low": '{"a": {"low": null, "high": 1}}',
    "reversed": '{"a": {"low": 2, "high": 1}}',
    "reserved": '{"trial_id": {"low": 0, "high": 1}}',
    "half a character": '{"\\ud800": {"low": 0, "high": 1}}',
    "nul": '{"a\\u0000": {"low": 0, "high": 1}}',
    "many values": "[" + "1," * 1_500_000 + "1]",
    "latin": b'{"\xff": 1}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "large": " " * (5 * 2**20),
    "unknown setting": '{"MODEL.NOTHING": {"low": 0, "high": 1}}',
}
WRONG: list[Any] = [None, True, 3, -1, 2.5, "", "x", [], [1], {}, {"a": 1}, 10**30, "../../x", "a\nb", "\ud800", "a\0b"]
LATER = {"a later version": 3, "far later": 10**9, "none": 0, "word": "2", "half": 2.5}


def put(content: dict[str, Any], keys: str, value: Any) -> dict[str, Any]:
    """The content with another value at dotted keys; Ellipsis leaves the key out."""
    changed = copy.deepcopy(content)
    at: Any = changed
    *path, last = keys.split(".")
    for key in path:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return changed


def cases(spikes: Path, study: Path) -> Iterator[Case]:
    for name, text in SPACES.items():

        def made(folder: Path, text: str = text) -> Callable[[], int]:
            # what is wrong is what the case says, not that there is no data
            data = "" if "data:" in text or HEAD not in text else f"\ndata: {{{{path: {spikes}}}}}\n"
            return search(spikes, folder, space=_braced(text) + data)

        yield Case("search spaces", name, made)
    for entry in DOMAINS:
        text = f"{HEAD[:-2]}, TRAIN.WEIGHT_DECAY: {entry}}}\ndata: {{path: {spikes}}}\n"
        if entry == "{uniform: [0.1, 5]}":
            text = text.replace("TRAIN.WEIGHT_DECAY", "MODEL.DROPOUT_RATES")
        yield Case(
            "search spaces: ranges", entry[:40], lambda folder, text=text: search(spikes, folder, space=_braced(text))
        )
    for name, json_text in JSONS.items():

        def published(folder: Path, json_text: str | bytes = json_text) -> Callable[[], int]:
            raw = json_text if isinstance(json_text, bytes) else json_text.encode()
            (folder / "space.json").write_bytes(raw)
            return search(spikes, folder, "--space", str(folder / "space.json"))

        yield Case("published spaces (JSON)", name, published)
        if name in ("nothing", "a number", "null", "many values", "large", "latin", "deep"):
            yield Case(
                "documents of studies",
                f"study.json {name}",
                lambda folder, t=json_text: _written(study, folder, "study.json", t),
            )
            yield Case(
                "documents of ensembles",
                f"ensemble.json {name}",
                lambda folder, t=json_text: _written(study, folder, "ensemble/ensemble.json", t),
            )
    yield from _fields(study)


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _written(study: Path, folder: Path, file: str, text: str | bytes) -> Callable[[], int]:
    shutil.copytree(study, folder / "study")
    (folder / "study" / file).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    main: Any = ensembles if file.startswith("ensemble") else studies
    return partial(main, ["show", str(folder / "study")])


NEVER: dict[str, dict[str, tuple[Any, ...]]] = {
    # of each field, those of WRONG that are right
    "study.json": {
        "format": (3,),
        "family": ("x",),
        "data": ({}, {"a": 1}),
        "fixed": ({}, {"a": 1}),
        "space": ({},),
        "seed": (3,),
        "fingerprint": (None, "", "x", "../../x", "a\nb"),
        "holdout": (None,),
        "init": (None,),
        "ranks": (None, 3),
        "imported": (None, True),
        "versions": ({},),
    },
    "trials/t00/config.json": {"trial_id": (), "number": (3,), "seed": (3,), "settings": ({}, {"a": 1})},
    "trials/t00/result.json": {
        "status": (),
        "reason": ("", "x", "../../x", "a\nb"),
        "seconds": (None, 3, 2.5),
        "best": ({}, {"a": 1}),
        "metrics": ({}, {"a": 1}),
    },
    "trials/t00/best.json": {"metrics": ({}, {"a": 1}), "sha256": (None, "")},
    "ensemble/ensemble.json": {
        "format": (),
        "family": (),
        "data": ({}, {"a": 1}),
        "members": (),
        "scores": ({}, {"a": 1}),
        "metric": (),
        "rule": (),
        "size": (),
        "members.0.weight": (3, 2.5),
        "members.0.file": (),
        "members.0.trial_id": ("x",),
        "members.0.settings": ({}, {"a": 1}),
        "files": ([],),
        "left_out": ({},),
        "seed": (None, 3),
    },
}
NO_FIELD = {
    "study.json": ("family", "data", "space", "seed", "fingerprint"),
    "trials/t00/config.json": ("trial_id", "number", "settings"),
    "trials/t00/result.json": ("status", "reason", "seconds"),
    "trials/t00/best.json": ("metrics",),
    "ensemble/ensemble.json": ("family", "data", "members", "scores", "metric", "members.0.weight", "members.0.file"),
}


def _fields(study: Path) -> Iterator[Case]:
    for file, fields in NEVER.items():
        content = json.loads((study / file).read_text())
        group = f"fields of {Path(file).name}" if "trials" not in file else f"fields of a trial's {Path(file).name}"

        def changed(
            name: str, keys: str, value: Any, file: str = file, content: Any = content, group: str = group
        ) -> Case:
            text = json.dumps(put(content, keys, value))
            return Case(group, f"{keys}: {name}", lambda folder: _written(study, folder, file, text))

        for keys, right in fields.items():
            for number, value in enumerate(WRONG):
                if not any(value is good or (value == good and type(value) is type(good)) for good in right):
                    yield changed(f"{number} {value!r}"[:30], keys, value)
        for keys in NO_FIELD[file]:
            yield changed("missing", keys, ...)
        if "format" in content:
            for name, number in LATER.items():
                yield changed(name, "format", number)
    for name, keys, value in (
        ("outside", "members.0.file", "../../../etc/passwd"),
        ("absolute", "members.0.file", "/etc/passwd"),
        ("NaN", "members.0.weight", float("nan")),
        ("endless", "scores", {"a": float("inf")}),
    ):
        content = json.loads((study / "ensemble/ensemble.json").read_text())
        text = json.dumps(put(content, keys, value))
        yield Case(
            "documents of ensembles",
            name,
            lambda folder, text=text: _written(study, folder, "ensemble/ensemble.json", text),
        )
    for name, sums in {
        "empty": "",
        "binary": "\x00\x01",
        "outside": "0" * 64 + "  ../../../etc/passwd\n",
        "absolute": "0" * 64 + "  /etc/passwd\n",
        "device": "0" * 64 + "  /dev/zero\n",
        "words": "hello",
        "latin": b"\xff\xfe",
    }.items():
        yield Case(
            "documents of ensembles",
            f"checksums {name}",
            lambda folder, sums=sums: _written(study, folder, "ensemble/checksums.sha256", sums),
        )
