"""Runs a second manager beside the first and stops at the first call after which they differ."""

from collections import deque

from .cache_blocks import tables_of


class ParityError(AssertionError):
    """Two managers differ; the message says at which call, in what, and what came before."""


def _key(block):
    key = block.block_hash
    return None if key is None else bytes(key)


def _state(manager):
    """What must be equal after every call."""
    pool = manager.block_pool
    null = pool.null_block.block_id
    return {
        "free list": [block.block_id for block in pool.free_block_queue.get_all_free_blocks()],
        "references": [block.ref_cnt for block in pool.blocks if block.block_id != null],
        "hashes": [_key(block) for block in pool.blocks],
        "usage": manager.usage,
    }


def _show(value):
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:400]}... ({len(text)} characters)"


def _first_difference(mine, theirs):
    """Where two values differ, in words."""
    if isinstance(mine, (list, tuple)) and isinstance(theirs, (list, tuple)) and type(mine) is type(theirs):
        if len(mine) != len(theirs):
            return f"length {len(mine)} and {len(theirs)}: {_show(mine)} and {_show(theirs)}"
        for index, (a, b) in enumerate(zip(mine, theirs)):
            if a != b:
                return f"[{index}]: {_first_difference(a, b)}"
    return f"{_show(mine)} and {_show(theirs)}"


class ParityManager:
    """
    Looks like `first`, and gives every call to `second` as well. `every`: calls between comparisons of the whole state
    (free list, references, hashes); results are compared at every call. Both must start empty.
    """

    HISTORY = 12

    def __init__(self, first, second, every=1):
        self.first, self.second, self.every = first, second, every
        self.calls = 0
        self._last = deque(maxlen=self.HISTORY)

    # ---- comparing

    def _differ(self, what, mine, theirs):
        history = "\n".join(f"  {line}" for line in self._last)
        raise ParityError(
            f"call {self.calls} differs in {what}: {_first_difference(mine, theirs)}\n"
            f"first: {type(self.first).__module__}, second: {type(self.second).__module__}\n"
            f"the last calls, the differing one at the end:\n{history}"
        )

    def _both(self, name, arguments, run, plain):
        self.calls += 1
        self._last.append(f"{self.calls}. {name}({', '.join(map(_show, arguments))})")
        results, errors = [], []
        for manager in (self.first, self.second):
            try:
                results.append(run(manager))
                errors.append(None)
            except (ValueError, AssertionError) as error:
                results.append(None)
                errors.append(error)
        if [type(error) for error in errors] != [type(errors[0])] * 2:
            self._differ("what it raises", errors[0], errors[1])
        if errors[0] is not None:
            raise errors[0]
        mine, theirs = plain(results[0]), plain(results[1])
        self._last[-1] += f" -> {_show(mine)}"
        if mine != theirs:
            self._differ("its result", mine, theirs)
        if self.calls % self.every == 0:
            self.compare()
        return results[0]

    def compare(self):
        """Compares the whole state."""
        mine, theirs = _state(self.first), _state(self.second)
        for name, value in mine.items():
            if value != theirs[name]:
                self._differ(name, value, theirs[name])

    # ---- the surface of a manager

    @staticmethod
    def _describe(request):
        return f"{request.request_id}: {request.num_computed_tokens} of {request.num_tokens} tokens"

    def _blocks_for(self, manager, blocks):
        """The second manager's blocks with the same ids."""
        if blocks is None or manager is self.first:
            return blocks
        if blocks is self.first.empty_kv_cache_blocks:
            return manager.empty_kv_cache_blocks
        known = manager.block_pool.blocks
        return type(manager.empty_kv_cache_blocks)(
            tuple([known[block] for block in table] for table in tables_of(blocks))
        )

    def _look_up(self, name, request):
        return self._both(
            name,
            [self._describe(request)],
            lambda manager: getattr(manager, name)(request),
            lambda result: (result[0].get_block_ids(), *result[1:]),
        )

    def get_computed_blocks(self, request):
        return self._look_up("get_computed_blocks", request)

    def get_computed_blocks_for_connector(self, request):
        return self._look_up("get_computed_blocks_for_connector", request)

    def _with_blocks(self, name, request, position, arguments, keywords, plain):
        arguments = list(arguments)

        def run(manager):
            given, named = list(arguments), dict(keywords)
            if len(given) > position:
                given[position] = self._blocks_for(manager, given[position])
            if "new_computed_blocks" in named:
                named["new_computed_blocks"] = self._blocks_for(manager, named["new_computed_blocks"])
            return getattr(manager, name)(request, *given, **named)

        shown = [self._describe(request), *arguments, *(f"{key}={value!r}" for key, value in keywords.items())]
        return self._both(name, shown, run, plain)

    def allocate_slots(self, request, *arguments, **keywords):
        plain = lambda result: None if result is None else result.get_block_ids()  # noqa: E731
        return self._with_blocks("allocate_slots", request, 2, arguments, keywords, plain)

    def can_fit_full_sequence(self, request, *arguments, **keywords):
        return self._with_blocks("can_fit_full_sequence", request, 1, arguments, keywords, bool)

    def take_events(self):
        return self._both("take_events", [], lambda manager: manager.take_events(), lambda events: [vars_of(e) for e in events])

    def make_prefix_cache_stats(self):
        return self._both(
            "make_prefix_cache_stats",
            [],
            lambda manager: manager.make_prefix_cache_stats(),
            lambda stats: None if stats is None else vars_of(stats),
        )

    def get_blocks(self, request_id):
        return self._both(
            "get_blocks", [request_id], lambda manager: manager.get_blocks(request_id), lambda b: b.get_block_ids()
        )

    def __getattr__(self, name):
        mine = getattr(self.first, name)
        if not callable(mine) or name.startswith("_"):
            return mine

        def call(*arguments, **keywords):
            shown = [self._describe(a) if hasattr(a, "num_tokens") else a for a in arguments]
            return self._both(
                name, shown, lambda manager: getattr(manager, name)(*arguments, **keywords), lambda result: result
            )

        return call


def vars_of(value):
    """Class and fields of a record, whatever it is made with."""
    names = getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", None) or ()
    return type(value).__name__, {name: getattr(value, name) for name in names}
