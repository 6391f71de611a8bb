"""What a root knows of weights and of verifications, as other programs read it."""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from dataclasses import replace
from pathlib import Path

import pytest

from rootstock.config.environment_file import packaged_source
from rootstock.errors import RootError
from rootstock.root.generations import Generation, State, read_generations
from rootstock.root.holder import Holder, read_holder
from rootstock.root.layout import RootLayout
from rootstock.root.record_files import Record, read_record
from rootstock.root.records import BuildRecord, active_build, read_build
from rootstock.root.verification_records import Run, Verification, last_verification, read_verifications
from rootstock.root.weights import Weights, WeightsFile, own_weights, read_weights, weights_of, write_weights


@pytest.fixture
def layout(tmp_path: Path) -> RootLayout:
    layout = RootLayout(tmp_path / "root")
    layout.weights("mace").mkdir(parents=True)
    layout.cache.mkdir()
    return layout


def recorded(layout: RootLayout, model: str) -> Weights:
    file = layout.cache / "weights.bin"
    file.write_bytes(b"123")
    return Weights("mace", model, (WeightsFile.of(file, layout.root),), ("http://here/w",), "d1", "now", "me", "here")


@pytest.mark.parametrize("model", ["", "default", "@default", "org/model", "../../x", "a b\n", "ü%2F", "."])
def test_a_models_weights_are_found_by_whatever_name_it_has(layout: RootLayout, model: str) -> None:
    weights = recorded(layout, model)
    write_weights(layout, weights, 0o644)
    others = [recorded(layout, name) for name in ("small", "org", "default") if name != model]
    for other in others:
        write_weights(layout, other, 0o644)
    assert weights_of(layout, "mace", model) == weights
    assert read_weights(layout, "mace") == {each.model: each for each in (weights, *others)}
    assert [path.name for path in layout.all_weights.iterdir()] == ["mace"]
    assert weights.files[0].path == "cache/weights.bin"
    assert weights.files[0].sha256 == hashlib.sha256(b"123").hexdigest()


def test_weights_that_are_gone_or_cut_short_are_not_present(layout: RootLayout) -> None:
    weights = recorded(layout, "small")
    assert weights.present(layout)
    (layout.cache / "weights.bin").write_bytes(b"12")
    assert not weights.present(layout)
    (layout.cache / "weights.bin").unlink()
    assert not weights.present(layout)
    assert weights_of(layout, "mace", "small") is None and read_weights(layout, "orb") == {}


BUILD = BuildRecord(
    "emt", "d1", "a", "b", "c", "/usr/bin/python3", "3.11.2", "x86_64", "cpu", "0.9", "0.3.0", {"ase": "3.26"}, 1, 2,
    "me", "here", "now",
)  # fmt: skip
WEIGHTS = Weights("mace", "small", (WeightsFile("cache/w", 3, "ab"),), ("http://here/w",), "d1", "now", "me", "here")
GENERATION = Generation(2, "now", "me", "here", "install", State("0.3.0", {"emt": "d1"}, {"0.3.0": "d2"}), 1)
VERIFICATION = Verification("mace", "d1", "cpu", ({"passed": True, "error": 1e-9, "reason": None},), "now", "", "me")


