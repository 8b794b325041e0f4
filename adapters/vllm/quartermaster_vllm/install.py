"""Puts BlockPool and KVCacheManager in the place of vLLM's, wherever its modules have taken them up by name."""

import importlib
import inspect
import sys
import typing

from .block_pool import BlockPool
from .groups import ChunkGroup, CacheGroup, CrossGroup, SinkGroup, WindowGroup
from .manager import KVCacheManager
from .state_groups import StateGroup
from .versions import version_of

_CORE = "vllm.v1.core"
_OURS = {"BlockPool": BlockPool, "KVCacheManager": KVCacheManager}
_GROUPS = {
    "FullAttentionManager": CacheGroup,
    "SinkFullAttentionManager": SinkGroup,
    "SlidingWindowManager": WindowGroup,
    "ChunkedLocalAttentionManager": ChunkGroup,
    "MambaManager": StateGroup,
    "CrossAttentionManager": CrossGroup,
}


def install(pool=True, manager=True):
    """
    Replaces vLLM's classes for this process; call it before an engine or a scheduler is made. `pool` alone keeps vLLM's
    manager over our pool. Returns the names replaced, as "module.Class".
    """
    wanted = [name for name, on in (("BlockPool", pool), ("KVCacheManager", manager)) if on]
    for module in ("block_pool", "kv_cache_manager", "kv_cache_coordinator", "single_type_kv_cache_manager"):
        importlib.import_module(f"{_CORE}.{module}")
    originals = {
        "BlockPool": sys.modules[f"{_CORE}.block_pool"].BlockPool,
        "KVCacheManager": sys.modules[f"{_CORE}.kv_cache_manager"].KVCacheManager,
    }
    KVCacheManager.version = _version(originals["KVCacheManager"])
    replaced = []
    for name in wanted:
        for path, module in list(sys.modules.items()):
            if path.startswith("vllm.") and getattr(module, name, None) is originals[name]:
                setattr(module, name, _OURS[name])
                replaced.append(f"{path}.{name}")
    # isinstance(group, CrossAttentionManager) holds for ours as well.
    managers = sys.modules[f"{_CORE}.single_type_kv_cache_manager"]
    for name, group in _GROUPS.items():
        base = getattr(managers, name, None)
        if hasattr(base, "register"):
            base.register(group)
    return replaced


def _version(manager):
    """Whose decisions vLLM's manager takes, as its signatures say."""
    returned = inspect.signature(manager.get_computed_blocks).return_annotation
    return version_of(inspect.signature(manager.__init__).parameters, len(typing.get_args(returned)))
