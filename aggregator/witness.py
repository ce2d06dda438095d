"""The aggregator as witness of every site's release log: it cosigns checkpoints, each only if it continues the one before.

    audit/sites/SITE/KEY   the newest checkpoint of a site that was cosigned, by the fingerprint of the site's key

It sees no entry of a release log: a checkpoint is a size and a hash.
"""

import time
from pathlib import Path

from aggregator.home import Home
from aggregator.sites import KeyPair, read_sites
from casam_fed.audit.event import bank_origin, site_origin
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.merkle import check_consistency
from casam_fed.audit.note import Checkpoint, Note, check_cosigned, check_signed, cosigned, read_note
from casam_fed.audit.tiles import Log
from casam_fed.errors import ForkedError, LogError
from casam_fed.host.files import as_storage_error, write_atomically
from casam_fed.wire.exchange import Logs

__all__ = ["Witness"]


class Witness:
    """What an aggregator knows of the release logs of its sites."""

    def __init__(self, home: Home) -> None:
        """Work in the folder of an aggregator.

        Raises:
            KeyFileError: as `Home.signing_key`.
            EnrolmentError: a site's file is damaged.
        """
        self.home = home
        self._key = home.signing_key()
        self._origin = bank_origin(home.config.federation, fingerprint(self._key.public_key()))
        self._sites = {name: pair for name, record in read_sites(home.sites).items() if (pair := record.current)}

    def known(self, site: str) -> Logs:
        """Return what the aggregator has cosigned of a site's log, as the site is shown it; nothing to one shut out."""
        note = self._known(site) if site in self._sites else None
        return Logs(witnessed=note.data.decode(), size=note.checkpoint.size) if note else Logs()

    def take(self, site: str, logs: Logs, bank_log: Log) -> None:
        """Cosign a site's checkpoint, and keep the site's cosignature under one of the bank log.

        Raises:
            LogError: the checkpoint is not signed by the site, or is of another log, or the cosignature does not fit.
            ForkedError: the site's log does not continue what was cosigned before.
        """
        pair = self._pair(site)
        note = read_note(logs.checkpoint.encode(), f"site {site}")
        check_signed(note, pair.public)
        if note.checkpoint.origin != site_origin(site, pair.fingerprint):
            raise LogError(f"site {site} showed the checkpoint of another log; let it use its own folder")
        self._check_continues(site, note.checkpoint, logs)
        write_atomically(self._path(site, pair), cosigned(note, self._origin, self._key, int(time.time())).data)
        if logs.witnessed:
            self._keep_cosigned(site, pair, read_note(logs.witnessed.encode(), f"site {site}"), bank_log)

    def _check_continues(self, site: str, new: Checkpoint, logs: Logs) -> None:
        note = self._known(site)
        if note is None:
            return
        old = note.checkpoint
        try:
            path = [bytes.fromhex(each) for each in logs.consistency]
            check_consistency(old.size, old.root, new.size, new.root, path)
        except LogError as error:
            raise ForkedError(
                f"the release log of site {site} ({new.size} entries) does not continue the one that was cosigned "
                f"({old.size} entries); let its engineer restore audit/ from a copy, or rotate its keys"
            ) from error

    def _keep_cosigned(self, site: str, pair: KeyPair, note: Note, bank_log: Log) -> None:
        check_signed(note, self._key.public_key())
        check_cosigned(note, site_origin(site, pair.fingerprint), pair.public)
        if not bank_log.has_seen(note):
            raise ForkedError(
                f"site {site} has seen another bank log than the one here; restore audit/ and bank/ from a newer copy"
            )
        bank_log.keep_witnessed(site, note)

    def _known(self, site: str) -> Note | None:
        path = self._path(site, self._pair(site))
        try:
            with as_storage_error("read", path):
                return read_note(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None

    def _pair(self, site: str) -> KeyPair:
        if site not in self._sites:
            raise LogError(f"site {site} has no key in force; enrol it, or rotate its keys")
        return self._sites[site]

    def _path(self, site: str, pair: KeyPair) -> Path:
        return self.home.audit / "sites" / site / pair.fingerprint[:12]
