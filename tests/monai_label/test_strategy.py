"""The next image to label."""

from __future__ import annotations

import math
import time


def keep(server, model, held_out=(), **strategies):
    """As if scored: the images that each strategy chose, in the order of their rank."""
    for name in server.store.list_images():
        queries = {
            strategy: {"rank": list(names).index(name) + 1, "reason": "because"}
            for strategy, names in strategies.items()
            if name in names
        }
        info = {"validation": name in held_out, "scored": {model: "x"}, "queries": {model: queries}}
        server.app.writes.update({name: {"medssl": info}})


def given_out(server, name, seconds):
    """As if someone had got the image then."""
    server.store.update_image_info(name, {"strategy": {"random": {"ts": int(time.time()) - seconds}}})


class TestNextImage:
    def test_three_different_ones_in_the_order_of_their_rank(self, serve, studies):
        folder, items = studies("boostmis")
        server = serve(["boostmis"], folder, validation=0)
        keep(server, "boostmis", entropy=list(items)[::-1][:4])
        asked = [server.next("entropy") for _ in range(3)]
        assert [answer["id"] for answer in asked] == list(items)[::-1][:3]
        assert [answer["rank"] for answer in asked] == [1, 2, 3]
        assert {answer["reason"] for answer in asked} == {"because"}
        assert asked[0]["path"] == str(folder / f"{asked[0]['id']}.png")

    def test_no_strategy_gives_out_what_another_did(self, serve, studies):
        folder, items = studies("boostmis")
        server = serve(["boostmis"], folder, validation=0)
        keep(server, "boostmis", entropy=items, boostmis=items)
        given = [server.next(strategy)["id"] for strategy in ("entropy", "boostmis", "random") for _ in range(2)]
        assert len(set(given)) == 6

    def test_images_to_measure_on_are_drawn_at_their_share(self, serve, studies):
        folder, items = studies("boostmis", 20)
        server = serve(["boostmis"], folder, validation=0.4)
        names = list(items)
        keep(server, "boostmis", held_out=names[:8], entropy=names[8:])
        drawn = [server.next("entropy") for _ in range(10)]
        measured = [answer["id"] in names[:8] for answer in drawn]
        assert [sum(measured[: n + 1]) for n in range(10)] == [math.floor(0.4 * (n + 1)) for n in range(10)]
        assert [answer["reason"].startswith("validation: ") for answer in drawn] == measured
        assert [answer["rank"] for answer in drawn if "rank" in answer] == list(range(1, 7))

    def test_what_is_given_at_random_says_why(self, serve, studies):
        folder, items = studies("boostmis")
        server = serve(["boostmis"], folder, validation=0)
        assert server.next("random")["reason"] == "random"
        assert "scoring has not ended" in server.next("entropy")["reason"]
        names = [name for name in items if "strategy" not in server.store.get_image_info(name)]
        keep(server, "boostmis", entropy=names[:1])
        assert server.next("entropy")["rank"] == 1
        assert "its choice is given out" in server.next("entropy")["reason"]
        server.app.served["boostmis"].weights.unlink()
        server.save(names[0], {"label": "left"})
        assert "not trained yet" in server.next("entropy")["reason"]

    def test_nothing_is_left(self, serve, studies):
        folder, items = studies("boostmis", 3)
        server = serve(["boostmis"], folder)
        for name in items:
            server.save(name, {"label": "left"})
        assert server.next("random") == server.next("entropy") == {}

    def test_what_was_given_out_and_not_labeled_comes_back(self, serve, studies):
        folder, items = studies("boostmis", 3)
        server = serve(["boostmis"], folder, validation=0)
        first, second, third = items
        for name, seconds in ((first, 300), (second, 200), (third, 100)):
            given_out(server, name, seconds)
        server.save(first, {"label": "left"})
        answer = server.next("random")
        assert answer["id"] == second and "given out before" in answer["reason"]
        assert server.next("random")["id"] == third

    def test_on_the_next_day_it_is_given_out_by_its_rank(self, serve, studies):
        folder, items = studies("boostmis", 3)
        server = serve(["boostmis"], folder, validation=0)
        keep(server, "boostmis", entropy=list(items)[::-1])
        for name in items:
            given_out(server, name, 25 * 60 * 60)
        assert [server.next("entropy")["id"] for _ in items] == list(items)[::-1]

    def test_of_classes_and_masks_it_asks_for_the_one_that_lacks(self, serve, studies):
        folder, items = studies("multimix", 2)
        server = serve(["multimix"], folder, validation=0)
        first, second = items
        keep(server, "multimix", joint=[first, second], entropy=[first, second])
        info = server.store.get_image_info(first)["medssl"]
        info["queries"]["multimix"]["joint"]["ask"] = "mask"
        server.app.writes.update({first: {"medssl": info}})
        given_out(server, first, 300)
        assert server.next("joint")["id"] == second
        server.save(first, {"label": "left"})
        answer = server.next("joint")
        assert answer["id"] == first and answer["ask"] == "mask"  # though it was given out today
        server.save(second, {"label": "left"})
        assert "random" in server.next("entropy")["reason"]  # it asks for classes, and they are there

    def test_an_image_with_one_of_two_labels_waits_in_an_app_for_both(self, serve, studies):
        folder, items = studies("multimix", 2)
        server = serve(["boostmis", "ssal"], folder, validation=0)
        first, second = items
        for name in items:
            server.save(name, {"label": "left"})
        server.save(first, items[first]["mask"])
        assert server.next("random")["id"] == second
        assert server.next("boostmis_entropy") == {}
        assert server.next("ssal_entropy")["id"] == second
