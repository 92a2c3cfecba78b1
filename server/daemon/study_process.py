"""The process of one study: ``python -m server.daemon.study_process --home H --study NAME``.

It runs the study over the SuperLink, as a simulation runs one over its own grid, and writes what
happens to the store. Starting and resuming are the same code.

======  ======================================================================
exit    meaning
======  ======================================================================
0       the study is completed, or an operator stopped it
2       a person must fix something: the study is marked as failed, with the reason
75      the SuperLink or the store was lost: start again (EX_TEMPFAIL)
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
from typing import Final

import structlog

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
from common.study.study_file import Study, load_initial, load_study
from server.app import FOLDER, RunConfig, run_study
from server.daemon.authority import signing_key
from server.daemon.recording import Recorder, StudyStopped
from server.daemon.settings import Home, load_home
from server.daemon.superlink_supervisor import superlink_of
from server.packaging import write_package
from server.store import CoordinatorStore, StoreAway, StudyRecord, StudyState, open_store
from server.study.dispatch import Repeat, RetryPolicy
from server.study.receipts import CoordinatorReceipts, SeenHeads
from server.superlink.notifications import NotificationLine

AGAIN: Final = 75
POLL_SECONDS: Final = 2.0
"""How often to check which sites are connected while nothing arrives."""
OUTCOME: Final = "outcome.json"
STUDY_FILE: Final = "study.toml"
NEW_STUDY: Final = "correct the study file and start it under another name"
_OF_THE_FILE: Final = (StudyError, ModelError, PrivacyError)
log = structlog.get_logger(__name__)


def run_to_end(home: Home, store: CoordinatorStore, name: str, port: int) -> None:
    """Run a study to its end, from its last checkpoint.

    Raises:
        LinkError: the SuperLink was lost.
        StudyStopped: an operator stopped the study.
        ConsiliumError: a person must fix something.
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
            _run_config(home, store, record),
            recorder,
            retries=RetryPolicy(wait=grid.wait, repeat=Repeat(), poll_seconds=POLL_SECONDS),
            receipts=CoordinatorReceipts(signing_key(home), partial(_newest_heads, store)),
        )
        _pack(home, recorder, record)
        recorder.complete(home.studies / name / FOLDER / OUTCOME)
        # After the store: what Flower thinks of the run has no effect any more.
        grid.finish()


def _run_config(home: Home, store: CoordinatorStore, record: StudyRecord) -> RunConfig:
    folder = home.studies / record.name
    study, sites = _study_file(folder, record), {site.name: site for site in store.sites()}
    agreed = {name: sites[name].agreed.get(study.data.dataset) for name in record.sites}
    return RunConfig(
        study=study,
        folder=folder / FOLDER,
        roster={name: sites[name].signing_key for name in record.sites},
        agreed={name: patients for name, patients in agreed.items() if patients is not None},
        seed=record.seed,
        # Without a checkpoint this starts: a start and a restart need no difference.
        resume=True,
        initial=load_initial(study, folder),
    )


def _study_file(folder: Path, record: StudyRecord) -> Study:
    """The study as it was received: the store's text counts, the file is for a person to read."""
    path = folder / STUDY_FILE
    document = record.document.encode()
    if not path.exists() or path.read_bytes() != document:
        write_atomic(path, document)
    return load_study(path)


def _pack(home: Home, recorder: Recorder, record: StudyRecord) -> None:
    """Make the model package. Without it the study is as complete: the sites know that it ended."""
    folder = home.studies / record.name
    try:
        write_package(
            _study_file(folder, record), folder / FOLDER, record.seed, key=signing_key(home)
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, it costs the package alone
        log.error("package.failed", error=type(error).__name__, at=place(error))
        why = {"do": f"consilium-coordinator resume {record.name} tries again"}
        if isinstance(error, ConsiliumError):
            why = {"why": error.what, **error.details}
        recorder.note("package.failed", {"what": "the model package was not made", **why})


def _newest_heads(store: CoordinatorStore, site: str) -> SeenHeads | None:
    newest = store.newest_receipt(site)
    return None if newest is None else SeenHeads(newest.ledger, newest.seal)


def fail(store: CoordinatorStore, name: str, error: ConsiliumError) -> None:
    """Mark a study as failed, with what a person must fix."""
    found = {"what": error.what, **error.details}
    if isinstance(error, _OF_THE_FILE):  # sites approved this file: a changed one is a new study
        found["do"] = "; then ".join(each for each in (found.get("do"), NEW_STUDY) if each)
    Recorder(store, name).note("study.failed", found)
    store.set_state(name, StudyState.FAILED, json.dumps(found))


def run(home: Home, name: str, port: int) -> int:
    """Run a study; gives the exit code."""
    try:
        with open_store(home.store_url) as store:
            return _run(home, store, name, port)
    except (LinkError, StoreAway) as error:  # the daemon restarts them
        log.warning("study.lost", error=error.what)
        return AGAIN
    except CoordinatorError as error:  # the failure could not be written to the store
        log.error("study.failed", error=type(error).__name__, what=error.what)
        return EXIT_CODE
    except Exception as error:  # noqa: BLE001 - last handler: the text is not logged, it may hold data
        log.error("study.defect", error=type(error).__name__, at=place(error))
        return 1


def _run(home: Home, store: CoordinatorStore, name: str, port: int) -> int:
    try:
        run_to_end(home, store, name, port)
    except StudyStopped:
        return 0
    except (LinkError, StoreAway):
        raise
    except ConsiliumError as error:
        log.error("study.failed", error=type(error).__name__, what=error.what)
        fail(store, name, error)
        return EXIT_CODE
    return 0


def main() -> int:
    """Read the arguments and run the study."""
    parser = argparse.ArgumentParser(description="The process of one study")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--study", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    # First: a daemon that is killed must not leave a study without a supervisor.
    die_with_parent(arguments.parent)
    configure(form_for(sys.stderr.isatty()), "info", study=arguments.study)
    try:
        home = load_home(arguments.home)
    except CoordinatorError as error:
        log.error("study.failed", error=type(error).__name__, what=error.what)
        return EXIT_CODE
    return run(home, arguments.study, arguments.port)


if __name__ == "__main__":
    sys.exit(main())
