"""Sources made up for tests of the preparation."""

import pytest
from support_prepare import draw, lungs, paint, radiographs


@pytest.fixture
def folder(tmp_path):
    """Sixteen images of eight patients, and a table: patients 0 to 3 are normal, the others ill."""
    rows = ["image,diagnosis,patient"]
    for k in range(16):
        paint(tmp_path / "cxr" / "sub" / f"im{k}.png", 10 * k)
        rows.append(f"sub/im{k}.png,{'normal' if k < 8 else 'ill'},p{k // 2}")
    (tmp_path / "cxr" / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "cxr"


@pytest.fixture
def both(folder):
    """As `folder`; images 0, 1, 4, 5, 8, 9, 12 and 13 have masks, which are those of every other patient."""
    for k in range(16):
        if k % 4 < 2:
            draw(folder / "masks" / f"im{k}.png", lungs(4))
    return folder


@pytest.fixture
def films(tmp_path):
    """Eight films of four patients, each with its lungs beside it, and a table."""
    rows = ["image,patient"]
    for k, pixels in enumerate(radiographs(8, seed=2)):
        draw(tmp_path / "films" / f"f{k}.png", pixels)
        draw(tmp_path / "films" / f"f{k}_lungs.png", lungs())
        rows.append(f"f{k}.png,q{k // 2}")
    (tmp_path / "films" / "t.csv").write_text("\n".join(rows))
    return tmp_path / "films"
