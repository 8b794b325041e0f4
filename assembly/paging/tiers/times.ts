/** How long transfers take: moving averages, and the last swap-ins ("FastSwitch", arXiv 2411.18424, section 4.3). */
import { HostTier, NEWEST } from "./layout";

/** Swap-ins that the expectation goes by. */
// @ts-ignore: decorator
@inline const LOADS: u32 = 16;

/** The average at `mean` takes in another value; 0: it has none yet. */
export function follow(mean: usize, value: f64): void {
  const old = load<f64>(mean);
  store<f64>(mean, old == 0 ? value : old + NEWEST * (value - old));
}

// @ts-ignore: decorator
@inline
function loadPtr(t: HostTier, index: u32): usize {
  return changetype<usize>(t) + offsetof<HostTier>() + ((<usize>(index & (LOADS - 1))) << 2);
}

/** A swap-in has taken `us` microseconds a block. */
export function noteLoad(t: HostTier, us: f64): void {
  follow(changetype<usize>(t) + offsetof<HostTier>("inUs"), us);
  store<f32>(loadPtr(t, t.loads), <f32>us);
  t.loads += 1;
}

/** Microseconds a block of a swap-in: the mean of the last ones, what the host has said until there is one. */
export function expectedUs(t: HostTier): f64 {
  const count = min(t.loads, LOADS);
  if (count == 0) return t.inUs;
  let sum: f64 = 0;
  for (let i: u32 = 0; i < count; i++) sum += <f64>load<f32>(loadPtr(t, i));
  return sum / <f64>count;
}
