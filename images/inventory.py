"""Print what an image holds as the components of a CycloneDX bill of materials; `make images` runs this inside each image."""

import json
import subprocess
from importlib.metadata import distributions


def python_packages() -> list[dict[str, object]]:
    """Return every installed Python package."""
    found = []
    for package in distributions():
        about = package.metadata
        name, licence = about["Name"].lower().replace("_", "-"), about["License-Expression"] or about["License"] or ""
        item: dict[str, object] = {
            "type": "library",
            "name": name,
            "version": package.version,
            "purl": f"pkg:pypi/{name}@{package.version}",
        }
        if licence:
            item["licenses"] = [{"license": {"name": licence.splitlines()[0][:200]}}]
        found.append(item)
    return found


def debian_packages() -> list[dict[str, object]]:
    """Return every installed Debian package."""
    command = ["dpkg-query", "--show", "--showformat=${Package}\t${Version}\t${Architecture}\n"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{version}?arch={architecture}",
        }
        for name, version, architecture in (line.split("\t") for line in listed)
    ]


print(json.dumps(sorted(python_packages() + debian_packages(), key=lambda item: str(item["purl"]))))
