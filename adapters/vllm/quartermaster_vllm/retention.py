"""Which full blocks are worth a place in the index: those that a hit can end with, or that its last token reads."""

import os

from .hashes import cdiv

_VARIABLE = "VLLM_PREFIX_CACHE_RETENTION_INTERVAL"


def interval_of(given, unit, specs):
    """
    Tokens between the places that are kept, `given` or from the environment: None keeps every place where a hit may end, 0
    only the end of the prompt and of what it shares. ValueError: negative, no multiple of `unit`, or no group that heeds it.
    """
    if given is None:
        text = os.environ.get(_VARIABLE)
        given = int(text) if text else None
    if given is None:
        return None
    if not any(hasattr(spec, "sliding_window") or hasattr(spec, "num_speculative_blocks") for spec in specs):
        raise ValueError(f"{_VARIABLE} is {given}, and there is no group of windows or of state")
    if given < 0 or given % unit:
        raise ValueError(f"{_VARIABLE} is {given}: it must be a multiple of {unit}, or 0")
    return given


def boundaries_of(request):
    """Tokens at which a later request may go on: the end of the prompt, and the end of what it shares."""
    prompt = getattr(request, "num_prompt_tokens", request.num_tokens)
    shared = getattr(request, "shared_prefix_boundary", 0)
    return [prompt - 1, shared] if shared else [prompt - 1]


def window_tails(request, first, last, size, window, unit, eagle, interval):
    """
    Whether each of the blocks first to last - 1 of `size` tokens is within a window before a place where a hit may end, that
    is a multiple of `unit` tokens; None: all of them. With `eagle` the hit's last block lies behind that place.
    """
    need, shift = cdiv(window - 1, size) + eagle, int(eagle)
    mask = [False] * (last - first)
    segment = unit if interval is None else interval
    if segment:
        per = segment // size
        if need >= per:
            return None
        mask = [index >= shift and (index - shift) % per >= per - need for index in range(first, last)]
    if interval is not None:
        for tokens in boundaries_of(request):
            end = tokens // unit * unit // size + shift
            for index in range(max(first, end - need), min(last, end)):
                mask[index - first] = True
    return mask


def state_ends(request, first, last, size, unit, interval):
    """As window_tails for a state, of which a hit reads its last block alone."""
    if interval is None:
        return None
    per = interval // size
    if interval and per <= 1:
        return None
    mask = [bool(per) and (index + 1) % per == 0 for index in range(first, last)]
    for tokens in boundaries_of(request):
        index = tokens // unit * unit // size - 1
        if first <= index < last:
            mask[index - first] = True
    return mask
