from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from PIL import Image
from typer.testing import CliRunner

from app.decisions import load_calibration
from app.decisions.calibration import CALIBRATION_FILE
from app.encoding import Precision, load_weights
from app.encoding.quantisation import QUANTISATION_FILE, quantisation_file
from tests.model.support import make_chips

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("pyarrow")
pytest.importorskip("matplotlib")
pytest.importorskip("scipy")

from app.encoding.trained_on import TRAINED_ON_FILE, record_of
from app.evaluation.pairs import all_pair_distances, tar_at_far
from app.evaluation.roc import all_comparisons, bootstrap_tar
from model import calibrate
from model.commands import StoppedError
from model.data.face_set import CHIPS_FILE, FaceSet, load_face_set, write_table
from model.evaluation.baselines import load_encode
from model.evaluation.corruptions import CORRUPTIONS, corrupt
from model.evaluation.evaluate import EMBEDDINGS_FILE, FEW_OF_A_GROUP, REPORT_FILE, _within_groups, app
from model.evaluation.report import Report
from model.quantise import observe
from tests.model.evaluation.test_baselines import export_encoder
from tests.model.evaluation.test_protocols import cfp_files, make_tar, make_zip

pytestmark = pytest.mark.slow

Floats = npt.NDArray[np.float32]

PEOPLE, SINGLE = 36, 30
"""Held out: people of three faces each, and people of one."""
MANY = 31
"""So many people of three faces are of one source, which is enough to say something of it."""
STUDENTS, STRANGERS = 12, 105
"""On the photographs: people who are on two of them, and people who are on one."""


def evaluate(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def message(result: Any) -> str:
    """What was printed, without the lines and frames it was broken into."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out people, of whom the first two are twins, one face of nobody known, and somebody to train on.

    Every face is a mixture of its person and of a pattern of its own, so that not all of them are recognised.
    """
    directory = tmp_path_factory.mktemp("faces")
    numbers = [*np.arange(PEOPLE).repeat(3).tolist(), *range(100, 100 + SINGLE), 99, 200, 200, 200]
    chips = 0.55 * make_chips([0 if n == 1 else n for n in numbers]) + 0.45 * make_chips(
        list(range(len(numbers))), seed=1
    )
    np.save(directory / CHIPS_FILE, chips.astype(np.uint8))
    table = {
        "identity": ["" if n == 99 else f"{n:03}" for n in numbers],
        "family": ["ace" if n < 2 else "" for n in numbers],
        "split": ["train" if n == 200 else "heldout" for n in numbers],
        "source": ["many" if n < MANY else "few" if n < PEOPLE else "single" for n in numbers],
    }
    write_table(directory, table)
    return directory


@pytest.fixture(scope="module")
def lfw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One face in many colours, and a wall as one photograph of View 2."""
    rng, portrait, files = np.random.default_rng(0), skimage.data.astronaut()[:224, 110:334], {}
    for number in range(STUDENTS + STRANGERS):
        name, colours = f"Person_{number:03}", rng.uniform(0.5, 1, 3)
        for photograph in range(2 if number < STUDENTS else 1):
            noisy = portrait * colours + rng.normal(0, 4, portrait.shape)
            out = io.BytesIO()
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(out, "JPEG")
            files[f"lfw/{name}/{name}_{photograph + 1:04}.jpg"] = out.getvalue()
    wall = io.BytesIO()
    Image.new("RGB", (224, 224), "grey").save(wall, "JPEG")
    files["lfw/Wall/Wall_0001.jpg"] = wall.getvalue()
    lines = ["3\t4"]
    for fold in range(3):
        lines += [f"Person_{4 * fold + n:03}\t1\t2" for n in range(4)]
        lines += [f"Person_{4 * fold + n:03}\t1\tPerson_{STUDENTS + 4 * fold + n:03}\t1" for n in range(4)]
    lines[-1] = "Person_011\t1\tWall\t1"
    files["lfw/pairs.txt"] = "\n".join(lines).encode()
    return make_tar(tmp_path_factory.mktemp("lfw") / "lfw.tar", files)


@pytest.fixture(scope="module")
def cfp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without one of the profiles."""
    files = {name: data for name, data in cfp_files().items() if "004/profile/02" not in name}
    return make_zip(tmp_path_factory.mktemp("cfp") / "cfp.zip", files)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    folder = export_encoder(tmp_path_factory.mktemp("encoder"))
    calibrate.main(faces, folder, precision=Precision.F32, small=True)
    return folder


@pytest.fixture(scope="module")
def data(faces: Path, lfw: Path, cfp: Path) -> list[object]:
    return ["--faces", faces, "--lfw", lfw, "--cfp", cfp]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, encoder: Path, data: list[object]) -> Path:
    """The folder of one encoder measured on everything."""
    out = tmp_path_factory.mktemp("reports") / "deep" / "ours"
    result = evaluate("run", encoder, out, *data, "--precision", "f32")
    assert result.exit_code == 0, result.output
    (out / "printed.txt").write_text(result.output)
    return out


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    """The folder of another encoder measured on the packed faces only."""
    directory = tmp_path_factory.mktemp("another")
    folder = export_encoder(directory, seed=1)
    result = evaluate("run", folder, directory / "theirs", "--faces", faces, "--precision", "f32")
    assert result.exit_code == 0, result.output
    return directory / "theirs"


