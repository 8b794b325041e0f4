"""KVCacheBlocks: what a manager gives to a scheduler."""

from array import array


class KVCacheBlocks:
    """Blocks for each cache group: what a manager gives to a scheduler. Made of ids; block objects are made when asked for."""

    __slots__ = ("_pool", "_tables", "_blocks")

    def __init__(self, blocks):
        self._pool = self._tables = None
        self._blocks = tuple(blocks)

    @classmethod
    def of_ids(cls, pool, tables):
        made = cls.__new__(cls)
        made._pool, made._tables, made._blocks = pool, tuple(tables), None
        return made

    @property
    def blocks(self):
        """blocks[group][index]; lists to read, not to change."""
        if self._blocks is None:
            known = self._pool.blocks
            self._blocks = tuple([known[block] for block in table] for table in self._tables)
        return self._blocks

    def tables(self):
        """Ids for each group, as array('I')."""
        return tables_of(self)

    def __add__(self, other):
        return KVCacheBlocks(tuple([*mine, *theirs] for mine, theirs in zip(self.blocks, other.blocks)))

    def __eq__(self, other):
        return hasattr(other, "blocks") and list(map(list, self.blocks)) == list(map(list, other.blocks))

    __hash__ = None

    def get_block_ids(self, allow_none=False):
        """A tuple of lists of ids; None, if that is allowed, when all of them are empty."""
        if self._tables is not None:
            ids = tuple(table.tolist() for table in self._tables)
        else:
            ids = tuple([block.block_id for block in group] for group in self._blocks)
        return None if allow_none and not any(ids) else ids

    def get_unhashed_block_ids(self):
        assert len(self.blocks) == 1, "only one group is supported"
        return [block.block_id for block in self.blocks[0] if block.block_hash is None]

    def get_unhashed_block_ids_all_groups(self):
        """As get_unhashed_block_ids, for each group; without null blocks."""
        return [
            [block.block_id for block in group if block.block_hash is None and not block.is_null]
            for group in self.blocks
        ]

    def new_empty(self):
        return KVCacheBlocks(() for _ in self.blocks)

    def __repr__(self):
        return f"KVCacheBlocks({self.get_block_ids()})"


def tables_of(blocks):
    """Ids for each group of a KVCacheBlocks, ours or vLLM's."""
    tables = getattr(blocks, "_tables", None)
    if tables is not None:
        return tables
    return tuple(array("I", [block.block_id for block in group]) for group in blocks.blocks)
