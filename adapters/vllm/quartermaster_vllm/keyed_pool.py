"""A keyed pool of the core: block ids in and out as array('I'), keys as packed bytes, one call for a whole list."""

import ctypes
import hashlib
import os
import weakref
from array import array

from .library import ALREADY_FREE, OUT_OF_BLOCKS, KeyedView, check, library

NONE = 0xFFFFFFFF
LOST_KEY = 0x80000000
# Takes the mark of a lost key out of the highest byte of an id.
_UNMARK = bytes(byte & 0x7F for byte in range(256))
KEY_BYTES = 32
# Leading keys that are looked up before all are packed: most prompts have either none of them cached or all.
_PROBE = 8
# Bytes of a block before its key, and words of the header (docs/abi.md, "Keyed pool").
_BLOCK_BYTES = 40
_FREE_COUNT, _FREE_HEAD, _FREE_TAIL, _DISTINCT = 4, 5, 6, 9


def _words(address, count):
    return memoryview((ctypes.c_uint32 * count).from_address(address)).cast("B").cast("I")


class KeyedPool:
    """Blocks 0 to `blocks` - 1, all free. Keys longer than 32 bytes, or not whole 8-byte words, go by their SHA-256."""

    def __init__(self, blocks, batch=4096, seed=None):
        self.blocks = blocks
        self._library = library()
        core = ctypes.c_void_p()
        seed = int.from_bytes(os.urandom(8), "little") if seed is None else seed
        check(self._library.qm_core_create(seed, 0, ctypes.byref(core)), "core")
        self._core = core.value
        self._finalizer = weakref.finalize(self, self._library.qm_core_free, self._core)
        pool = ctypes.c_uint32()
        self.batch = min(batch, blocks)
        check(
            self._library.qm_keyed_pool_create(self._core, blocks, KEY_BYTES, self.batch, ctypes.byref(pool)),
            f"a pool of {blocks} blocks",
        )
        self._pool = pool.value
        self._lay_views()
        self._allocate = self._library.qm_keyed_pool_allocate
        self._release = self._library.qm_keyed_pool_release
        self._find = self._library.qm_keyed_pool_find_keys
        self._enter = self._library.qm_keyed_pool_enter_keys
        # Of blocks whose key is a digest: what it is the digest of.
        self._originals = {}
        # All ids, once they are asked for.
        self._every = None

    def _lay_views(self):
        view = KeyedView()
        check(self._library.qm_keyed_pool_view(self._core, self._pool, ctypes.byref(view)), "pool")
        self._header = _words(view.header, 14)
        self._stride = view.stride
        step = view.stride // 4
        words = _words(view.blocks, self.blocks * step)
        self._bytes = words.cast("B")
        self.references = words[0::step]
        self._previous, self._next = words[1::step], words[2::step]
        self._younger, self._group, self._length = words[5::step], words[6::step], words[7::step]
        self._ids = _words(view.ids, self.blocks)
        self._id_bytes = self._ids.cast("B")
        size = self.batch * KEY_BYTES
        self._input = memoryview((ctypes.c_uint8 * size).from_address(view.input)).cast("B")

    # ---- what lies in memory: no call

    @property
    def free_count(self):
        return self._header[_FREE_COUNT]

    @property
    def different_keys(self):
        return self._header[_DISTINCT]

    @property
    def first_free(self):
        """The block taken next, or NONE."""
        return self._header[_FREE_HEAD]

    @property
    def last_free(self):
        """The block taken last, or NONE."""
        return self._header[_FREE_TAIL]

    def neighbours(self, block):
        """Previous and next block of a free one (NONE at an end), or None when it is not in the free list."""
        if self._previous[block] == NONE - 1:
            return None
        return self._previous[block], self._next[block]

    def free_list(self):
        ids = array("I")
        block = self._header[_FREE_HEAD]
        following = self._next
        while block != NONE:
            ids.append(block)
            block = following[block]
        return ids

    def key(self, block):
        """(hash, group) of a block, or None."""
        return None if self._younger[block] == NONE else self.last_key(block)

    def with_keys(self, blocks):
        """Those of the blocks that have a key."""
        younger = self._younger
        return array("I", [block for block in blocks if younger[block] != NONE])

    def last_key(self, block):
        """(hash, group) that a block has, or had before it was taken."""
        original = self._originals.get(block)
        if original is None:
            at = block * self._stride + _BLOCK_BYTES
            original = bytes(self._bytes[at : at + self._length[block]])
        return original, self._group[block]

    # ---- calls

    def _put(self, ids):
        self._ids[: len(ids)] = ids

    def _got(self, count):
        ids = array("I")
        ids.frombytes(self._id_bytes[: 4 * count])
        return ids

    def fits(self, touch, needed):
        """Whether `needed` blocks are free beside those of `touch`."""
        free = self._header[_FREE_COUNT]
        if not touch or needed > free:
            return needed <= free
        if needed + len(touch) <= free:
            return True
        self._put(touch)
        status = self._library.qm_keyed_pool_fits(self._core, self._pool, len(touch), needed)
        return status != OUT_OF_BLOCKS and check(status, "fits") == 0

    def allocate(self, touch, count):
        """One more reference for each block of `touch`, and `count` blocks: their ids, or None. See `lost`."""
        if touch:
            self._put(touch)
        lost = self._allocate(self._core, self._pool, len(touch), count)
        if lost == OUT_OF_BLOCKS:
            return None
        self.lost_count = check(lost, "allocate")
        if not lost:
            return self._got(count)
        ids = bytearray(self._id_bytes[: 4 * count])
        ids[3::4] = ids[3::4].translate(_UNMARK)
        return array("I", bytes(ids))

    def lost(self, count):
        """Which of the `count` blocks that `allocate` has just given have lost a key by it."""
        return [block - LOST_KEY for block in self._ids[:count] if block >= LOST_KEY] if self.lost_count else ()

    def release(self, ids):
        """One reference less for each, in order of eviction. False, and nothing done, when one has none left."""
        if len(ids) > self.blocks:
            # A table with more entries than the pool has blocks: most are the null block.
            return all(self.release(ids[at : at + self.blocks]) for at in range(0, len(ids), self.blocks))
        self._put(ids)
        status = self._release(self._core, self._pool, len(ids))
        return status != ALREADY_FREE and check(status, "release") == 0

    def enter_keys(self, group, ids, hashes):
        """Gives blocks without a key theirs."""
        for at in range(0, len(ids), self.batch):
            some, keys = ids[at : at + self.batch], hashes[at : at + self.batch]
            length, packed = self._pack(keys)
            if length == 0:
                for block, key in zip(some, keys):
                    self.enter_keys(group, array("I", [block]), [key])
                continue
            self._put(some)
            self._input[: len(packed)] = packed
            check(self._enter(self._core, self._pool, group, length, len(some)), "a block has a key already")
            if length != len(keys[0]):
                self._originals.update(zip(some, keys))
            elif self._originals:
                for block in some:
                    self._originals.pop(block, None)

    def find(self, group, hashes, limit=None):
        """The oldest block of each of the first `limit` keys, up to the first that none has."""
        limit = len(hashes) if limit is None else limit
        if limit <= 0:
            return array("I")
        probe = limit if limit <= 2 * _PROBE else _PROBE
        some = hashes[:probe]
        packed = b"".join(some)
        if len(packed) != probe * KEY_BYTES or len(some[0]) != KEY_BYTES or probe > self.batch:
            return self._search(group, hashes[:limit], 0)
        self._input[: len(packed)] = packed
        hits = self._find(self._core, self._pool, group, KEY_BYTES, probe, 0)
        if hits < 0:
            check(hits, "find")
        found = array("I")
        if hits:
            found.frombytes(self._id_bytes[: 4 * hits])
        if hits == probe < limit:
            found.extend(self._search(group, hashes[probe:limit], 0))
        return found

    def find_all(self, group, hashes):
        """The oldest block of each key, NONE for those that no block has."""
        return self._search(group, hashes, 1)

    def _search(self, group, hashes, through):
        found = array("I")
        batch = self.batch
        for at in range(0, len(hashes), batch):
            some = hashes[at : at + batch] if len(hashes) > batch else hashes
            length, packed = self._pack(some)
            if length == 0:
                for key in some:
                    one = self._search(group, [key], through)
                    if not one:
                        return found
                    found.extend(one)
                continue
            self._input[: len(packed)] = packed
            count = len(some)
            hits = check(self._find(self._core, self._pool, group, length, count, through), "find")
            found.frombytes(self._id_bytes[: 4 * (count if through else hits)])
            if hits < count and not through:
                break
        return found

    def drop_keys(self, ids):
        """Takes keys away; returns the blocks that had one."""
        self._put(ids)
        check(self._library.qm_keyed_pool_drop_keys(self._core, self._pool, len(ids)), "drop")
        return array("I", [block - LOST_KEY for block in self._got(len(ids)) if block >= LOST_KEY])

    def drop_all_keys(self):
        if self._every is None:
            self._every = array("I", range(self.blocks))
        self._put(self._every)
        check(self._library.qm_keyed_pool_drop_keys(self._core, self._pool, self.blocks), "drop")

    def set_aside(self, block, aside):
        """Takes a free block out of circulation (True), or appends such a block to the free list."""
        check(
            self._library.qm_keyed_pool_set_aside(self._core, self._pool, block, aside),
            f"block {block} is not {'free' if aside else 'set aside'}",
        )

    def validate(self):
        """Full check of the core; raises QuartermasterError."""
        check(self._library.qm_core_validate(self._core), "validate")

    @staticmethod
    def _pack(hashes):
        """(bytes a key, keys one behind the other); (0, b"") when the hashes are not of one length."""
        length = len(hashes[0])
        packed = b"".join(hashes)
        if len(packed) != length * len(hashes):
            return 0, b""
        if 0 < length <= KEY_BYTES and length % 8 == 0:
            return length, packed
        return KEY_BYTES, b"".join([hashlib.sha256(key).digest() for key in hashes])
