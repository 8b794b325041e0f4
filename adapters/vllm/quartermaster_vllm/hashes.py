"""Block hashes as vLLM has them: bytes, and with a cache group behind them four more."""

import os

from . import interop


def cdiv(number, divisor):
    return -(-number // divisor)


def with_group(block_hash, group):
    """The key of a block in a cache group: its hash, then the group, big-endian."""
    return block_hash + group.to_bytes(4, "big")


def split_group(key):
    """(hash, group) of such a key."""
    return key[:-4], int.from_bytes(key[-4:], "big")


def outside_hash(block_hash):
    """How events name a block: the hash, or, as VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES asks, its last 64 bits."""
    if interop.kv_cache_utils is not None:
        return interop.kv_cache_utils.maybe_convert_block_hash(block_hash)
    if os.environ.get("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "1") in ("0", "false", "False"):
        return block_hash
    return int.from_bytes(block_hash[-8:], "big")


class Regrouped:
    """
    Hashes of blocks that are `factor` hashed blocks long: the hashes of their parts, one behind the other, or with `chained`
    that of the last part, which tells of all that is before it.
    """

    def __init__(self, hashes, factor, chained=False):
        self._hashes = hashes
        self._factor = factor
        self._chained = chained

    def __len__(self):
        return len(self._hashes) // self._factor

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._chained:
            return self._hashes[(index + 1) * self._factor - 1]
        return b"".join(self._hashes[index * self._factor : (index + 1) * self._factor])


def hashes_of_size(hashes, hash_block_size, block_size, chained=False):
    """The hashes of a request's blocks of `block_size` tokens."""
    if block_size == hash_block_size:
        return hashes
    assert block_size % hash_block_size == 0, f"block size {block_size} is no multiple of {hash_block_size}"
    return Regrouped(hashes, block_size // hash_block_size, chained)


def extra_keys(request, start, end, first_item):
    """What beside its tokens goes into the hash of the block [start, end): (tuple or None, next multimodal item)."""
    if interop.kv_cache_utils is not None:
        return interop.kv_cache_utils.generate_block_hash_extra_keys(request, start, end, first_item)
    keys = []
    lora = getattr(request, "lora_request", None)
    if lora:
        keys.append(lora.lora_name)
    items = getattr(request, "mm_features", None) or ()
    while first_item < len(items):
        item = items[first_item]
        offset, length = item.mm_position.offset, item.mm_position.length
        if end <= offset:
            break
        if start < offset + length:
            keys.append((item.identifier, offset - start))
            if end < offset + length:
                break
        first_item += 1
    salt = getattr(request, "cache_salt", None)
    if salt and start == 0:
        keys.append(salt)
    return (tuple(keys) if keys else None), first_item
