"""Folders for series."""

from support_dicom import mr

from medssl_monai.prepare.layouts.series import put_series


def test_what_was_gathered_before_gives_way(tmp_path):
    first, second = ([mr(tmp_path / f"{name}{z}", z, z) for z in range(count)] for name, count in (("a", 2), ("b", 3)))
    for link in (False, True):
        put_series(tmp_path / "series" / "x", second, link=link)
        put_series(tmp_path / "series" / "x", first, link=link)
        names = sorted(path.name for path in (tmp_path / "series" / "x").iterdir())
        assert names == ["00000.dcm", "00001.dcm"]
        assert [path.name for path in (tmp_path / "series").iterdir()] == ["x"]
