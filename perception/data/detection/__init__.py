"""Readers and writers of detection sets: KITTI, BDD100k and COCO in one order of columns."""

from perception.data.detection.bdd100k import read_bdd100k_boxes
from perception.data.detection.boxes import DetectionFrame, DetectionSet
from perception.data.detection.coco import read_coco, write_coco
from perception.data.detection.kitti import read_kitti, read_kitti_detections, write_kitti_detections

__all__ = [
    "DetectionFrame",
    "DetectionSet",
    "read_bdd100k_boxes",
    "read_coco",
    "read_kitti",
    "read_kitti_detections",
    "write_coco",
    "write_kitti_detections",
]
