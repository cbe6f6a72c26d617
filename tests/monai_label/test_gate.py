"""From where the app may be reached, and what a request may say."""

from __future__ import annotations

import sys
from enum import StrEnum

import pytest

from medssl_monai.monai_label.gate import FIELDS, check_host, checked, known_device, served_at

PROGRAM = "/usr/lib/python3/site-packages/monailabel/main.py"


class Kind(StrEnum):
    ALL = "all"
    TAG = "original"


class TestRequests:
    def test_known_values_pass_as_what_they_are(self):
        request = {"model": "m", "max_epochs": "7", "pretrained": False, "gpus": "0,1", "client_id": None}
        assert checked("train", request) == {"model": "m", "max_epochs": 7, "pretrained": False, "gpus": "0,1"}

    def test_what_monai_label_asks_for_by_default(self):
        batch = {
            **{"model": "m", "images": Kind.ALL, "device": "cuda", "multi_gpu": True, "gpus": "all"},
            **{"logging": "WARNING", "save_label": True, "label_tag": Kind.TAG, "max_workers": 1, "max_batch_size": 0},
        }
        result = checked("batch_infer", batch)
        assert result == {**batch, "images": "all", "label_tag": "original"}
        assert type(result["images"]) is type(result["label_tag"]) is str

    def test_what_viewers_send(self):
        ohif = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
        assert checked("infer", {**ohif, "restore_label_idx": False, "client_id": "x"}).items() >= ohif.items()

    @pytest.mark.parametrize("kind", FIELDS)
    @pytest.mark.parametrize(
        "name", ["bundle_path", "skip_writer", "slice", "label", "model_filename", "result_dtype\n", "$x", "session"]
    )
    def test_unknown_names(self, kind, name):
        with pytest.raises(ValueError, match=f"is nothing that {kind} takes; it takes .*client_id"):
            checked(kind, {name: 1})

    @pytest.mark.parametrize(
        ("kind", "name", "value"),
        [
            *(("train", "max_epochs", value) for value in (0, -1, 2.0, True, "many", "$2", "²", [1], 10**9)),
            *(("train", "pretrained", value) for value in ("false", 0, "$x")),
            *(("train", "gpus", value) for value in ("", "0;ls", 0, "all\n")),
            *(("infer", "result_extension", value) for value in ("/../../x.nii.gz", ".py", 3)),
            *(("infer", "label_tag", value) for value in ("final", "../original", "")),
            *(("infer", "logging", value) for value in ("CRITICAL", 10)),
            *(("infer", "model", value) for value in ({"_target_": "os.system"}, ["m"], "m\n", "x" * 300)),
            *(("batch_infer", "images", value) for value in ("some", [1], {"a": 1})),
            ("batch_infer", "max_workers", -1),
            ("scoring", "force", "yes"),
            ("activelearning", "strategy", ["entropy"]),
        ],
    )
    def test_values_of_another_type(self, kind, name, value):
        with pytest.raises(ValueError, match=f"`{name}` must be "):
            checked(kind, {name: value})

    @pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:15", "mps"])
    def test_devices(self, device):
        assert known_device(device) == device

    @pytest.mark.parametrize("device", ["$print(1)", "@device", "%x", "cuda:$x", "cpu\n", "", None, ["cpu"], "CPU"])
    def test_what_is_no_device(self, device):
        with pytest.raises(ValueError, match="`device` must be"):
            known_device(device)


class TestHosts:
    @pytest.mark.parametrize(
        ("words", "host"),
        [
            ([], "0.0.0.0"),  # MONAI Label's own
            (["--host", "127.0.0.1"], "127.0.0.1"),
            (["--host=::1"], "::1"),
            (["--ho", "localhost"], "localhost"),
            (["-i10.0.0.1"], "10.0.0.1"),
            (["--host", "127.0.0.1", "-i", "0.0.0.0"], "0.0.0.0"),
            (["--conf", "host", "127.0.0.1"], "0.0.0.0"),
            (["--studies", "--host=127.0.0.1"], None),
            (["--conf", "one"], None),
        ],
    )
    @pytest.mark.usefixtures("label")
    def test_by_the_command_line_of_monai_label(self, words, host):
        assert served_at([PROGRAM, "start_server", "--app", "a", *words]) == host

    @pytest.mark.usefixtures("label")
    @pytest.mark.parametrize(
        "argv",
        [
            [],
            ["uvicorn", "monailabel.app:app", "--host", "127.0.0.1"],
            [PROGRAM, "apps"],
            ["/home/me/main.py", "start_server", "--host", "127.0.0.1"],
        ],
    )
    def test_started_in_another_way(self, argv):
        assert served_at(argv) is None

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
    def test_this_machine(self, host):
        check_host(host)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.2", "example.org", "127.0.0.1.example.org", "0"])
    def test_beyond(self, host):
        with pytest.raises(ValueError, match=r"listens at .*`--host 127\.0\.0\.1`.*`--conf public true`"):
            check_host(host)

    def test_unknown(self):
        with pytest.raises(ValueError, match="may listen anywhere, for all that this app can learn"):
            check_host(None)

    def test_the_server_ends_before_it_answers(self, serve, studies, monkeypatch):
        folder, _ = studies("boostmis", 1)
        start = serve(["boostmis"], folder).start
        for argv in (["pytest"], [PROGRAM, "start_server"]):
            monkeypatch.setattr(sys, "argv", argv)
            with pytest.raises(ValueError, match="without a password"):
                start().server_mode(True)
        start()  # the process of a training listens to nobody

    def test_it_is_told_that_this_is_meant(self, serve, studies, monkeypatch):
        folder, _ = studies("boostmis", 1)
        start = serve(["boostmis"], folder, public="true").start
        monkeypatch.setattr(sys, "argv", [PROGRAM, "start_server"])
        start().server_mode(True)
        with pytest.raises(ValueError, match="`public` is true or false, got 'yes'"):
            serve([], folder, public="yes")
