"""Making a site: its file, its keys, its card, and the coordinator that it joins."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from client import node_key
from client.data.label_files.near_misses import guess_prefix
from client.data.labels import LabelFile, guess_key
from client.keys import kept_seed
from client.node_key import load_node_key, public_node_key
from client.site import Site, open_site
from client.sitefile import load_site_file
from common.errors import SiteError
from common.files import write_atomic
from common.tasks.tasks import FIRST, KINDS
from common.text import Slug
from common.wire.enrolment import COORDINATOR_CARD, CoordinatorCard, SiteCard

SITE_CARD: Final = "SITE.json"

SITE_FILE: Final = """\
# The site file of {name}: what this hospital offers, and what it allows.
# Paths are relative to this file. Restart the daemon after a change.

[site]
name = {name_text}
# The state folder: keys, privacy ledger, approvals, audit log. Back it up, and give it to nobody.
state = "state"
# A list of PatientIDs that belong to one person: one person per line, separated by commas.
# same_person = "same-person.csv"
# What does not count where two PatientIDs are compared: "unicode", "blanks", "case",
# "leading-zeros". `consilium-site check` says whether you need it; read docs/site.md first.
# ignore_in_patient_ids = ["leading-zeros"]
# Disk space for decoded images, GiB. They are deleted when their study is over.
cache_gib = 64

[data.{dataset}]
images = {images}
labels = {labels}
key = {key}                  # what a row of the label file names
key_column = {key_column}
label_column = {label_column}{file_prefix}
# Patients in training, rounded down. This number is public: the noise and this site's weight in
# the average are calculated from it.
declared_patients = {declared}
# The most patients that training, and validation, may ever have. This number is public too: leave
# room for future patients. The time of a step follows from it, not from the real number.
most_patients = {most}
# Patients who opted out are listed in state/opt-out.txt, by `consilium-site opt-out`. If you keep
# another list, name it here: one PatientID per line.
# opt_out = "opt-out.txt"

[policy]
# Privacy budget: the most that one study, and all studies together, may cost a patient (epsilon).
max_epsilon_per_study = 3.0
# A total above 20 gives no real protection and is refused.
max_epsilon_total = 10.0
# What these patients have already spent, if this hospital took part before and that state folder
# is lost. If you do not know, write the max_epsilon_total of that time.
# spent_before = 10.0
# The probability that these limits fail: at most 0.1 / declared_patients.
delta = {delta}
# Minimum number of hospitals combined in one result.
min_sites = 2
# Kinds of studies that this site takes part in, of {kinds}.
tasks = {tasks}
# "ask": a person approves each study. "automatic": every plan that this policy allows is approved.
approval = "ask"
approval_days = 180
# How many approved studies may run at once. The budget that each may still use is reserved.
# max_open_studies = 16
# When the site works on studies, in local time. Without this line: at any time.
# hours = "20:00-06:00"

# Narrower limits for the numbers of a study, if you want them: smallest and largest value.
# docs/numbers.md lists all of them.
# [policy.ranges]
# clip_norm = [0.1, 10.0]
# steps = [1, 5000]

[device]
threads = {threads}
# CPU priority (nice): 0 normal, 19 lowest.
nice = 10
# Memory for a model with its activations and gradients, MiB. A study that needs more is refused.
memory_mib = 1024
# Memory limit of the whole worker process, MiB. Without this line: no limit.
# memory_limit_mib = 8192
# Graphics card (GPU) that computes: its number or UUID, as nvidia-smi -L lists them. Without this
# line: none. With it, memory_mib is memory of the card, which the site takes when it starts.
# gpu = 0
# Activations on a card: "bfloat16" is for its tensor cores, and rounds more. Without it: "float32".
# precision = "bfloat16"

