"""Sets that no site has: what plain SAM makes of them, and what a bank does."""

from collections.abc import Sequence
from pathlib import Path

from casam_fed.bank.layer_bank import LayerBank
from casam_fed.config import MethodConfig
from casam_fed.data.dataset import AnyData, open_dataset
from casam_fed.inference.evaluation import Evaluator
from casam_fed.inference.segmenter import segmenter_for
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.task_data import encode_task
from casam_fed.wire.evaluation_report import RouteReport
from simulations.stream_config import UnseenSet

__all__ = ["unseen_evaluator", "unseen_reports"]


def unseen_evaluator(data: AnyData, root: Path, store: EmbeddingStore, config: MethodConfig) -> Evaluator:
    """Return what scores an unseen set: all its images, on whatever side of a split.

    Raises:
        DataError, StorageError: as reading and encoding them says.
    """
    dataset = open_dataset(data, root)
    records = sorted((*dataset.train, *dataset.test), key=lambda record: record.id)
    encoded = encode_task(dataset.reader, records, store, config)
    return Evaluator(dataset.reader, encoded, store, config)


def unseen_reports(
    sets: Sequence[UnseenSet], root: Path, store: EmbeddingStore, config: MethodConfig, seed: int, bank: LayerBank
) -> dict[str, dict[str, RouteReport]]:
    """Return, for every set, the reports of plain SAM ("zero_shot") and of both routers of a bank.

    Raises:
        BankError: an entry is missing or damaged.
        DataError, StorageError: as reading and encoding the images says.
    """
    segmenter = segmenter_for(config, store.backbone, bank, seed)
    reports: dict[str, dict[str, RouteReport]] = {}
    for unseen in sets:
        evaluator = unseen_evaluator(unseen.data, root, store, config)
        reports[unseen.name] = {
            "zero_shot": evaluator.zero_shot(segmenter),
            "gaussian": evaluator.routed(segmenter.by("gaussian")),
            "vae": evaluator.routed(segmenter.by("vae")),
        }
    return reports
