"""Give a registry its list of allowed signers, and its readers the anchor that no writer of the registry can move."""

from collections.abc import Mapping
from dataclasses import replace

from perception.versioning.anchor import split_address, with_anchor
from perception.versioning.processes import Clone, git_text, read_committed
from perception.versioning.repository import push_commit, trailers
from perception.versioning.signers import SIGNERS, parse_signers
from perception.versioning.verified import root_of, verified_clone, walk


def set_signers(registry: str, text: str) -> str:
    """Make a list the registry's own, in a commit that a root signs; return the address to name the registry by from then on.

    The first list is signed by a root of its own, whose signature vouches for all that the registry holds; a later one by a root of the
    list before. Raises InputError for a list that is none, and where no root signs.
    """
    signers, content = parse_signers(text, SIGNERS), text.encode()
    with verified_clone(registry, whole=True) as clone:

        def changes(head: str) -> tuple[Mapping[str, bytes | None], str] | None:
            if read_committed(clone, SIGNERS, head) == content:
                return None
            return {SIGNERS: content}, trailers(f"Allow {len(signers.listed)} signers", "")

        commit = push_commit(replace(clone, signers=clone.signers or signers), changes)
        return _anchored(clone, commit or "HEAD")


def anchored(registry: str) -> str:
    """Return a registry's address with its root and its newest commit as what readers must find; an unsigned one's as it is."""
    with verified_clone(registry) as clone:
        return _anchored(clone, "HEAD") if clone.signers else registry


def _anchored(clone: Clone, revision: str) -> str:
    address, anchor = split_address(clone.registry)
    _, _, commits = walk(clone, revision)
    least = git_text(clone, "rev-parse", revision)
    return with_anchor(address, replace(anchor, root=anchor.root or root_of(clone, commits), least=least))
