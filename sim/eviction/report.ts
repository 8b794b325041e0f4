/** One HTML file of a lab run: a table, accuracy against memory, and which positions each policy kept of a prompt. */
import { linePlot } from "../plot.js";
import type { CellResult } from "./grid.js";

/** A task asked in one way. */
export interface Section {
  readonly name: string;
  readonly results: readonly CellResult[];
}

/** What policies kept of one prompt. */
export interface KeptPrompt {
  readonly text: string;
  /** Positions [from, to) that the question asks for. */
  readonly from: number;
  readonly to: number;
  readonly rows: readonly {
    readonly policy: string;
    /** [layers * kvHeads] positions kept. */
    readonly held: readonly Uint32Array[];
  }[];
  readonly layers: number;
}

function escapeText(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);
}

/** Share of the full cache's blocks that a cell holds: memory that other sequences cannot use. Planes are not in them. */
export function blockShare(result: CellResult, full: CellResult): number {
  return result.blocks / full.blocks;
}

/** Share of the full cache's bytes in slots that are in use, planes included; blocks hold unused places besides. */
export function slotShare(result: CellResult, full: CellResult): number {
  return (result.payloadBytes + result.planeBytes) / full.payloadBytes;
}

const MEMORY = {
  blocks: { share: blockShare, label: "blocks held, share of the full cache" },
  slots: { share: slotShare, label: "bytes in used slots and planes, share of the full cache" },
} as const;

/** Accuracy against memory, one line a policy, mean over sections. */
export function accuracyPlot(
  title: string,
  sections: readonly Section[],
  memory: keyof typeof MEMORY,
): string {
  const { share, label } = MEMORY[memory];
  const policies = sections[0].results.slice(1).map(({ policy }) => policy);
  const series = [...new Set(policies)].map((policy) => {
    const ratios = sections[0].results
      .filter((result) => result.policy === policy)
      .map(({ budget }) => budget);
    const points = ratios.map((ratio) => {
      const cells = sections.map(({ results }) => {
        const cell = results.find((result) => result.policy === policy && result.budget === ratio)!;
        return [share(cell, results[0]), cell.accuracy] as const;
      });
      const mean = (i: 0 | 1): number => cells.reduce((sum, cell) => sum + cell[i], 0) / cells.length;
      return [mean(0), mean(1)] as const;
    });
    return { name: policy, points: points.sort((a, b) => a[0] - b[0]) };
  });
  return linePlot({
    title,
    xLabel: label,
    yLabel: "right answers",
    series,
  });
}

/** Background for a share from 0 to 1: white to green. */
function shade(share: number): string {
  return `hsl(150 45% ${Math.round(97 - 52 * Math.max(0, Math.min(1, share)))}%)`;
}

function table({ name, results }: Section): string {
  const full = results[0];
  const rows = results.map((result) => {
    const { policy, budget, accuracy, recall, outputError, kl, meanSlots, peak, policyUs, modelUs } = result;
    const cells = [
      escapeText(policy),
      budget,
      `<td style="background:${shade(accuracy)}">${accuracy.toFixed(2)}</td>`,
      recall.toFixed(2),
      outputError.toFixed(2),
      kl.toFixed(2),
      `${(100 * blockShare(result, full)).toFixed(1)} %`,
      `${(100 * slotShare(result, full)).toFixed(1)} %`,
      meanSlots.toFixed(0),
      peak,
      (policyUs / 1000).toFixed(1),
      (modelUs / 1000).toFixed(1),
    ];
    return `<tr>${cells.map((cell) => (String(cell).startsWith("<td") ? cell : `<td>${cell}</td>`)).join("")}</tr>`;
  });
  const heads = [
    "policy",
    "budget",
    "right",
    "attention recall",
    "output error",
    "KL",
    "blocks",
    "slots and planes",
    "mean slots",
    "peak slots",
    "policy ms",
    "decode ms",
  ];
  return `<h2>${escapeText(name)}</h2><table><tr>${heads.map((head) => `<th>${head}</th>`).join("")}</tr>${rows.join("")}</table>`;
}

const CELL = 2.2;
const ROW = 9;

/** One strip a policy and layer: how many of the layer's lanes kept each position. */
function heatMap({ text, from, to, rows, layers }: KeptPrompt): string {
  const tokens = text.length + 1;
  const left = 190;
  const height = rows.length * (layers * ROW + 7) + 40;
  const x = (position: number): number => left + position * CELL;
  const body: string[] = [
    `<rect x="${x(from)}" y="18" width="${(to - from) * CELL}" height="${height - 18}" fill="#ffd8a8"/>`,
    `<text x="${x(from)}" y="12">asked for: ${escapeText(text.slice(from - 1, to - 1))}</text>`,
  ];
  rows.forEach(({ policy, held }, i) => {
    const top = 24 + i * (layers * ROW + 7);
    const heads = held.length / layers;
    body.push(`<text x="0" y="${top + ROW * 1.8}">${escapeText(policy)}</text>`);
    for (let layer = 0; layer < layers; layer++) {
      const counts = new Float64Array(tokens);
      for (const positions of held.slice(layer * heads, (layer + 1) * heads))
        for (const position of positions) if (position < tokens) counts[position] += 1 / heads;
      // Runs of equal shares are one rectangle.
      for (let start = 0; start < tokens;) {
        let end = start + 1;
        while (end < tokens && counts[end] === counts[start]) end += 1;
        if (counts[start] > 0)
          body.push(
            `<rect x="${x(start).toFixed(1)}" y="${top + layer * ROW}" width="${((end - start) * CELL).toFixed(1)}" height="${ROW - 1}" fill="#1c7ed6" fill-opacity="${counts[start].toFixed(2)}"/>`,
          );
        start = end;
      }
    }
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${x(tokens) + 10}" height="${height}">${body.join("")}</svg>`;
}

/** A page without outside references. */
export function labReport(options: {
  title: string;
  command: string;
  plots: readonly string[];
  sections: readonly Section[];
  kept: KeptPrompt;
}): string {
  const { title, command, plots, sections, kept } = options;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escapeText(title)}</title>
<style>
body{font:14px system-ui,sans-serif;margin:24px;max-width:1240px;color:#222}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:2px 10px;text-align:right;border-bottom:1px solid #eee}
td:first-child,th:first-child{text-align:left}
svg text{font:11px system-ui,sans-serif}
code{background:#f1f3f5;padding:2px 5px}
pre{white-space:pre-wrap;word-break:break-all;background:#f8f9fa;padding:8px}
</style></head><body>
<h1>${escapeText(title)}</h1>
<p><code>${escapeText(command)}</code></p>
${plots.join("\n")}
<h2>What each policy kept of one prompt</h2>
<p>Positions from left to right, a strip a layer, darker where more heads kept the token. The question, which no policy had
seen, asks for the marked characters.</p>
<pre>${escapeText(kept.text)}</pre>
${heatMap(kept)}
${sections.map(table).join("\n")}
</body></html>
`;
}
