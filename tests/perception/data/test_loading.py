"""Loading: right pixels, right order, and randomness that depends on the seed alone."""

import hashlib
import io
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from perception.data import loading
from perception.data.decoding import BadFrame
from perception.data.loading import (
    Augment,
    Batch,
    FrameSet,
    LoadSettings,
    count_batches,
    frame_pixel_counts,
    image_batches,
    ordered_batches,
    shuffled_batches,
    usable_cores,
)
from perception.data.store import FolderStore
from perception.errors import InputError

SETTINGS = LoadSettings(height_px=16, width_px=32, taxonomy="camvid11")


def png(pixels: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def make(
    root: Path, count: int, size: tuple[int, int] = (16, 32), labels: str = "camvid11"
) -> tuple[pd.DataFrame, FolderStore]:
    """Store frames of noise; the first pixel's red value and its label are the frame's number."""
    store, generator, rows = FolderStore(root), np.random.default_rng(1), []
    for number in range(count):
        image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        label = generator.integers(0, 12, size, dtype=np.uint8)
        image[0, 0, 0] = number
        rows.append(
            {
                "frame_id": f"f{number}",
                "image_uri": store.put(png(image), "png").uri,
                "label_uri": store.put(png(label), "png").uri,
                "label_taxonomy": labels,
            }
        )
    return pd.DataFrame(rows), store


def stored(frames: pd.DataFrame, store: FolderStore, row: int, column: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(store.get(frames[column][row]))))


