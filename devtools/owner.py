"""Who publishes this: the repository and the Comfy Registry's publisher, until it is said the placeholder ``OWNER``.

    python -m devtools.owner --repository https://github.com/<name>/<repository> --publisher <id>

writes them to every file that names them; pyproject.toml is the one that counts. ``--check`` is what the publishing workflow
runs before anything is sent. Needs Python alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from .console import Problem, say

CHECKOUT = Path(__file__).resolve().parents[1]
NOBODY = "OWNER"
PAGES = ("AddForeground", "ConditionOnLayers", "GivenLayers", "Guider", "KSampler", "KSamplerAdvanced", "LoadModels", "Options")
FILES = ("pyproject.toml", "README.md", "CITATION.cff", "SECURITY.md", "CONTRIBUTING.md", ".github/ISSUE_TEMPLATE/config.yml",
         *(f"web/docs/LayerFusion{page}.md" for page in PAGES))
"""Every file that names the repository."""
ADDRESS = r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]*)/([A-Za-z0-9._-]+)"


def value(checkout: Path, name: str) -> str:
    """A setting of pyproject.toml, by its name there. Problem where it is missing."""
    found = re.search(rf'^{name} = "(.*)"$', (checkout / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise Problem(f"pyproject.toml does not say {name}.")
    return found[1]


def repository(checkout: Path) -> str:
    """NAME/REPOSITORY as pyproject.toml has it."""
    return value(checkout, "Repository").removeprefix("https://github.com/")


def set_owner(checkout: Path, address: str, publisher: str) -> list[str]:
    """Write repository and publisher to all `FILES`; returns those that changed. Problem where one of the two is malformed."""
    found = re.fullmatch(ADDRESS + r"/?", address.removesuffix(".git"))
    if found is None:
        raise Problem(f"{address} is no repository's address; https://github.com/NAME/REPOSITORY is what is wanted.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", publisher):
        raise Problem(f"{publisher!r} is no publisher of the Comfy Registry: what stands behind the @ on its page there is wanted.")
    before, after = repository(checkout), f"{found[1]}/{found[2]}"
    changed = []
    for name in FILES:
        old = (checkout / name).read_text(encoding="utf-8")
        new = re.sub(rf"(?<=hub\.com/|ent\.com/){re.escape(before)}(?![\w-])", after, old)
        if name == "pyproject.toml":
            new = re.sub(r'^PublisherId = ".*"$', f'PublisherId = "{publisher}"', new, flags=re.MULTILINE)
        if new != old:
            (checkout / name).write_text(new, encoding="utf-8")
            changed.append(name)
    return changed


def problems(checkout: Path, here: str = "", tag: str = "") -> list[str]:
    """What stands in the way of publishing. here: address of the repository it is published from; tag: of the version."""
    found = []
    named, publisher, version = repository(checkout), value(checkout, "PublisherId"), value(checkout, "version")
    if named.split("/")[0] == NOBODY or publisher == NOBODY:
        found.append("repository and publisher are not set: python -m devtools.owner --repository ... --publisher ...")
    elif here and here.removeprefix("https://github.com/").lower() != named.lower():
        found.append(f"this is {here}, pyproject.toml says {named}")
    if tag and tag != f"v{version}":
        found.append(f"the tag is {tag}, pyproject.toml says version {version}, whose tag is v{version}")
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m devtools.owner", description="Who publishes this pack.")
    parser.add_argument("--repository", metavar="URL", help="https://github.com/NAME/REPOSITORY")
    parser.add_argument("--publisher", metavar="ID", help="publisher on the Comfy Registry, without the @")
    parser.add_argument("--check", action="store_true", help="say what stands in the way of publishing; 1 if anything does")
    parser.add_argument("--here", default="", metavar="URL", help="with --check: the repository this runs in")
    parser.add_argument("--tag", default="", metavar="TAG", help="with --check: the version's tag")
    options = parser.parse_args(arguments)
    if bool(options.repository) != bool(options.publisher) or not (options.repository or options.check):
        parser.error("give --repository and --publisher, or --check")
    try:
        if options.repository:
            say("Changed: " + (", ".join(set_owner(CHECKOUT, options.repository, options.publisher)) or "nothing"))
        found = problems(CHECKOUT, options.here, options.tag) if options.check else []
    except Problem as problem:
        found = [str(problem)]
    for line in found:
        say(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
