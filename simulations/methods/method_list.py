"""Which methods there are, what each is, and on what its result depends. Needs no torch."""

import difflib
from dataclasses import dataclass

from casam_fed.errors import ConfigError

__all__ = ["METHODS", "Method", "chosen_methods"]


@dataclass(frozen=True)
class Method:
    """One way to learn a stream.

    Attributes:
        name: on the command line.
        meaning: in a few words.
        rows: the rows that it has in a report.
        staged: it learns task after task, so that it has a stage matrix; otherwise it has scores at the end only.
        ordered: its result depends on the order in which tasks join.
        seeded: its result depends on the seed.
        flower: it runs over Flower.
    """

    name: str
    meaning: str
    rows: tuple[str, ...]
    staged: bool = True
    ordered: bool = True
    seeded: bool = True
    flower: bool = False


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "casam",
            "one alignment layer a task, routed by the gaussian or the vae router, or each image to its own task (oracle)",
            ("casam gaussian", "casam vae", "casam oracle"),
            flower=True,
        ),
        Method("zero-shot", "plain SAM, nothing is learned", ("zero-shot",), seeded=False),
        Method(
            "joint",
            "one layer on the images of all tasks pooled, which privacy forbids: the upper bound of one layer",
            ("joint",),
            staged=False,
            ordered=False,
        ),
        Method("sequential", "one shared layer, fine-tuned task after task", ("sequential",)),
        Method("ewc", "sequential, with elastic weight consolidation (Kirkpatrick et al. 2017)", ("ewc",)),
        Method("lwf", "sequential, with learning without forgetting (Li and Hoiem 2016)", ("lwf",)),
        Method("er", "sequential, with experience replay from a buffer of earlier sites' images", ("er",)),
        Method(
            "fedavg",
            "one shared layer, averaged over all sites each round (McMahan et al. 2017)",
            ("fedavg",),
            staged=False,
            ordered=False,
            flower=True,
        ),
    )
}


def chosen_methods(words: str) -> tuple[Method, ...]:
    """Return the methods in a comma-separated list, in the order of `METHODS`; "all" is all of them.

    Raises:
        ConfigError: an unknown method; it names the nearest one and all.
    """
    names = {word.strip() for word in words.split(",") if word.strip()}
    if names == {"all"}:
        return tuple(METHODS.values())
    for name in sorted(names - METHODS.keys()):
        nearest = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown method '{name}'; did you mean '{nearest}'? There are all, {', '.join(METHODS)}")
    if not names:
        raise ConfigError(f"no method is named; choose some of {', '.join(METHODS)}, or all")
    return tuple(method for name, method in METHODS.items() if name in names)