@pytest.mark.parametrize("record", [BUILD, WEIGHTS, GENERATION, VERIFICATION], ids=["build", "weights", "gen", "run"])
def test_a_later_version_may_write_more_keys(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "record.json"
    path.write_text(record.to_json())
    assert read_record(type(record), path, "") == record
    data = json.loads(record.to_json())
    for table in (data, data.get("state", {}), *(data["files"] if record is WEIGHTS else [])):
        table["colour"] = {"of": ["a later", "version"]}
    path.write_text(json.dumps(data))
    assert read_record(type(record), path, "") == record


def test_an_older_version_wrote_fewer_keys(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    data = {key: value for key, value in json.loads(BUILD.to_json()).items() if value not in ("", 0, [], {})}
    path.write_text(json.dumps(data))
    assert "links" not in data and read_record(BuildRecord, path, "") == BUILD


def test_how_a_record_is_written() -> None:
    """As every version has done: people compare these files."""
    assert GENERATION.to_json() == (
        '{\n "at": "now",\n "by": "me",\n "command": "install",\n "number": 2,\n "on": "here",\n "restores": 1,\n'
        ' "state": {\n  "active": {\n   "emt": "d1"\n  },\n  "clients": {\n   "0.3.0": "d2"\n  },\n'
        '  "default": "0.3.0"\n }\n}\n'
    )


def without(record: Record, *path: str) -> str:
    data = json.loads(record.to_json())
    *above, last = path
    del functools.reduce(operator.getitem, above, data)[last]
    return json.dumps(data)


@pytest.mark.parametrize(
    ("record", "text", "message"),
    [
        (BUILD, without(BUILD, "digest"), "it has no 'digest'."),
        (BUILD, "[]", "it must be an object, not []."),
        (BUILD, BUILD.to_json().replace('"files": 1', '"files": true'), "files must be a whole number, not True."),
        (BUILD, BUILD.to_json().replace('"3.26"', "3"), "packages.ase must be a string, not 3."),
        (WEIGHTS, '{"environment": "mace", "model": "small", "files": 3}', "files must be a list, not 3."),
        (WEIGHTS, WEIGHTS.to_json().replace('"sha256"', '"md5"'), "files[0] has no 'sha256'."),
        (GENERATION, without(GENERATION, "state", "active"), "state has no 'active'."),
        (GENERATION, GENERATION.to_json().replace(": 2", ": null"), "number must be a whole number, not None."),
        (VERIFICATION, VERIFICATION.to_json()[:-3], "Expecting ',' delimiter: line "),
        (VERIFICATION, "[" * 100_000, "it is nested too deep."),
        (VERIFICATION, "\xff", "'utf-8' codec can't decode byte 0xff in position 0: "),
        (VERIFICATION, "", "Expecting value: line 1 column 1"),
    ],
    ids=map(str, range(12)),
)
def test_what_is_wrong_with_a_record_is_said(tmp_path: Path, record: Record, text: str, message: str) -> None:
    path = tmp_path / "record.json"
    assert read_record(type(record), path, "") is None
    path.write_text(text, encoding="latin-1")
    assert read_record(type(record), path / "below a file", "") is None
    with pytest.raises(RootError) as caught:
        read_record(type(record), path, "Ask.")
    assert caught.value.message.startswith(f"Cannot read {path}: {message}") and caught.value.hint == "Ask."


def test_who_may_not_read_a_record_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "record.json").symlink_to("record.json")
    with pytest.raises(RootError, match=r"Cannot read .*/record\.json: Too many levels of .*\nAsk the site's admin\."):
        read_record(BuildRecord, tmp_path / "record.json", "")


def test_each_damaged_record_of_a_root_is_named_with_the_next_command(layout: RootLayout) -> None:
    for folder in (layout.generations, layout.build("mace", "d1"), layout.verifications("mace", "d1")):
        folder.mkdir(parents=True)
    for path, read, command in (
        (layout.weights_record("mace", "small"), lambda: read_weights(layout, "mace"),
         "rm {path} && rootstock-site warm --root {root} --env mace"),
        (layout.generation(7), lambda: read_generations(layout), "mv {path} {path}.damaged"),
        (layout.verifications("mace", "d1") / "1.json", lambda: read_verifications(layout, "mace", "d1"), "rm {path}"),
        (layout.verifications("mace", "d1") / "1.json",
         lambda: last_verification(layout, replace(BUILD, name="mace")), "rm {path}"),
        (layout.build("mace", "d1") / "build.json", lambda: read_build(layout.build("mace", "d1")),
         "An admin runs: rootstock-site repair --root {root} --env mace"),
    ):  # fmt: skip
        path.write_text('{"colour": "red"}')
        with pytest.raises(RootError) as caught:
            read()
        assert caught.value.message.startswith(f"Cannot read {path}: it has no '"), caught.value.message
        assert caught.value.hint.endswith(command.format(path=path, root=layout.root))


def test_who_holds_the_lock_in_words_of_a_later_version(layout: RootLayout) -> None:
    layout.locks.mkdir()
    said = {"command": "install", "user": "ann", "host": "login1", "pid": 7, "since": "now", "reason": "an upgrade"}
    layout.admin_owner.write_text(json.dumps(said))
    assert read_holder(layout.admin_owner) == Holder("install", "ann", "login1", 7, "now")
    for damaged in ("[]", '{"command": 3}', "[" * 100_000):
        layout.admin_owner.write_text(damaged)
        assert read_holder(layout.admin_owner) is None


def test_a_check_without_its_outcome_was_not_run() -> None:
    seen = replace(VERIFICATION, checks=(*VERIFICATION.checks, {"reference": "a"}))
    assert (seen.passed, seen.missed, seen.not_run) == (1, 0, 1)


def test_own_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "b.pt", "folder/config.json", "folder/deep/x.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for model, names in {
        str(tmp_path / "a.pt"): ["a.pt"],
        "~/a.pt": ["a.pt"],
        "./*.pt": ["a.pt", "b.pt"],
        "folder": ["folder/config.json", "folder/deep/x.pt"],
        "medium": [],
        str(tmp_path / "none.pt"): [],
    }.items():
        found = {file.path: file.sha256 for file in own_weights(model)}
        assert found == {str(tmp_path / n): hashlib.sha256(n.encode()).hexdigest() for n in names}


