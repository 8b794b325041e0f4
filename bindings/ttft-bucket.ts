/** Hiding from a client how much of its prompt was cached: first tokens leave only at certain times. */
import { QuartermasterError, requireInteger } from "./errors.js";

/**
 * When to release a first token that is ready at `readyUs` of a request that arrived at `arrivalUs`: at the next whole
 * number of buckets after the arrival. Inside a scope that shares its cache the time to the first token tells whether somebody
 * has asked the same before; rounded up it tells only what is longer than a bucket. Microseconds; 0 releases at once.
 */
export function releaseTime(arrivalUs: number, readyUs: number, ttftBucketUs: number): number {
  for (const [argument, value] of Object.entries({ arrivalUs, readyUs }))
    if (!Number.isFinite(value) || value < 0)
      throw new QuartermasterError("INVALID_TIME", `${argument} is ${value}; allowed: a finite number >= 0`, {
        argument,
        value,
        range: "a finite number >= 0",
      });
  requireInteger("ttftBucketUs", ttftBucketUs, 0, 2 ** 40);
  if (ttftBucketUs === 0 || readyUs <= arrivalUs) return Math.max(arrivalUs, readyUs);
  return arrivalUs + Math.ceil((readyUs - arrivalUs) / ttftBucketUs) * ttftBucketUs;
}
