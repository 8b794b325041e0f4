/**
 * Fairness between tenants: the virtual token counter of "Fairness in Serving Large Language Models" (arXiv 2401.00588).
 *
 * Each tenant has a counter of the tokens it has been served, prompt tokens times `inputWeight` plus generated ones times
 * `outputWeight`. Of the tenants with waiting requests the one with the smallest counter is admitted next. A tenant that
 * had nothing waiting is lifted to the smallest counter among those that have (or to the counter of the one that left the
 * queue last), so that a pause earns no credit.
 *
 * Between two tenants that both have requests waiting all the while, the service differs by at most
 * 2 * max(inputWeight * longest prompt, outputWeight * tokens that the pool holds), however much either asks for (theorem
 * 4.4 there). A prompt is counted when it is admitted, once; preemption and cached prefixes change nothing.
 *
 * Choosing is O(tenants) an admission.
 */
import { NONE } from "../paging/layout";
import { Request, Scheduler, tenantOf } from "./layout";

// @ts-ignore: decorator
@inline export const TENANT_SHIFT: u64 = 52;

/**
 * The tenant to serve next, NONE: nobody waits. `admissible`: of those whose quota has not refused a request in this step.
 */
export function leastServed(s: Scheduler, admissible: bool): u32 {
  let least = NONE;
  let lowest: f64 = Infinity;
  for (let tenant: u32 = 0; tenant < s.tenantCount; tenant++) {
    const record = tenantOf(s, tenant);
    if (record.waiting == 0 || record.counter >= lowest) continue;
    if (admissible && record.passedIn == s.stepId) continue;
    least = tenant;
    lowest = record.counter;
  }
  return least;
}

/** A request of a tenant arrives: one that comes back starts where the others are. */
export function liftTenant(s: Scheduler, tenant: u32): void {
  const record = tenantOf(s, tenant);
  if (record.waiting != 0) return;
  const floor = tenantOf(s, s.waitingCount == 0 ? s.lastTenant : leastServed(s, false)).counter;
  if (record.counter < floor) record.counter = floor;
}

// @ts-ignore: decorator
@inline
export function tenantEnters(s: Scheduler, r: Request): void {
  tenantOf(s, r.tenant).waiting += 1;
}

// @ts-ignore: decorator
@inline
export function tenantLeaves(s: Scheduler, r: Request): void {
  const record = tenantOf(s, r.tenant);
  record.waiting -= 1;
  if (record.waiting == 0) s.lastTenant = r.tenant;
}

/** The prompt is admitted for the first time; `sign` -1: the step was abandoned. */
// @ts-ignore: decorator
@inline
export function countPrompt(s: Scheduler, r: Request, sign: f64): void {
  if (r.preemptions == 0) tenantOf(s, r.tenant).counter += sign * s.inputWeight * <f64>r.promptTokens;
}

// @ts-ignore: decorator
@inline
export function countToken(s: Scheduler, r: Request): void {
  tenantOf(s, r.tenant).counter += s.outputWeight;
}
