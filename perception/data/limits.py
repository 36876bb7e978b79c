"""What a file that others send may take: one table for every reader. Above a limit the file is refused and costs its own frame."""

PIXELS = 64_000_000  # of a picture: four times an 8k frame, and below the size at which Pillow itself starts to warn
SCANS = 100  # of a JPEG: encoders write about ten, and each costs another pass over all pixels
FILE_BYTES = 2**28  # of a picture or a file of a label drop: outlines have kilobytes, 64 megapixels as PNG up to 200 MB
JSON_BYTES = 2**31  # of the label file of a data set: COCO's training instances have 470 MB, BDD100k's boxes 550 MB
MEMBER_JSON_BYTES = 2**20  # of what a shard tells about one frame
DROP_FILES = 10**6  # in one archive
