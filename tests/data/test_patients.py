"""Who is one patient, whoever wrote it down."""

import pytest

from medssl_monai.data.patients import as_written, listed, looks_like_date, same_patient


@pytest.mark.parametrize(
    "spellings",
    [
        ("7", "7.0", "007", " 7 ", "07.0", "\uff17"),
        ("DOE^JANE", "Doe Jane", "doe^jane^^^", "Doe  Jane", "DOE\u00a0JANE"),
        ("P01", "p01", "P 01"),
        ("Mu\u0308ller", "M\u00fcller", "M\u00dcLLER"),
        ("0", "00", "0.0"),
    ],
)
def test_spellings_of_one_patient(spellings):
    assert len({same_patient(text) for text in spellings}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.10", "1.1"),
        ("1E5", "100000"),
        ("1.00", "1"),
        ("12345678901234567890", "12345678901234567891"),
        ("P7", "P07"),
        ("1.2.840.0", "1.2.840"),
        ("-7", "7"),
        ("7", "70"),
        ("0", ""),
    ],
)
def test_other_patients_stay_others(one, other):
    assert same_patient(one) != same_patient(other)


@pytest.mark.parametrize(("text", "kept"), [("7.0", "7"), (" 007 ", "007"), ("7.00", "7.00"), ("a\u0308", "\u00e4")])
def test_as_written_keeps_all_but_what_a_spreadsheet_adds(text, kept):
    assert as_written(text) == kept


@pytest.mark.parametrize(
    "text", ["2024-01-31", "31.01.2024", "1/2/24", "2024-01-31 00:00:00", "Mar-01", "1-Mar", "3. Okt. 2021", "Jan-2020"]
)
def test_dates_are_known(text):
    assert looks_like_date(text)


@pytest.mark.parametrize("text", ["1-2", "P2024-01", "20240131", "1.2", "Marie", "12-34-56-78", "1.2.840.10008"])
def test_what_is_no_date(text):
    assert not looks_like_date(text)


def test_patients_of_several_spellings_are_listed_with_their_images():
    lines = listed({"a": {"7": None, "007": None}, "b": {"8": None}}, {"a": 3, "b": 1})
    assert lines == ["'7' = '007' (3 images)"]
