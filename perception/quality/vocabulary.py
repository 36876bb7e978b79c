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

_KINDS = {
    "text": (
        *("column", "column_A", "column_B", "regex", "ignore_row_if", "group_column", "side_column", "prefix"),
        *("right_prefix", "hash_column", "void_column", "width_column", "height_column"),
    ),
    "list": ("column_list", "column_set", "value_set", "classes"),
    "mapping": ("quantile_ranges", "sides", "reference"),
    "flag": ("exact_match", "strict_min", "strict_max", "or_equal"),
    "number": (
        *("value", "min_value", "max_value", "mostly", "least_share", "lowest_ratio", "highest_ratio", "min_share"),
        *("floor_share", "max_divergence_nats", "min_px", "max_distance_bits", "max_share"),
    ),
}
KWARG_KINDS = {name: kind for kind, names in _KINDS.items() for name in names}
_BOUNDS = (  # arguments that are a bound, shown beside the observed value
    *("value_set", "regex", "value", "min_value", "max_value", "quantile_ranges", "column_set", "classes", "min_px"),
    *("max_divergence_nats", "lowest_ratio", "highest_ratio", "min_share", "max_distance_bits", "max_share"),
)
_BETWEEN = ("min_value", "max_value")
_STRICT = ("strict_min", "strict_max")


@dataclass(frozen=True)
class Form:
    """One kind of expectation."""

    looks_at: str  # one of LOOKS_AT
    words: str  # the rule, its arguments in braces
    required: tuple[str, ...] = ()  # arguments that must be given
    optional: tuple[str, ...] = ()  # arguments that may be given

    @property
    def one_of(self) -> tuple[str, ...]:
        """Return the optional arguments of which at least one must be given."""
        return tuple(name for name in self.optional if name in _BETWEEN)

    @property
    def bounds(self) -> tuple[str, ...]:
        """Return the arguments that are the bound, shown beside the observed value."""
        return tuple(name for name in self.required + self.optional if name in _BOUNDS)

    def rule(self, kwargs: Mapping[str, Any]) -> str:
        """Return the rule in words, from the arguments."""
        said = {name: in_words(value) for name, value in kwargs.items()}
        together = {name: say(kwargs) for name, say in _SAID_TOGETHER.items() if f"{{{name}}}" in self.words}
        return self.words.format_map(said | together)


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


def _range(kwargs: Mapping[str, Any]) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    above = "more than" if kwargs.get("strict_min") else "at least"
    below = "less than" if kwargs.get("strict_max") else "at most"
    parts = [f"{above} {in_words(low)}"] if low is not None else []
    parts += [f"{below} {in_words(high)}"] if high is not None else []
    return " and ".join(parts)


def _mostly(kwargs: Mapping[str, Any]) -> str:
    return f" in a share of at least {in_words(kwargs['mostly'])} of the rows" if "mostly" in kwargs else ""


def _quantiles(kwargs: Mapping[str, Any]) -> str:
    ranges = kwargs["quantile_ranges"]
    pairs = zip(ranges.get("quantiles", []), ranges.get("value_ranges", []), strict=False)
    return "; ".join(f"quantile {in_words(q)} is within [{in_words(list(bounds))}]" for q, bounds in pairs)


_SAID_TOGETHER: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "range": _range,
    "mostly": _mostly,
    "quantiles": _quantiles,
    "relation": lambda kwargs: "at least" if kwargs.get("or_equal") else "greater than",
    "sides": lambda kwargs: "; ".join(f"{side} ({in_words(values)})" for side, values in kwargs["sides"].items()),
}

