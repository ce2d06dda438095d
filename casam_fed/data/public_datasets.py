"""The public datasets we can read: what they are, where their owners offer them, on which terms. Needs no torch.

Counts of images are those of the paper's stream (CA-SAM, arXiv 2511.17201); a run that finds others says so.
"""

import difflib
from dataclasses import dataclass

from casam_fed.errors import ConfigError

__all__ = ["DATASETS", "DatasetCard", "dataset_card"]


@dataclass(frozen=True)
class DatasetCard:
    """One dataset.

    Attributes:
        name: its name in YAML files and on the command line.
        title: what its owners call it.
        modality: in words, for cards and tables.
        classes: target classes in their order; empty where the dataset itself names them.
        layout: the files as distributed.
        where: where the owner offers it.
        licence: terms as the owner states them, or that they have to be read there.
        counts: training and test images in the paper; None for general layouts.
    """

    name: str
    title: str
    modality: str
    classes: tuple[str, ...]
    layout: str
    where: str
    licence: str
    counts: tuple[int, int] | None = None


_READ_THERE = "read the terms there"

DATASETS: dict[str, DatasetCard] = {
    card.name: card
    for card in (
        DatasetCard(
            name="acdc",
            title="ACDC (Automated Cardiac Diagnosis Challenge, MICCAI 2017)",
            modality="cardiac MR",
            classes=("left ventricle", "myocardium", "right ventricle"),
            layout="patientXXX/{Info.cfg, patientXXX_frameNN.nii.gz, patientXXX_frameNN_gt.nii.gz}",
            where="https://humanheart-project.creatis.insa-lyon.fr/database/",
            licence="CC BY-NC-SA 4.0",
            counts=(1632, 177),
        ),
        DatasetCard(
            name="ebhi_seg",
            title="EBHI-SEG (enteroscope biopsy histopathology)",
            modality="H&E histology",
            classes=("colorectal tumour area",),
            layout="CLASS/{image,label}/NAME.png, six classes",
            where="https://doi.org/10.6084/m9.figshare.21540159",
            licence="CC BY 4.0",
            counts=(1701, 487),
        ),
        DatasetCard(
            name="kpis_56nx",
            title="KPIs 2024 (Kidney Pathology Image Segmentation), group 56Nx",
            modality="PAS kidney pathology, 5/6 nephrectomy",
            classes=("glomerulus",),
            layout="{train,test}/56Nx/CASE/{img/*_img.jpg, mask/*_mask.jpg}",
            where="https://sites.google.com/view/kpis2024",
            licence=_READ_THERE,
            counts=(558, 463),
        ),
        DatasetCard(
            name="kpis_dn",
            title="KPIs 2024 (Kidney Pathology Image Segmentation), group DN",
            modality="PAS kidney pathology, diabetic nephropathy",
            classes=("glomerulus",),
            layout="{train,test}/DN/CASE/{img/*_img.jpg, mask/*_mask.jpg}",
            where="https://sites.google.com/view/kpis2024",
            licence=_READ_THERE,
            counts=(724, 391),
        ),
        DatasetCard(
            name="polyp",
            title="Kvasir-SEG, or the TrainDataset of polyp benchmarks",
            modality="endoscopy",
            classes=("polyp",),
            layout="{images,masks}/NAME.jpg, or TrainDataset/{image,mask}/NAME.png",
            where="https://datasets.simula.no/kvasir-seg/",
            licence="research and education only (Kvasir-SEG)",
            counts=(804, 196),
        ),
        DatasetCard(
            name="msd_prostate",
            title="Medical Segmentation Decathlon, Task05 Prostate",
            modality="T2 MR",
            classes=("peripheral zone", "transition zone"),
            layout="dataset.json, imagesTr/*.nii.gz (T2, ADC), labelsTr/*.nii.gz",
            where="http://medicaldecathlon.com",
            licence="CC BY-SA 4.0",
            counts=(419, 53),
        ),
        DatasetCard(
            name="msd_spleen",
            title="Medical Segmentation Decathlon, Task09 Spleen",
            modality="abdominal CT",
            classes=("spleen",),
            layout="dataset.json, imagesTr/*.nii.gz, labelsTr/*.nii.gz",
            where="http://medicaldecathlon.com",
            licence="CC BY-SA 4.0",
            counts=(876, 146),
        ),
        DatasetCard(
            name="promise12",
            title="PROMISE12 (Prostate MR Image Segmentation, MICCAI 2012)",
            modality="T2 MR",
            classes=("prostate",),
            layout="CaseNN.mhd, CaseNN.raw, CaseNN_segmentation.mhd, CaseNN_segmentation.raw",
            where="https://promise12.grand-challenge.org",
            licence=_READ_THERE,
            counts=(712, 66),
        ),
        DatasetCard(
            name="sts_2d",
            title="STS-2D (Semi-supervised Teeth Segmentation, MICCAI 2023)",
            modality="panoramic dental X-ray",
            classes=("teeth",),
            layout="a folder of PNG radiographs beside a folder of PNG masks",
            where="https://zenodo.org/records/10597292",
            licence=_READ_THERE,
            counts=(1700, 70),
        ),
        DatasetCard(
            name="prepared",
            title="Any dataset as the CA-SAM authors prepared it",
            modality="any",
            classes=(),
            layout="dataset.json (training, test), images, NAME.(K, H, W, 1).npz",
            where="made by their scripts",
            licence="that of the dataset",
        ),
        DatasetCard(
            name="nnunet",
            title="nnU-Net v2 raw folder",
            modality="any",
            classes=(),
            layout="dataset.json, imagesTr/CASE_0000.EXT, labelsTr/CASE.EXT",
            where="your own",
            licence="yours",
        ),
    )
}


def dataset_card(name: str) -> DatasetCard:
    """Return the card of a dataset.

    Raises:
        ConfigError: no such dataset; it names the nearest one and all.
    """
    if name not in DATASETS:
        nearest = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown dataset {name!r}; did you mean {nearest!r}? There are {', '.join(DATASETS)}")
    return DATASETS[name]
