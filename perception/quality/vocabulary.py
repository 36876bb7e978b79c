"""The expectations that a suite may use: their keyword arguments, how each is said in words and when it is vacuous.

A closed list, so that a misspelt expectation or argument is found without importing great_expectations (3 s), which
itself drops an unknown expectation with nothing but a log line.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PARAMETER = "$PARAMETER"

# What an expectation looks at, and therefore when it has looked at nothing:
# values: the non-null values of one column     pairs: rows of two columns that are not ignored
# rows: every row, nulls too                    own: the expectation itself reports how much it looked at
# table: the table as such; an empty table is an answer like any other
LOOKS_AT = ("values", "pairs", "rows", "own", "table")

KWARG_KINDS: dict[str, str] = {
    "column": "text",
    "column_A": "text",
    "column_B": "text",
    "column_list": "list",
    "column_set": "list",
    "exact_match": "flag",
    "regex": "text",
    "value_set": "list",
    "value": "number",
    "min_value": "number",
    "max_value": "number",
    "strict_min": "flag",
    "strict_max": "flag",
    "or_equal": "flag",
    "ignore_row_if": "text",
    "mostly": "number",
    "quantile_ranges": "mapping",
    "group_column": "text",
    "side_column": "text",
    "sides": "mapping",
    "prefix": "text",
    "right_prefix": "text",
    "least_share": "number",
    "lowest_ratio": "number",
    "highest_ratio": "number",
    "min_share": "number",
    "reference": "mapping",
    "floor_share": "number",
    "max_divergence_nats": "number",
    "classes": "list",
    "min_px": "number",
    "hash_column": "text",
    "void_column": "text",
    "width_column": "text",
    "height_column": "text",
    "max_distance_bits": "number",
    "max_share": "number",
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One kind of expectation."""

    required: tuple[str, ...]  # arguments that must be given
    optional: tuple[str, ...] = ()  # arguments that may be given
    one_of: tuple[str, ...] = ()  # optional arguments of which at least one must be given
    bounds: tuple[str, ...] = ()  # arguments that are the bound, shown beside the observed value
    looks_at: str  # one of LOOKS_AT
    rule: Callable[[Mapping[str, Any]], str]  # the rule in words, from the arguments