def numbers(batches: Iterable[Batch]) -> list[list[int]]:
    return [(batch.images[:, 0, 0, 0] * 255).round().int().tolist() for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def digest(batches: Iterable[Batch]) -> str:
    sha = hashlib.sha256()
    for batch in batches:
        sha.update(batch.images.numpy().tobytes() + batch.labels.numpy().tobytes())
    return sha.hexdigest()


def test_load_at_the_stored_size_is_exact(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 3)
    image, label = FrameSet(frames, store, SETTINGS).load(2)
    assert image.shape == (3, 16, 32) and image.dtype == np.uint8 and label.dtype == np.uint8
    assert np.array_equal(image.transpose(1, 2, 0), stored(frames, store, 2, "image_uri"))
    raw = stored(frames, store, 2, "label_uri")
    assert np.array_equal(label, np.where(raw == 11, 255, raw))


def test_load_averages_the_image_and_takes_the_nearest_label(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 1, size=(64, 128))
    image, label = FrameSet(frames, store, SETTINGS).load(0)
    raw = stored(frames, store, 0, "label_uri")
    assert np.array_equal(label, np.where(raw == 11, 255, raw)[2::4, 2::4])
    blocks = stored(frames, store, 0, "image_uri").reshape(16, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(image - blocks.transpose(2, 0, 1)).max() <= 0.5


def slow_share(own: int, new: int) -> NDArray[np.float64]:
    """Return what share of each new pixel along an axis every old one covers: (new, own)."""
    edges = np.arange(new + 1) * own / new
    old = np.arange(own)
    return np.clip(np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old), 0, None) * new / own


@pytest.mark.parametrize("shown", [(10, 23), (7, 31), (20, 31), (5, 8)])
def test_images_shrink_to_the_average_of_what_lies_under_each_pixel(shown: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    expected = np.einsum("yh,hwc,xw->yxc", slow_share(20, shown[0]), image, slow_share(31, shown[1]))
    assert np.abs(loading.resize_image(image, shown) - expected).max() <= 0.51


def test_images_grow_bilinearly_and_each_axis_for_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()
    grown = torch.nn.functional.interpolate(pixels, (45, 62), mode="bilinear")[0].permute(1, 2, 0).numpy()
    assert np.abs(loading.resize_image(image, (45, 62)) - grown).max() <= 1
    both = loading.resize_image(loading.resize_image(image, (10, 31)), (10, 62))
    assert np.array_equal(loading.resize_image(image, (10, 62)), both)


def test_a_jpeg_that_is_decoded_smaller_keeps_its_label_in_place(tmp_path: Path) -> None:
    """Colour every pixel by its class, in blocks of 16: after loading at half size each colour lies on its class."""
    store = FolderStore(tmp_path)
    label = np.kron(np.arange(8, dtype=np.uint8).reshape(2, 4), np.ones((16, 16), np.uint8))
    data = io.BytesIO()
    Image.fromarray(np.stack([label * 30 + 20] * 3, 2)).save(data, "JPEG", quality=95)
    row = {"image_uri": store.put(data.getvalue(), "jpg").uri, "label_uri": store.put(png(label), "png").uri}
    frames = pd.DataFrame([{"frame_id": "f", **row, "label_taxonomy": "camvid11"}])
    image, ids = FrameSet(frames, store, SETTINGS).load(0)
    assert np.array_equal(ids, label[::2, ::2])
    assert np.abs(image - (ids * 30.0 + 20)).max() <= 4


def test_full_label_keeps_its_size(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 2, size=(64, 128))
    frames.loc[1, ["label_uri", "label_taxonomy"]] = None
    loaded = FrameSet(frames, store, SETTINGS, labels_required=False)
    raw = stored(frames, store, 0, "label_uri")
    assert np.array_equal(loaded.full_label(0), np.where(raw == 11, 255, raw))
    assert loaded.full_label(1).shape == (64, 128) and (loaded.full_label(1) == 255).all()


def test_labels_are_mapped_to_the_target_taxonomy(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 1)
    _, label = FrameSet(frames, store, LoadSettings(height_px=16, width_px=32, taxonomy="cityscapes19")).load(0)
    raw = stored(frames, store, 0, "label_uri")
    assert set(label[raw == 3]) == {0} and set(label[raw == 8]) == {13} and set(label[raw == 11]) == {255}


def test_cache_changes_nothing_and_stops_when_full(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 4, size=(256, 1024))
    size = {"height_px": 256, "width_px": 1024, "taxonomy": "camvid11"}  # 1 MiB a frame
    small = FrameSet(frames, store, LoadSettings(cache_mib=2, **size))
    none = FrameSet(frames, store, LoadSettings(cache_mib=0, **size))
    for _ in range(2):
        for index in range(4):
            for ours, other in zip(small.load(index), none.load(index), strict=True):
                assert np.array_equal(ours, other)
    assert len(small._cache) == 2 and len(none._cache) == 0
    image, label = small.load(0)
    image[:], label[:] = 0, 0
    assert small.load(0)[0].any(), "what the caller does to a frame stays out of the cache"


def test_unlabelled_frames(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 3)
    frames.loc[1, ["label_uri", "label_taxonomy"]] = None
    with pytest.raises(InputError, match=r"frame_id f1 has no label \(1 of 3 frames have none\); leave these out"):
        FrameSet(frames, store, SETTINGS)
    loaded = FrameSet(frames, store, SETTINGS, labels_required=False)
    assert (loaded.load(1)[1] == 255).all() and (loaded.load(2)[1] != 255).any()
    with pytest.raises(InputError, match="frames to load have no column image_uri"):
        FrameSet(frames.drop(columns="image_uri"), store, SETTINGS)


def test_bad_blobs_name_the_frame(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 2)
    frames.loc[0, "image_uri"] = store.put(b"no image", "png").uri
    frames.loc[1, "label_uri"] = store.put(png(np.full((16, 32), 99, np.uint8)), "png").uri
    loaded = FrameSet(frames, store, SETTINGS)
    with pytest.raises(BadFrame, match="image of frame f0: not a readable"):
        loaded.load(0)
    with pytest.raises(
        BadFrame, match=r"label of frame f1: label holds values outside taxonomy camvid11: 99 \(512 px\)"
    ):
        loaded.load(1)
    with pytest.raises(IndexError):
        loaded.load(2)


def test_ordered_batches(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 5)
    loaded = FrameSet(frames, store, SETTINGS)
    batches = list(ordered_batches(loaded, 2))
    assert numbers(batches) == [[0, 1], [2, 3], [4]]
    assert batches[0].images.dtype == torch.float32 and batches[0].labels.dtype == torch.int64
    assert batches[0].images.shape == (2, 3, 16, 32) and batches[0].labels.shape == (2, 16, 32)
    image, label = loaded.load(3)
    torch.testing.assert_close(batches[1].images[1], torch.from_numpy(image).float() / 255)
    assert torch.equal(batches[1].labels[1], torch.from_numpy(label).long())


@pytest.mark.parametrize(
    ("count", "batch_frames", "sizes"),
    [(6, 3, [3, 3]), (7, 3, [3, 4]), (8, 3, [3, 3, 2]), (1, 4, [1]), (3, 1, [1, 1, 1]), (2, 4, [2]), (5, 4, [5])],
)
def test_shuffled_batches_drop_no_frame(tmp_path: Path, count: int, batch_frames: int, sizes: list[int]) -> None:
    frames, store = make(tmp_path, count)
    order = numbers(shuffled_batches(FrameSet(frames, store, SETTINGS), batch_frames, 3, 0, None))
    assert [len(batch) for batch in order] == sizes
    assert sorted(flat(order)) == list(range(count))


def test_order_depends_on_seed_and_epoch(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 20)
    loaded = FrameSet(frames, store, SETTINGS)
    orders = {
        (seed, epoch): numbers(shuffled_batches(loaded, 4, seed, epoch, None)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len({str(order) for order in orders.values()}) == 4
    assert orders[1, 1] == numbers(shuffled_batches(FrameSet(frames, store, SETTINGS), 4, 1, 1, None))


def test_epoch_frames_cycle_without_replacement(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 5)
    loaded = FrameSet(frames, store, SETTINGS)
    drawn = [flat(numbers(shuffled_batches(loaded, 2, 0, epoch, None, epoch_frames=3))) for epoch in range(10)]
    assert [len(each) for each in drawn] == [3] * 10
    stream = flat(drawn)
    for cycle in range(6):
        assert sorted(stream[5 * cycle : 5 * cycle + 5]) == list(range(5))
    longer = flat(numbers(shuffled_batches(loaded, 4, 0, 0, None, epoch_frames=12)))
    assert longer == stream[:12]


def test_augmented_epoch_is_the_same_again_and_free_of_cache_and_batch_size(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 6)
    loaded = FrameSet(frames, store, SETTINGS)
    first = digest(shuffled_batches(loaded, 3, 7, 2, Augment()))
    assert first == digest(shuffled_batches(loaded, 3, 7, 2, Augment()))
    cold = FrameSet(frames, store, LoadSettings(height_px=16, width_px=32, taxonomy="camvid11", cache_mib=0))
    assert first == digest(shuffled_batches(cold, 3, 7, 2, Augment()))
    assert first != digest(shuffled_batches(loaded, 3, 7, 3, Augment()))
    assert first != digest(shuffled_batches(loaded, 3, 8, 2, Augment()))
    by_one = list(shuffled_batches(loaded, 1, 7, 2, Augment()))
    by_six = next(iter(shuffled_batches(loaded, 6, 7, 2, Augment())))
    assert torch.equal(torch.cat([batch.images for batch in by_one]), by_six.images)


def test_augmentation_moves_image_and_label_together(tmp_path: Path) -> None:
    """Colour every pixel by its class: after flip, zoom and crop, each colour must still lie on its class."""
    store = FolderStore(tmp_path)
    label = np.repeat(np.repeat(np.arange(8, dtype=np.uint8).reshape(2, 4), 32, 0), 32, 1)
    image = np.stack([label * 30 + 20] * 3, 2)
    row = {
        "frame_id": "f",
        "image_uri": store.put(png(image), "png").uri,
        "label_uri": store.put(png(label), "png").uri,
    }
    frames = pd.DataFrame([{**row, "label_taxonomy": "camvid11"}])
    loaded = FrameSet(frames, store, LoadSettings(height_px=64, width_px=128, taxonomy="camvid11"))
    flips = zooms = pads = 0
    for epoch in range(40):
        (batch,) = shuffled_batches(loaded, 1, 0, epoch, Augment(color_jitter=0.0))
        red, ids = (batch.images[0, 0] * 255).numpy(), batch.labels[0].numpy()
        known = ids != 255
        # Blocks are 32 pixels: only those on a border between two may hold a blend.
        wrong = np.abs(red[known] - (ids[known] * 30 + 20)) > 1
        assert wrong.mean() < 0.2
        columns = [column for column in range(128) if known[:, column].any()]
        flips += ids[known[:, columns[0]], columns[0]][0] > ids[known[:, columns[-1]], columns[-1]][0]
        pads += not known.all()
        zooms += len(np.unique(ids[known])) <= 8 and known.all()
    assert 5 < flips < 35 and pads > 5 and zooms > 5


def test_each_augmentation_alone(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 4)
    loaded = FrameSet(frames, store, SETTINGS)
    still = Augment(flip=False, scale_range=(1.0, 1.0), color_jitter=0.0)
    plain = list(shuffled_batches(loaded, 2, 0, 0, None))
    for ours, other in zip(shuffled_batches(loaded, 2, 0, 0, still), plain, strict=True):
        assert torch.equal(ours.images, other.images)
        assert torch.equal(ours.labels, other.labels)
    mirrored = list(shuffled_batches(loaded, 2, 0, 0, Augment(scale_range=(1.0, 1.0), color_jitter=0.0)))
    for batch, other in zip(mirrored, plain, strict=True):
        for ours, theirs in zip(batch.labels, other.labels, strict=True):
            assert torch.equal(ours, theirs) or torch.equal(ours, theirs.flip(1))


def test_jitter_equals_the_three_steps() -> None:
    image = np.random.default_rng(0).integers(60, 160, (5, 7, 3), dtype=np.uint8)
    values = image.astype(np.float64) / 255
    grey = values @ [0.299, 0.587, 0.114]
    saturated = grey[..., None] + 1.1 * (values - grey[..., None])
    mean = (saturated @ [0.299, 0.587, 0.114]).mean()
    expected = 0.9 * (mean + 1.2 * (saturated - mean))
    # Half a level for rounding and some for the 10-bit fixed-point factors.
    assert np.abs(cv2.transform(image, loading._color_map(image, 0.9, 1.2, 1.1)) - expected * 255).max() < 0.65
    bright = np.full((1, 1, 3), 250, np.uint8)
    assert cv2.transform(bright, loading._color_map(bright, 1.2, 1.0, 1.0)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("mirrored", [False, True])
def test_zoom_in_and_out_equal_a_slow_resampling(mirrored: bool) -> None:
    label = np.random.default_rng(0).integers(0, 11, (16, 24), dtype=np.uint8)
    image = np.stack([label * 20] * 3, 2)
    for scale, left, top in (
        (2.0, 0.3, 0.9),
        (1.37, 0.0, 0.5),
        (0.71, 0.77, 0.21),
        (1.0, 0.6, 0.6),
        (1.45, 0.99, 0.99),
    ):
        pixels, moved = loading._moved(image, label, scale, left, top, mirrored)
        assert pixels.shape == (16, 24, 3) and moved.shape == (16, 24)
        for y in range(16):
            for x in range(24):
                row = slow_place(y, 16, scale, top)
                col = slow_place(23 - x if mirrored else x, 24, scale, left)
                expected = label[row, col] if 0 <= row < 16 and 0 <= col < 24 else 255
                assert moved[y, x] == expected, (scale, y, x)


def slow_place(place: int, size: int, scale: float, room: float) -> int:
    """Find the pixel under the middle of a target pixel, along one axis: a window of whole pixels, or a frame around it."""
    if scale >= 1:
        window = round(size / scale)
        return int(room * (size - window + 1)) + int((place + 0.5) * window / size)
    window = round(size * scale)
    within = place - int(room * (size - window + 1))
    return int((within + 0.5) * size / window) if 0 <= within < window else -1


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_change_nothing(tmp_path: Path, workers: int) -> None:
    frames, store = make(tmp_path, 7)
    plain = FrameSet(frames, store, SETTINGS)
    other = FrameSet(frames, store, replace(SETTINGS, workers=workers, cache_mib=0))
    assert digest(shuffled_batches(other, 3, 7, 2, Augment())) == digest(shuffled_batches(plain, 3, 7, 2, Augment()))
    assert digest(ordered_batches(other, 2)) == digest(ordered_batches(plain, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_bad_frame_is_named_and_no_thread_stays(tmp_path: Path, workers: int) -> None:
    frames, store = make(tmp_path, 12)
    frames.loc[[3, 4, 9], "image_uri"] = store.put(b"no image", "png").uri
    batches = ordered_batches(FrameSet(frames, store, replace(SETTINGS, workers=workers)), 2)
    assert next(batches).images.shape[0] == 2
    with pytest.raises(BadFrame, match="image of frame f3"):
        next(batches)
    half = ordered_batches(FrameSet(frames[:3], store, replace(SETTINGS, workers=workers)), 1)
    next(half)
    half.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load")]


def test_bytes_become_the_same_batch_on_the_device(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 5)
    loaded = FrameSet(frames, store, SETTINGS)
    as_bytes = list(shuffled_batches(loaded, 2, 0, 0, Augment(), as_bytes=True))
    assert as_bytes[0].images.dtype == as_bytes[0].labels.dtype == torch.uint8
    floats = list(shuffled_batches(loaded, 2, 0, 0, Augment()))
    for ours, other in zip(as_bytes, floats, strict=True):
        moved, same = ours.on("cpu"), other.on("cpu")
        assert torch.equal(moved.images, other.images) and torch.equal(moved.labels, other.labels)
        assert moved.images.is_contiguous() and torch.equal(same.images, other.images)


@pytest.mark.parametrize(
    ("frames", "batch_frames", "epoch_frames"), [(7, 3, None), (8, 3, None), (5, 2, 12), (1, 4, None)]
)
def test_batches_are_counted_without_loading(
    tmp_path: Path, frames: int, batch_frames: int, epoch_frames: int | None
) -> None:
    table, store = make(tmp_path, frames)
    batches = shuffled_batches(FrameSet(table, store, SETTINGS), batch_frames, 0, 1, None, epoch_frames)
    assert count_batches(frames, batch_frames, epoch_frames) == len(list(batches))


def test_a_process_loads_its_share_of_every_batch_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, store = make(tmp_path, 7)
    whole = list(shuffled_batches(FrameSet(frames, store, SETTINGS), 4, 7, 2, Augment()))
    decoded: list[int] = []
    decode = FrameSet._decode
    monkeypatch.setattr(FrameSet, "_decode", lambda self, index: decoded.append(index) or decode(self, index))
    for rank in range(5):  # the last one has no frame of either batch
        decoded.clear()
        share = slice(rank, None, 5)
        shares = list(shuffled_batches(FrameSet(frames, store, SETTINGS), 4, 7, 2, Augment(), share=share))
        assert len(decoded) == sum(len(batch.images[share]) for batch in whole)
        for own, batch in zip(shares, whole, strict=True):
            assert torch.equal(own.images, batch.images[share]) and torch.equal(own.labels, batch.labels[share])


def test_some_frames_alone_come_in_their_order(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 5)
    loaded = FrameSet(frames, store, SETTINGS)
    every = {name: images for names, part in image_batches(loaded, 5) for name, images in zip(names, part, strict=True)}
    some = list(image_batches(loaded, 2, [0, 1, 4]))
    assert [names for names, _ in some] == [loaded.frame_ids[:2], loaded.frame_ids[4:]]
    for names, images in some:
        assert torch.equal(images, torch.stack([every[name] for name in names]))


def test_pixel_counts(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 4)
    raw = np.concatenate([stored(frames, store, row, "label_uri").ravel() for row in range(4)])
    by_frame = frame_pixel_counts(FrameSet(frames, store, SETTINGS))
    assert by_frame.dtype == np.int64
    some = frame_pixel_counts(FrameSet(frames, store, SETTINGS), [1, 2])
    assert (some[[0, 3]] == 0).all() and (some[1:3] == by_frame[1:3]).all()
    for row, label in enumerate(raw.reshape(4, -1)):
        assert by_frame[row].tolist() == [int((label == value).sum()) for value in range(11)]


def test_settings_are_checked(tmp_path: Path) -> None:
    for wrong in ({"height_px": 0}, {"width_px": -1}, {"cache_mib": -1}, {"taxonomy": "kitti"}):
        with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
            LoadSettings(**{"height_px": 8, "width_px": 8, "taxonomy": "gta5", **wrong})
    for wrong in ({"scale_range": (2.0, 1.0)}, {"scale_range": (0.0, 1.0)}, {"color_jitter": 1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Augment(**wrong)
    frames, store = make(tmp_path, 2)
    loaded = FrameSet(frames, store, SETTINGS)
    for name, arguments in (("batch_frames", (0, 0, 0)), ("seed", (1, -1, 0)), ("epoch", (1, 0, -1))):
        with pytest.raises(InputError, match=f"{name} is"):
            next(shuffled_batches(loaded, *arguments, None))
    with pytest.raises(InputError, match="epoch_frames is 0"):
        next(shuffled_batches(loaded, 1, 0, 0, None, epoch_frames=0))
    with pytest.raises(InputError, match="batch_frames is 0"):
        next(ordered_batches(loaded, 0))
    with pytest.raises(InputError, match="there are no frames to train on"):
        next(shuffled_batches(FrameSet(frames[:0], store, SETTINGS), 1, 0, 0, None))


def test_usable_cores_heed_the_containers_share(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    own = usable_cores(quota)
    assert own == len(os.sched_getaffinity(0))
    for text, cores in (("max 100000", own), ("100000 100000", 1), ("20000 100000", 1), ("9900000 100000", own)):
        quota.write_text(text + "\n")
        assert usable_cores(quota) == cores, text


def test_waiting_time_counts_only_the_wait(tmp_path: Path) -> None:
    frames, store = make(tmp_path, 4)
    waiting = loading.WaitingTime()
    assert waiting.share == 0

    def slow() -> Iterator[Batch]:
        for batch in ordered_batches(FrameSet(frames, store, SETTINGS), 1):
            time.sleep(0.02)
            yield batch

    assert numbers(waiting.over(slow())) == [[0], [1], [2], [3]]
    assert waiting.waited_seconds >= 0.08 and waiting.share > 0.5
    before = waiting.waited_seconds
    for _ in waiting.over(ordered_batches(FrameSet(frames, store, SETTINGS), 4)):
        time.sleep(0.2)
    assert waiting.total_seconds >= before + 0.2 and waiting.share < 1
