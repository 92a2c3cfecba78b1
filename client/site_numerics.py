"""What a site's arithmetic depends on in a study, and how long its rounds are given.

Opening a site to administer it computes nothing, so torch is imported where it is used.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from client.sitefile import DataSet, DeviceSettings
from common.devices.devices import DEVICES
from common.numerics import EngineChoice, NumericsRecord, record
from common.study.study_file import Study

if TYPE_CHECKING:
    from client.training.ticks import Clocks
    from client.training.tuning import Choices


class SiteNumerics:
    """Measures kernels and ticks once for each shape of study, and keeps what it measured.

    Args:
        state: the state folder.
        timed: whether rounds wait for ticks; a simulation has none of its own.
        recorded: of a run that is repeated, whose threads, choice and ticks are kept to.
    """

    def __init__(self, state: Path, *, timed: bool, recorded: NumericsRecord | None = None) -> None:
        self._state, self._timed, self._recorded = state, timed, recorded

    def of(
        self,
        study: Study,
        device: DeviceSettings,
        data: DataSet,
        choice: EngineChoice | None = None,
    ) -> NumericsRecord:
        """What this machine's arithmetic depends on in a study; torch has its threads from now on.

        Args:
            study: a proposed or an approved one.
            device: of the site file.
            data: the data set that the study asks for.
            choice: of a plan that was approved, which is kept to; else one is made here.

        Raises:
            ModelError: the model cannot be trained privately, or not in this memory.
            SiteError: the graphics card is not there, or too small.
        """
        from client.training.ticks import DataSetSize

        earlier = self._recorded
        threads = device.threads if earlier is None else earlier.threads
        name = device.name if earlier is None else earlier.choice.device
        DEVICES[name].require(device.memory)
        # Before anything is measured: kernels and last bits depend on the number of threads.
        DEVICES[name].set_threads(threads)
        # A plan's hash keys its noise, so a run that is repeated must state the same record.
        if earlier is not None:
            return record(threads, earlier.choice, earlier.ticks)
        if choice is not None:
            # What computes is the site file's, so that a plan of another device is refused.
            return record(threads, choice.model_copy(update={"device": name}))
        from client.training.features import in_rounds

        study = in_rounds(study)
        choices, clocks = self._measured
        blank = EngineChoice(device=name, precision=device.precision)
        computed = choices.of(
            study, threads=threads, memory=device.memory, kernels=device.kernels, blank=blank
        )
        if not self._timed:
            return computed
        size = DataSetSize(data.declared_patients, data.most_patients, data.most_validated)
        return computed.model_copy(update={"ticks": clocks.of(study, size, computed)})

    @cached_property
    def _measured(self) -> tuple[Choices, Clocks]:
        from client.training.ticks import Clocks
        from client.training.tuning import Choices

        return Choices(self._state / "kernels.json"), Clocks(self._state / "ticks.json")
