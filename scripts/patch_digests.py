"""Prints the digests of the functions of the installed dbt that patches replace, or adds them to the known ones.

    python scripts/patch_digests.py             # compare; exit code 1 if a digest is unknown
    python scripts/patch_digests.py --update    # after the tests have passed with this release

See docs/dbt-releases.md.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

from workers.engine.patches.catalog import CATALOG, Patch
from workers.engine.patches.registry import DIGESTS, digest_of, is_for_this_release, known_digests

_PACKAGES = {
    "dbt.adapters": "dbt-adapters", "dbt_common": "dbt-common", "dbt": "dbt-core", "jinja2": "Jinja2",
    "parsedatetime": "parsedatetime",
}  # fmt: skip


def release(patch: Patch) -> str:
    """Installed releases of the packages whose source the patch replaces: ``dbt-core 1.11.16``."""
    packages = dict.fromkeys(
        next(
            package
            for prefix, package in _PACKAGES.items()
            if f"{name.partition(':')[0]}.".startswith(f"{prefix}.")
        )
        for name in patch.sources
    )
    return ", ".join(f"{package} {version(package)}" for package in packages)


def main(argv: list[str]) -> int:
    """Print a line for each patch; with ``--update``, write `DIGESTS`. Returns the exit code."""
    update = argv == ["--update"]
    known = {name: dict(digests) for name, digests in known_digests().items()} if DIGESTS.exists() else {}
    unknown = 0
    for patch in CATALOG:
        if not is_for_this_release(patch):
            continue
        digest, releases = digest_of(patch), release(patch)
        if digest is None:
            print(f"{patch.name:<20} {'-':<16} {releases}: not there")
            continue
        found = known.setdefault(patch.name, {})
        unknown += digest not in found
        print(f"{patch.name:<20} {digest} {releases}: {'known' if digest in found else 'unknown'}")
        if update:
            found[digest] = sorted({*found.get(digest, ()), releases})
    if update:
        text = json.dumps(dict(sorted(known.items())), indent=2, ensure_ascii=False)
        DIGESTS.write_text(text + "\n", encoding="utf-8")
        return 0
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
