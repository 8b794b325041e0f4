/** What a request says of its prompt beside the tokens: the marks in it, and whether it is to be pinned. */
import { INVALID_ARGUMENT, INVALID_TIME, OK, Status, UNKNOWN_REQUEST } from "../memory/status";
import { SLOT_MASK } from "../paging/layout";
import { dropList, holdList, isList } from "../paging/marks";
import { pin, PinState, unpin } from "../paging/pins";
import { trim } from "../paging/prefix";
import { isLive, Request, request, Scheduler, State } from "./layout";

/** Gives a request that has not been admitted yet the marks of its prompt; they are held as long as it lives. */
export function requestMarks(s: Scheduler, handle: u32, marks: u32): Status {
  if (!isLive(s, handle)) return UNKNOWN_REQUEST;
  const r = request(s, handle & SLOT_MASK);
  if (r.state == State.Running || r.preemptions != 0 || !isList(s.kv, marks)) return INVALID_ARGUMENT;
  holdList(s.kv, marks);
  if (r.marks != 0) dropList(s.kv, r.marks);
  r.marks = marks;
  return OK;
}

/** Has a request's prompt pinned for a time once its first token is generated; Infinity for ever. */
export function requestPin(s: Scheduler, handle: u32, hard: bool, priority: u32, forUs: f64): Status {
  if (!isLive(s, handle)) return UNKNOWN_REQUEST;
  if (s.kv.pins == 0) return INVALID_ARGUMENT;
  if (!(forUs >= 0)) return INVALID_TIME;
  const r = request(s, handle & SLOT_MASK);
  r.pinState = hard ? PinState.Hard : PinState.Soft;
  r.pinPriority = priority;
  r.pinForUs = forUs;
  return OK;
}

/** The request has sampled a token: its prompt is computed. */
export function pinPrompt(s: Scheduler, r: Request, nowUs: f64): void {
  const hard = r.pinState == PinState.Hard;
  r.pinState = PinState.Free;
  r.pin = pin(s.kv, r.sequence, hard, r.pinPriority, nowUs + r.pinForUs);
}

/** The request is aborted: no outcome will tell of its pin, so that nobody else could end it. */
export function dropPin(s: Scheduler, r: Request): void {
  if (r.pin <= 0) return;
  unpin(s.kv, r.pin);
  trim(s.kv);
}