[metrics]
# Metrics for Prometheus: the state of the daemon, and nothing that was computed from patients.
listen = "127.0.0.1:9465"
"""

_PREFIX: Final = (
    "# File names in the label file begin with this; it is left out when they are compared."
)


@dataclass(frozen=True)
class NewSite:
    """What an administrator says about a new site."""

    name: str
    images: Path
    labels: Path
    declared_patients: int
    dataset: str
    label_column: str


@dataclass(frozen=True)
class CreatedSite:
    """What ``init`` made."""

    site_file: Path
    card_file: Path
    card: SiteCard


def init(path: Path, hospital: NewSite) -> CreatedSite:
    """Write a site file, draw the site's keys and write ``SITE.json``.

    Args:
        path: of the site file, which must not exist.
        hospital: what the administrator said.

    Raises:
        SiteError: there is a site already, or a value is not allowed.
        LabelError: the label file cannot be used.
    """
    _require_new(path)
    _require_slug(hospital.name)
    if not hospital.images.is_dir():
        raise SiteError(
            "there is no such folder of images",
            where=hospital.images.absolute(),
            wanted="a folder with DICOM files, at any depth",
            remedy="name the folder with --images; check that its disk is mounted and that this "
            "user may read it",
        )
    write_atomic(path, _site_file(path, hospital).encode(), mode=0o600)
    try:
        load_site_file(path)
        return introduce(path)
    except BaseException:
        # Else the next try would find a site here, whose card and keys are missing.
        path.unlink(missing_ok=True)
        raise


def introduce(path: Path, known_seed: int | None = None) -> CreatedSite:
    """Write ``SITE.json`` for an existing site file; make the keys that are missing.

    Raises:
        SiteError: the site cannot be opened.
    """
    with _open(path, known_seed) as site:
        node = public_node_key(load_node_key(site.state / node_key.FILE, make=True))
        declared = {name: data.declared_patients for name, data in site.file.data.items()}
        card = SiteCard(
            name=site.name, node_key=node, signing_key=site.key.public, patients=declared
        )
    card_file = path.parent / SITE_CARD
    write_atomic(card_file, card.text.encode())
    return CreatedSite(path, card_file, card)


def join(path: Path, card: CoordinatorCard) -> Path:
    """Make a coordinator this site's; gives the place of its card in the state folder.

    Raises:
        SiteError: the site cannot be opened.
    """
    with _open(path) as site:
        # In the log, since receipts are verified offline with the keys of all who ever were joined.
        keys = {"fingerprint": card.fingerprint, "signing_key": card.signing_key}
        site.audit.append("coordinator.joined", name=card.name, **keys)
        kept = site.state / COORDINATOR_CARD
        write_atomic(kept, card.text.encode(), mode=0o600)
    return kept


def _open(path: Path, known_seed: int | None = None) -> Site:
    """Open a site with the keys that it has."""
    state = path.absolute().parent / load_site_file(path).site.state
    return open_site(path, known_seed=kept_seed(state) if known_seed is None else known_seed)


def delta_for(declared_patients: int) -> str:
    """0.1 / declared_patients to two digits, rounded down: more would not be allowed."""
    exact = Decimal("0.1") / Decimal(declared_patients)
    digits = Decimal(1).scaleb(exact.adjusted() - 1)
    return f"{float(exact.quantize(digits, rounding=ROUND_DOWN)):g}"


def _require_new(path: Path) -> None:
    for there in (path, path.parent / SITE_CARD):
        if there.exists():
            raise SiteError(
                "there is a site here already",
                where=there,
                remedy="use this site, or run init in another folder; a site keeps its keys "
                "permanently",
            )


def _require_slug(name: str) -> None:
    # Before the site file is written: else its reader would blame a file that init removes again.
    try:
        TypeAdapter(Slug).validate_python(name)
    except ValidationError as error:
        raise SiteError(
            "the name of the site is not allowed",
            where="NAME",
            found=repr(name),
            wanted="small letters, digits and hyphens",
            remedy="use small letters, digits and hyphens, for example st-anna",
        ) from error


def _site_file(path: Path, hospital: NewSite) -> str:
    if hospital.declared_patients < 1:
        raise SiteError(
            "a site needs patients",
            where="--declared-patients",
            found=hospital.declared_patients,
            wanted="the number of patients in training, rounded down: 1 or more",
        )
    key, column = guess_key(hospital.labels, hospital.label_column)
    prefix = guess_prefix(
        LabelFile(hospital.labels, key, column, hospital.label_column), hospital.images
    )
    return SITE_FILE.format(
        name=hospital.name,
        name_text=_text(hospital.name),
        dataset=hospital.dataset,
        images=_text(_relative(hospital.images, path)),
        labels=_text(_relative(hospital.labels, path)),
        key=_text(key),
        key_column=_text(column),
        label_column=_text(hospital.label_column),
        file_prefix=f"\n{_PREFIX}\nfile_prefix = {_text(prefix)}" if prefix else "",
        declared=hospital.declared_patients,
        # Room to grow: this bound is public, and a study ends when it is raised.
        most=2 * hospital.declared_patients,
        delta=delta_for(hospital.declared_patients),
        kinds=", ".join(map(_text, KINDS)),
        tasks=f"[{_text(FIRST)}]",
        # Half of the cores: the machine may have other work to do.
        threads=max(1, len(os.sched_getaffinity(0)) // 2),
    )


def _text(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _relative(path: Path, site_file: Path) -> Path:
    """A path as the site file names it: relative, where it is below the site file's folder."""
    absolute, folder = path.absolute(), site_file.absolute().parent
    return absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute
