"""Scores of our query strategies in MONAI Label."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch

from medssl_monai.files import save_tensors


def chosen(server, model, strategy):
    """What a strategy chose, in the order of its rank."""
    found = {name: info["queries"][model].get(strategy) for name, info in server.kept().items()}
    return dict(sorted(((n, query) for n, query in found.items() if query), key=lambda pair: pair[1]["rank"]))


def due(server, model="boostmis"):
    server.app.writes.read()
    return server.app._scoring_methods[model].due(server.store)


def held_out(server):
    return {name for name, info in server.kept().items() if info.get("validation")}


class TestQueryScores:
    def test_every_strategy_chooses_a_batch(self, serve, studies):
        folder, items = studies("boostmis", 20)
        server = serve(["boostmis"], folder, batch=5)
        label = next(iter(items))
        server.save(label, {"label": "left"})
        assert server.score("boostmis")["entropy"] == 5
        for strategy in ("boostmis", "entropy"):
            queries = chosen(server, "boostmis", strategy)
            assert [query["rank"] for query in queries.values()] == list(range(1, len(queries) + 1))
            assert 5 <= len(queries) <= 10  # BoostMIS's is of two parts
            assert all(query["reason"] and query["scores"] for query in queries.values())
            assert {query["predicted"] for query in queries.values()} <= {"left", "right"}
            assert {query["weights"] for query in queries.values()} == {server.app.served["boostmis"].version}
            assert not queries.keys() & ({label} | held_out(server))
        assert 0 < len(held_out(server)) < 10

    def test_a_batch_is_what_the_strategy_would_ask_a_run_for(self, serve, studies):
        folder, _ = studies("boostmis", 20)
        server = serve(["boostmis"], folder, batch=5, validation=0)
        server.score("boostmis")
        queries = chosen(server, "boostmis", "entropy")
        uncertain = {}
        for name in server.store.list_images():
            probs = torch.tensor([one["score"] for one in server.infer("boostmis", name)["params"]["prediction"]])
            uncertain[name] = float(-(probs * probs.log()).sum())
        assert list(queries) == sorted(uncertain, key=uncertain.get, reverse=True)[:5]

    def test_a_second_run_has_nothing_to_do(self, serve, studies, caplog):
        folder, _ = studies("boostmis")
        server = serve(["boostmis"], folder, batch=3)
        assert due(server)
        server.score("boostmis")
        before = server.kept()
        assert not due(server)
        caplog.set_level(logging.INFO)
        assert server.score("boostmis") == {} and "up to date" in caplog.text
        assert server.score("boostmis", force=True)["entropy"] == 3
        assert server.kept() == before

    def test_new_weights_make_it_due(self, serve, studies):
        folder, _ = studies("boostmis")
        server = serve(["boostmis"], folder, batch=3)
        server.score("boostmis")
        weights = server.app.served["boostmis"].weights
        state = torch.load(weights, weights_only=True)
        save_tensors(weights, type(state)((name, value * 1.5) for name, value in state.items()))
        assert due(server)
        server.score("boostmis")
        version = server.app.served["boostmis"].version
        assert {info["scored"]["boostmis"] for info in server.kept().values()} == {version}
        assert not due(server)

    def test_a_new_image_makes_it_due(self, serve, studies):
        folder, _ = studies("boostmis")
        server = serve(["boostmis"], folder, batch=3)
        server.score("boostmis")
        shutil.copy(folder / "training_0.png", folder / "new.png")
        assert not due(server)
        server.store.refresh()
        assert due(server)
        server.score("boostmis")
        assert "new" in server.kept() and not due(server)

    def test_a_batch_that_is_used_up_makes_it_due(self, serve, studies):
        folder, _ = studies("boostmis", 16)
        server = serve(["boostmis"], folder, batch=2, strategies="entropy")
        server.score("boostmis")
        first, second = chosen(server, "boostmis", "entropy")
        server.save(first, {"label": "left"})
        assert not due(server)
        server.save(second, {"label": "right"})
        assert due(server)
        server.score("boostmis")
        assert len(chosen(server, "boostmis", "entropy").keys() - {first, second}) == 2
        assert not due(server)

    def test_it_is_not_due_when_everything_is_labeled(self, serve, studies):
        folder, items = studies("boostmis", 4)
        server = serve(["boostmis"], folder, batch=2)
        for name in items:
            server.save(name, {"label": "left"})
        assert server.score("boostmis") == {}
        assert server.score("boostmis", force=True) == {} and not due(server)

    def test_two_bundles_keep_their_scores_apart(self, serve, studies):
        folder, _ = studies("boostmis")
        server = serve(["boostmis", "ssal"], folder, batch=3)
        server.score("boostmis")
        first = {strategy: chosen(server, "boostmis", strategy) for strategy in ("boostmis", "entropy")}
        server.score("ssal")
        assert {strategy: chosen(server, "boostmis", strategy) for strategy in first} == first
        assert len(chosen(server, "ssal", "entropy")) == len(chosen(server, "ssal", "clusters")) == 3
        assert not due(server, "boostmis") and not due(server, "ssal")

    def test_labels_that_were_saved_meanwhile_are_kept(self, serve, studies, label, monkeypatch):
        folder, _ = studies("boostmis")
        server = serve(["boostmis"], folder, batch=3)
        predict = label.scoring.Learner.predict

        def slowly(*arguments, **named):
            server.save("training_1", {"label": "left"})
            return predict(*arguments, **named)

        monkeypatch.setattr(label.scoring.Learner, "predict", slowly)
        server.score("boostmis")
        server.app.writes.read()
        assert server.store.get_label_uri("training_1", "final") and chosen(server, "boostmis", "entropy")

    @pytest.mark.parametrize(("model", "strategies"), [("boostmis", set()), ("ssal", {"clusters"})])
    def test_an_untrained_bundle_asks_by_embeddings_alone(self, serve, studies, untrained, model, strategies):
        folder, _ = studies(model)
        server = serve([untrained(model)], folder, batch=3)
        assert server.score(model) == dict.fromkeys(strategies, 3)
        assert not due(server, model)
        for strategy in strategies:
            assert [query["rank"] for query in chosen(server, model, strategy).values()] == [1, 2, 3]

    @pytest.mark.parametrize("error", [ValueError("no seeds"), RuntimeError("Failed to instantiate")])
    def test_a_strategy_that_fails_does_not_take_the_others_along(self, serve, studies, caplog, monkeypatch, error):
        def fail(*arguments):
            raise error

        monkeypatch.setattr("medssl_monai.query.boostmis.BoostMISQuery.__call__", fail)
        folder, _ = studies("boostmis")
        server = serve(["boostmis"], folder, batch=3)
        assert server.score("boostmis") == {"entropy": 3}
        assert "boostmis: boostmis cannot choose" in caplog.text and str(error) in caplog.text
        assert not due(server)
        assert "boostmis" in server.next("boostmis")["reason"]

    def test_an_image_that_cannot_be_read_is_not_asked_for(self, serve, studies):
        folder, _ = studies("boostmis")
        broken = folder / "training_3.png"
        broken.write_bytes(broken.read_bytes()[:60])
        server = serve(["boostmis"], folder, batch=20, validation=0)
        server.score("boostmis")
        assert len(chosen(server, "boostmis", "entropy")) == 7 and not due(server)

    def test_findings(self, serve, studies):
        folder, _ = studies("findings")
        server = serve(["findings"], folder, batch=2)
        assert server.score("findings")["entropy"] == 2
        for query in chosen(server, "findings", "entropy").values():
            assert query["findings"].keys() == {"effusion", "mass"}

    @pytest.mark.parametrize("name", ["volumes", "ssal"])
    def test_volumes_whole_and_by_their_slices(self, serve, studies, name):
        """An image has the best rank of its slices."""
        folder, _ = studies("volumes")
        server = serve([name], folder, batch=4, strategies="entropy", validation=0)
        count = server.score(name)["entropy"]
        queries = chosen(server, name, "entropy")
        ranks = [query["rank"] for query in queries.values()]
        assert len(ranks) == count and ranks[0] == 1 and ranks == sorted(set(ranks))
        assert count == 4 if name == "volumes" else 1 <= count <= 4

    def test_what_is_with_a_reader_is_not_chosen_again(self, serve, studies):
        folder, _ = studies("boostmis", 16)
        server = serve(["boostmis"], folder, batch=2, strategies="entropy", validation=0)
        server.score("boostmis")
        first = [server.next("entropy")["id"] for _ in range(2)]
        assert set(first) == chosen(server, "boostmis", "entropy").keys() and due(server, "boostmis")
        server.score("boostmis")
        second = chosen(server, "boostmis", "entropy").keys()
        assert len(second) == 2 and not second & set(first) and not due(server, "boostmis")
        assert server.next("entropy")["id"] in second


class TestJoint:
    def test_a_query_says_whether_it_asks_for_class_or_mask(self, serve, studies):
        folder, _ = studies("multimix", 16)
        server = serve(["multimix"], folder, batch=12, strategies="all")
        counts = server.score("multimix")
        assert counts.keys() >= {"joint", "entropy", "margin"}
        queries = chosen(server, "multimix", "joint")
        assert {query["ask"] for query in queries.values()} <= {"label", "mask"}

    def test_it_is_done_with_what_it_asked_for(self, serve, studies):
        """The image waits on for the other kind of label."""
        folder, _ = studies("multimix", 16)
        server = serve(["multimix"], folder, batch=1, strategies="entropy", validation=0)
        server.score("multimix")
        (first,) = chosen(server, "multimix", "entropy")
        assert not due(server, "multimix")
        server.save(first, {"label": "left"})
        assert due(server, "multimix")
        server.score("multimix")
        (second,) = chosen(server, "multimix", "entropy")
        assert second != first and server.next("entropy")["id"] == second
