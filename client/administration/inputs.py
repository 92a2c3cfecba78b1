"""What a study is computed from, in words: its images, and what they are learned against."""

from __future__ import annotations

from client.data.masks.sources import MaskFolder
from client.site import Site
from common.errors import ConsiliumError
from common.study.study_file import Study


def images_in_words(study: Study) -> str:
    """Which images, and what becomes of them before the model sees them."""
    data = study.data
    size = f"{data.image_size[0]} x {data.image_size[1]} pixels"
    colour = "colour" if data.channels == 3 else "greyscale"
    placed = f"resized to {size}"
    if data.spacing is not None:
        down, right = data.spacing
        placed = f"scaled to {down:g} x {right:g} mm a pixel, then cropped or padded to {size}"
    return f"{', '.join(data.modalities)} images, {placed}, {colour}"


def targets_in_words(site: Site, study: Study) -> tuple[str, ...]:
    """Where this site keeps what the model learns from; nothing where the site has it not."""
    try:
        targets = site.file.targets(study, site.folder)
    except ConsiliumError:
        return ()
    if not isinstance(targets, MaskFolder):
        return (f"learned from: column {targets.label_column} of {targets.path}",)
    meanings = dict(targets.meanings) or {
        str(value): name for value, name in enumerate(study.task.classes, start=1)
    }
    said = ", ".join(f"{ours} = {theirs}" for ours, theirs in sorted(meanings.items()))
    return (f"learned from: the masks in {targets.path}; values or segments in them: {said}",)


def some(images: int) -> str:
    """How many images, in words."""
    return "1 image" if images == 1 else f"{images} images"
