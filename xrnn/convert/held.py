"""What a file of `xrnn.save` holds, in order: configurations, details and arrays of its parts."""

from __future__ import annotations

from typing import Any, NamedTuple

from xrnn.convert.encoding import Contents
from xrnn.convert.parts import key_of
from xrnn.typing import Array

#: how deep parts may lie in others
DEEPEST = 50


class Held(NamedTuple):
    """The parts in a file.

    - tensors: key → array (NumPy)
    - config: the configuration of a single part, or name → configuration
    - flat: name → configuration of all parts, also of those within others
    - details: name → what else it takes to make the part; empty in files before 0.4.0
    - tied: name → the name under which the arrays of the part stand, if it has two
    - format: that of the file
    """

    tensors: dict[str, Array]
    config: dict[str, Any]
    flat: dict[str, Any]
    details: dict[str, dict[str, Any]]
    tied: dict[str, str]
    format: str

    @property
    def several(self) -> bool:
        """Whether the file holds several parts under names."""
        return not isinstance(self.config.get("kind"), str)

    def detail(self, name: str, what: str, kind: type) -> Any:
        """One of the details of a part, which must be of that type."""
        found = self.details.get(self.tied.get(name, name), {}).get(what)
        if not isinstance(found, kind):
            raise ValueError(f"holds {found!r:.80} as {what!r} of the part {name!r:.80}")
        return found

    def key(self, name: str, array: str) -> str:
        """The key of an array of a part."""
        return key_of(self.tied.get(name, name), array)


def held(contents: Contents) -> Held:
    """The parts in a file.

    Raises
    ------
    ValueError
        If there are none, or what is said of them has not the right form; the text goes on a
        sentence that begins with the name of the file.
    """
    config = contents.info.get("config")
    details, tied = (contents.info.get(key, {}) for key in ("parts", "tied"))
    if not isinstance(config, dict):
        raise ValueError("holds no layer or other part that xrnn.save has written")
    if not isinstance(details, dict) or not all(isinstance(d, dict) for d in details.values()):
        raise ValueError(f"holds {details!r:.80} as 'parts'; it must be a mapping of mappings")
    found = Held(contents.tensors, config, {}, details, {}, contents.format)
    flat = _flat(config if found.several else {"": config})
    if not isinstance(tied, dict) or not all(
        name in flat and isinstance(other, str) and other in flat and other not in tied
        for name, other in tied.items()
    ):
        raise ValueError(f"holds {tied!r:.80} as 'tied'; it must say which part each name means")
    return found._replace(flat=flat, tied=tied)


def _flat(configs: dict[str, Any]) -> dict[str, Any]:
    """Name → configuration of the parts and of those within them."""
    found: dict[str, Any] = {}
    level = configs
    for _ in range(DEEPEST):
        if both := found.keys() & level.keys():
            raise ValueError(f"holds two parts of the name {min(both)!r:.80}")
        found |= level
        level = {
            key_of(name, inner): config
            for name, group in level.items()
            if is_group(group)
            for inner, config in group["parts"].items()
        }
    if level:
        raise ValueError("holds parts within parts, nested too deeply")
    return found


def is_group(config: Any) -> bool:
    """Whether it is the configuration of a part that consists of parts."""
    return isinstance(config, dict) and isinstance(config.get("parts"), dict)