def read_report(out: Path) -> Report:
    return Report.model_validate_json((out / REPORT_FILE).read_text())


def heldout(faces: Path) -> FaceSet:
    members = load_face_set(faces).of_split("heldout")
    return members.where(members.identity >= 0)


# --- run


def test_run_writes_report_embeddings_and_pictures(measured: Path) -> None:
    assert sorted(p.name for p in measured.iterdir()) == sorted(
        [REPORT_FILE, EMBEDDINGS_FILE, "roc.svg", "distances.svg", "printed.txt"]
    )
    for picture in ("roc.svg", "distances.svg"):
        ElementTree.parse(measured / picture)
    rates, distances = ((measured / name).read_text() for name in ("roc.svg", "distances.svg"))
    for name in ("LFW View 2", "LFW all pairs", "CFP-FF", "CFP-FP", "held-out", "tiny 0, openvino f32: ROC"):
        assert f"<!-- {name} -->" in rates
    # The thresholds of the calibration that lies beside the weights.
    assert "FMR 1e-02 -->" in distances


def test_the_embeddings_are_those_of_the_encoder(measured: Path, encoder: Path, faces: Path) -> None:
    kept, (_, encode) = np.load(measured / EMBEDDINGS_FILE), load_encode(str(encoder), precision=Precision.F32)
    assert sorted(kept) == ["cfp_ff", "cfp_ff_names", "cfp_fp", "cfp_fp_names", "heldout", "lfw", "lfw_names"]
    members = heldout(faces)
    assert len(kept["heldout"]) == len(members) == 3 * PEOPLE + SINGLE
    np.testing.assert_allclose(kept["heldout"], encode(members.images(np.arange(len(members)))), atol=1e-5)
    for name in ("lfw", "cfp_ff", "cfp_fp"):
        assert kept[name].shape == (len(kept[f"{name}_names"]), 128)
        np.testing.assert_allclose(np.linalg.norm(kept[name], axis=1), 1, atol=1e-5)
    assert len(kept["lfw"]) == 2 * STUDENTS + STRANGERS
    assert "Wall_0001" not in kept["lfw_names"]
    assert "004/frontal/02" in kept["cfp_ff_names"]
    assert "004/profile/02" not in kept["cfp_fp_names"]


def test_the_report_holds_the_rates_of_the_people_held_out(measured: Path, faces: Path) -> None:
    report, members = read_report(measured), heldout(faces)
    assert report.encoder == "tiny 0, openvino f32"
    vectors = np.load(measured / EMBEDDINGS_FILE)["heldout"]
    pairs = all_pair_distances(vectors, members.identity)
    unrelated = all_pair_distances(vectors, members.identity, members.family)
    # The twins have nine pairs.
    assert len(pairs.non_mated) - len(unrelated.non_mated) == 9
    assert report.heldout is not None
    assert report.heldout.model_dump(exclude={"tar"}) == {
        "subjects": PEOPLE + SINGLE,
        "faces": 3 * PEOPLE + SINGLE,
        "mated": 3 * PEOPLE,
        "non_mated": len(pairs.non_mated),
    }
    # 9,345 pairs show one false accept in a thousand, not one in ten thousand.
    assert list(report.heldout.tar) == ["1e-03"]
    shown = report.heldout.tar["1e-03"]
    assert shown.value == pytest.approx(tar_at_far(pairs, 1e-3))
    assert 0 <= shown.low <= shown.value <= shown.high <= 1
    assert report.heldout_unrelated == pytest.approx({"1e-03": tar_at_far(unrelated, 1e-3)})
    assert report.heldout_unrelated is not None
    assert report.heldout_unrelated["1e-03"] > shown.value
    assert report.heldout_by_source is not None
    assert list(report.heldout_by_source) == ["many"]
    assert report.heldout_by_source["many"].subjects == MANY


