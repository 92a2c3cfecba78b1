"""Looking for good settings: each next one is drawn where the earlier ones did best.

The sampler is seeded and is told every result in the same order, so a search that was interrupted
asks for the same settings again, finds their runs done, and goes on. Optuna is not installed with
the rest: ``pip install consilium[tune]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from common.errors import StudyError
from simulations.sweeps.sweep_file import Between, Overrides, SweepFile

if TYPE_CHECKING:
    from optuna import Trial


class Search:
    """A search over the settings of a sweep.

    Args:
        sweep: the file.

    Raises:
        StudyError: Optuna is not installed.
    """

    def __init__(self, sweep: SweepFile) -> None:
        try:
            import optuna
        except ImportError as error:
            raise StudyError(
                "Optuna is not installed",
                where='[sweep] method = "optuna"',
                found=str(error),
                remedy="install it: pip install 'consilium[tune]', or use method = \"random\"",
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=sweep.sweep.draw_seed)
        self._sweep = sweep
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._asked: Trial | None = None

    def each(self) -> Iterator[Overrides]:
        """Settings one after the other; call :meth:`tell` before the next."""
        for _ in range(self._sweep.sweep.runs):
            trial = self._asked = self._study.ask()
            yield tuple((key, _value(trial, key, of)) for key, of in self._sweep.settings.items())

    def tell(self, reached: float | None) -> None:
        """What the runs of the last settings reached in the mean; None where they failed."""
        from optuna.trial import TrialState

        assert self._asked is not None
        if reached is None or reached != reached:  # noqa: PLR0124 - NaN: no figure
            self._study.tell(self._asked, state=TrialState.FAIL)
        else:
            self._study.tell(self._asked, reached)


def _value(trial: Trial, key: str, of: list[Any] | Between) -> Any:  # noqa: ANN401 - a setting
    if isinstance(of, list):
        # By place: a value may be a table.
        return of[trial.suggest_categorical(key, range(len(of)))]
    if of.whole:
        return trial.suggest_int(key, round(of.least), round(of.most), log=of.scale == "log")
    found = trial.suggest_float(key, of.least, of.most, log=of.scale == "log")
    return float(f"{found:.4g}")
