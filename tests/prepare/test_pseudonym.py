import stat

import pytest

from medssl_monai.prepare.pseudonym import default_key_file, load_key, pseudonym


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path):
    path = tmp_path / "config" / "key"
    key = load_key(path)
    assert len(key) == 32 and load_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_two_files_have_two_keys(tmp_path):
    assert load_key(tmp_path / "a") != load_key(tmp_path / "b")


def test_a_key_that_others_can_read_is_refused(tmp_path):
    load_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        load_key(tmp_path / "key")


@pytest.mark.parametrize("text", ["", "no key", "abcd", "ü" * 64])
def test_a_damaged_key_is_refused_and_not_replaced(tmp_path, text):
    (tmp_path / "key").write_text(text, encoding="utf-8")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ValueError, match="holds no key"):
        load_key(tmp_path / "key")
    assert (tmp_path / "key").read_text(encoding="utf-8") == text


def test_the_environment_names_the_key_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("MEDSSL_KEY_FILE", raising=False)
    assert default_key_file() == tmp_path / "medssl_monai" / "pseudonym.key"
    monkeypatch.setenv("MEDSSL_KEY_FILE", str(tmp_path / "mine"))
    assert default_key_file() == tmp_path / "mine"


def test_pseudonyms_tell_people_apart_and_hide_them():
    one = pseudonym(b"key", "patient", "DOE^JOHN")
    assert one == pseudonym(b"key", "patient", "DOE^JOHN")
    others = [
        pseudonym(b"key", "patient", "DOE^JANE"),
        pseudonym(b"kez", "patient", "DOE^JOHN"),
        pseudonym(b"key", "path", "DOE^JOHN"),
    ]
    assert len({one, *others}) == 4
    assert one[0] == "p" and len(one) == 13 and "doe" not in one.lower()


def test_any_text_of_a_damaged_tag_has_a_pseudonym():
    assert pseudonym(b"key", "patient", "\udcff\0ü") != pseudonym(b"key", "patient", "")
