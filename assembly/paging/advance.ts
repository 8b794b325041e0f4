/** What time alone changes in a cache. */
import { OrderKind } from "../orders/layout";
import { priorityAdvance } from "../orders/priority";
import { accountMoved } from "./accounts";
import { KvCache, NONE, orderOf } from "./layout";
import { pinsAdvance } from "./pins";
import { trim } from "./prefix";

/** The host's clock has come to `nowUs`: pins end and, under order `priority`, priorities and times to live do. */
export function advance(kv: KvCache, nowUs: f64): void {
  if (kv.pins != 0) {
    pinsAdvance(kv, nowUs);
    trim(kv);
  }
  if (kv.order == 0 || orderOf(kv).kind != OrderKind.Priority) return;
  for (let id = priorityAdvance(orderOf(kv), nowUs); id != NONE; id = priorityAdvance(orderOf(kv), nowUs))
    if (kv.accounts != 0) accountMoved(kv, id);
}
