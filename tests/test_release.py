"""A release is one version everywhere: in pyproject.toml, in what is installed, and in the changelog with its date."""

import datetime
import re
import tomllib

import shardwright as sw
from tests.support.pages import ROOT

HEADINGS = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def released():
    """(version as numbers, date) of every heading behind the first, newest first."""
    for heading in HEADINGS[1:]:
        found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+) \((\d{4}-\d\d-\d\d)\)", heading)
        assert found, f"{heading!r} is not as '0.2.0 (2026-12-31)'"
        yield tuple(map(int, found.groups()[:3])), datetime.date.fromisoformat(found[4])


def test_the_version_is_one_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version == sw.__version__, "installed is another version: pip install -e ."
    newest, _ = next(released())
    assert version == ".".join(map(str, newest))


def test_the_changelog_goes_from_what_is_not_released_to_the_first_version():
    assert HEADINGS[0] == "Unreleased"
    versions, dates = zip(*released(), strict=True)
    assert list(versions) == sorted(set(versions), reverse=True)
    assert list(dates) == sorted(dates, reverse=True)
