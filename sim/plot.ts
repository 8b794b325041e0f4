/** SVG plots without a dependency: a serving timeline in three panels, line and bar plots for benches. */

export interface TimelineSample {
  readonly tUs: number;
  readonly usedBlocks: number;
  readonly evictableBlocks: number;
  readonly decodeTokens: number;
  readonly prefillTokens: number;
  /** Totals since the start. */
  readonly hitTokens: number;
  readonly queriedTokens: number;
  /** Preempted by this step. */
  readonly preemptions: number;
}

const WIDTH = 900;
const LEFT = 70;
const RIGHT = 20;
const COLORS = ["#4269d0", "#9bb0e8", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#9c6b4e"];

function escapeText(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);
}

/** Round numbers that cover [low, high] in about `count` steps. */
function ticks(low: number, high: number, count: number): number[] {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw)!;
  const result: number[] = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step)
    result.push(Number(at.toPrecision(12)));
  return result;
}

function label(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${value / 1e6}M`;
  if (size >= 1e4) return `${value / 1e3}k`;
  return String(value);
}

interface Panel {
  readonly top: number;
  readonly height: number;
  readonly title: string;
  readonly highest: number;
}

function axes(panel: Panel, xTicks: number[], x: (t: number) => number): string {
  const { top, height, highest } = panel;
  const y = (value: number): number => top + height * (1 - value / highest);
  const parts = [`<text x="${LEFT}" y="${top - 8}" class="title">${escapeText(panel.title)}</text>`];
  for (const value of ticks(0, highest, 4)) {
    parts.push(
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value).toFixed(1)}" y2="${y(value).toFixed(1)}" class="grid"/>`,
      `<text x="${LEFT - 8}" y="${(y(value) + 4).toFixed(1)}" text-anchor="end">${label(value)}</text>`,
    );
  }
  for (const value of xTicks) {
    parts.push(
      `<text x="${x(value).toFixed(1)}" y="${top + height + 16}" text-anchor="middle">${label(value)}</text>`,
    );
  }
  return parts.join("\n");
}

function legend(top: number, entries: readonly (readonly [name: string, color: string])[]): string {
  let right = WIDTH - RIGHT;
  return [...entries]
    .reverse()
    .map(([name, color]) => {
      right -= name.length * 6.6 + 26;
      return (
        `<rect x="${right.toFixed(1)}" y="${top - 17}" width="10" height="10" fill="${color}"/>` +
        `<text x="${(right + 14).toFixed(1)}" y="${top - 8}">${escapeText(name)}</text>`
      );
    })
    .join("\n");
}

/** Colours that stay apart for many lines. */
function lineColor(i: number): string {
  return i < COLORS.length ? COLORS[i] : `hsl(${(i * 137) % 360} 60% ${38 + ((i * 17) % 24)}%)`;
}

/** Colour of a series: named ones first, then duller ones. */
function seriesColor(i: number): string {
  return i < COLORS.length ? COLORS[i] : `hsl(${(i * 67) % 360} 25% ${35 + ((i * 11) % 35)}%)`;
}

/** A legend of many names, four a row, under the title. */
function legendRows(entries: readonly (readonly [name: string, color: string])[]): string {
  return entries
    .map(([name, color], i) => {
      const [x, y] = [LEFT + (i % 4) * 205, 42 + Math.floor(i / 4) * 16];
      return (
        `<rect x="${x}" y="${y}" width="10" height="10" fill="${color}"/>` +
        `<text x="${x + 14}" y="${y + 9}">${escapeText(name)}</text>`
      );
    })
    .join("\n");
}

function document(title: string, height: number, body: string[]): string {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}">`,
    `<style>text{font:11px system-ui,sans-serif;fill:#333}.title{font-weight:600}.head{font-size:15px;font-weight:600}.grid{stroke:#e3e3e3}</style>`,
    `<rect width="${WIDTH}" height="${height}" fill="#fff"/>`,
    `<text x="${LEFT}" y="24" class="head">${escapeText(title)}</text>`,
    ...body,
    "</svg>",
    "",
  ].join("\n");
}

/** An area between two step functions of time. */
function area(points: readonly [x: number, low: number, high: number][], color: string): string {
  const forward: string[] = [];
  const back: string[] = [];
  points.forEach(([x, low, high], i) => {
    const next = points[i + 1]?.[0] ?? x;
    forward.push(`${x.toFixed(1)},${high.toFixed(1)} ${next.toFixed(1)},${high.toFixed(1)}`);
    back.push(`${next.toFixed(1)},${low.toFixed(1)} ${x.toFixed(1)},${low.toFixed(1)}`);
  });
  return `<polygon points="${[...forward, ...back.reverse()].join(" ")}" fill="${color}"/>`;
}

