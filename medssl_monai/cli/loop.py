"""``medssl loop``: train, ask, annotate, round by round."""

from __future__ import annotations

import argparse
from pathlib import Path

from medssl_monai.cli.command import Command


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("folder", type=Path, help="folder of the loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--annotator", choices=["oracle", "person"], default="oracle")
    parser.add_argument("--weights", choices=["fresh", "continued"], default="fresh")


def run(arguments: argparse.Namespace) -> int:
    """Run the rounds; print the report, or which table waits for labels."""
    import logging

    from medssl_monai.bundle.loop import run_loop

    logging.basicConfig(level=logging.INFO)
    done = run_loop(
        arguments.bundle,
        arguments.folder,
        arguments.rounds,
        arguments.annotator,
        arguments.weights,
        arguments.overrides,
    )
    if done:
        print(arguments.folder / "report.html")
        return 0
    from medssl_monai.asking.record import read_query
    from medssl_monai.data import load_datalist

    query = max(arguments.folder.glob("round_*/queries/*.json"))
    print(f"a query waits for labels in {query.with_suffix('.csv')}")
    if arguments.overrides.get("datalist"):  # which file an id is stands here, in the terminal, and in no result
        settings = {name: arguments.overrides.get(name) for name in ("dataset_dir", "allow_leaks")}
        data = {item["id"]: item for item in load_datalist(arguments.overrides["datalist"], **settings)}
        for item in (data[asked["id"]] for asked in read_query(query)["items"]):
            print(f"  {item['id']} is {item['image']}" + (f", slice {item['slice']}" if "slice" in item else ""))
    return 0


COMMAND = Command(
    "loop",
    "train, ask, annotate, round by round",
    declare,
    run,
    overrides="Further flags override the bundle's configuration: --datalist FILE --labels 20 --seed 1 ...",
)