def test_the_default_model_has_the_name_that_the_table_gives_it() -> None:
    assert packaged_source("mace").named("") == "medium-mpa-0"
    assert packaged_source("mace").named("small") == "small"
    assert packaged_source("emt").named("") == ""


def test_a_run_keeps_what_came_before_it_was_cut_off(layout: RootLayout) -> None:
    folder = layout.verifications("mace", "d1")
    folder.mkdir(parents=True)
    run = Run(folder, Verification("mace", "d1", "cuda"), 0o640)
    run.add({"reference": "a", "passed": True, "seconds": 1.0}, {"torch": "2"})
    run.add({"reference": "b", "passed": None, "seconds": 0.5}, {})
    [seen] = read_verifications(layout, "mace", "d1")
    assert (seen.passed, seen.missed, seen.not_run, seen.seconds, seen.ended) == (1, 0, 1, 1.5, "")
    assert seen.versions == {"torch": "2"}
    compared = {"property": "energy", "error": 1.0, "tolerance": 0.1}
    run.add({"reference": "c", "device": "cpu", "passed": False, **compared}, {})
    run.add({"reference": "d", "device": "cuda", "passed": None, "reason": "no weights"}, {})  # it has computed nothing
    run.end()
    assert run.verification.device == "cpu"
    [path] = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o640
    [seen] = read_verifications(layout, "mace", "d1")
    assert seen.missed == 1 and seen.ended


def test_the_last_verification_of_a_build(root: Path, tmp_path: Path) -> None:
    """What an installation saw, until there is a run."""
    folder = active_build(root / "active" / "emt")
    assert folder is not None
    build = read_build(folder)
    assert build is not None
    seen = last_verification(RootLayout(root), build)
    assert seen.passed == len(build.verification) > 3 and seen.started == build.built_at
    layout = RootLayout(tmp_path)
    runs = layout.verifications("emt", build.digest)
    runs.mkdir(parents=True)
    for i in range(35):
        text = replace(seen, device=f"cuda:{i}", checks=()).to_json()
        (runs / f"2000{i:04}T000000Z-x-1.json").write_text(text)  # before today, whenever that is
    assert last_verification(layout, build).device == "cuda:34"
    Run(runs, Verification("emt", build.digest, "cpu"), 0o644)
    devices = [each.device for each in read_verifications(layout, "emt", build.digest)]
    assert len(devices) == 30 and {"cpu", "cuda:34", "cuda:6"} <= set(devices) and "cuda:5" not in devices
