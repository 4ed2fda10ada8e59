"""wandb without a network: a stand-in for its module, and a reader of the file that it writes offline."""

import json
import types
from pathlib import Path

BLOCK, HEADER = 32768, 7


class FakeWandB(types.ModuleType):
    """Stands in for wandb where it would need a network: keeps what it is told, as its server would."""

    def __init__(self, *, online):
        super().__init__("wandb")
        self.online, self.inits, self.told, self.ended = online, [], [], 0
        self.Settings = dict
        self.Image = lambda path: path

    def init(self, **arguments):
        self.inits.append(arguments)
        self.id, self.step = arguments["id"] or "abc", len(self.told) if self.online else 0
        return self

    def log(self, row, *, step, commit):
        assert commit
        self.told.append((step, row))

    def finish(self):
        self.ended += 1


def records(path: Path):
    """The bytes of each record, in the log format of LevelDB, joined where it spans several blocks."""
    content, at, parts = path.read_bytes(), HEADER, []  # the file has a header as long as a record's
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        at += HEADER
        parts.append(content[at : at + length])
        at += length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def history(path: Path) -> list[dict]:
    """The rows that were logged."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = (Record.FromString(data) for data in records(path))
    rows = [record.history for record in found if record.WhichOneof("record_type") == "history"]
    return [{(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in row.item} for row in rows]
