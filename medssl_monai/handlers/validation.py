"""Metrics of a validation pass."""

from __future__ import annotations

from collections.abc import Mapping

from ignite.engine import Engine, Events

from medssl_monai.kinds import Kind, Scores


class ValidationScores:
    """Score the predictions of an evaluator part by part, and compute its metrics at the end of the pass.

    Defined metrics go to ``engine.state.metrics``; undefined ones are left out there, logged with the reason, and
    listed in ``engine.state.undefined``. Which there are says the kind of labels (`medssl_monai.kinds.Scores.quick`).
    What takes long, such as distances of masks, is left to the report at the end of a round.

    ``joint``, by which the best weights of a network for several parts can be chosen, is the mean of the metric that
    selects weights for each part (`medssl_monai.kinds.Scores.best`), and undefined where one of them is.

    Args:
        kinds: what was learned, by part (`medssl_monai.methods.SSLMethod.kinds`). Predictions and labels of the
            evaluator are dicts by part, see `medssl_monai.engines.as_labeled` and `medssl_monai.engines.JoinLabels`.
    """

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds = dict(kinds)
        self.scores: dict[str, Scores] = {}
        self._before: set[str] = set()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget the last pass."""
        self.scores = {key: kind.scores(distances=False) for key, kind in self.kinds.items()}

    def add(self, engine: Engine) -> None:
        """Take in one batch: logits ``pred`` and targets ``label`` by part."""
        logits, targets = engine.state.output["pred"], engine.state.output["label"]
        for key, kind in self.kinds.items():
            self.scores[key].add(kind.outcomes(logits[key].detach()), targets[key])

    def finish(self, engine: Engine) -> None:
        """Compute and log."""
        for name in self._before:  # what is undefined now must not keep the value of the last pass
            engine.state.metrics.pop(name, None)
        metrics: dict[str, float] = {}
        engine.state.undefined = {}
        for key, scores in self.scores.items():
            defined, undefined, count = scores.quick()
            metrics |= defined
            engine.state.undefined |= undefined
            self._log(engine, key, scores, defined, undefined, count)
        selecting = [scores.best for scores in self.scores.values()]
        if metrics.keys() >= set(selecting):
            metrics["joint"] = sum(metrics[name] for name in selecting) / len(selecting)
        engine.state.metrics.update(metrics)
        self._before = set(metrics)

    def _log(
        self,
        engine: Engine,
        key: str,
        scores: Scores,
        defined: Mapping[str, float],
        undefined: Mapping[str, str],
        count: int,
    ) -> None:
        values = ", ".join(f"{name} {value:.3f}" for name, value in defined.items())
        engine.logger.info(f"Validation of {count} {scores.counted}: {values}")
        shown, lines = scores.brief(undefined)
        for line in lines:
            engine.logger.warning(line)
        for name, reason in shown.items():
            engine.logger.warning(f"{name} is undefined: {reason}.")
