"""Data on disk and made up; see :func:`create_dataset`."""

from paumer.data.check import CheckReport, check_dataset
from paumer.data.datasets import Sample, SegmentationDataset, create_dataset
from paumer.data.images import list_images, read_image, read_mask, save_index_mask
from paumer.data.spec import DatasetSpec

__all__ = [
    "CheckReport",
    "DatasetSpec",
    "Sample",
    "SegmentationDataset",
    "check_dataset",
    "create_dataset",
    "list_images",
    "read_image",
    "read_mask",
    "save_index_mask",
]
