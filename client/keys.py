"""A site's keys: made once, kept in its state folder, never sent.

Which secret each follows from decides what can be promised: one that the operating system drew
is the site's own, one that follows from a seed is known to everyone who runs the simulation.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from client.data.pseudonyms import Pseudonyms
from client.records.state_folder import KEYS, require_keys, require_same_keys
from client.records.store import RESTORE_KEY, SiteDatabase
from common.errors import SiteError
from common.files import write_atomic
from common.privacy.randomness import KEY_BYTES, StudyKey, known_secret
from common.wire.signing import SigningKey

_SEED: Final = "known-seed"


@dataclass(frozen=True)
class SiteKeys:
    """The keys of one site.

    Attributes:
        site: its name.
        known_seed: a seed that the keys follow from, in simulations alone.
        signing: Ed25519, signs every reply.
        pseudonyms: keyed by the site.
    """

    site: str
    known_seed: int | None
    signing: SigningKey = field(repr=False)
    pseudonyms: Pseudonyms = field(repr=False)

    def new_study_key(self, plan_hash: str) -> StudyKey:
        """The key that a newly approved study's randomness follows from."""
        # One for each plan, so that no two studies ever share noise.
        if self.known_seed is None:
            return StudyKey.generate()
        return StudyKey(known_secret(self.known_seed, self.site, f"study {plan_hash}"))


def open_keys(state: Path, store: SiteDatabase, site: str, known_seed: int | None) -> SiteKeys:
    """Read the keys in a state folder, and make those of a new site.

    Raises:
        SiteError: a key is missing, damaged or another one, or the keys are of another kind.
    """
    require_keys(state, store)
    # Before a key is made: a folder must never hold one key of its own and one that others know.
    _keep_seed(state, known_seed)
    secrets: dict[str, bytes] = {}
    for use in KEYS:
        known = None if known_seed is None else known_secret(known_seed, site, use)
        secrets[use] = _kept(state / f"{use}.key", known or os.urandom(KEY_BYTES))
    require_same_keys(state, store, secrets)
    signing, pseudonyms = SigningKey(secrets["signing"]), Pseudonyms(secrets["patients"])
    return SiteKeys(site, known_seed, signing, pseudonyms)


def keys_of_seed(site: str, known_seed: int) -> SiteKeys:
    """The keys that follow from a seed and a site's name: a simulation's; nothing is kept."""
    signing, patients = (known_secret(known_seed, site, use) for use in KEYS)
    return SiteKeys(site, known_seed, SigningKey(signing), Pseudonyms(patients))


def kept_seed(state: Path) -> int | None:
    """The seed that the keys in a state folder follow from; None where they are the site's own."""
    marker = state / _SEED
    if not marker.exists():
        return None
    written = marker.read_text()
    # As it was written, to the letter: anything else is damage, and guessing would be worse.
    if re.fullmatch(r"0|[1-9][0-9]*", written) is None:
        raise SiteError(
            "the mark of keys that others know is damaged",
            where=marker,
            found=repr(written[:20]),
            wanted="the seed, a whole number",
            remedy="use another state folder; keys that others know protect no patient",
        )
    return int(written)


def _keep_seed(state: Path, known_seed: int | None) -> None:
    """Keys that others know never pass as a site's own, nor the other way round."""
    marker = state / _SEED
    if not (state / f"{KEYS[0]}.key").exists():
        if known_seed is not None:
            write_atomic(marker, str(known_seed).encode(), mode=0o600)
        else:
            marker.unlink(missing_ok=True)
    found = kept_seed(state)
    if found != known_seed:
        raise SiteError(
            "the state folder was made with keys of another kind",
            where=state,
            found="the site's own keys" if found is None else f"keys that follow from seed {found}",
            wanted="the site's own keys" if known_seed is None else f"keys from seed {known_seed}",
            remedy="use another state folder; keys that others know protect no patient",
        )


def _kept(path: Path, secret: bytes) -> bytes:
    """The secret in ``path``; where there is none, ``secret`` becomes it."""
    if not path.exists():
        write_atomic(path, secret, mode=0o600)
    kept = path.read_bytes()
    if len(kept) != KEY_BYTES:
        raise SiteError(
            "a key file of the site is damaged",
            where=path,
            found=f"{len(kept)} bytes",
            wanted=f"{KEY_BYTES} bytes",
            remedy=RESTORE_KEY,
        )
    return kept
