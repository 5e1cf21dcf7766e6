"""Writes docs/licences.md's table of dependencies and their licences: python docs/licences.py."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- licences: begin -->\n", "<!-- licences: end -->\n"
PROJECTS = {"botvision": ROOT, "botvision-yolo": ROOT / "plugins" / "botvision-yolo"}
SPDX = {  # what packages without an SPDX expression say of themselves
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "FreeBSD": "BSD-2-Clause",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "Apache License v2.0": "Apache-2.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
}


def needed() -> dict[str, dict[str, set[str]]]:
    """Direct dependencies of users, not of development: distribution → package → the extras that bring it."""
    found: dict[str, dict[str, set[str]]] = {}
    for name, folder in PROJECTS.items():
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        own = found.setdefault(name, {})
        for extra, lines in {"always": project["dependencies"], **project["optional-dependencies"]}.items():
            for line in lines:
                package = re.match(r"[\w.-]+", line)[0]
                if package != name:
                    own.setdefault(package, set()).add(extra)
    return found


def licence_of(package: str) -> str | None:
    """An installed package's licence as an SPDX expression, by its own metadata; none where it is not installed."""
    try:
        about = metadata(package)
    except PackageNotFoundError:
        return None
    if about["License-Expression"]:
        return str(about["License-Expression"])
    classifiers = [
        line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    said = (classifiers[0] if classifiers else (about["License"] or "").split("\n")[0]).split(" :: ")[-1].strip()
    return SPDX.get(said, said)


def rows() -> list[str]:
    """The table; a package that is not installed keeps the row that the page has."""
    before = {match[1]: match[0] for match in re.finditer(r"^\| `([\w.-]+)` \| .*\n", PAGE.read_text(), re.MULTILINE)}
    lines = []
    for name, packages in needed().items():
        for package, extras in sorted(packages.items()):
            licence = licence_of(package)
            who = ", ".join(sorted(extras))
            row = f"| `{package}` | {name}: {who} | {licence} |\n"
            lines.append(row if licence is not None else before.get(package, row.replace("None", "not installed here")))
    return lines


def main() -> None:
    """Write the table into the page."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = ["| package | asked for by | licence |\n", "|---|---|---|\n", *rows()]
    PAGE.write_text(before + BEGIN + "".join(table) + END + after)


if __name__ == "__main__":
    main()
