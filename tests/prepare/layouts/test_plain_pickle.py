import pickle
import struct

import numpy as np
import pytest

from medssl_monai.prepare.layouts.plain_pickle import MOST, ForbiddenError, read_pickle

FROMBUFFER = (np._core if hasattr(np, "_core") else np.core).numeric._frombuffer  # `core` before NumPy 2


class Call:
    """Pickled as the call of a function, with a state to set on what it gives."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def plain_type(name="u1", flags=(False, True), order="|", fields=(None, None, None), rest=(-1, -1, 0)):
    return Call(np.dtype, (name, *flags), (3, order, *fields, *rest))


def written(tmp_path, value, protocol=4):
    path = tmp_path / "batch"
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("kind", ["u1", "i1", "<i2", ">i4", "i8", "u8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_bytes_and_whole_numbers_are_read(tmp_path, protocol, kind, order):
    array = np.array(np.arange(12).reshape(3, 4) % 2, dtype=kind, order=order)
    read = read_pickle(written(tmp_path, {"data": array, 7: [1, -1, 2**40, None, True, 0.5]}, protocol))
    assert read["data"].dtype == array.dtype
    assert np.array_equal(read["data"], array)
    assert read[7] == [1, -1, 2**40, None, True, 0.5]


def test_nothing_and_a_view_are_read(tmp_path):
    read = read_pickle(written(tmp_path, {"none": np.empty((0, 3), np.uint8), "part": np.arange(9)[::2]}))
    assert read["none"].shape == (0, 3)
    assert read["part"].tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    "forged",
    [
        plain_type("O8", order="|", rest=(-1, -1, 0)),
        plain_type("O8"),
        plain_type("u1", fields=(None, ("a",), {"a": (1, 2)})),
        plain_type("u1", fields=((1, (2,)), None, None)),
        plain_type("u1", rest=(8, 8, 63)),
        plain_type("V8"),
        plain_type("f8"),
        plain_type("U4"),
        plain_type("S3", rest=(3, 1, 0)),
        plain_type("u1,u1"),
        plain_type("u1", rest=(-1, -1, 0, {"metadata": 1})),
    ],
)
def test_forged_types_are_refused(tmp_path, forged):
    content = Call(FROMBUFFER, (b"A" * 8, forged, (1,), "C"))
    with pytest.raises(ForbiddenError):
        read_pickle(written(tmp_path, {"names": content}))


@pytest.mark.parametrize(
    "arguments",
    [
        (b"A" * 8, plain_type(), (9,), "C"),
        (b"A" * 8, plain_type(), (-8, -1), "C"),
        (b"A" * 8, plain_type(), (2**62, 4), "C"),
        (b"A" * 8, plain_type(), (1,) * 40, "C"),
        (b"A" * 8, plain_type(), ("8",), "C"),
        (b"A" * 8, plain_type(), 8, "C"),
        (b"A" * 8, plain_type(), (8,), "K"),
        ("A" * 8, plain_type(), (8,), "C"),
        (b"A" * 8, b"u1", (8,), "C"),
        (b"A" * 8, plain_type()),
        (b"", plain_type(), (2**50, 0), "C"),
    ],
)
def test_arrays_that_their_bytes_do_not_fill_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=r"damaged|unusual|rows"):
        read_pickle(written(tmp_path, {"data": Call(FROMBUFFER, arguments)}))


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
ARRAY = RECONSTRUCT + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"


@pytest.mark.parametrize(
    "body",
    [
        ARRAY,  # never filled
        ARRAY + b"}b",  # with attributes
        RECONSTRUCT + b"K\x00K\x00\x85U\x01b\x87R",  # of another class
        ARRAY + b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89](K\x07etb",  # of a list
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R",  # a type by itself
        b"K\x01)R",  # a call of a number
        b"cnumpy\nndarray\n)\x81",  # NEWOBJ
        b"(cnumpy\nndarray\no",  # OBJ
        b"(inumpy\nndarray\n",  # INST
        b"\x82\x01",  # a registered extension
        b"Psomething\n",  # a persistent id
        b"K\x01Q",
        b"K\x01}b",  # state for a number
        b"]}K\x01K\x02sb",  # state for a list
        b"\x97",  # a buffer from outside
        b"0000",  # pops what is not there
        b"h\x05",  # a memo that is not there
        b"e",  # no mark
        b"K\x01K\x02",  # two values
        b"]K\x01s",
        b"}]K\x01s",
        b"}(K\x01u",
        b"I" + b"9" * 10_000 + b"\n",
        b"\x8b\xff\xff\xff\x7fabc",
        b"\x8e" + struct.pack("<Q", 2**62),
        b"\x8d" + struct.pack("<Q", 2**64 - 1),
        b"cos\nsystem\nU\x04true\x85R",
        b"\x8c\x02os\x8c\x06system\x93",
        b"]\x93",
        b"\xfe",
    ],
)
def test_other_operations_are_refused(tmp_path, body):
    with pytest.raises(ValueError, match=r"\w"):
        read_pickle(written(tmp_path, b"\x80\x02}U\x04data" + body + b"s."))


def test_a_far_memo_takes_no_memory(tmp_path):
    assert read_pickle(written(tmp_path, b"\x80\x02K\x01r\xff\xff\xff\x7f.")) == 1


def test_tuples_of_tuples_are_never_walked(tmp_path):
    doubling = b")" + b"q\x00h\x00\x86" * 200  # 2^200 empty tuples to whom it walks
    with pytest.raises(ValueError, match="tuple stands in the place"):
        read_pickle(written(tmp_path, b"\x80\x02}" + doubling + b"K\x01s."))
    deep = b")" + b"\x85" * 300_000
    with pytest.raises(ValueError, match="tuple stands in the place"):
        read_pickle(written(tmp_path, b"\x80\x02}" + deep + b"K\x01s."))
    assert isinstance(read_pickle(written(tmp_path, b"\x80\x02" + deep + b".")), tuple)


def test_too_many_steps_are_refused(tmp_path, monkeypatch):
    assert MOST > 1_000_000
    monkeypatch.setattr("medssl_monai.prepare.layouts.plain_pickle.MOST", 100)
    with pytest.raises(ValueError, match="more than 100 steps"):
        read_pickle(written(tmp_path, list(range(200))))
    monkeypatch.setattr("medssl_monai.prepare.layouts.plain_pickle.LARGEST", 100)
    with pytest.raises(ValueError, match="bytes, and 100 are the most"):
        read_pickle(written(tmp_path, list(range(200))))
