"""Taxonomies: the tables are complete, agree with one another and map as the field does."""

import numpy as np
import pytest
import yaml

from perception.data import taxonomies
from perception.data.taxonomies import apply_lookup, colorize, label_lookup, load_taxonomy, taxonomy_names
from perception.errors import InputError


def mapped(source: str, name: str, target: str) -> str | None:
    """Follow one class through the lookup table, from its raw value to the name in the target."""
    start, end = load_taxonomy(source), load_taxonomy(target)
    values = np.flatnonzero(start.raw == start.classes.index(name))
    results = {int(label_lookup(source, target)[value]) for value in values}
    assert len(results) == 1
    result = results.pop()
    return None if result == 255 else end.classes[result]


def test_the_known_taxonomies() -> None:
    assert {name: len(load_taxonomy(name).classes) for name in taxonomy_names()} == {
        "bdd100k": 19, "camvid11": 11, "cityscapes19": 19, "cityscapes_ids": 19, "gta5": 19, "mapillary_v1_2": 65,
        "mapillary_v2_0": 123, "synthia16": 16, "viper": 30,
    }  # fmt: skip


# Published palettes that give several classes one colour.
SHARED_COLORS = {"mapillary_v2_0": 25, "viper": 1}


def test_foreground_is_ten_and_background_nine() -> None:
    taxonomy = load_taxonomy("cityscapes19")
    names = {name for name, flag in zip(taxonomy.classes, taxonomy.foreground, strict=True) if flag}
    assert names == {
        "traffic_light", "traffic_sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    }  # fmt: skip
    assert len(taxonomy.classes) - len(names) == 9


@pytest.mark.parametrize("name", taxonomy_names())
def test_every_table_is_whole(name: str) -> None:
    taxonomy = load_taxonomy(name)
    count = len(taxonomy.classes)
    assert len(set(taxonomy.classes)) == count == len(taxonomy.foreground)
    assert taxonomy.colors.shape == (count, 3) and taxonomy.colors.dtype == np.uint8
    colors = len({tuple(color) for color in taxonomy.colors.tolist()})
    assert count - colors == SHARED_COLORS.get(name, 0), "two classes share a colour"
    assert taxonomy.raw.shape == (256,) and taxonomy.raw.dtype == np.uint8
    assert set(taxonomy.raw.tolist()) == {*range(count), 254, 255}, "every class has a raw value"
    assert taxonomy.raw[255] == 255
    table = yaml.safe_load((taxonomies._TABLES / f"{name}.yaml").read_text())
    assert table["name"] == name
    assert not set(table["raw"]) & set(table["ignore"])
    if "to_cityscapes19" in table:
        hub = load_taxonomy("cityscapes19").classes
        assert set(table["to_cityscapes19"]) == set(taxonomy.classes)
        assert set(table["to_cityscapes19"].values()) <= {*hub, None}
        assert set(table["from_cityscapes19"]) == set(hub)
        assert set(table["from_cityscapes19"].values()) <= {*taxonomy.classes, None}


def test_cityscapes_ids_are_those_of_cityscapes_scripts() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    raw = load_taxonomy("cityscapes_ids").raw
    for label in labels.labels:
        assert raw[label.id % 256] == label.trainId % 256, label.name
        if 0 <= label.trainId < 19:
            taxonomy = load_taxonomy("cityscapes19")
            assert taxonomy.classes[label.trainId] == label.name.replace(" ", "_")
            assert tuple(taxonomy.colors[label.trainId]) == label.color
    assert set(np.flatnonzero(raw == 254)) == set(range(34, 255))


def test_cityscapes_ids_against_a_table_written_out() -> None:
    train_of = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    train_of |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    lookup = label_lookup("cityscapes_ids", "cityscapes19")
    assert {value: int(lookup[value]) for value in range(256) if lookup[value] != 255} == train_of
    assert np.array_equal(label_lookup("gta5", "cityscapes19"), lookup)


def test_camvid_values_are_the_segnet_order() -> None:
    assert load_taxonomy("camvid11").raw[:13].tolist() == [*range(11), 255, 254]
    assert load_taxonomy("camvid11").classes[3] == "road" and load_taxonomy("camvid11").classes[8] == "car"


def test_bdd100k_values_are_training_ids() -> None:
    assert load_taxonomy("bdd100k").raw.tolist() == [*range(19), *[254] * 236, 255]


def test_viper_ids() -> None:
    """The ids of the toolkit's classes.csv, and what the other way round cannot be told apart."""
    raw = load_taxonomy("viper").raw
    names = {value: load_taxonomy("viper").classes[raw[value]] for value in range(2, 32)}
    assert raw[:2].tolist() == [255, 255] and raw[32] == 254
    assert [names[value] for value in (2, 3, 10, 13, 20, 24, 25, 31)] == [
        "sky", "road", "infrastructure", "trafficlight", "person", "car", "van", "boat",
    ]  # fmt: skip
    assert mapped("viper", "van", "cityscapes19") == "car" and mapped("viper", "infrastructure", "cityscapes19") is None
    assert mapped("cityscapes19", "rider", "viper") == "person" and mapped("viper", "tree", "camvid11") == "tree"


@pytest.mark.parametrize(("name", "count"), [("mapillary_v1_2", 66), ("mapillary_v2_0", 124)])
def test_mapillary_names_are_the_published_ones_in_their_order(name: str, count: int) -> None:
    published = taxonomies.published_names(name)
    assert len(set(published)) == count and list(published) == sorted(published)
    assert published[-1] == "void--unlabeled" and load_taxonomy(name).raw[count - 1] == 255
    taxonomy = load_taxonomy(name)
    for value, text in enumerate(published[:-1]):
        assert taxonomy.classes[taxonomy.raw[value]] == text.replace("--", "_").replace("-", "_")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("construction_flat_road", "road"), ("construction_barrier_curb", "sidewalk"), ("nature_sand", "terrain"),
        ("object_traffic_sign_front", "traffic_sign"), ("object_traffic_sign_back", None), ("object_street_light", "pole"),
        ("human_rider_motorcyclist", "rider"), ("object_vehicle_on_rails", "train"), ("void_ego_vehicle", None),
        ("construction_structure_bridge", None), ("object_manhole", "road"),
    ],
)  # fmt: skip
def test_both_versions_of_mapillary_map_alike(name: str, target: str | None) -> None:
    assert mapped("mapillary_v1_2", name, "cityscapes19") == target
    assert mapped("mapillary_v2_0", name, "cityscapes19") == target


