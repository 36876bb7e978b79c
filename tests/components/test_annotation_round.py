"""From the selection to the annotators and back: labels return as a drop that the next ingest merges."""

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from components import compare, curate, select
from components.stage.declaration import Paths
from components.stage.learning import labelled_so_far, open_pool, shard_frames
from components.stage.parameters import build_parameters
from perception.data.decoding import decode_label
from perception.data.manifest import read_manifest
from perception.data.store import FolderStore
from perception.data.taxonomies import load_taxonomy
from perception.errors import InputError
from perception.selection.shards import in_shard
from tests.components.intake import empty_base, run, take_in, untrained_ensemble
from tests.footage import write_footage
from tests.perception.data.annotation.batches import box

HEIGHT, WIDTH = 64, 128
ROAD, BUDGET = 0, 4


class Night:
    """One fleet without labels, its pool scored, a budget of four frames."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, root / "store"
        write_footage(root / "footage", 3, 3, 4, HEIGHT, WIDTH)
        fleet = {
            "format": "scenes_folder",
            "path": str(root / "footage"),
            "domain": "real",
            "split": "pool",
            "labels": "none",
        }
        drops = {
            "format": "label_drop",
            "path": str(root / "drops"),
            "domain": "real",
            "split": "train",
            "labels": "drop",
        }
        self.sources = {"fleet": fleet, "drops": drops | {"max_rejected_fraction": 0.5}}
        (root / "drops").mkdir()
        empty_base(root / "base")
        untrained_ensemble(root / "ensemble")

    def frames(self, name: str) -> Path:
        size = {"taxonomy": "cityscapes19", "height_px": HEIGHT, "width_px": WIDTH}
        return take_in(self.root, f"{name}-frames", self.sources, self.store, **size)

    def selection(self, name: str, frames: Path, **given: Any) -> Path:
        pool = open_pool(Paths({"frames": (frames,), "base": (self.root / "base",)}))
        generator = np.random.default_rng(0)
        scores = pd.DataFrame({"frame_id": pool.frame_id, "score": generator.random(len(pool))})
        scores["embedding"] = list(generator.normal(size=(len(pool), 4)).astype(np.float32))
        scores["class_share"] = list(generator.dirichlet(np.ones(19), len(pool)).astype(np.float32))
        for part in range(2):
            (self.root / f"{name}-scores{part}").mkdir()
            mine = scores.iloc[part::2].assign(model_sha256="0" * 64, measure="ensemble_entropy", reduction="mean")
            mine.to_parquet(self.root / f"{name}-scores{part}" / "scores.parquet", index=False)
        tables = [self.root / f"{name}-scores{part}" for part in range(2)]
        inputs = {"frames": [frames], "base": [self.root / "base"], "scores": tables}
        inputs |= {"ensemble": [self.root / "ensemble"]}
        common: dict[str, Any] = {
            "store": str(self.store),
            "seed": 1,
            "taxonomy": "cityscapes19",
            "budget_frames": BUDGET,
            "height_px": HEIGHT,
            "width_px": WIDTH,
            "fresh_share": 0.0,
        }
        return run(select, inputs, "selection", self.root / f"{name}-selection", **(common | given))


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def annotate(batch: Path, drop: Path, truth: Path) -> dict[str, list[str]]:
    """Label as annotators do: one frame as PNG, one with polygons, one wrongly, one not at all."""
    batch.rename(drop)
    ids = pd.read_csv(drop / "frames.csv").frame_id.tolist()
    (drop / "labels").mkdir()
    (drop / "labels" / f"{ids[0]}.png").write_bytes((truth / f"{ids[0]}.png").read_bytes())
    for frame_id, name in ((ids[1], "road"), (ids[2], "raod")):
        path = drop / "polygons" / f"{frame_id}_polygons.json"
        path.parent.mkdir(exist_ok=True)
        square = {"label": name, "polygon": box(0, 32, 127, 63)}
        path.write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": [square]}))
    (drop / "drop.json").write_text(json.dumps({"annotator": "Ada", "date": "2026-02-01"}))
    return {"labelled": ids[:2], "broken": ids[2:3], "open": ids[3:]}


def test_labels_come_back_checked_attributed_and_merged(night: Night, tmp_path: Path) -> None:
    first = night.frames("first")
    selection = night.selection("first", first)
    selected = pd.read_parquet(selection / "selected.parquet")
    story = json.loads((selection / "selection.json").read_text())
    done = annotate(selection / "annotation", tmp_path / "drops" / "one", tmp_path / "footage" / "labels")
    assert {each for ids in done.values() for each in ids} == set(selected.frame_id)

    second = night.frames("second")
    manifest = read_manifest(second / "manifest.parquet").set_index("frame_id")
    assert len(manifest) == 12
    labelled = labelled_so_far(Paths({"frames": (second,), "base": (tmp_path / "base",)}))
    assert sorted(labelled.frame_id) == sorted(done["labelled"])
    assert set(labelled.label_drop) == {f"{story['annotation_batch']}/Ada/2026-02-01"}
    assert set(labelled.label_source) == {"human"}
    assert (manifest.loc[done["broken"] + done["open"]].split == "pool").all()
    inputs = Paths({"frames": (second,), "base": (tmp_path / "base",)})
    known = pd.concat([open_pool(inputs), labelled], ignore_index=True)
    shards = [shard_frames(inputs, shard, 3).frame_id.tolist() for shard in range(3)]
    assert shards == [known.frame_id[in_shard(known.drive_id, shard, 3)].tolist() for shard in range(3)]
    assert sum(map(len, shards)) == len(known) == 12
    rejected = pd.read_parquet(second / "rejected.parquet")
    assert rejected.frame_id.tolist() == done["broken"] and "raod" in rejected.rule.iloc[0]

    store, taxonomy = FolderStore(night.store), load_taxonomy("cityscapes19")
    as_png, outlined = (
        decode_label(store.get(manifest.label_uri[frame_id]), frame_id, taxonomy, (HEIGHT, WIDTH))
        for frame_id in done["labelled"]
    )
    truth = cv2.imread(str(tmp_path / "footage" / "labels" / f"{done['labelled'][0]}.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(as_png, truth)
    assert (outlined[32:] == ROAD).all() and (outlined[:32] == 255).all()

    again = night.selection("second", second)
    assert not set(pd.read_parquet(again / "selected.parquet").frame_id) & set(done["labelled"])
    curated = run(
        curate, {"frames": [second], "base": [tmp_path / "base"], "selection": [again]}, "curated",
        tmp_path / "curated", store=str(night.store), taxonomy="cityscapes19",
    )  # fmt: skip
    version = read_manifest(curated / "version" / "manifest.parquet")
    assert sorted(version.frame_id) == sorted(done["labelled"])
    assert version.label_drop.notna().all()
    assert json.loads((curated / "gate_parameters.json").read_text()) == {"expected_train_frames": 2}


def test_a_label_stays_with_the_image_that_it_was_made_for(night: Night, tmp_path: Path) -> None:
    selection = night.selection("first", night.frames("first"))
    done = annotate(selection / "annotation", tmp_path / "drops" / "one", tmp_path / "footage" / "labels")
    image = tmp_path / "footage" / "images" / f"{done['labelled'][0]}.jpg"
    other = next(path for path in image.parent.iterdir() if path != image)
    image.write_bytes(other.read_bytes())
    second = night.frames("second")
    (frame,) = [
        each for each in read_manifest(second / "manifest.parquet").itertuples() if each.frame_id == done["labelled"][0]
    ]
    assert frame.label_drop and frame.image_sha256 != hashlib.sha256(image.read_bytes()).hexdigest()
    outcomes = pd.read_parquet(second / "taken" / "arrivals.parquet")
    assert "repeated" in set(outcomes[outcomes.source == "fleet"].outcome), "the other bytes are those of a frame"


def test_quotas_and_near_duplicates_reach_the_selection(night: Night) -> None:
    frames = night.frames("first")
    quota = {"class": "person", "class_share": 0.05, "minimum_share": 1.0}
    chosen = pd.read_parquet(night.selection("quota", frames, quotas=[quota]) / "selected.parquet")
    person = load_taxonomy("cityscapes19").classes.index("person")
    assert sum(share[person] >= 0.05 for share in chosen.class_share) == BUDGET
    assert chosen.reason.str.contains(f"class {person}").all()
    spread = pd.read_parquet(night.selection("spread", frames, duplicate_gap_s=1e6) / "selected.parquet")
    assert spread.drive_id.is_unique and len(spread) == 3
    apart = pd.read_parquet(night.selection("apart", frames, duplicate_gap_frames=10**6) / "selected.parquet")
    assert apart.drive_id.is_unique and len(apart) == 3


def test_a_share_of_the_budget_is_drawn_uniformly_and_kept_out_of_the_comparison(night: Night) -> None:
    frames, fresh = night.frames("first"), set()
    for seed in range(8):
        chosen = pd.read_parquet(
            night.selection(f"draw{seed}", frames, fresh_share=0.3, seed=seed) / "selected.parquet"
        )
        assert chosen.fresh.tolist() == [False, False, False, True] and chosen["rank"].tolist() == [1, 2, 3, 4]
        fresh.update(chosen.frame_id[chosen.fresh])
        assert (chosen.reason[chosen.fresh] == select.FRESH).all() and chosen.frame_id.is_unique
    assert len(fresh) > 4, "which frame it is does not hang on its score"
    folder = night.selection("apart", frames, fresh_share=0.5)
    chosen, control = (pd.read_parquet(folder / f"{name}.parquet") for name in ("selected", "control"))
    assert chosen.fresh.sum() == 2 == len(control)
    assert not set(control.frame_id) & set(chosen.frame_id[chosen.fresh])


def test_the_control_group_is_drawn_several_times(night: Night) -> None:
    frames = night.frames("first")
    control = pd.read_parquet(night.selection("draws", frames, control_draws=4) / "control.parquet")
    groups = [set(group.frame_id) for group in compare._groups(control)]
    assert [len(group) for group in groups] == [BUDGET] * 4 and len(set(map(frozenset, groups))) > 1
    pool = read_manifest(frames / "manifest.parquet", split="pool")
    assert set.union(*groups) <= set(pool.frame_id)
    (chosen,) = compare._groups(pd.DataFrame({"frame_id": ["a", "b"]}))
    assert len(chosen) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quotas": [{"class": "persn", "minimum_share": 0.5}]}, "person"),
        ({"quotas": [{"minimum_share": 0.5}]}, "must come with value, or else a class"),
        ({"strategy": "best"}, "strategy = 'best': must be top_n, k_centre"),
        ({"metric": "manhattan"}, "metric"),
    ],
)
def test_selections_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    common = {"store": "store", "seed": 1, "taxonomy": "cityscapes19", "budget_frames": BUDGET}
    common |= {"height_px": HEIGHT, "width_px": WIDTH}
    with pytest.raises(InputError, match=message):
        build_parameters(select.SelectParameters, common | given, "select")
