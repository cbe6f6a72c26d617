"""The learning curve as text."""

from support_report import make_report, without_auroc

from medssl_monai.report import format_table


def test_the_table_of_the_console_names_the_findings_that_a_mean_leaves_out(findings):
    rounds = [{"round": n, "epoch": n, "labels": 24, "evaluation": findings} for n in (0, 1)]
    lines = format_table(rounds).splitlines()
    assert lines[3:] == [
        "macro-F1 leaves out edema (no label is known)",
        "AUROC leaves out hernia (no positive sample); edema (no label is known)",
    ]


def test_the_table_of_the_console():
    rounds = make_report()["rounds"] + [{"round": 2, "epoch": 18, "labels": 72, "evaluation": without_auroc()}]
    assert format_table(rounds).splitlines() == [
        "round  labels  accuracy              macro-F1              AUROC",
        "0      24      0.500                 0.500                 0.500",
        "1      48      0.812 [0.770, 0.851]  0.812 [0.770, 0.851]  0.812 [0.770, 0.851]",
        "2      72      0.500                 0.500                 undefined",
        "AUROC undefined: only benign occurs",
    ]
    assert format_table([]) == "round  labels  accuracy  macro-F1  AUROC"
