"""The figure in the README: three photographs compared as the service compares them.

    python -m benchmarks.picture docs/verify.jpg

The photographs are in the public domain and come with the test dependencies: Eileen Collins (NASA) with scikit-image,
Grace Hopper (US Navy) with matplotlib.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import matplotlib.cbook
import skimage.data
import typer
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image, ImageEnhance, ImageOps

from app.faces import AlignedFace, FacePolicy
from app.main import build_encoder, build_finder, load_encoder_files
from app.recognition.criteria import Criteria
from app.recognition.results import Probe
from app.recognition.service import compare_probes
from app.settings import Settings

mpl.use("Agg")


def photographs() -> dict[str, Image.Image]:
    """By caption: a person; the same photograph mirrored, darkened and made smaller; and somebody else."""
    collins = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    changed = ImageEnhance.Brightness(ImageOps.mirror(collins).resize((200, 200))).enhance(0.6)
    with Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).open("rb") as file:
        hopper = Image.open(file).convert("RGB").crop((0, 40, 512, 552))
    return {"reference": collins, "the same, mirrored, dark and small": changed, "somebody else": hopper}


def _draw(axes: Axes, photograph: Image.Image, face: AlignedFace, title: str) -> None:
    box = face.detected.box
    axes.imshow(photograph)
    axes.add_patch(Rectangle((box.x, box.y), box.width, box.height, fill=False, color="white", linewidth=2))
    axes.plot(*face.detected.landmarks.T, "o", markersize=3, color="white")
    axes.set_title(title, fontsize=11)
    axes.axis("off")


def main(out: Annotated[Path, typer.Argument(help="picture to write")]) -> None:
    """Draws the photographs with their faces, and their distances against the calibrated false match rate."""
    settings = Settings()
    files = load_encoder_files(settings)
    policy = Criteria(files.calibration).default_policy()
    encoder, finder, probes = build_encoder(settings, files.weights), build_finder(settings), dict[str, Probe]()
    figure, axes = plt.subplots(1, 4, figsize=(15, 4), gridspec_kw={"width_ratios": [1, 1, 1, 1.5]})
    for place, (caption, photograph) in zip(axes, photographs().items(), strict=False):
        data = io.BytesIO()
        photograph.save(data, "PNG")
        face = finder.find(data.getvalue(), FacePolicy.LARGEST).faces[0]
        encodings = encoder.encode(face.chip[None])
        crowding = float(files.crowding(encodings.embeddings)[0])
        probes[caption] = Probe(1, face, encodings.embeddings[0], float(encodings.norms[0]), crowding)
        _draw(place, photograph, face, caption)
    reference, *others = probes
    curve, points = axes[3], files.calibration.curve(1).operating_points
    curve.semilogy([p.threshold for p in points], [p.false_match_rate.value for p in points], color="tab:blue")
    for caption, colour in zip(others, ("tab:green", "tab:red"), strict=True):
        pair = compare_probes(probes[caption], probes[reference])
        decision = policy.outcome(pair).decision.replace("_", " ")
        curve.axvline(pair.adjusted, color=colour, linewidth=2, label=f"{caption}: {decision}")
    curve.axvline(policy.bound(1).threshold, color="black", linestyle=":", label="threshold, FMR 1e-4 in every group")
    curve.set(xlim=(-0.5, 2.2), xlabel="squared distance, crowding included", ylabel="false match rate, all pairs")
    curve.legend(fontsize=8, loc="upper left")
    curve.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=80)


if __name__ == "__main__":
    typer.run(main)
