"""What a file of `xrnn.save` holds, in order: configurations, details and arrays of its parts."""

from __future__ import annotations

from typing import Any, NamedTuple

from xrnn.convert.encoding import Contents
from xrnn.convert.parts import key_of
from xrnn.typing import Array


class Held(NamedTuple):
    """The parts in a file.

    - tensors: key → array (NumPy)
    - config: the configuration of a single part, or name → configuration
    - details: name → what else it takes to make the part; empty in files before 0.4.0
    - holders: name → the name under which its arrays stand; another one for a part with two names
    - format: that of the file
    """

    tensors: dict[str, Array]
    config: dict[str, Any]
    details: dict[str, dict[str, Any]]
    holders: dict[str, str]
    format: str

    @property
    def several(self) -> bool:
        """Whether the file holds several parts under names."""
        return not isinstance(self.config.get("kind"), str)

    def detail(self, name: str, what: str, kind: type) -> Any:
        """One of the details of a part, which must be of that type."""
        found = self.details.get(self.holders.get(name, name), {}).get(what)
        if not isinstance(found, kind):
            raise ValueError(f"holds {found!r:.80} as {what!r} of the part {name!r:.80}")
        return found

    def key(self, name: str, array: str) -> str:
        """The key of an array of a part."""
        return key_of(self.holders.get(name, name), array)


def held(contents: Contents) -> Held:
    """The parts in a file.

    Raises
    ------
    ValueError
        If there are none, or what is said of them has not the right form; the text goes on a
        sentence that begins with the name of the file.
    """
    config, details, tied = (contents.info.get(key) for key in ("config", "parts", "tied"))
    if not isinstance(config, dict):
        raise ValueError("holds no layer or other part that xrnn.save has written")
    details = {} if details is None else details
    if not isinstance(details, dict) or not all(isinstance(d, dict) for d in details.values()):
        raise ValueError(f"holds {details!r:.80} as 'parts'; it must be a mapping of mappings")
    found = Held(contents.tensors, config, details, {}, contents.format)
    if not found.several:
        return found
    holders = {name: name for name in config} if tied is None else tied
    if (
        not isinstance(holders, dict)
        or not all(isinstance(name, str) and name in config for name in holders.values())
        or not all(holders.get(name) == name for name in config)
    ):
        raise ValueError(f"holds {tied!r:.80} as 'tied'; it must say which part each name means")
    return found._replace(
        config={name: config[holder] for name, holder in holders.items()}, holders=holders
    )
