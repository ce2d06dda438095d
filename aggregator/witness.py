"""The aggregator as witness of every site's release log (casam_fed.audit.cosigning), of which it sees no entry.

audit/sites/SITE/KEY   the newest checkpoint of a site that was cosigned, by the fingerprint of the site's key
"""

import time
from pathlib import Path

from aggregator.home import Home
from aggregator.sites import KeyPair, read_sites
from casam_fed.audit.cosigning import (
    bank_log_owner,
    check_continues,
    keep_cosignature,
    open_checkpoint,
    release_log_owner,
)
from casam_fed.audit.note import Note, cosigned, read_note
from casam_fed.audit.tiles import Log
from casam_fed.errors import LogError
from casam_fed.host.files import as_storage_error, write_atomically
from casam_fed.wire.exchange import Logs

__all__ = ["SiteWitness"]


class SiteWitness:
    """What an aggregator knows of the release logs of its sites."""

    def __init__(self, home: Home) -> None:
        """Work in the folder of an aggregator.

        Raises:
            KeyFileError: as `Home.signing_key`.
            EnrolmentError: a site's file is damaged.
        """
        self.home = home
        self._key = home.signing_key()
        self._owner = bank_log_owner(home.config.federation, self._key.public_key())
        self._sites = {name: pair for name, record in read_sites(home.sites).items() if (pair := record.current)}

    def shown(self, site: str) -> Logs:
        """Return what the aggregator has cosigned of a site's log, as the site is shown it; nothing to one shut out."""
        note = self._known(site, self._sites[site]) if site in self._sites else None
        return Logs(witnessed=note.data.decode(), size=note.checkpoint.size) if note else Logs()

    def hear(self, site: str, logs: Logs, bank_log: Log) -> None:
        """Cosign what a site shows of its log, and keep the site's cosignature under one of the bank log.

        Raises:
            LogError: the site has no key in force; or something is not in its form, not signed as it should be, or of
                another log.
            ForkedError: the site's log does not continue what was cosigned before, or the site has seen another bank log.
        """
        if site not in self._sites:
            raise LogError(f"site {site} has no key in force; enrol it, or rotate its keys")
        pair = self._sites[site]
        owner = release_log_owner(site, pair.public)
        note = open_checkpoint(logs.checkpoint, owner)
        if known := self._known(site, pair):
            check_continues(known.checkpoint, note.checkpoint, logs.consistency, owner)
        write_atomically(self._path(site, pair), cosigned(note, self._owner.origin, self._key, int(time.time())).data)
        if logs.witnessed:
            keep_cosignature(logs.witnessed, bank_log, self._owner, owner, site)

    def _known(self, site: str, pair: KeyPair) -> Note | None:
        path = self._path(site, pair)
        try:
            with as_storage_error("read", path):
                return read_note(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None

    def _path(self, site: str, pair: KeyPair) -> Path:
        return self.home.audit / "sites" / site / pair.fingerprint[:12]
