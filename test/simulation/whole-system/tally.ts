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
  /** Transfers to and from the host tier that ended whole, and those that did not; plans that had to wait for one. */
  sent: number;
  loaded: number;
  failedTransfers: number;
  waits: number;
  /** Requests in the batch of the step that read them back; such steps that were given up since something was lost. */
  joined: number;
  lostSteps: number;
  /** Blocks that came from the archive, and reads that failed or were damaged. */
  restoredBlocks: number;
  failedReads: number;
  /** Submissions and requests turned away for a quota, reservations too. */
  quotaRefusals: number;
  /** Rows over cache groups. */
  groupRows: number;
  /** Requests of caches with groups that were read back; and those that were computed again since some of it was lost. */
  groupLoads: number;
  groupLosses: number;
  restoredCores: number;
  /** Priorities that were changed, and requests that made room for more urgent ones. */
  prioritized: number;
  urgent: number;
  /** Next turns of conversations. */
  turns: number;
  /** Pins that were made, and soft ones that gave way. */
  pins: number;
  yieldedPins: number;
  /** Crashes of a process with a disk tier. */
  crashes: number;
  /** Blocks taken out of the run that was kept for their sequence. */
  runBlocks: number;
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
  sent: 0,
  loaded: 0,
  failedTransfers: 0,
  waits: 0,
  joined: 0,
  lostSteps: 0,
  restoredBlocks: 0,
  failedReads: 0,
  quotaRefusals: 0,
  groupRows: 0,
  groupLoads: 0,
  groupLosses: 0,
  restoredCores: 0,
  prioritized: 0,
  urgent: 0,
  turns: 0,
  pins: 0,
  yieldedPins: 0,
  crashes: 0,
  runBlocks: 0,
});
