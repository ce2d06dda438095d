"""What an auditor would say of a simulated federation: every party's export, verified with the keys of all."""

from aggregator.home import Home
from casam_fed.audit.export import export
from casam_fed.audit.verify import verify
from casam_fed.errors import SimulationError
from simulations.founding import Federation
from simulations.run_folder import SeedFolder
from site_client.home import SiteHome

__all__ = ["verified"]


def verified(folder: SeedFolder, federation: Federation) -> str:
    """Export the aggregator's folder and those of all sites, verify each, and return the sentence that says so.

    Raises:
        SimulationError: an export does not verify; the sentence names the code.
        CasamError: a log is damaged, or the disk is full.
    """
    bank_key = federation.home.keys / "signing.pub"
    site_keys = {name: home.keys / "signing.pub" for name, home in federation.sites.items()}
    parties: dict[str, Home | SiteHome] = {"bank": federation.home, **federation.sites}
    for name, home in parties.items():
        out = folder.exports / ("bank" if home is federation.home else f"site-{name}")
        export(home.path, out)
        report = verify(out, bank_key, list(site_keys.values()) if home is federation.home else [site_keys[name]])
        if report.exit_code:
            raise SimulationError(f"the export {out} does not verify [{report.code}]: {report.sentence}")
    sites = len(federation.sites)
    return f"verified: {len(parties)} exports (bank, {sites} site{'' if sites == 1 else 's'})"
