"""What a site's arithmetic depends on in a study, and how long its rounds are given.

Opening a site to administer it computes nothing, so torch is imported where it is used.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from client.sitefile import DataSet, Device
from common.numerics import EngineChoice, NumericsRecord, record
from common.study.study_file import Study

if TYPE_CHECKING:
    from client.training.ticks import Clocks
    from client.training.tuning import Choices


class SiteNumerics:
    """Measures kernels and ticks once for each shape of study, and keeps what it measured.

    Args:
        state: the state folder.
    """

    def __init__(self, state: Path) -> None:
        self._state = state

    def of(
        self,
        study: Study,
        device: Device,
        data: DataSet,
        *,
        timed: bool,
        choice: EngineChoice | None = None,
        earlier: NumericsRecord | None = None,
    ) -> NumericsRecord:
        """What this machine's arithmetic depends on in a study; torch has its threads from now on.

        Args:
            study: a proposed or an approved one.
            device: of the site file.
            data: the data set that the study asks for.
            timed: whether rounds wait for ticks; a simulation has none of its own.
            choice: of a plan that was approved, which is kept to; else one is made here.
            earlier: of a run that is repeated, whose threads, choice and ticks are kept to.

        Raises:
            ModelError: the model cannot be trained privately, or not in this memory.
        """
        from client.training.ticks import DataSetSize
        from common.process.denormals import set_threads

        threads = device.threads if earlier is None else earlier.threads
        set_threads(threads)
        if earlier is not None:
            return record(threads, earlier.choice, earlier.ticks)
        if choice is not None:
            return record(threads, choice)
        memory = device.memory_mib * 2**20
        computed = self._choices.of(study, threads=threads, memory=memory, kernels=device.kernels)
        if not timed:
            return computed
        crowd = DataSetSize(data.declared_patients, data.most_patients, data.most_validated)
        ticks = self._clocks.of(study, crowd, computed)
        return computed.model_copy(update={"ticks": ticks})

    @cached_property
    def _choices(self) -> Choices:
        from client.training.tuning import Choices

        return Choices(self._state / "kernels.json")

    @cached_property
    def _clocks(self) -> Clocks:
        from client.training.ticks import Clocks

        return Clocks(self._state / "ticks.json")