FORMS: dict[str, Form] = {
    # both bounds, because with one alone an infinite value passes
    "expect_column_values_to_be_between": Form(
        "values", "{column} is {range}{mostly}", ("column", *_BETWEEN), (*_STRICT, "mostly")
    ),
    "expect_column_values_to_be_in_set": Form(
        "values", "{column} is one of: {value_set}{mostly}", ("column", "value_set"), ("mostly",)
    ),
    "expect_column_values_to_be_unique": Form("values", "no two rows have the same {column}", ("column",)),
    "expect_column_values_to_match_regex": Form("values", "{column} matches {regex}", ("column", "regex")),
    "expect_column_values_to_not_be_null": Form("rows", "every row has a {column}", ("column",)),
    "expect_column_pair_values_to_be_equal": Form(
        "pairs", "{column_A} equals {column_B}", ("column_A", "column_B"), ("ignore_row_if",)
    ),
    "expect_column_pair_values_a_to_be_greater_than_b": Form(
        "pairs", "{column_A} is {relation} {column_B}", ("column_A", "column_B"), ("or_equal", "ignore_row_if")
    ),
    "expect_column_distinct_values_to_contain_set": Form(
        "values", "each of these occurs in {column}: {value_set}", ("column", "value_set")
    ),
    "expect_column_max_to_be_between": Form(
        "values", "the largest {column} is {range}{mostly}", ("column",), (*_BETWEEN, *_STRICT)
    ),
    "expect_column_mean_to_be_between": Form(
        "values", "the mean {column} is {range}{mostly}", ("column",), (*_BETWEEN, *_STRICT)
    ),
    "expect_column_unique_value_count_to_be_between": Form(
        "values", "the number of different values of {column} is {range}{mostly}", ("column",), _BETWEEN
    ),
    "expect_column_quantile_values_to_be_between": Form(
        "values", "{column}: {quantiles}", ("column", "quantile_ranges")
    ),
    "expect_table_row_count_to_be_between": Form("table", "the number of rows is {range}{mostly}", (), _BETWEEN),
    "expect_table_row_count_to_equal": Form("table", "the number of rows is exactly {value}", ("value",)),
    "expect_table_columns_to_match_set": Form(
        "table", "the table has the columns: {column_set}", ("column_set", "exact_match")
    ),
    # our own, perception/quality/checks.py
    "expect_values_to_be_present": Form("own", "every row has a value in each of: {column_list}", ("column_list",)),
    "expect_values_to_be_finite": Form(
        "own", "every row has a finite number in each of: {column_list}", ("column_list",)
    ),
    "expect_group_to_stay_on_one_side": Form(
        "own",
        "no {group_column} is on two sides of {side_column}; the sides are {sides}",
        ("group_column", "side_column", "sides"),
    ),
    "expect_class_pixels_to_fill_the_frame": Form(
        "own",
        "the pixels of all classes ({prefix}…) and of none ({void_column}) fill the frame",
        ("prefix", "void_column", "width_column", "height_column"),
    ),
    "expect_class_shares_to_stay_near": Form(
        "own",
        "the class shares of pixels ({prefix}…) diverge from the reference by at most "
        "{max_divergence_nats} nats (Kullback-Leibler)",
        ("prefix", "reference", "floor_share", "max_divergence_nats"),
    ),
    "expect_class_mix_to_be_kept": Form(
        "own",
        "of the pixels of these classes ({prefix}…), one with a share of {least_share} or more keeps at least "
        "{lowest_ratio} and takes at most {highest_ratio} times its share in the reference",
        ("prefix", "reference", "least_share", "lowest_ratio", "highest_ratio"),
    ),
    "expect_class_pixels_to_be_right": Form(
        "own",
        "a share of at least {min_share} of the pixels ({prefix}…) is right ({right_prefix}…)",
        ("prefix", "right_prefix", "min_share"),
    ),
    "expect_class_pixels_to_reach": Form(
        "own", "each of these classes has at least {min_px} pixels: {classes}", ("prefix", "classes", "min_px")
    ),
    "expect_no_near_duplicates_across_sides": Form(
        "own",
        "no image is within {max_distance_bits} bits of {hash_column} of one on the other side of {side_column}; "
        "the sides are {sides}",
        ("hash_column", "side_column", "sides", "max_distance_bits"),
    ),
    "expect_group_share_to_be_at_most": Form(
        "own",
        "no single {group_column} gives a share of more than {max_share} of the rows",
        ("group_column", "max_share"),
    ),
}
