"""`casam-site init` and `rotate`."""

from pathlib import Path
from typing import Any

import click

from casam_fed.audit.keys import shown
from casam_fed.errors import ConfigError
from casam_fed.host.command_line import at_terminal, folder_argument, parsed_options, require_yes
from casam_fed.wire.enrolment import open_request
from site_client.home import SiteHome, create_site_home, renew_keys

__all__ = ["init", "rotate"]


@click.command()
@folder_argument
@click.option("--name", help="This site's name in the federation: letters, digits, dots, dashes.")
@click.option("--data", "kind", help="What the data are: `folder`, `phantom`, or a name of `casam data list`.")
@click.option("--path", help="Where they are; not for phantoms.")
@click.option(
    "--set", "options", multiple=True, metavar="KEY=VALUE", help="A key of the data block, e.g. classes=[nucleus]."
)
@click.option("--task", default="", help="Name of the task (default: the site's name).")
@click.option("--modality", default="", help="In words, for the card, e.g. 'abdominal CT'.")
@click.option("--device", default="auto", show_default=True, help="auto, cuda, mps or cpu.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256), help="CPU threads for training.")
@click.option("--seed", default=0, show_default=True, help="Of training and calibration.")
def init(
    folder: Path, name: str | None, kind: str | None, path: str | None, options: tuple[str, ...], **rest: Any
) -> None:
    """Make this site's folder DIR. What is not given as an option is asked.

    DIR must be new or empty; nothing outside it is ever written but the cache of embeddings ($CASAM_CACHE).
    """
    name = name or _ask("Name of this site in the federation", "--name")
    kind = kind or _ask("What the data are (folder, phantom, or a name of `casam data list`)", "--data")
    data: dict[str, Any] = {"kind": kind, **parsed_options(options)}
    if kind != "phantom" and "path" not in data:
        data["path"] = str(Path(path or _ask("Folder of the data", "--path")).absolute())
    if kind == "folder" and "classes" not in data:
        names = _ask("Names of the target classes, with commas", "--set classes=[...]").split(",")
        data["classes"] = [name.strip() for name in names if name.strip()]
    if kind == "phantom" and "modality" not in data:
        data["modality"] = _ask("Modality of the phantoms", "--set modality=...")
    settings = {"name": name, "data": data, **{key: value for key, value in rest.items() if value != ""}}
    home = create_site_home(folder, settings)
    click.echo(f"Made {folder} for site {name}; look into {folder / 'site.yaml'}.")
    _next(home)


@click.command()
@folder_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
def rotate(folder: Path, yes: bool) -> None:
    """Make new keys in place of lost or stolen ones, and a new REQUEST.json.

    The operator takes it in with `casam-aggregator rotate`; until then this site cannot join.
    """
    home = SiteHome(folder)
    require_yes(f"Make new keys for {home.settings.name}? Its welcome ends with the old ones.", yes)
    renew_keys(home)
    _next(home)


def _next(home: SiteHome) -> None:
    request = open_request(home.request.read_bytes())
    click.echo(f"Next: send {home.request} to the aggregator's operator, and read out this fingerprint:")
    click.echo(f"  {shown(request.fingerprint)}")
    click.echo(f"Put the WELCOME.json that comes back into {home.path}, then run: casam-site doctor {home.path}")


def _ask(question: str, option: str) -> str:
    if not at_terminal():
        raise click.UsageError(f"{option} is missing, and there is no terminal to ask at.")
    answer: str = click.prompt(question)
    if not answer.strip():
        raise ConfigError(f"{option} cannot be empty; give a value")
    return answer.strip()
