"""Footage: every format gives its pictures with drive, camera, time and place; what is skipped, damaged or odd is told."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from mcap.reader import make_reader
from mcap.writer import Writer as McapWriter
from PIL import Image
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer

from perception.data.decoding import BadFrame
from perception.data.footage.reading import FootageFrame, open_footage
from perception.data.footage.settings import FootageSettings, Sampling
from perception.errors import InputError
from tests.perception.data.footage.recordings import (
    START_NS,
    drive,
    jpeg,
    number_in,
    types,
    write_mcap,
    write_ros1,
    write_ros2_database,
    write_video,
)

START = datetime.fromtimestamp(START_NS // 10**9, UTC)


def read(
    root: Path, name: str, settings: FootageSettings | None = None
) -> tuple[list[FootageFrame], list[BadFrame], Counter[str]]:
    """Read one object whole."""
    counts: Counter[str] = Counter()
    footage = open_footage("fleet", str(root), settings or FootageSettings())
    (object,) = (each for each in footage.objects("", Counter()) if each.name == name)
    found = list(footage.frames(object, counts))
    frames = [each for each in found if isinstance(each, FootageFrame)]
    return frames, [each for each in found if isinstance(each, BadFrame)], +counts


def numbers(frames: list[FootageFrame], camera: str | None = None) -> list[int]:
    """Return the numbers that the frames of a camera show."""
    return [number_in(each.picture.pixels()) for each in frames if camera is None or each.camera == camera]


@pytest.mark.parametrize(("name", "codec"), [("front.mp4", "libx264"), ("front.mkv", "libx265")])
def test_a_video_gives_its_frames_in_the_order_in_which_they_are_shown(tmp_path: Path, name: str, codec: str) -> None:
    write_video(tmp_path / name, 30, codec, started="2026-11-01T06:00:00Z")
    frames, damages, counts = read(tmp_path, name)
    assert numbers(frames) == list(range(30)) and not damages and counts == {"taken": 30}
    begun = datetime(2026, 11, 1, 6, tzinfo=UTC)
    assert [each.timestamp_utc for each in frames] == [begun + timedelta(seconds=n / 10) for n in range(30)]
    assert {(each.camera, each.drive_id, each.latitude, each.weather) for each in frames} == {
        ("front", "front", None, None)
    }
    assert len({each.frame_id for each in frames}) == len({each.source_sha256 for each in frames}) == 30
    data, suffix = frames[7].picture.encoded()
    assert suffix == "jpg" and data.startswith(b"\xff\xd8")


@pytest.mark.parametrize("kind", ["mcap", "bag", "db3"])
def test_a_bag_gives_files_pixels_and_video_with_time_and_place(tmp_path: Path, kind: str) -> None:
    write = {"mcap": write_mcap, "bag": write_ros1, "db3": write_ros2_database}[kind]
    write(tmp_path / f"drive.{kind}", drive(types(1 if kind == "bag" else 2), 25))
    frames, damages, counts = read(tmp_path, f"drive.{kind}")
    assert not damages and counts == {"taken": 75}
    for camera in ("/front", "/rear", "/left"):
        assert numbers(frames, camera) == list(range(25))
    front = [each for each in frames if each.camera == "/front"]
    assert [each.timestamp_utc for each in front] == [START + timedelta(seconds=n / 10) for n in range(25)]
    assert [each.latitude for each in front] == [48.0 + n * 1e-5 for n in range(25)]
    assert {each.time_of_day for each in front} == {"night"}, "half past two in Munich"
    assert front[3].picture.encoded() == (jpeg(3), "jpg"), "a file stays the file that it was"


def test_an_unchunked_mcap_file_and_every_compression_are_read(tmp_path: Path) -> None:
    for compression in ("NONE", "LZ4", "ZSTD", ""):
        write_mcap(tmp_path / f"a{compression}.mcap", drive(types(2), 5, kinds=("jpeg",)), compression=compression)
        assert numbers(read(tmp_path, f"a{compression}.mcap")[0]) == list(range(5))
    for compression in ("", "BZ2", "LZ4"):
        write_ros1(tmp_path / f"a{compression}.bag", drive(types(1), 5, kinds=("jpeg",)), compression=compression)
        assert numbers(read(tmp_path, f"a{compression}.bag")[0]) == list(range(5))


def test_pictures_of_a_folder_are_a_drive_and_files_beside_tell_facts(tmp_path: Path) -> None:
    folder = tmp_path / "munich" / "monday"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    (folder / "frames.csv").write_text(
        "file,timestamp_utc,camera,latitude,longitude,weather\n"
        "0.jpg,2026-06-01T11:00:00Z,front,48.137,11.575,rain\n1.jpg,2026-06-01T19:25:00Z,,48.137,11.575,\n"
    )
    (folder / "2.json").write_text(json.dumps({"drive_id": "d7", "timestamp_utc": "2026-06-01T23:00:00+02:00"}))
    found = [read(tmp_path, f"munich/monday/{number}.jpg")[0][0] for number in range(3)]
    assert [(each.drive_id, each.camera, each.weather, each.time_of_day) for each in found] == [
        ("munich/monday", "front", "rain", "day"),
        ("munich/monday", None, None, "twilight"),
        ("d7", None, None, None),
    ]
    assert found[2].timestamp_utc == datetime(2026, 6, 1, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ('{"camera": 3}', "camera is '3'"),
        ('{"latitude": 91, "longitude": 0}', "latitude is '91'"),
        ('{"latitude": 1}', "tells latitude or longitude alone"),
        ('{"weather": "hail"}', "weather is 'hail'"),
        ('{"timestamp_utc": "2026-06-01"}', "must be ISO 8601"),
        ('{"speed": 3}', "tells 'speed'"),
        ("[]", "is no JSON object"),
        ("{", "is no JSON file"),
    ],
)
def test_wrong_facts_cost_their_own_frame(tmp_path: Path, facts: str, said: str) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "0.json").write_text(facts)
    frames, (damage,), _ = read(tmp_path, "0.jpg")
    assert not frames and said in str(damage)


def test_sampling_by_seconds_metres_and_change(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", drive(types(2), 30, kinds=("jpeg",)))

    def taken(**asked: float) -> tuple[list[int], Counter[str]]:
        frames, _, counts = read(tmp_path, "a.mcap", FootageSettings(sampling=Sampling(**asked)))
        return numbers(frames), counts

    assert taken(every_s=1.0) == ([0, 10, 20], {"taken": 3, "too_near": 27})
    # 1e-5 degrees of latitude are 1.11 m
    assert taken(every_m=5.0) == ([0, 5, 10, 15, 20, 25], {"taken": 6, "too_near": 24})
    changed, counts = taken(least_change_bits=12)
    assert 1 < len(changed) < 30 and counts["unchanged"] == 30 - len(changed)
    settings = FootageSettings(cameras=("/re*",))
    assert read(tmp_path, "a.mcap", settings)[2] == {"other_camera": 30}


def test_what_has_no_time_or_place_cannot_be_sampled_by_it(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    assert read(tmp_path, "0.jpg", FootageSettings(sampling=Sampling(every_s=1)))[2] == {"no_time": 1}
    assert read(tmp_path, "0.jpg", FootageSettings(sampling=Sampling(every_m=1)))[2] == {"no_place": 1}


def test_clocks_that_stand_or_jump_are_told(tmp_path: Path) -> None:
    sent = [each for each in drive(types(2), 6, kinds=("jpeg",)) if each[0] == "/front"]
    sent[2][1].header.stamp = sent[1][1].header.stamp  # stands
    zero = types(2).types["builtin_interfaces/msg/Time"](0, 0)
    sent[4][1].header.stamp = zero  # not set: the recorder's own time counts
    sent[5][1].header.stamp = types(2).types["builtin_interfaces/msg/Time"](START_NS // 10**9 - 500, 0)  # jumps back
    write_mcap(tmp_path / "a.mcap", sent)
    frames, _, counts = read(tmp_path, "a.mcap")
    assert counts == {"taken": 6, "clock_stands": 1, "clock_jumps": 1}
    assert frames[4].timestamp_utc == START + timedelta(seconds=0.4)


def test_a_place_is_kept_coarsened_or_dropped(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    told = {"timestamp_utc": "2026-06-01T11:00:00Z", "latitude": 48.13713, "longitude": -11.57549}
    (tmp_path / "0.json").write_text(json.dumps(told))
    places = [read(tmp_path, "0.jpg", FootageSettings(place=how))[0][0] for how in ("keep", "coarse", "drop")]
    expected = [(48.13713, -11.57549), (48.14, -11.58), (None, None)]
    assert [(each.latitude, each.longitude) for each in places] == expected
    assert {each.time_of_day for each in places} == {"day"}


def test_the_listing_tells_drives_and_what_changed_and_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "d1" / "deep").mkdir(parents=True)
    for name in ("d1/front.mp4", "d1/front.json", "d1/deep/1.JPG", "d1/deep/notes.txt", "a.bag", "1.png", "._1.png"):
        (tmp_path / name).write_bytes(b"nothing that could be read")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "1.png")
    (tmp_path / "round").symlink_to(tmp_path)
    left_out: Counter[str] = Counter()
    listed = list(open_footage("fleet", str(tmp_path), FootageSettings()).objects("", left_out))
    assert [(each.name, each.drive_id) for each in listed] == [
        ("1.png", tmp_path.name),
        ("a.bag", "a"),
        ("d1/front.mp4", "d1"),
        ("d1/deep/1.JPG", "d1/deep"),
    ]
    assert +left_out == {".txt": 1, ".png": 1}
    (tmp_path / "d1" / "front.json").write_text("{}")
    again = list(open_footage("fleet", str(tmp_path), FootageSettings()).objects("", Counter()))
    assert [a != b for a, b in zip(listed, again, strict=True)] == [False, False, True, False]


def test_an_mp4_without_its_index_gives_none_and_says_so(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 20, index_first=False)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: data.rindex(b"moov") - 4])
    frames, (damage,), _ = read(tmp_path, "a.mp4")
    assert not frames and "has no readable index" in str(damage) and "none of its frames" in str(damage)


def test_no_frame_depends_on_a_damaged_one(tmp_path: Path) -> None:
    packets = write_video(tmp_path / "a.mp4", 48, bframes=0)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    _, place, size, _ = packets[17]
    data[place + 8 : place + size] = bytes(size - 8)
    (tmp_path / "a.mp4").write_bytes(data)
    frames, (damage,), counts = read(tmp_path, "a.mp4")
    assert numbers(frames) == [*range(17), *range(24, 48)], "from the seventeenth to the next key frame"
    assert str(damage).startswith(f"{tmp_path}/a.mp4: 7 frames before 2.40 s") and counts["damages"] == 1


def test_limits_of_size_and_time_are_told(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 12)
    _, (slow,), _ = read(tmp_path, "a.mp4", FootageSettings(max_object_s=1e-9))
    assert "takes longer than 1e-09 s; raise max_object_s" in str(slow)
    (tmp_path / "b.mp4").write_bytes(bytes(1 << 21))
    _, (large,), _ = read(tmp_path, "b.mp4", FootageSettings(max_object_mib=1))
    assert "has 2097152 bytes, more than 1048576; raise max_object_mib" in str(large)


def test_a_database_whose_query_never_ends_is_given_up(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "a.db3") as database:
        database.execute("CREATE TABLE topics(id INTEGER, name TEXT, type TEXT, serialization_format TEXT)")
        database.execute(
            "CREATE VIEW messages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            " SELECT i AS id, i AS topic_id, i AS timestamp, x'' AS data FROM n"
        )
    frames, (damage,), _ = read(tmp_path, "a.db3", FootageSettings(max_object_s=0.2))
    assert not frames and ("interrupted" in str(damage) or "takes longer" in str(damage))


def test_the_privacy_function_is_applied_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blurring.py").write_text(
        "__version__ = '1.2'\ndef black(image):\n    return image * 0\ndef cut(image):\n    return image[:5]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    data = tmp_path / "data"
    data.mkdir()
    (data / "0.jpg").write_bytes(jpeg(0))
    (plain,), _, _ = read(data, "0.jpg")
    (frame,), _, _ = read(data, "0.jpg", FootageSettings(privacy="blurring:black"))
    assert frame.privacy == "blurring:black 1.2" and plain.privacy is None
    assert frame.source_sha256 == plain.source_sha256 and frame.frame_id == plain.frame_id
    stored, suffix = frame.picture.encoded()
    (data / f"stored.{suffix}").write_bytes(stored)
    assert np.asarray(Image.open(data / f"stored.{suffix}")).max() == 0
    (cut,), _, _ = read(data, "0.jpg", FootageSettings(privacy="blurring:cut"))
    with pytest.raises(InputError, match=r"privacy blurring:cut 1.2: gave uint8 of \(5, 160, 3\)"):
        cut.picture.encoded()
    for name, said in (("blurring:no", "has no function no"), ("no_such_module:f", "cannot be imported")):
        with pytest.raises(InputError, match=said):
            read(data, "0.jpg", FootageSettings(privacy=name))
    with pytest.raises(InputError, match=r"must be package\.module:function"):
        FootageSettings(privacy="os.system('x')")


def test_a_location_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder is missing"):
        open_footage("fleet", str(tmp_path / "none"), FootageSettings())


@pytest.mark.parametrize("plugin", ["MCAP", "SQLITE3"])
def test_ros_2_bags_of_another_writer_are_read(tmp_path: Path, plugin: str) -> None:
    sent = list(drive(types(2), 6, kinds=("jpeg", "raw")))
    writer = Ros2Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin[plugin])
    store = types(2)
    with writer:
        topics = {
            topic: writer.add_connection(topic, message.__msgtype__, typestore=store) for topic, message, _ in sent[:3]
        }
        for topic, message, time_ns in sent:
            writer.write(topics[topic], time_ns, store.serialize_cdr(message, message.__msgtype__))
    (name,) = [path.name for path in (tmp_path / "bag").iterdir() if path.suffix in (".mcap", ".db3")]
    frames, damages, _ = read(tmp_path, f"bag/{name}")
    assert not damages and numbers(frames, "/front") == numbers(frames, "/rear") == list(range(6))
    assert {each.drive_id for each in frames} == {"bag"}


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx265")])
def test_opencv_sees_the_same_frames_in_a_video(tmp_path: Path, name: str, codec: str) -> None:
    write_video(tmp_path / name, 20, codec)
    film, seen = cv2.VideoCapture(str(tmp_path / name)), []
    while (shown := film.read())[0]:
        seen.append(number_in(np.asarray(shown[1], np.uint8)[..., ::-1]))
    assert seen == numbers(read(tmp_path, name)[0]) == list(range(20))


@pytest.mark.parametrize(("name", "write", "ros"), [("a.mcap", write_mcap, 2), ("a.bag", write_ros1, 1)])
def test_rosbags_finds_the_same_messages_in_a_bag(tmp_path: Path, name: str, write: Any, ros: int) -> None:
    write(tmp_path / name, drive(types(ros), 5, kinds=("jpeg", "raw")))
    with AnyReader([tmp_path / name]) as reader:
        found = [
            (connection.topic, time_ns) for connection, time_ns, _ in reader.messages() if connection.topic != "/fix"
        ]
    taken = [(each.camera, each.timestamp_utc) for each in read(tmp_path, name)[0]]
    assert [topic for topic, _ in found] == [camera for camera, _ in taken]
    assert [time_ns // 10**6 for _, time_ns in found] == [time and round(time.timestamp() * 1e3) for _, time in taken]


def test_protobuf_messages_are_read(tmp_path: Path) -> None:
    stamp = timestamp_pb2.Timestamp(seconds=START_NS // 10**9)
    file = descriptor_pb2.FileDescriptorProto(
        name="foxglove/CompressedImage.proto", package="foxglove", dependency=["google/protobuf/timestamp.proto"],
        syntax="proto3",
    )  # fmt: skip
    message = file.message_type.add(name="CompressedImage")
    message.field.add(name="timestamp", number=1, type=11, type_name=".google.protobuf.Timestamp", label=1)
    message.field.add(name="data", number=2, type=12, label=1)
    message.field.add(name="format", number=3, type=9, label=1)
    pool = descriptor_pool.DescriptorPool()
    time_file = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(time_file)
    pool.Add(time_file)
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("foxglove.CompressedImage"))
    described = descriptor_pb2.FileDescriptorSet(file=[time_file, file]).SerializeToString()
    with (tmp_path / "a.mcap").open("wb") as stream:
        writer = McapWriter(stream)
        writer.start()
        schema = writer.register_schema("foxglove.CompressedImage", "protobuf", described)
        channel = writer.register_channel("/front", "protobuf", schema)
        image = kind(data=jpeg(5), format="jpeg")
        image.timestamp.seconds = stamp.seconds
        writer.add_message(channel, log_time=1, publish_time=1, data=image.SerializeToString())
        writer.add_message(channel, log_time=2, publish_time=2, data=b"\xff\xff\xff")
        writer.finish()
    (frame,), (damage,), _ = read(tmp_path, "a.mcap")
    assert number_in(frame.picture.pixels()) == 5 and frame.timestamp_utc == START
    assert "/front 1: is no foxglove.CompressedImage" in str(damage)


def test_a_bag_of_countless_empty_records_ends_in_time(tmp_path: Path) -> None:
    (tmp_path / "a.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes((9, *bytes(8))) * 2_000_000)
    frames, (slow,), _ = read(tmp_path, "a.mcap", FootageSettings(max_object_s=0.2))
    assert not frames and "takes longer than 0.2 s" in str(slow)


def test_a_chunk_that_unpacks_to_more_than_it_says_is_left_out(tmp_path: Path) -> None:
    write_mcap(tmp_path / "a.mcap", drive(types(2), 3, kinds=("jpeg",)), chunk_bytes=1 << 20)
    data = bytearray((tmp_path / "a.mcap").read_bytes())
    with (tmp_path / "a.mcap").open("rb") as stream:
        (chunk,) = make_reader(stream).get_summary().chunk_indexes
    size = data[chunk.chunk_start_offset + 9 + 16 : chunk.chunk_start_offset + 9 + 24]
    assert int.from_bytes(size, "little") == chunk.uncompressed_size
    for claimed in (100, 1 << 40):
        data[chunk.chunk_start_offset + 9 + 16 : chunk.chunk_start_offset + 9 + 24] = claimed.to_bytes(8, "little")
        (tmp_path / "a.mcap").write_bytes(data)
        frames, damages, _ = read(tmp_path, "a.mcap")
        assert not frames and ("announces another size" in str(damages[0]) or "more than" in str(damages[0]))