/** At most `count` samples: buckets of time keep the step with the most blocks and all preemptions. */
function thin(samples: readonly TimelineSample[], count: number): TimelineSample[] {
  if (samples.length <= count) return [...samples];
  const size = samples.length / count;
  return Array.from({ length: count }, (_, i) => {
    const bucket = samples.slice(
      Math.floor(i * size),
      Math.max(Math.floor((i + 1) * size), Math.floor(i * size) + 1),
    );
    const peak = bucket.reduce((best, sample) => (sample.usedBlocks > best.usedBlocks ? sample : best));
    return { ...peak, preemptions: bucket.reduce((sum, sample) => sum + sample.preemptions, 0) };
  });
}

/** KV blocks, batch composition and prefix hits over time. */
export function timelinePlot(
  all: readonly TimelineSample[],
  meta: { title: string; blocks: number },
): string {
  const samples = thin(all, 600);
  const endMs = Math.max(1, (samples[samples.length - 1]?.tUs ?? 0) / 1000);
  const x = (ms: number): number => LEFT + ((WIDTH - LEFT - RIGHT) * ms) / endMs;
  const xTicks = ticks(0, endMs, 8);
  const blocks: Panel = { top: 70, height: 170, title: "KV blocks", highest: meta.blocks };
  const mostTokens = Math.max(1, ...samples.map((sample) => sample.decodeTokens + sample.prefillTokens));
  const batch: Panel = { top: 300, height: 130, title: "tokens a step", highest: mostTokens };
  const hits: Panel = {
    top: 490,
    height: 100,
    title: "prompt tokens found in the cache, cumulative share",
    highest: 1,
  };
  const stacked = (
    panel: Panel,
    low: (s: TimelineSample) => number,
    high: (s: TimelineSample) => number,
    color: string,
  ): string => {
    const y = (value: number): number => panel.top + panel.height * (1 - value / panel.highest);
    return area(
      samples.map((sample) => [x(sample.tUs / 1000), y(low(sample)), y(high(sample))]),
      color,
    );
  };
  const [used, cached, decode, prefill, hit] = COLORS;
  const preemptions = samples
    .filter((sample) => sample.preemptions > 0)
    .map(({ tUs }) => {
      const at = x(tUs / 1000).toFixed(1);
      return `<path d="M${at} ${blocks.top - 1} l-4 -6 h8 z" fill="#c92a2a"/>`;
    });
  return document(meta.title, 640, [
    stacked(
      blocks,
      () => 0,
      (s) => s.usedBlocks,
      used,
    ),
    stacked(
      blocks,
      (s) => s.usedBlocks,
      (s) => s.usedBlocks + s.evictableBlocks,
      cached,
    ),
    stacked(
      batch,
      () => 0,
      (s) => s.decodeTokens,
      decode,
    ),
    stacked(
      batch,
      (s) => s.decodeTokens,
      (s) => s.decodeTokens + s.prefillTokens,
      prefill,
    ),
    stacked(
      hits,
      () => 0,
      (s) => (s.queriedTokens === 0 ? 0 : s.hitTokens / s.queriedTokens),
      hit,
    ),
    axes(blocks, xTicks, x),
    axes(batch, xTicks, x),
    axes(hits, xTicks, x),
    legend(blocks.top - 14, [
      ["in use", used],
      ["cached, evictable", cached],
      ["preemption", "#c92a2a"],
    ]),
    legend(batch.top, [
      ["decode", decode],
      ["prefill", prefill],
    ]),
    ...preemptions,
    `<text x="${(WIDTH + LEFT) / 2}" y="630" text-anchor="middle">milliseconds</text>`,
  ]);
}

