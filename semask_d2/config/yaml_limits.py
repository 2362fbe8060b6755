"""Size limits of config files (characters, values, depth, files), so that no file can exhaust the machine."""

from __future__ import annotations

from pathlib import Path

import yaml

from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular

MERGE = "<<"  # YAML's merge key, which a section may repeat
MAX_CHARACTERS = 2**20  # per file; a config has a few thousand
MAX_VALUE = 50_000  # characters of one value
MAX_NODES = 20_000  # keys, values, lists and sections of a file, counted again for every alias
MAX_DEPTH = 50  # nesting of lists and sections, and length of a chain of base files
MAX_FILES = 200  # files in one config
MAX_NAMED = 1000  # mentions of base files in one config


def read_text(path: Path) -> str:
    """Return the text of a regular file. Raises `UserError` if it is too long for a config, else like `open`."""
    with require_regular(path).open(encoding="utf-8") as file:
        text = file.read(MAX_CHARACTERS + 1)
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{path}: larger than {MAX_CHARACTERS} characters, so no config file")
    return text


def check_structure(text: str, path: Path) -> None:
    """Raise `UserError` if YAML `text` exceeds the limits or repeats a key; stops reading at the first problem."""
    sizes: dict[str, tuple[int, int]] = {}  # by anchor: nodes and depth of the anchored value
    open_nodes: list[list] = []  # for each enclosing list or section: its anchor, nodes and depth so far
    total = 0
    keys = KeysOfSections(path)
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        keys.see(event)
        if isinstance(event, yaml.CollectionStartEvent):
            if event.anchor:
                sizes.pop(event.anchor, None)
            open_nodes.append([event.anchor, 0, 0])
            if len(open_nodes) > MAX_DEPTH:
                raise UserError(f"{path}: lists or sections more than {MAX_DEPTH} deep; a config needs a few")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, nodes, depth = open_nodes.pop()
            nodes, depth = nodes + 1, depth + 1
        elif isinstance(event, yaml.AliasEvent):
            anchor = None
            if any(event.anchor == around for around, *_ in open_nodes):
                raise UserError(f"{path}: the anchor &{event.anchor} holds itself; write the value out")
            nodes, depth = sizes.get(event.anchor, (1, 0))
        elif isinstance(event, yaml.ScalarEvent):
            anchor, nodes, depth = event.anchor, 1, 0
            if len(event.value) > MAX_VALUE:
                raise UserError(f"{path}: a value of more than {MAX_VALUE} characters; a config needs a few")
        else:
            continue
        if anchor:
            sizes[anchor] = nodes, depth
        if open_nodes:
            open_nodes[-1][1] += nodes
            open_nodes[-1][2] = max(open_nodes[-1][2], depth)
        total = max(total + 1, nodes)
        if total > MAX_NODES:
            raise UserError(f"{path}: more than {MAX_NODES} values, aliases written out; a config needs a few hundred")
        if depth + len(open_nodes) > MAX_DEPTH:
            raise UserError(f"{path}: lists or sections more than {MAX_DEPTH} deep; a config needs a few")


class KeysOfSections:
    """Keys of the sections that enclose an event of a YAML file; YAML readers silently keep the last duplicate key."""

    def __init__(self, path: Path):
        self.path = path
        # for each enclosing list or section: its keys (None for a list), and whether a key comes next
        self.around: list[tuple[dict[str, int] | None, bool]] = []

    def see(self, event: yaml.Event) -> None:
        """Process the next event; raises `UserError` for a key that its section already has."""
        if isinstance(event, yaml.CollectionEndEvent):
            self.around.pop()
            self._pass()
        elif isinstance(event, yaml.CollectionStartEvent):
            self.around.append(({} if isinstance(event, yaml.MappingStartEvent) else None, True))
        elif isinstance(event, yaml.ScalarEvent):
            self._read(event)
            self._pass()
        elif isinstance(event, yaml.AliasEvent):
            self._pass()

    def _read(self, event: yaml.ScalarEvent) -> None:
        keys, is_key = self.around[-1] if self.around else (None, False)
        if keys is None or not is_key or event.value == MERGE:
            return
        line = event.start_mark.line + 1
        if event.value in keys:
            raise UserError(
                f"{self.path}: line {line}: the key {event.value[:60]!r} is already in line {keys[event.value]}, and "
                "one of the two values would be lost; remove one"
            )
        keys[event.value] = line

    def _pass(self) -> None:
        """Advance from a key to its value, or from a value to the next key."""
        if self.around:
            keys, is_key = self.around[-1]
            self.around[-1] = keys, not is_key
