/** Copies of StatViews that outlive the run, and views cut to what was asked for. */
import { StatMask, type StatView } from "../../bindings/statistics.js";

/** A copy that stays valid. */
export function copyView(view: StatView): StatView {
  const { lengths, lastRow, window, colsum, colcount, moments, probeMax, keys } = view;
  return {
    ...view,
    lengths: lengths.slice(),
    ...(lastRow && { lastRow: lastRow.slice() }),
    ...(window && { window: window.slice() }),
    ...(colsum && { colsum: colsum.slice() }),
    ...(colcount && { colcount: colcount.slice() }),
    ...(moments && { moments: moments.slice() }),
    ...(probeMax && { probeMax: probeMax.slice() }),
    ...(keys && { keys: { ...keys, data: keys.data.slice() } }),
  };
}

/** The fields that a mask names, and no others. */
export function shownTo(view: StatView, mask: number): StatView {
  const { layer, heads, kvHeads, newTokens, lengths, stride } = view;
  const has = (bit: number): boolean => (mask & bit) !== 0;
  const { WINDOW, WINDOW_MOMENTS } = StatMask;
  return {
    layer,
    heads,
    kvHeads,
    newTokens,
    lengths,
    stride,
    ...(has(StatMask.LAST_ROW) && { lastRow: view.lastRow }),
    ...(has(WINDOW) && { window: view.window }),
    ...(has(WINDOW | WINDOW_MOMENTS) && { windowRows: view.windowRows }),
    ...(has(StatMask.COLSUM) && { colsum: view.colsum, colcount: view.colcount }),
    ...(has(WINDOW_MOMENTS) && { moments: view.moments, entropy: view.entropy }),
    ...(has(StatMask.PROBE_MAX) && { probeMax: view.probeMax }),
    ...(has(StatMask.KEYS) && { keys: view.keys }),
    ...(has(StatMask.OUTPUT_ERROR) && { outputError: view.outputError }),
  };
}