export interface LineSeries {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

/** Lines over logarithmic or linear axes. */
export function linePlot(options: {
  title: string;
  xLabel: string;
  yLabel: string;
  series: readonly LineSeries[];
  logX?: boolean;
  logY?: boolean;
}): string {
  const { series, logX = false, logY = false } = options;
  const scale = (log: boolean) => (value: number) => (log ? Math.log10(value) : value);
  const [toX, toY] = [scale(logX), scale(logY)];
  const points = series.flatMap((line) => line.points);
  const xs = points.map(([x]) => toX(x));
  const ys = points.map(([, y]) => toY(y));
  const [lowX, highX] = [Math.min(...xs), Math.max(...xs)];
  const [lowY, highY] = [Math.min(logY ? Infinity : 0, ...ys), Math.max(...ys)];
  const rows = series.length > 6 ? Math.ceil(series.length / 4) : 0;
  const top = 70 + rows * 16;
  const height = 380;
  const x = (value: number): number =>
    LEFT + ((WIDTH - LEFT - RIGHT) * (toX(value) - lowX)) / (highX - lowX || 1);
  const y = (value: number): number => top + height * (1 - (toY(value) - lowY) / (highY - lowY || 1));
  const undo = (log: boolean) => (value: number) => (log ? 10 ** value : value);
  const body: string[] = [];
  for (const tick of ticks(lowY, highY, 5).map(undo(logY))) {
    body.push(
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(tick).toFixed(1)}" y2="${y(tick).toFixed(1)}" class="grid"/>`,
      `<text x="${LEFT - 8}" y="${(y(tick) + 4).toFixed(1)}" text-anchor="end">${label(Number(tick.toPrecision(3)))}</text>`,
    );
  }
  for (const tick of ticks(lowX, highX, 8).map(undo(logX))) {
    body.push(
      `<text x="${x(tick).toFixed(1)}" y="${top + height + 16}" text-anchor="middle">${label(Number(tick.toPrecision(3)))}</text>`,
    );
  }
  const color = lineColor;
  series.forEach((line, i) => {
    const path = line.points.map(([px, py]) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`).join(" ");
    body.push(`<polyline points="${path}" fill="none" stroke="${color(i)}" stroke-width="2"/>`);
  });
  body.push(
    rows > 0
      ? legendRows(series.map(({ name }, i) => [name, color(i)] as const))
      : legend(
          top - 14,
          series.map(({ name }, i) => [name, color(i)] as const),
        ),
    `<text x="${(WIDTH + LEFT) / 2}" y="${top + height + 36}" text-anchor="middle">${escapeText(options.xLabel)}</text>`,
    `<text x="16" y="${top + height / 2}" transform="rotate(-90 16 ${top + height / 2})" text-anchor="middle">${escapeText(options.yLabel)}</text>`,
  );
  return document(options.title, top + height + 70, body);
}

export interface BarSeries {
  readonly name: string;
  /** One value a group; undefined leaves a gap. */
  readonly values: readonly (number | undefined)[];
}

/** Bars in groups, the series of a group side by side; the legend stands in rows of three. */
export function barPlot(options: {
  title: string;
  groups: readonly string[];
  series: readonly BarSeries[];
}): string {
  const { groups, series } = options;
  const rows = Math.ceil(series.length / 3);
  const highest = Math.max(...series.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const panel: Panel = { top: 50 + rows * 18, height: 320, title: "", highest };
  const groupWidth = (WIDTH - LEFT - RIGHT) / groups.length;
  const barWidth = (groupWidth * 0.86) / series.length;
  const color = seriesColor;
  const body = [axes(panel, [], (x) => x)];
  series.forEach(({ name, values }, i) => {
    const [column, row] = [i % 3, Math.floor(i / 3)];
    const [x, y] = [LEFT + column * 270, 42 + row * 18];
    body.push(
      `<rect x="${x}" y="${y}" width="10" height="10" fill="${color(i)}"/>` +
        `<text x="${x + 14}" y="${y + 9}">${escapeText(name)}</text>`,
    );
    values.forEach((value, group) => {
      if (value === undefined) return;
      const height = (panel.height * value) / highest;
      const left = LEFT + group * groupWidth + groupWidth * 0.07 + i * barWidth;
      body.push(
        `<rect x="${left.toFixed(1)}" y="${(panel.top + panel.height - height).toFixed(1)}" ` +
          `width="${(barWidth * 0.92).toFixed(1)}" height="${height.toFixed(1)}" fill="${color(i)}"/>`,
      );
    });
  });
  groups.forEach((group, i) => {
    const middle = (LEFT + (i + 0.5) * groupWidth).toFixed(1);
    body.push(
      `<text x="${middle}" y="${panel.top + panel.height + 18}" text-anchor="middle">${escapeText(group)}</text>`,
    );
  });
  return document(options.title, panel.top + panel.height + 40, body);
}
