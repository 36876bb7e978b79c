"""Hand frames over to annotators, and take their labels back.

A batch goes out as a folder (batch.py):

    batch.json                         its name, the taxonomy and its classes, how to send labels back
    manifest.parquet                   the frames; frames.csv names their images
    images/FRAME.jpg|png               the very bytes of the store
    prelabels/cvat_labels.json         CVAT: the list of labels, as its constructor takes it, and of image tags
    prelabels/cvat.xml                 CVAT: what the ensemble saw, as polygons ("CVAT for images 1.1")
    prelabels/label_studio.xml         Label Studio: the labelling configuration
    prelabels/label_studio.json        Label Studio: tasks with what the ensemble saw as pre-annotations
    prelabels/masks/FRAME.png          what the ensemble saw, for any other tool

and comes back as a label drop (drops.py): whatever these tools export, a zip archive, a folder or a file, or the batch's folder with
labels and a drop.json that says who made them.  What lies in it is told by content: CVAT's XML (cvat.py), Label Studio's JSON
(label_studio.py), COCO, Cityscapes' polygons (coco.py), label files and CVAT's segmentation masks (masks.py).
"""

from perception.data.annotation.batch import Batch, batch_name, write_batch
from perception.data.annotation.drops import ReturnedLabel, read_label, returned_labels
from perception.data.annotation.outlines import Outline, outlines_of

__all__ = [
    "Batch",
    "Outline",
    "ReturnedLabel",
    "batch_name",
    "outlines_of",
    "read_label",
    "returned_labels",
    "write_batch",
]