def test_groups_are_compared_within_themselves(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    women, men = (
        rng.normal(size=(FEW_OF_A_GROUP, 1, 8)) + rng.normal(0, 0.7, (FEW_OF_A_GROUP, 3, 8)) for _ in range(2)
    )
    vectors = np.concatenate([women.reshape(-1, 8), men.reshape(-1, 8)]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    count = len(vectors)
    np.save(tmp_path / CHIPS_FILE, np.zeros((count, 112, 112, 3), dtype=np.uint8))
    people = [str(n // 3) for n in range(count)]
    sex = ["female"] * (count // 2) + ["male"] * (count // 2)
    table = {"identity": people, "split": ["calibrate"] * count, "source": ["s"] * count, "sex": sex}
    write_table(tmp_path, {**table, "origin": ["Asian"] * count})
    found = _within_groups(load_face_set(tmp_path), lambda _: vectors)
    assert list(found) == ["Asian women", "Asian men"]
    for name, rows in (("Asian women", slice(0, count // 2)), ("Asian men", slice(count // 2, count))):
        pairs = all_pair_distances(vectors[rows], np.array([int(p) for p in people])[rows])
        assert found[name].tar["1e-03"].value == pytest.approx(tar_at_far(pairs, 1e-3))
        assert (found[name].subjects, found[name].non_mated) == (FEW_OF_A_GROUP, len(pairs.non_mated))
    assert _within_groups(load_face_set(tmp_path).where(np.zeros(count, dtype=np.bool_)), lambda _: vectors) == {}


def test_the_report_holds_the_pair_protocols(measured: Path) -> None:
    report = read_report(measured)
    assert report.lfw is not None
    assert report.cfp_ff is not None
    assert report.cfp_fp is not None
    parts = [report.lfw, report.cfp_ff, report.cfp_fp]
    assert [part.pairs for part in parts] == [24, 120, 120]
    assert [part.faces_missed for part in parts] == [1, 0, 1]
    # Twelve non-mated pairs show no rate that is reported, a hundred show the highest.
    assert [list(part.tar) for part in parts] == [[], ["1e-02"], ["1e-02"]]
    for part in parts:
        assert 0.5 < part.accuracy <= 1
    # Every photograph of a person is made of the same colours, so that a frontal and a profile face are as near.
    assert report.cfp_ff.accuracy > 0.9


def test_the_report_holds_all_pairs_and_searches_of_the_photographs(measured: Path) -> None:
    report, subjects = read_report(measured), STUDENTS + STRANGERS
    faces = subjects + STUDENTS
    assert report.lfw_all is not None
    assert report.lfw_all.model_dump(exclude={"tar"}) == {
        "subjects": subjects,
        "faces": faces,
        "mated": STUDENTS,
        "non_mated": faces * (faces - 1) // 2 - STUDENTS,
    }
    assert list(report.lfw_all.tar) == ["1e-03"]
    assert report.lfw_search is not None
    assert report.lfw_search.subjects == STUDENTS
    assert 0 <= report.lfw_search.dir_at_1 <= report.lfw_search.rank1 <= 1


def test_run_prints_its_row_and_its_report(measured: Path) -> None:
    printed, report = (measured / "printed.txt").read_text(), read_report(measured)
    assert "| tiny 0, openvino f32 | " in printed
    values = json.loads(printed[printed.index("\n{") :])
    assert values == report.model_dump(exclude={"heldout_by_source", "within_groups"})


def test_parts_without_data_are_absent(another: Path) -> None:
    report = read_report(another)
    assert (report.lfw, report.lfw_all, report.lfw_search, report.cfp_ff, report.cfp_fp) == (None,) * 5
    assert report.heldout is not None
    assert list(np.load(another / EMBEDDINGS_FILE)) == ["heldout"]
    # There is no calibration beside these weights.
    assert "FMR" not in (another / "distances.svg").read_text()


def test_measuring_again_gives_the_same_report(measured: Path, encoder: Path, data: list[object]) -> None:
    again = measured.parent / "again"
    assert evaluate("run", encoder, again, *data, "--precision", "f32").exit_code == 0
    assert (again / REPORT_FILE).read_text() == (measured / REPORT_FILE).read_text()
    assert (again / "roc.svg").read_bytes() == (measured / "roc.svg").read_bytes()


def test_measuring_on_nothing_is_refused(encoder: Path, tmp_path: Path) -> None:
    result = evaluate("run", encoder, tmp_path / "out")
    assert result.exit_code == 2
    assert "nothing to measure on" in message(result)
    assert not (tmp_path / "out").exists()


def test_people_that_the_encoder_was_trained_on_are_refused(faces: Path, tmp_path: Path) -> None:
    folder = export_encoder(tmp_path)
    (folder / TRAINED_ON_FILE).write_bytes(record_of(heldout(faces).images(np.arange(2))))
    result = evaluate("run", folder, tmp_path / "out", "--faces", faces)
    assert isinstance(result.exception, StoppedError)
    assert "was trained on 2 of the" in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--faces", "--cfp"])
def test_dlib_is_refused_aligned_chips(option: str, lfw: Path, tmp_path: Path) -> None:
    result = evaluate("run", "dlib", tmp_path / "out", "--lfw", lfw, option, tmp_path)
    assert result.exit_code == 2
    assert "there are only aligned chips" in message(result)
    assert not (tmp_path / "out").exists()


def test_dlib_that_is_not_installed_leaves_no_report(
    lfw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    result = evaluate("run", "dlib", tmp_path, "--lfw", lfw)
    assert isinstance(result.exception, StoppedError)
    assert "pip install" in str(result.exception)
    assert not (tmp_path / REPORT_FILE).exists()


# --- table


def test_the_table_has_a_row_for_each_folder(measured: Path, another: Path) -> None:
    result = evaluate("table", measured, another)
    assert result.exit_code == 0, result.output
    head, _, ours, theirs = result.output.splitlines()
    assert head.startswith("|  | LFW accuracy | ")
    report = read_report(measured)
    assert report.cfp_fp is not None
    assert report.heldout is not None
    assert ours.startswith("| ours | ")
    assert ours.endswith(
        f" | {report.cfp_fp.tar['1e-02'].percent()} | {report.heldout.tar['1e-03'].percent()} | - | - |"
    )
    assert theirs.startswith("| theirs | - | - | - | - | - | ")


# --- compare


def test_an_encoder_is_exactly_as_good_as_itself(measured: Path, data: list[object]) -> None:
    result = evaluate("compare", measured, measured, *data)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    # Rates that the pairs cannot show are left out, as in the report.
    titles = ["held-out, TAR at FAR 1e-03", "CFP-FF, TAR at FAR 1e-02", "CFP-FP, TAR at FAR 1e-02"]
    assert [line.split(":")[0] for line in lines] == titles
    for line in lines:
        assert re.fullmatch(r".+: (\d+\.\d\d) - \1 = \+0\.00 \[\+0\.00, \+0\.00\] points, 1000 draws", line)


def test_the_difference_of_two_encoders_is_that_of_their_reports(measured: Path, another: Path, faces: Path) -> None:
    reports = [read_report(out).heldout for out in (measured, another)]
    ours, theirs = (100 * report.tar["1e-03"].value for report in reports if report)
    line, turned = (
        evaluate("compare", *pair, "--faces", faces).output for pair in ((measured, another), (another, measured))
    )
    assert f"held-out, TAR at FAR 1e-03: {ours:.2f} - {theirs:.2f} = {ours - theirs:+.2f} [" in line
    low, high = (float(v) for v in re.findall(r"\[(.+), (.+)\]", line)[0])
    identity, vectors = (
        heldout(faces).identity,
        (np.load(out / EMBEDDINGS_FILE)["heldout"] for out in (measured, another)),
    )
    first, second = (bootstrap_tar(all_comparisons(v, identity), (1e-3,))[:, 0] for v in vectors)
    assert (low, high) == pytest.approx(tuple(100 * np.quantile(first - second, [0.025, 0.975])), abs=0.006)
    assert low < ours - theirs < high
    assert re.findall(r"\[(.+), (.+)\]", turned) == [(f"{-high:+.2f}", f"{-low:+.2f}")]


def test_comparing_on_nothing_is_refused(measured: Path) -> None:
    result = evaluate("compare", measured, measured)
    assert result.exit_code == 2
    assert "nothing to compare on" in message(result)


def test_what_a_report_was_not_measured_on_is_named(measured: Path, another: Path, lfw: Path) -> None:
    result = evaluate("compare", measured, another, "--lfw", lfw)
    assert result.exit_code == 2
    assert "was not measured on LFW View 2; `run` it with --lfw" in message(result)


def test_people_held_out_who_are_others_are_refused(measured: Path, faces: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / EMBEDDINGS_FILE, heldout=np.load(measured / EMBEDDINGS_FILE)["heldout"][1:])
    result = evaluate("compare", measured, tmp_path, "--faces", faces)
    assert result.exit_code == 2
    assert "was not measured on the held-out people of" in message(result)


# --- curves


def test_curves_of_several_encoders_are_in_one_picture(
    measured: Path, another: Path, faces: Path, tmp_path: Path
) -> None:
    result = evaluate("curves", tmp_path / "docs" / "roc.svg", measured, another, "--faces", faces)
    assert result.exit_code == 0, result.output
    picture = (tmp_path / "docs" / "roc.svg").read_text()
    ElementTree.fromstring(picture)
    assert all(f"<!-- {name} -->" in picture for name in ("ours", "theirs"))


def test_curves_of_a_report_without_held_out_people_are_refused(measured: Path, faces: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / EMBEDDINGS_FILE, lfw=np.zeros(3))
    result = evaluate("curves", tmp_path / "roc.svg", measured, tmp_path, "--faces", faces)
    assert result.exit_code == 2
    assert "`run` it with --faces" in message(result)
    assert not (tmp_path / "roc.svg").exists()


# --- robustness


def naive_rate(clean: Floats, changed: Floats, identity: npt.NDArray[np.int64]) -> float:
    """Share of mated pairs, the first of each changed, that are nearer than the threshold.

    Of 9,345 unharmed non-mated pairs nine may be accepted, and the tenth is the threshold.
    """
    limit = all_pair_distances(clean, identity).non_mated[9]
    accepted, pairs = 0, 0
    for i in range(len(clean)):
        for j in range(len(clean)):
            if i != j and identity[i] == identity[j]:
                pairs += 1
                accepted += float(np.square(changed[i] - clean[j]).sum()) < limit
    return accepted / pairs


def test_robustness_of_two_encoders_of_one_name_is_refused(encoder: Path, faces: Path, tmp_path: Path) -> None:
    result = evaluate("robustness", tmp_path, "--faces", faces, "--encoder", encoder, "--encoder", encoder)
    assert result.exit_code == 2
    assert "cannot be told apart" in result.output


def test_robustness_measures_every_dose_and_draws_it(encoder: Path, faces: Path, tmp_path: Path) -> None:
    result = evaluate("robustness", tmp_path / "out", "--faces", faces, "--encoder", encoder)
    assert result.exit_code == 0, result.output
    _, encode = load_encode(str(encoder))
    lines = re.findall(rf"(.+) (\S+): {re.escape(encoder.name)} (\d+\.\d) %", result.output)
    doses = [(p.title, f"{strength:g}") for p in CORRUPTIONS.values() for strength in p.strengths]
    assert [line[:2] for line in lines] == doses
    ElementTree.parse(tmp_path / "out" / "robustness.svg")
    picture = (tmp_path / "out" / "robustness.svg").read_text()
    assert all(f"<!-- {p.title} -->" in picture for p in CORRUPTIONS.values())
    members = heldout(faces)
    chips = members.images(np.arange(len(members)))
    shown = {line[:2]: float(line[2]) for line in lines}
    clean = encode(chips)
    for kind in ("jpeg", "mask"):
        corruption = CORRUPTIONS[kind]
        for strength in (corruption.strengths[0], corruption.strengths[-1]):
            rate = naive_rate(clean, encode(corrupt(chips, kind, strength)), members.identity)
            assert shown[corruption.title, f"{strength:g}"] == pytest.approx(100 * rate, abs=1)
    assert shown["JPEG quality", "90"] > shown["covered from below, share", "0.5"]


# --- calibrate --add


def test_the_check_of_another_machine_is_replaced(encoder: Path, faces: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "quantised")
    weights, everybody = load_weights(folder), load_face_set(faces)
    seen = observe(weights, everybody.images(np.arange(16)))
    (folder / QUANTISATION_FILE).write_bytes(quantisation_file(seen, weights.sha256))
    calibrate.main(faces, folder, precision=Precision.F32, small=True)
    table, digest = folder / CALIBRATION_FILE, weights.sha256
    checks = load_calibration(folder, digest).precisions
    assert Precision.INT8 in {check.precision for check in checks}
    value = json.loads(table.read_text())
    for check in value["precisions"]:
        if check["precision"] == Precision.INT8:
            check["false_match_rate"] = 0.5
    table.write_text(json.dumps(value))
    calibrate.main(faces, folder, add=Precision.INT8, small=True)
    assert sorted(load_calibration(folder, digest).precisions, key=str) == sorted(checks, key=str)
    with pytest.raises(StoppedError, match="measured in f32"):
        calibrate.main(faces, folder, add=Precision.F32, small=True)
    for wrong in ({"add": Precision.AUTO}, {"add": Precision.INT8, "precision": Precision.F32}):
        with pytest.raises(StoppedError, match="--add names the arithmetic"):
            calibrate.main(faces, folder, small=True, **wrong)
