"""What the pixels of an item depend on."""

import pytest

from medssl_monai.data import item_files
from medssl_monai.data.item_files import HIDDEN, NO_KEY, NO_STATE, is_unchanged, key_of, states_of


@pytest.fixture
def item(tmp_path, monkeypatch):
    monkeypatch.setattr(item_files, "SETTLED_S", -60.0)
    (tmp_path / "a.png").write_bytes(b"one")
    return {"image": str(tmp_path / "a.png"), "id": "a"}


@pytest.mark.parametrize("key", HIDDEN)
def test_pixels_depend_on_the_content_and_what_a_transform_is_shown(tmp_path, item, key):
    assert key_of({**item, key: "x", "id": "b"}, {}) == key_of(item, {})
    assert key_of({**item, "slice": 1}, {}) != key_of(item, {})
    before = key_of(item, {})
    (tmp_path / "a.png").write_bytes(b"two")
    assert key_of(item, {}) != before


def test_a_file_that_was_written_anew_is_in_another_state(tmp_path, item):
    (state,) = states_of([item])
    assert state != NO_STATE and is_unchanged(item, state, key_of(item, {}))
    (tmp_path / "a.png").write_bytes(b"three")
    assert not is_unchanged(item, state, key_of(item, {}))


@pytest.mark.parametrize("name", ["gone.png", "pixels_elsewhere.hdr"])
def test_of_a_file_that_is_not_there_nothing_is_certain(tmp_path, item, name):
    if name.endswith(".hdr"):
        (tmp_path / name).write_bytes(b"")
    lost = {**item, "image": str(tmp_path / name)}
    assert states_of([lost]) == [NO_STATE] and key_of(lost, {}) == NO_KEY


def test_a_file_of_a_moment_ago_may_still_change(item, monkeypatch):
    monkeypatch.setattr(item_files, "SETTLED_S", 60.0)
    assert states_of([item]) == [NO_STATE]
