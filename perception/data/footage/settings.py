"""What a night takes from footage, as params.yaml says it."""

from typing import Annotated, Literal

from pydantic import Field

from perception.parameters import Count, NotNegative, Positive, checked, matching

NIGHT = "{night}"  # in a path: the night's UTC date, such as 2026-11-30
CALLABLE_RULE = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


@checked
class Sampling:
    """Say which frames of a camera are taken: those that are far enough from the last one that was, in all that is set."""

    every_s: NotNegative = 0.0  # seconds; 0: every frame
    every_m: NotNegative = 0.0  # metres, by GPS; 0: every frame
    # bits by which the difference hashes of the two pictures differ at least, of 64; 0: every frame
    least_change_bits: Annotated[int, Field(ge=0, le=64)] = 0


@checked
class FootageSettings:
    """Say what is taken from a source of footage, what is kept of it, and what one object may cost."""

    sampling: Sampling = Sampling()  # which frames of a camera; as recorded: every one
    cameras: tuple[str, ...] = ()  # topics or cameras that are read, with * and ? for any letters; none: all
    # where a frame was taken: keep, coarse (to a hundredth of a degree, about a kilometre) or drop
    place: Literal["keep", "coarse", "drop"] = "keep"
    # package.module:function, image in and image out, (height, width, 3) uint8 RGB, before anything is stored
    privacy: Annotated[str, matching(f"({CALLABLE_RULE})?", "must be package.module:function")] = ""
    max_object_mib: Count = 65536  # a larger object is left out and listed
    max_object_s: Positive = 3600.0  # what of an object has not been read by then is left out and listed


def split_at_night(path: str) -> tuple[str, str]:
    """Return the folder or bucket that lasts, and what is below it from {night} on: "" or a prefix that ends in /."""
    before, found, _ = path.partition(NIGHT)
    root = before.rpartition("/")[0] if found else path
    return root, path.removeprefix(root).strip("/") + "/" if found else ""
