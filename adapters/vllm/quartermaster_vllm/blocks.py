"""Blocks, the free queue and the index of cached blocks, as objects over a keyed pool: they hold no state of their own."""

from array import array
from collections.abc import MutableMapping

from .hashes import split_group, with_group
from .keyed_pool import NONE


class KVCacheBlock:
    """One block of a BlockPool. `ref_cnt` and `block_hash` are read where the core keeps them."""

    __slots__ = ("block_id", "is_null", "_owner")

    def __init__(self, owner, block_id):
        self._owner = owner
        self.block_id = block_id
        self.is_null = False

    @property
    def ref_cnt(self):
        return self._owner.keyed.references[self.block_id]

    @property
    def block_hash(self):
        """Hash and group of a cached block, as one key; None when it is not cached."""
        owner = self._owner
        if owner.stamps:
            stamp = owner.stamps.get(self.block_id)
            if stamp is not None:
                return stamp
        key = owner.keyed.key(self.block_id)
        return None if key is None else with_group(*key)

    @block_hash.setter
    def block_hash(self, key):
        assert self.block_hash is None, f"block {self.block_id} has a hash already"
        self._owner.stamps[self.block_id] = key

    @property
    def _block_hash(self):
        return self.block_hash

    @_block_hash.setter
    def _block_hash(self, key):
        self.reset_hash()
        if key is not None:
            self._owner.stamps[self.block_id] = key

    def reset_hash(self):
        self._owner.stamps.pop(self.block_id, None)
        self._owner.keyed.drop_keys(array("I", [self.block_id]))

    @property
    def prev_free_block(self):
        return self._owner.free_block_queue.neighbour(self.block_id, 0)

    @property
    def next_free_block(self):
        return self._owner.free_block_queue.neighbour(self.block_id, 1)

    def __repr__(self):
        return f"KVCacheBlock(block_id={self.block_id}, ref_cnt={self.ref_cnt}, block_hash={self.block_hash!r})"


class QueueEnd:
    """The fake block at one end of the free queue."""

    block_id = -1
    ref_cnt = 0
    block_hash = None
    is_null = False

    def __init__(self, first_of=None, last_of=None):
        self._first_of, self._last_of = first_of, last_of

    @property
    def next_free_block(self):
        return self._first_of() if self._first_of else None

    @property
    def prev_free_block(self):
        return self._last_of() if self._last_of else None


class FreeBlockQueue:
    """The free blocks, the next to be taken first."""

    def __init__(self, owner):
        self._owner = owner
        self.fake_free_list_head = QueueEnd(first_of=self._first)
        self.fake_free_list_tail = QueueEnd(last_of=self._last)

    @property
    def num_free_blocks(self):
        return self._owner.keyed.free_count

    def get_all_free_blocks(self):
        blocks = self._owner.blocks
        return [blocks[block] for block in self._owner.keyed.free_list()]

    def neighbour(self, block_id, side):
        """Block before (0) or after (1) a free one; the fake ends count; None when the block is not free."""
        pair = self._owner.keyed.neighbours(block_id)
        if pair is None:
            return None
        if pair[side] == NONE:
            return self.fake_free_list_tail if side else self.fake_free_list_head
        return self._owner.blocks[pair[side]]

    def _first(self):
        first = self._owner.keyed.first_free
        return self.fake_free_list_tail if first == NONE else self._owner.blocks[first]

    def _last(self):
        last = self._owner.keyed.last_free
        return self.fake_free_list_head if last == NONE else self._owner.blocks[last]

    def popleft(self):
        """Takes the first free block out of circulation, without a reference; it keeps its hash."""
        first = self._owner.keyed.first_free
        if first == NONE:
            raise ValueError("No free blocks available")
        self._owner.keyed.set_aside(first, True)
        return self._owner.blocks[first]

    def popleft_n(self, count):
        assert count <= self.num_free_blocks, f"{count} blocks asked for, {self.num_free_blocks} free"
        return [self.popleft() for _ in range(count)]

    def remove(self, block):
        if self._owner.keyed.neighbours(block.block_id) is None:
            raise RuntimeError(f"{block} is not in the free queue")
        self._owner.keyed.set_aside(block.block_id, True)

    def append(self, block):
        """Puts back what `popleft` or `remove` has taken out."""
        self._owner.keyed.set_aside(block.block_id, False)

    def append_n(self, blocks):
        for block in blocks:
            self.append(block)


class CachedBlocks:
    """Which block has a key (hash and group). Blocks that are not the pool's own, as tests make them, are kept beside."""

    def __init__(self, owner):
        self._owner = owner
        self.strangers = {}

    def get_one_block(self, key):
        """The oldest block with a key, or None."""
        block_hash, group = split_group(key)
        found = self._owner.keyed.find(group, [block_hash])
        if found:
            return self._owner.blocks[found[0]]
        for block in self.strangers.get(key, {}).values():
            return block
        return None

    def insert(self, key, block):
        owner = self._owner
        if not owner.owns(block) or block.is_null:
            self.strangers.setdefault(key, {})[block.block_id] = block
            return
        block_hash, group = split_group(key)
        owner.stamps.pop(block.block_id, None)
        if owner.keyed.key(block.block_id) != (block_hash, group):
            owner.keyed.enter_keys(group, array("I", [block.block_id]), [block_hash])

    def pop(self, key, block_id):
        """Takes a block's key away; the block, or None when it does not have this key."""
        stranger = self.strangers.get(key, {}).pop(block_id, None)
        if stranger is not None:
            if not self.strangers[key]:
                del self.strangers[key]
            return stranger
        if not 0 <= block_id < len(self._owner.blocks) or self._owner.keyed.key(block_id) != split_group(key):
            return None
        self._owner.keyed.drop_keys(array("I", [block_id]))
        return self._owner.blocks[block_id]

    def __len__(self):
        return self._owner.keyed.different_keys + len(self.strangers)

    @property
    def _cache(self):
        return CacheView(self)


class CacheView(MutableMapping):
    """The index as a dict: key -> block, or {block id: block} where several have it."""

    def __init__(self, cached):
        self._cached = cached

    def _all(self):
        keyed, blocks = self._cached._owner.keyed, self._cached._owner.blocks
        view = {key: dict(strangers) for key, strangers in self._cached.strangers.items()}
        for block in blocks:
            key = keyed.key(block.block_id)
            if key is not None:
                view.setdefault(with_group(*key), {})[block.block_id] = block
        return view

    def _blocks(self, key):
        found = self._all().get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __getitem__(self, key):
        found = self._blocks(key)
        return next(iter(found.values())) if len(found) == 1 else found

    def __setitem__(self, key, value):
        for block in list(value.values()) if isinstance(value, dict) else [value]:
            self._cached.insert(key, block)

    def __delitem__(self, key):
        for block_id in self._blocks(key):
            self._cached.pop(key, block_id)

    def __iter__(self):
        return iter(self._all())

    def __len__(self):
        return len(self._cached)

    def clear(self):
        self._cached.strangers.clear()
        self._cached._owner.keyed.drop_all_keys()

    def __copy__(self):
        return {key: self[key] for key in self}

    def __eq__(self, other):
        def alike(value):
            return value if isinstance(value, dict) else {value.block_id: value}

        return self._all() == {key: alike(value) for key, value in other.items()}
