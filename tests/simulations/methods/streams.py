"""A stream of two tiny tasks, with the baselines' view of it."""

from pathlib import Path

from casam_fed.config import MethodConfig
from casam_fed.data.dataset import PhantomData
from simulations.methods.tasks import StreamTasks
from simulations.stream_config import BaselineConfig, StreamConfig, UnseenSet
from site_client.site_config import SiteConfig

METHOD = MethodConfig(threads=1, epochs=1, min_steps=3, batch_size=4, masks_per_image=1, point_share=0.0)


def tiny_stream(**options: object) -> StreamConfig:
    """Two sites of different size and modality, and one unseen set."""
    return StreamConfig(
        stream="tiny",
        sites=(
            SiteConfig("heart-centre", PhantomData("phantom", "cardiac_mr", train=6, test=2, seed=1), "heart"),
            SiteConfig("scope", PhantomData("phantom", "endoscopy", train=4, test=2, seed=2)),
        ),
        method=METHOD,
        unseen=(UnseenSet("ct", PhantomData("phantom", "abdominal_ct", train=2, test=1, seed=3)),),
        baselines=BaselineConfig(**options),
    )


def tiny_tasks(folder: Path, **options: object) -> StreamTasks:
    """Its tasks; CASAM_CACHE must point to a folder of the test's own."""
    return StreamTasks(tiny_stream(**options), folder, lambda site: folder / f"{site}.json", lambda text: None)
