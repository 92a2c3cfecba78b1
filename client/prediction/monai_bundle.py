"""A MONAI bundle of a package: ``python -m monai.bundle run --config_file configs/inference.json``.

Its layout is that of MONAI's bundle specification. Images are read and prepared by the very code of
training, and the network is built by it, so Consilium must be installed where the bundle runs.
Scores are written as ``OUTPUT/PATH.npy``, (frames, outputs, ...), in readable form.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import monai
import numpy as np
import safetensors.torch
import torch

from client.data.archive import Found, examine
from client.data.cache import Decoded, decode
from client.prediction.intake import shape_of
from client.prediction.table import require_free
from common.files import canonical_json, write_atomic
from common.models.networks import build_model
from common.package import archive
from common.package.graph import preprocessing, whole
from common.package.package import Package
from common.process.console import out as out_console
from common.study.study_file import Study

STUDY: Final = "configs/study.json"
WEIGHTS: Final = "models/model.safetensors"
_SIGNS: Final = str.maketrans({"$": "\uff04", "@": "\uff20", "%": "\uff05"})
"""Signs with a meaning in MONAI's configuration, and others that look like them."""
_HERE: Final = "client.prediction.monai_bundle"


def write_bundle(package: Package, folder: Path) -> list[Path]:
    """Write the bundle into a new folder.

    Args:
        package: opened.
        folder: empty or absent.

    Raises:
        DataError: the folder holds something.
    """
    require_free(folder)
    files = {
        "configs/metadata.json": _json(_inert(_metadata(package))),
        "configs/inference.json": _json(_inference()),
        STUDY: canonical_json(package.study.model_dump(mode="json")),
        WEIGHTS: package.members[archive.WEIGHTS],
        "docs/README.md": package.card.encode(),
        "LICENSE": b"Research use only. Ask the coordinator of the study for a licence.\n",
    }
    for name, content in files.items():
        write_atomic(folder / name, content)
    return [folder / name for name in files]


def network(root: str) -> torch.nn.Module:
    """The bundle's network, from an image in [0, 1] to readable scores."""
    study = _study(root)
    model = build_model(study)
    model.load_state_dict(safetensors.torch.load_file(Path(root) / WEIGHTS))
    return whole(study, model).eval()


def files(folder: str) -> list[str]:
    """Every file below a folder, by name."""
    return sorted(str(each) for each in Path(folder).rglob("*") if each.is_file())


class LoadImages:
    """A transform of MONAI's: a DICOM file to its prepared images, float32 (frames, c, h, w).

    Args:
        root: of the bundle.
    """

    def __init__(self, root: str) -> None:
        self._shape = shape_of(_study(root))

    def __call__(self, path: str) -> torch.Tensor | None:
        """Prepare one file; None for one that cannot be used."""
        file = Path(path)
        found = examine(file.parent, file.name, decode=False)
        decoded = decode(file.parent, self._shape, found) if isinstance(found, Found) else found
        if not isinstance(decoded, Decoded):
            return None
        return torch.from_numpy(decoded.images.astype(np.float32))


def run(
    folder: str, load: LoadImages, model: torch.nn.Module, device: str, out: str
) -> dict[str, int]:
    """Score each file of a folder, and write its scores under the same path.

    Args:
        folder: of DICOM files.
        load: the preprocessing.
        model: the network.
        device: that computes.
        out: folder for the scores.

    Returns:
        How many files were scored, and how many could not be used.
    """
    model, counts = model.to(device), {"scored": 0, "not used": 0}
    for path in files(folder):
        images = load(path)
        counts["not used" if images is None else "scored"] += 1
        if images is not None:
            with torch.inference_mode():
                scores = model(images.to(device)).cpu().numpy()
            written = Path(out) / f"{Path(path).relative_to(folder)}.npy"
            written.parent.mkdir(parents=True, exist_ok=True)
            np.save(written, scores, allow_pickle=False)
    out_console().print(f"{counts['scored']} files scored, {counts['not used']} not used.")
    return counts


def _study(root: str) -> Study:
    return Study.model_validate_json((Path(root) / STUDY).read_bytes())


def _inference() -> dict[str, Any]:
    return {
        "bundle_root": ".",
        "dataset_dir": "images",
        "output_dir": "output",
        "device": "$'cuda' if __import__('torch').cuda.is_available() else 'cpu'",
        "preprocessing": {"_target_": f"{_HERE}.LoadImages", "root": "@bundle_root"},
        "network_def": {"_target_": f"{_HERE}.network", "root": "@bundle_root"},
        "run": {
            "_target_": f"{_HERE}.run",
            "folder": "@dataset_dir",
            "load": "@preprocessing",
            "model": "@network_def",
            "device": "@device",
            "out": "@output_dir",
        },
    }


def _metadata(package: Package) -> dict[str, Any]:
    study, said = package.study, package.statement
    channels, height, width = study.shape
    outputs = study.heads.outputs
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "/".join(study.data.modalities),
        "num_channels": channels,
        "spatial_shape": [height, width],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {str(channel): "image" for channel in range(channels)},
    }
    scores = {
        "type": "probabilities" if study.task.classes else "values",
        "format": "labels" if study.heads.dense else "classes",
        "num_channels": outputs,
        "spatial_shape": [height, width] if study.heads.dense else [],
        "dtype": "float32",
        "value_range": [0, 1] if study.task.classes else list(study.task.ends),
        "is_patch_data": False,
        "channel_def": {str(place): name for place, name in enumerate(study.task.outputs())},
    }
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": f"package {package.sha256[:16]}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"consilium": said.versions.get("consilium", "")},
        "name": said.title,
        "task": study.task.words()[0],
        "description": f"Shared model of the study {said.name}. Research use only.",
        "authors": "the hospitals of the study",
        "copyright": "see docs/README.md",
        "intended_use": "Research use only. Not for diagnosis.",
        "preprocessing": preprocessing(study),
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": scores}},
    }


def _inert(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """A document of which MONAI takes no text for an expression, a reference or a macro."""
    if isinstance(value, dict):
        return {_inert(key): _inert(each) for key, each in value.items()}
    if isinstance(value, list):
        return [*map(_inert, value)]
    return value.translate(_SIGNS).replace("::", ": :") if isinstance(value, str) else value


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=4, ensure_ascii=False).encode() + b"\n"