def in_words(value: Any) -> str:
    """Say an argument in words; a run-time parameter is shown as $name."""
    if isinstance(value, Mapping):
        if set(value) == {PARAMETER}:
            return f"${value[PARAMETER]}"
        return ", ".join(f"{key} {in_words(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(in_words(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _between(what: str, kwargs: Mapping[str, Any]) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    above = "more than" if kwargs.get("strict_min") else "at least"
    below = "less than" if kwargs.get("strict_max") else "at most"
    parts = [f"{above} {in_words(low)}"] if low is not None else []
    parts += [f"{below} {in_words(high)}"] if high is not None else []
    return f"{what} is {' and '.join(parts)}{_mostly(kwargs)}"


def _mostly(kwargs: Mapping[str, Any]) -> str:
    return f" in a share of at least {in_words(kwargs['mostly'])} of the rows" if "mostly" in kwargs else ""


def _quantiles(kwargs: Mapping[str, Any]) -> str:
    ranges = kwargs["quantile_ranges"]
    pairs = zip(ranges.get("quantiles", []), ranges.get("value_ranges", []), strict=False)
    said = [f"quantile {in_words(q)} is within [{in_words(list(bounds))}]" for q, bounds in pairs]
    return f"{kwargs['column']}: {'; '.join(said)}"


def _greater(kwargs: Mapping[str, Any]) -> str:
    relation = "at least" if kwargs.get("or_equal") else "greater than"
    return f"{kwargs['column_A']} is {relation} {kwargs['column_B']}"


_BETWEEN = ("min_value", "max_value")
_STRICT = ("strict_min", "strict_max")

FORMS: dict[str, Form] = {
    # both bounds, because with one alone an infinite value passes
    "expect_column_values_to_be_between": Form(
        required=("column", *_BETWEEN),
        optional=(*_STRICT, "mostly"),
        bounds=_BETWEEN,
        looks_at="values",
        rule=lambda k: _between(k["column"], k),
    ),
    "expect_column_values_to_be_in_set": Form(
        required=("column", "value_set"),
        optional=("mostly",),
        bounds=("value_set",),
        looks_at="values",
        rule=lambda k: f"{k['column']} is one of: {in_words(k['value_set'])}{_mostly(k)}",
    ),
    "expect_column_values_to_be_unique": Form(
        required=("column",), looks_at="values", rule=lambda k: f"no two rows have the same {k['column']}"
    ),
    "expect_column_values_to_match_regex": Form(
        required=("column", "regex"),
        bounds=("regex",),
        looks_at="values",
        rule=lambda k: f"{k['column']} matches {in_words(k['regex'])}",
    ),
    "expect_column_values_to_not_be_null": Form(
        required=("column",), looks_at="rows", rule=lambda k: f"every row has a {k['column']}"
    ),
    "expect_column_pair_values_to_be_equal": Form(
        required=("column_A", "column_B"),
        optional=("ignore_row_if",),
        looks_at="pairs",
        rule=lambda k: f"{k['column_A']} equals {k['column_B']}",
    ),
    "expect_column_pair_values_a_to_be_greater_than_b": Form(
        required=("column_A", "column_B"),
        optional=("or_equal", "ignore_row_if"),
        looks_at="pairs",
        rule=_greater,
    ),
    "expect_column_distinct_values_to_contain_set": Form(
        required=("column", "value_set"),
        bounds=("value_set",),
        looks_at="values",
        rule=lambda k: f"each of these occurs in {k['column']}: {in_words(k['value_set'])}",
    ),
    "expect_column_max_to_be_between": Form(
        required=("column",),
        optional=(*_BETWEEN, *_STRICT),
        one_of=_BETWEEN,
        bounds=_BETWEEN,
        looks_at="values",
        rule=lambda k: _between(f"the largest {k['column']}", k),
    ),
    "expect_column_mean_to_be_between": Form(
        required=("column",),
        optional=(*_BETWEEN, *_STRICT),
        one_of=_BETWEEN,
        bounds=_BETWEEN,
        looks_at="values",
        rule=lambda k: _between(f"the mean {k['column']}", k),
    ),
    "expect_column_unique_value_count_to_be_between": Form(
        required=("column",),
        optional=_BETWEEN,
        one_of=_BETWEEN,
        bounds=_BETWEEN,
        looks_at="values",
        rule=lambda k: _between(f"the number of different values of {k['column']}", k),
    ),
    "expect_column_quantile_values_to_be_between": Form(
        required=("column", "quantile_ranges"),
        bounds=("quantile_ranges",),
        looks_at="values",
        rule=_quantiles,
    ),
    "expect_table_row_count_to_be_between": Form(
        required=(),
        optional=_BETWEEN,
        one_of=_BETWEEN,
        bounds=_BETWEEN,
        looks_at="table",
        rule=lambda k: _between("the number of rows", k),
    ),
    "expect_table_row_count_to_equal": Form(
        required=("value",),
        bounds=("value",),
        looks_at="table",
        rule=lambda k: f"the number of rows is exactly {in_words(k['value'])}",
    ),
    "expect_table_columns_to_match_set": Form(
        required=("column_set", "exact_match"),
        bounds=("column_set",),
        looks_at="table",
        rule=lambda k: f"the table has the columns: {in_words(k['column_set'])}",
    ),
    # our own, perception/quality/checks.py
    "expect_values_to_be_present": Form(
        required=("column_list",),
        looks_at="own",
        rule=lambda k: f"every row has a value in each of: {in_words(k['column_list'])}",
    ),
    "expect_values_to_be_finite": Form(
        required=("column_list",),
        looks_at="own",
        rule=lambda k: f"every row has a finite number in each of: {in_words(k['column_list'])}",
    ),
    "expect_group_to_stay_on_one_side": Form(
        required=("group_column", "side_column", "sides"),
        looks_at="own",
        rule=lambda k: (
            f"no {k['group_column']} is on two sides of {k['side_column']}; the sides are "
            + "; ".join(f"{side} ({in_words(values)})" for side, values in k["sides"].items())
        ),
    ),
    "expect_class_pixels_to_fill_the_frame": Form(
        required=("prefix", "void_column", "width_column", "height_column"),
        looks_at="own",
        rule=lambda k: f"the pixels of all classes ({k['prefix']}…) and of none ({k['void_column']}) fill the frame",
    ),
    "expect_class_shares_to_stay_near": Form(
        required=("prefix", "reference", "floor_share", "max_divergence_nats"),
        bounds=("max_divergence_nats",),
        looks_at="own",
        rule=lambda k: (
            f"the class shares of pixels ({k['prefix']}…) diverge from the reference by at most "
            f"{in_words(k['max_divergence_nats'])} nats (Kullback-Leibler)"
        ),
    ),
    "expect_class_mix_to_be_kept": Form(
        required=("prefix", "reference", "least_share", "lowest_ratio", "highest_ratio"),
        bounds=("lowest_ratio", "highest_ratio"),
        looks_at="own",
        rule=lambda k: (
            f"of the pixels of these classes ({k['prefix']}…), one with a share of {in_words(k['least_share'])} or more "
            f"keeps at least {in_words(k['lowest_ratio'])} and takes at most {in_words(k['highest_ratio'])} times its "
            "share in the reference"
        ),
    ),
    "expect_class_pixels_to_be_right": Form(
        required=("prefix", "right_prefix", "min_share"),
        bounds=("min_share",),
        looks_at="own",
        rule=lambda k: (
            f"a share of at least {in_words(k['min_share'])} of the pixels ({k['prefix']}…) is right ({k['right_prefix']}…)"
        ),
    ),
    "expect_class_pixels_to_reach": Form(
        required=("prefix", "classes", "min_px"),
        bounds=("classes", "min_px"),
        looks_at="own",
        rule=lambda k: f"each of these classes has at least {in_words(k['min_px'])} pixels: {in_words(k['classes'])}",
    ),
    "expect_no_near_duplicates_across_sides": Form(
        required=("hash_column", "side_column", "sides", "max_distance_bits"),
        bounds=("max_distance_bits",),
        looks_at="own",
        rule=lambda k: (
            f"no image is within {in_words(k['max_distance_bits'])} bits of {k['hash_column']} of one on the other "
            f"side of {k['side_column']}; the sides are "
            + "; ".join(f"{side} ({in_words(values)})" for side, values in k["sides"].items())
        ),
    ),
    "expect_group_share_to_be_at_most": Form(
        required=("group_column", "max_share"),
        bounds=("max_share",),
        looks_at="own",
        rule=lambda k: (
            f"no single {k['group_column']} gives a share of more than {in_words(k['max_share'])} of the rows"
        ),
    ),
}
