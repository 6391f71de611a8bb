"""What a root knows of weights and of verifications, as other programs read it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from rootstock.config.environment_file import packaged_source
from rootstock.errors import RootError
from rootstock.root.layout import RootLayout
from rootstock.root.records import active_build, read_build
from rootstock.root.verification_records import Run, Verification, last_verification, read_verifications
from rootstock.root.weights import Weights, measured, own_weights, read_weights, weights_of, write_weights


@pytest.fixture
def layout(tmp_path: Path) -> RootLayout:
    layout = RootLayout(tmp_path / "root")
    layout.weights("mace").mkdir(parents=True)
    layout.cache.mkdir()
    return layout


def recorded(layout: RootLayout, model: str) -> Weights:
    file = layout.cache / "weights.bin"
    file.write_bytes(b"123")
    return Weights("mace", model, (measured(file, layout.root),), ("http://here/w",), "d1", "now", "me", "here")


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


def test_a_record_that_cannot_be_read_is_named(layout: RootLayout) -> None:
    layout.weights_record("mace", "small").write_text('{"files": 3}')
    with pytest.raises(RootError, match=r"Cannot read .*/weights/mace/small\.json"):
        read_weights(layout, "mace")


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
    run.add({"reference": "c", "passed": False}, {})
    run.end()
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
