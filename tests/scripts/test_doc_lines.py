from doc_lines import long_lines

LONG = "word " * 30


def test_what_cannot_be_wrapped_is_free(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        f"{LONG}\n| {LONG} |\n\n    {LONG}\n\n```console\n{LONG}\n```\n\n- {LONG}\n{'https://' + 'x' * 130}\n"
    )
    assert long_lines(page) == [1, 10]


def test_of_yaml_every_line_counts_that_has_a_place_to_break(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text(f"a: {'x' * 117}\nb: {'x' * 118}\n# {'x' * 130}\n    c: {LONG}\n")
    assert long_lines(file) == [2, 4]
