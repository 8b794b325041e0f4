/** Linearizability of short histories: is there an order of the calls that explains all results? */

export interface Operation<Argument, Result> {
  readonly argument: Argument;
  readonly result: Result;
  /** The call took place somewhere between these two moments. */
  readonly start: number;
  readonly end: number;
  /** The call before it in the same batch, which took place earlier. */
  readonly previous?: Operation<Argument, Result>;
}

/**
 * Search after Wing and Gong ("Testing and Verifying Concurrent Objects", 1993): repeatedly take a call that
 * began before every other one left had ended, and see whether the model gives its result. `apply` returns
 * the model's result and next state, states are compared by `key`. No two calls have the same start.
 */
export function isLinearizable<State, Argument, Result>(
  history: readonly Operation<Argument, Result>[],
  initial: State,
  apply: (state: State, argument: Argument) => { state: State; result: Result },
  key: (state: State) => string,
  final?: (state: State) => boolean,
): boolean {
  const failed = new Set<string>();
  const search = (left: readonly Operation<Argument, Result>[], state: State): boolean => {
    if (left.length === 0) return final?.(state) ?? true;
    const id = `${left.map(({ start }) => start).join()}|${key(state)}`;
    if (failed.has(id)) return false;
    const firstEnd = Math.min(...left.map(({ end }) => end));
    for (const operation of left) {
      if (operation.start > firstEnd || (operation.previous && left.includes(operation.previous))) continue;
      const next = apply(state, operation.argument);
      if (next.result !== operation.result) continue;
      if (
        search(
          left.filter((other) => other !== operation),
          next.state,
        )
      )
        return true;
    }
    failed.add(id);
    return false;
  };
  return search(history, initial);
}
