"""The process of one study: ``python -m server.daemon.study_process --home H --study NAME``.

It conducts the study over the SuperLink as a simulation would over its own grid, and writes
what happens to the store. Starting and going on are the same, whoever ended it before.

======  ======================================================================
exit    meaning
======  ======================================================================
0       the study is completed, or an operator stopped it
2       a person must mend something: the study stands as failed, and says why
75      the SuperLink was lost, or the store: start again (EX_TEMPFAIL)
1       a defect: the log says where
======  ======================================================================
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from common.documents import read_json
from common.errors import (
    EXIT_CODE,
    ConsiliumError,
    CoordinatorError,
    LinkError,
    ModelError,
    PrivacyError,
    StudyError,
)
from common.files import write_atomic
from common.process.logs import configure, form_for, place
from common.process.parent import die_with_parent
from common.study.study_file import Study, load_study
from server.app import FOLDER, RunConfig, run_study
from server.daemon.authority import signing_key
from server.daemon.recording import Recorder, StudyStopped
from server.daemon.settings import Home, load_home
from server.daemon.superlink_supervisor import superlink_of
from server.store import CoordinatorStore, StoreAway, open_store
from server.store.rows import StudyRecord, StudyState
from server.study.dispatch import Repeat, RetryPolicy
from server.study.receipts import CoordinatorReceipts, SeenHeads
from server.superlink.notifications import NotificationLine

AGAIN: Final = 75
POLL_SECONDS: Final = 2.0
"""How often to look who is connected while nothing is heard."""
OUTCOME: Final = "outcome.json"
STUDY_FILE: Final = "study.toml"
ANEW: Final = "mend the study file and start it under another name"
_OF_THE_FILE: Final = (StudyError, ModelError, PrivacyError)
log = structlog.get_logger(__name__)


def carry_out(home: Home, store: CoordinatorStore, name: str, port: int) -> None:
    """Conduct a study to its end, from wherever it stands.

    Raises:
        LinkError: the SuperLink was lost.
        StudyStopped: an operator stopped the study.
        ConsiliumError: a person must mend something.
    """
    record = store.study(name)
    recorder = Recorder(store, name)
    with ExitStack() as stack:
        line = NotificationLine(home.notices_socket)
        stack.callback(line.close)
        superlink = superlink_of(home, port)
        grid = superlink.open_grid(superlink.start_run(name), line)
        stack.callback(grid.close)
        run_study(
            grid,
            _commission(home, store, record),
            recorder,
            retries=RetryPolicy(wait=grid.wait, repeat=Repeat(), poll_seconds=POLL_SECONDS),
            receipts=CoordinatorReceipts(signing_key(home), partial(_receipted, store)),
        )
        recorder.flush()
        _complete(store, recorder, name, home.studies / name / FOLDER / OUTCOME)
        grid.finish()


def _commission(home: Home, store: CoordinatorStore, record: StudyRecord) -> RunConfig:
    folder = home.studies / record.name
    study, sites = _study_file(folder, record), {site.name: site for site in store.sites()}
    agreed = {name: sites[name].agreed.get(study.data.dataset) for name in record.sites}
    return RunConfig(
        study=study,
        folder=folder / FOLDER,
        roster={name: sites[name].signing_key for name in record.sites},
        agreed={name: patients for name, patients in agreed.items() if patients is not None},
        seed=record.seed,
        resume=True,
    )


def _study_file(folder: Path, record: StudyRecord) -> Study:
    """The study as it was received: the store is the truth, the file is for people."""
    path = folder / STUDY_FILE
    document = record.document.encode()
    if not path.exists() or path.read_bytes() != document:
        write_atomic(path, document)
    return load_study(path)


def _receipted(store: CoordinatorStore, site: str) -> SeenHeads | None:
    newest = store.newest_receipt(site)
    return None if newest is None else SeenHeads(newest.ledger, newest.seal)


def _complete(store: CoordinatorStore, recorder: Recorder, name: str, path: Path) -> None:
    outcome: dict[str, Any] = read_json(path.read_bytes())
    digest = outcome["final_weights_sha256"]
    fields = {"final_weights_sha256": digest, "rounds": outcome["rounds"]}
    recorder.note("study.completed", fields | {"warnings": outcome["warnings"]})
    store.set_state(name, StudyState.COMPLETED)  # last: then whoever watches has heard it all


def fail(store: CoordinatorStore, name: str, error: ConsiliumError) -> None:
    """Say that a study waits for a person to mend something, and what."""
    found = {"what": error.what, **error.details}
    if isinstance(error, _OF_THE_FILE):  # a study is what its file said: it cannot be gone on with
        found["do"] = "; then ".join(each for each in (found.get("do"), ANEW) if each)
    Recorder(store, name).note("study.failed", found)
    store.set_state(name, StudyState.FAILED, json.dumps(found))


def run(home: Home, name: str, port: int) -> int:
    """Conduct a study; gives what to exit with."""
    try:
        with open_store(home.store_url) as store:
            return _run(home, store, name, port)
    except (LinkError, StoreAway) as error:  # the coordinator's own parts: they come back
        log.warning("conducting.lost", error=error.what)
        return AGAIN
    except CoordinatorError as error:  # a store that cannot even be told
        log.error("conducting.failed", error=type(error).__name__, what=error.what)
        return EXIT_CODE
    except Exception as error:  # noqa: BLE001 - the last stop: its text may hold anything
        log.error("conducting.defect", error=type(error).__name__, at=place(error))
        return 1


def _run(home: Home, store: CoordinatorStore, name: str, port: int) -> int:
    try:
        carry_out(home, store, name, port)
    except StudyStopped:
        return 0
    except (LinkError, StoreAway):
        raise
    except ConsiliumError as error:
        log.error("conducting.failed", error=type(error).__name__, what=error.what)
        fail(store, name, error)
        return EXIT_CODE
    return 0


def main() -> int:
    """Read the arguments and conduct."""
    parser = argparse.ArgumentParser(description="The process of one study")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--study", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    configure(form_for(sys.stderr.isatty()), "info", study=arguments.study)
    try:
        home = load_home(arguments.home)
    except CoordinatorError as error:
        log.error("conducting.failed", error=type(error).__name__, what=error.what)
        return EXIT_CODE
    return run(home, arguments.study, arguments.port)


if __name__ == "__main__":
    sys.exit(main())
