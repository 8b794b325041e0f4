/** What a world has seen; all of it zero would mean that it tests nothing. */
export interface Tally {
  steps: number;
  rows: number;
  submitted: number;
  refused: number;
  finished: number;
  aborted: number;
  expired: number;
  rejected: number;
  preempted: number;
  abandoned: number;
  cachedTokens: number;
  copies: number;
  /** Draft tokens fed, and right. */
  drafted: number;
  draftedRight: number;
  comparedPlans: number;
  restoredCores: number;
}

export const emptyTally = (): Tally => ({
  steps: 0,
  rows: 0,
  submitted: 0,
  refused: 0,
  finished: 0,
  aborted: 0,
  expired: 0,
  rejected: 0,
  preempted: 0,
  abandoned: 0,
  cachedTokens: 0,
  copies: 0,
  drafted: 0,
  draftedRight: 0,
  comparedPlans: 0,
  restoredCores: 0,
});
