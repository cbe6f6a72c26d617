"""The loop round by round: each round a run of its own, the pool handed over."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from monai.bundle import ConfigParser

from medssl_monai.bundle import workflow
from medssl_monai.data.datalist import Item
from medssl_monai.data.pool import NOTHING, LabelPool, annotate_from_table, read_annotations
from medssl_monai.handlers.query import Oracle
from medssl_monai.handlers.rounds import write_report
from medssl_monai.query.record import read_query

logger = logging.getLogger(__name__)


def run_loop(
    bundle: str | Path,
    output_dir: str | Path,
    rounds: int = 3,
    annotator: Literal["oracle", "person"] = "oracle",
    weights: Literal["fresh", "continued"] = "fresh",
    overrides: Mapping[str, Any] | None = None,
) -> bool:
    """Train, ask, annotate; again and again, each round in ``round_00``, ``round_01``, ... of its own.

    The same call again continues where it stood: a finished round is not repeated, a broken one goes on from its last
    checkpoint. Between rounds the datalist may become longer; samples are matched by id.

    Args:
        bundle: folder of a bundle.
        output_dir: folder of the loop.
        rounds: runs in all.
        annotator: ``oracle`` answers from the labels that the datalist hides; ``person``: the loop stops after each
            query until the column ``label`` of its table is filled in.
        weights: every round starts from ``fresh`` weights, or from the model of the round before.
        overrides: values of the bundle's configuration.

    Returns:
        Whether all rounds are done; False: a query waits for a person.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be at least 1, got {rounds}.")
    if annotator not in ("oracle", "person") or weights not in ("fresh", "continued"):
        raise ValueError(f"`annotator` is oracle or person, `weights` fresh or continued; got {annotator}, {weights}.")
    bundle, output_dir = Path(bundle), Path(output_dir)
    config = ConfigParser.load_config_file(bundle / "configs" / "train.yaml")
    records: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    for number in range(rounds):
        folder, before = (output_dir / f"round_{n:02d}" for n in (number, number - 1))
        values: dict[str, Any] = {
            **(overrides or {}),
            "output_dir": str(folder),
            "ckpt_dir": str(folder / "models"),
            "rounds": 1,
        }
        if annotator == "person":  # nobody else answers a cold start
            values["query::annotator"] = "@annotators::nobody"
        if number:
            values["labels"] = str(folder / "labels.json")
            if weights == "continued":
                values["pretrained"] = str(before / "models" / "model.pt")
                if "init" in config:
                    values["init"] = "continue"
        run = workflow([bundle / "configs" / "train.yaml"], bundle_root=str(bundle), **values)
        run.initialize()
        if not run.parser.get_parsed_content("query::budget"):
            raise ValueError("`query::budget` is 0, and a loop has to ask for something; set it to 1 or more.")
        if number and not (folder / "labels.json").exists():
            data, classes = (run.parser.get_parsed_content(name) for name in ("train::dataset::data", "classes"))
            pool = LabelPool(data, labels=before / "pool.json", classes=classes)
            if not hand_over(before, folder, pool, data, annotator):
                return False
        if not (folder / "report.html").exists():  # the last file that a round writes
            run.run()
            run.finalize()
        records.append({**read_query(folder / "rounds" / "round_00.json"), "round": number})
        queries.append({**read_query(folder / "queries" / "round_00.json"), "round": number})
    pool, dataset, title = (run.parser.get_parsed_content(name) for name in ("pool", "train::dataset", "title"))
    notes = [f"{rounds} runs, {weights} weights in each round."]
    write_report(output_dir, records, queries, pool, dataset, title=title, notes=notes)
    return True


def hand_over(
    before: Path, after: Path, pool: LabelPool, datalist: Sequence[Item], annotator: Literal["oracle", "person"]
) -> bool:
    """Write the labels that the next round starts with.

    Args:
        before: folder of the round that asked.
        after: folder of the round that begins; ``labels.json`` is written to it.
        pool: labels of the round that asked; changed.
        datalist: what the oracle knows.
        annotator: see `run_loop`.

    Returns:
        False if a person has not filled in anything yet.
    """
    record, table = read_query(before / "queries" / "round_00.json"), before / "queries" / "round_00.csv"
    if annotator == "oracle":
        known = Oracle(datalist)(item["id"] for item in record["items"])
        pool.annotate([pool.position[name] for name in known], list(known.values()))
    else:
        accepted, refused = annotate_from_table(pool, read_annotations(table, pool.classes, pool.task))
        for reason in refused:
            logger.warning(f"{table}: {reason}; this row is left out.")
        if not accepted and record["items"]:
            how = ""
            if pool.task == "multilabel":
                how = f" with what is there, separated by semicolons, with '?' before what is unknown, or {NOTHING!r}"
            logger.info(f"Fill in the column 'label' of {table}{how}, then start the same command again.")
            return False
        logger.info(f"{len(accepted)} of {len(record['items'])} queried images have a label now.")
    pool.query_size = tuple(record["query_size"])
    pool.save(after / "labels.json")
    return True
