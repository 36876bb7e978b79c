"""The tables of docs/gates.md, made from the suites so that the page cannot drift from them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from perception.errors import InputError
from perception.quality.gate import columns_named
from perception.quality.suites import SUITE_NAMES, Parameter, Suite, load_suite
from perception.quality.vocabulary import in_words

_START, _END = "<!-- suites: made by perception.quality.page.write_page -->", "<!-- end of suites -->"


def with_suites(text: str) -> str:
    """Return the page with its tables of suites made anew; raise InputError where its two marks are missing."""
    if _START not in text or _END not in text:
        raise InputError(f"the page of gates lacks {_START!r} or {_END!r}; put the marks back")
    head, tail = text.split(_START)[0], text.split(_END)[1]
    sections = "\n".join(suite_section(load_suite(name)) for name in SUITE_NAMES)
    return f"{head}{_START}\n\n{sections}\n{_END}{tail}"


def write_page(path: Path) -> None:
    """Make the tables of a page anew, in place."""
    path.write_text(with_suites(path.read_text(encoding="utf-8")), encoding="utf-8")


def suite_section(suite: Suite) -> str:
    """Say one suite in Markdown: its table, columns, parameters and rules."""
    lines = [
        f"## {suite.name}",
        "",
        f"Table `{suite.file}`: {suite.table}. Owner: {suite.owner}.",
        "",
        f"Columns: {', '.join(f'`{name}`' for name in columns_judged(suite))}.",
        "",
    ]
    lines += markdown_table(("parameter", "kind", "if not given", "meaning"), map(_parameter_row, suite.parameters))
    rules = []
    for entry in suite.expectations:
        empty = f" (may be empty: {entry.allow_empty})" if entry.allow_empty else ""
        rules.append((entry.id, entry.rule() + empty, entry.severity, entry.why))
    lines += markdown_table(("id", "rule, `$name` = parameter", "severity", "why"), rules)
    return "\n".join(lines)


def columns_judged(suite: Suite) -> list[str]:
    """Name the columns that a suite looks at, sorted; px_<class> for columns found by their prefix."""
    names: set[str] = set()
    for entry in suite.expectations:
        names |= columns_named(entry, entry.kwargs)
        names |= {f"{entry.kwargs[prefix]}<class>" for prefix in ("prefix", "right_prefix") if prefix in entry.kwargs}
    return sorted(names)


def _parameter_row(parameter: Parameter) -> tuple[str, ...]:
    absent = "the gate fails with a bad-input error"
    if parameter.optional:
        absent = "rules that need it are not applied, and the verdict says so"
    elif parameter.default is not None:
        absent = in_words(parameter.default)
    return parameter.name, parameter.kind.replace("_", " "), absent, parameter.meaning


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table in Markdown and an empty one after it."""
    lines: list[Sequence[object]] = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines] + [""]