def test_only_tables_that_list_published_names_have_them() -> None:
    with pytest.raises(InputError, match="taxonomy 'gta5' lists no published names"):
        taxonomies.published_names("gta5")


def test_synthia_ids() -> None:
    table = {
        3: 0,
        4: 1,
        2: 2,
        21: 3,
        5: 4,
        7: 5,
        15: 6,
        9: 7,
        6: 8,
        1: 10,
        10: 11,
        17: 12,
        8: 13,
        19: 15,
        12: 17,
        11: 18,
    }
    lookup = label_lookup("synthia16", "cityscapes19")
    assert {value: int(lookup[value]) for value in range(256) if lookup[value] != 255} == table


@pytest.mark.parametrize("name", taxonomy_names())
def test_identity_maps_each_class_to_itself(name: str) -> None:
    assert np.array_equal(
        label_lookup(name, name), np.where(load_taxonomy(name).raw == 254, 255, load_taxonomy(name).raw)
    )


@pytest.mark.parametrize("name", ["camvid11", "synthia16"])
def test_to_the_hub_is_one_to_one_and_back_again_is_the_identity(name: str) -> None:
    classes = load_taxonomy(name).classes
    there = [mapped(name, each, "cityscapes19") for each in classes]
    assert None not in there and len(set(there)) == len(classes)
    assert [mapped("cityscapes19", str(each), name) for each in there] == list(classes)


def test_foreground_stays_foreground() -> None:
    hub = load_taxonomy("cityscapes19")
    for name in ("camvid11", "synthia16"):
        taxonomy = load_taxonomy(name)
        for each, flag in zip(taxonomy.classes, taxonomy.foreground, strict=True):
            assert hub.foreground[hub.classes.index(str(mapped(name, each, "cityscapes19")))] == flag, (name, each)


@pytest.mark.parametrize(
    ("name", "camvid", "synthia"),
    [
        ("truck", "car", None), ("bus", "car", "bus"), ("train", "car", None), ("rider", "bicyclist", "rider"),
        ("bicycle", "bicyclist", "bicycle"), ("motorcycle", "bicyclist", "motorcycle"), ("terrain", "tree", None),
        ("wall", "building", "wall"), ("traffic_light", "sign", "traffic_light"), ("sidewalk", "pavement", "sidewalk"),
    ],
)  # fmt: skip
def test_many_to_one_mappings(name: str, camvid: str, synthia: str | None) -> None:
    assert mapped("cityscapes19", name, "camvid11") == camvid
    assert mapped("cityscapes_ids", name, "camvid11") == camvid
    assert mapped("gta5", name, "synthia16") == synthia


def test_between_two_leaves_through_the_hub() -> None:
    assert mapped("camvid11", "pavement", "synthia16") == "sidewalk"
    assert mapped("synthia16", "bus", "camvid11") == "car"


def test_apply_lookup_and_colorize_equal_indexing() -> None:
    label = np.random.default_rng(0).integers(0, 256, (7, 9), dtype=np.uint8)
    lookup = label_lookup("cityscapes_ids", "camvid11")
    assert np.array_equal(apply_lookup(label[:, ::2], lookup), lookup[label[:, ::2]])
    taxonomy = load_taxonomy("camvid11")
    colors = colorize(np.array([[0, 10, 255]], np.uint8), taxonomy)
    assert colors.tolist() == [[[128, 128, 128], [0, 128, 192], [0, 0, 0]]]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"taxonomy 'kitti' is unknown; use one of bdd100k, camvid11, cityscapes19"):
        load_taxonomy("kitti")
    with pytest.raises(InputError, match="kitti"):
        label_lookup("cityscapes19", "kitti")


def test_shared_arrays_are_read_only() -> None:
    for array in (load_taxonomy("gta5").raw, load_taxonomy("gta5").colors, label_lookup("gta5", "camvid11")):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
