"""The loop round by round: each round a run of its own, the pool handed over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from monai.bundle import ConfigParser

from medssl_monai.asking.answers import Answering, hand_over
from medssl_monai.asking.ask import check_cold_start, write_one_query
from medssl_monai.asking.record import read_query
from medssl_monai.bundle.run import path_value, workflow
from medssl_monai.files import read_json
from medssl_monai.locks import holding
from medssl_monai.report.write import write_report

StartFrom = Literal["fresh", "continued"]


def run_loop(
    bundle: str | Path,
    output_dir: str | Path,
    rounds: int = 3,
    annotator: Answering = "oracle",
    weights: StartFrom = "fresh",
    overrides: Mapping[str, Any] | None = None,
) -> bool:
    """Train, ask, annotate, in ``round_00``, ``round_01``, ...; returns whether all rounds are done.

    If not, a query waits for a person. The same call again continues where it stood: a finished round is not repeated,
    a broken one goes on from its last checkpoint. Between rounds the datalist may become longer; samples are matched
    by id.

    Args:
        bundle: folder of a bundle.
        output_dir: folder of the loop.
        rounds: runs in all.
        annotator: ``oracle`` answers from the labels that the datalist hides; ``person``: the loop stops after each
            query, that of a cold start included, until the column ``label`` of its table is filled in, or ``mask``
            where it asks for masks beside labels.
        weights: every round starts from ``fresh`` weights, or from the model of the round before.
        overrides: values of the bundle's configuration.

    Raises:
        OSError: if another run is at work in the folder of the loop, or of one of its rounds.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1, got {rounds}.")
    if annotator not in ("oracle", "person") or weights not in ("fresh", "continued"):
        raise ValueError(f"`annotator` is oracle or person, `weights` fresh or continued; got {annotator}, {weights}.")
    bundle, output_dir = Path(path_value(bundle)), Path(path_value(output_dir))
    with holding(output_dir):
        return _run_rounds(bundle, output_dir, rounds, annotator, weights, overrides or {})


def _run_rounds(
    bundle: Path,
    output_dir: Path,
    rounds: int,
    annotator: Answering,
    weights: StartFrom,
    overrides: Mapping[str, Any],
) -> bool:
    config = ConfigParser.load_config_file(bundle / "configs" / "train.yaml")
    records: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    for number in range(rounds):
        folder, before = (output_dir / f"round_{n:02d}" for n in (number, number - 1))
        labels = folder / "labels.json"  # those that the round starts with, if there was a query before it
        values: dict[str, Any] = {
            **overrides,
            "output_dir": str(folder),
            "ckpt_dir": str(folder / "models"),
            "rounds": 1,
        }
        if annotator == "person":  # nobody else answers a cold start, not even where all masks that came are bad
            values["query::annotator"] = "@annotators::nobody"
        if number and weights == "continued":  # `pretrained` stays what it is: SSAL's clusters are made with it
            values["network::pretrained"] = str(before / "models" / "model.pt")
            if "part" in config["network"]:
                values["network::part"] = "continue"
        with holding(folder):  # handed to the training
            if number or labels.exists():
                values["labels"] = str(labels if labels.exists() else before / "pool.json")
            run = _start(bundle, values)
            if not run.parser.get_parsed_content("query::budget"):
                raise ValueError("`query::budget` is 0, and a loop has to ask for something; set it to 1 or more.")
            finished = (folder / "report.html").exists()  # the last file that a round writes
            query = None
            if number and not labels.exists():
                query = before / "queries" / "round_00.json"
            elif annotator == "person" and not (labels.exists() or finished):
                query = _cold_start(run, folder)
            if query is not None:
                if not hand_over(query, labels, run.parser.get_parsed_content("pool"), annotator):
                    return False
                run = _start(bundle, {**values, "labels": str(labels)})
            if not finished:
                run.run()
                run.finalize()
            records.append({**read_json(folder / "rounds" / "round_00.json"), "round": number})
            queries.append({**read_query(folder / "queries" / "round_00.json"), "round": number})
    pool, dataset, title = (run.parser.get_parsed_content(name) for name in ("pool", "train::dataset", "title"))
    notes = [f"{rounds} runs, {weights} weights in each round."]
    write_report(output_dir, records, queries, pool, dataset, title=title, notes=notes)
    return True


def _start(bundle: Path, values: Mapping[str, Any]) -> Any:
    run = workflow([bundle / "configs" / "train.yaml"], bundle_root=str(bundle), **values)
    run.initialize()
    return run


def _cold_start(run: Any, folder: Path) -> Path | None:
    """Return the query for the first labels, asked if it is not there; None if some are known, or none are wanted."""
    names = ("pool", "query::cold_start", "train::dataset", "method_def", "query::strategy", "seed", "device")
    pool, budget, dataset, method, strategy, seed, device = (run.parser.get_parsed_content(name) for name in names)
    if not budget or len(pool.first.indices("labeled")):
        return None
    path = folder / "queries" / "cold_start.json"
    if not path.exists():
        check_cold_start(pool, method)
        pool.quarantine(dataset.unreadable, method.kinds)
        write_one_query(path, method, dataset, pool, strategy, budget, seed, device)
    return path
