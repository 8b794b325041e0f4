"""What vLLM's cache manager decides differently from version to version."""

import enum


class Version(enum.IntEnum):
    """
    Whose decisions a manager follows; vLLM has no version number for them. `install` finds out which one it is by the
    signatures of the manager that it replaces.
    """

    # Main of 17 April 2026, and what was before it.
    APRIL_2026 = 202604
    # Of several groups, what no hit can reach is not cached: tokens behind the last multiple of all block sizes, and blocks of
    # a window too far before one. A hit gives a block up for eagle once, not in every round of agreement, and each group may
    # say for itself that it does. New blocks of MLA are reported. Stored blocks name the kind of their group.
    JUNE_2026 = 202606
    # The block behind such a multiple is cached where eagle looks at it. Statistics are recorded apart from the look-up, which
    # tells of a prefix that some group has and the others lack. Sparse retention. Computed tokens are settled ones.
    JULY_2026 = 202607


def version_of(parameters, results):
    """The version of a manager with these parameters, and so many results of get_computed_blocks."""
    if results == 3 or "max_in_flight_tokens" in parameters:
        return Version.JULY_2026
    return Version.JUNE_2026 if "max_num_batched_tokens" in parameters else Version.APRIL_2026
