// Figures for files: curves and points drawn by Observable Plot without a browser, as SVG.
import { writeFile } from 'node:fs/promises';
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

export interface Curve {
  readonly name: string;
  readonly points: readonly { readonly x: number; readonly y: number }[];
  readonly dashed?: boolean;
}

/** Lines over one x axis, each named at its right end, as an SVG document. */
export function curves(title: string, axes: { readonly x: string; readonly y: string }, lines: readonly Curve[]): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const rows = lines.flatMap((l) => l.points.map((p) => ({ ...p, name: l.name, dashed: l.dashed === true })));
  const last = lines.flatMap((l) => l.points.slice(-1).map((p) => ({ ...p, name: l.name })));
  const figure = Plot.plot({
    document,
    width: 760,
    height: 420,
    marginRight: 190,
    marginTop: 58,
    style: { background: 'white', color: '#222', fontSize: '12px' },
    x: { label: axes.x },
    y: { label: axes.y, grid: true },
    color: { type: 'categorical', domain: lines.map((l) => l.name), scheme: 'Observable10' },
    marks: [
      Plot.text([title], { frameAnchor: 'top-left', dy: -30, fontWeight: 'bold', fontSize: 14 }),
      Plot.line(
        rows.filter((r) => !r.dashed),
        { x: 'x', y: 'y', stroke: 'name', strokeWidth: 1.8 },
      ),
      Plot.line(
        rows.filter((r) => r.dashed),
        { x: 'x', y: 'y', stroke: 'name', strokeWidth: 1.4, strokeDasharray: '4 3' },
      ),
      Plot.text(last, { x: 'x', y: 'y', text: 'name', fill: 'name', textAnchor: 'start', dx: 8 }),
    ],
  });
  figure.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  return `${figure.outerHTML}\n`;
}

export interface Point {
  readonly name: string;
  /** Points of one group share a colour. */
  readonly group: string;
  readonly x: number;
  readonly y: number;
  /** Half the height of the bar through the point. */
  readonly spread: number;
  /** Named before all others. */
  readonly first?: boolean;
}

const PLOT = { width: 900, height: 560, left: 50, right: 110, top: 76, bottom: 36 };

/** Points over a logarithmic x axis with a bar for their spread; named where there is room, the lowest first, and all in tooltips; a dashed line at a level. */
export function scatter(
  title: string,
  axes: { readonly x: string; readonly y: string },
  points: readonly Point[],
  level: { readonly y: number; readonly name: string } | null = null,
): string {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const groups = [...new Set(points.map((p) => p.group))];
  const figure = Plot.plot({
    document,
    width: PLOT.width,
    height: PLOT.height,
    marginLeft: PLOT.left,
    marginRight: PLOT.right,
    marginTop: PLOT.top,
    marginBottom: PLOT.bottom,
    style: { background: 'white', color: '#222', fontSize: '12px' },
    x: { label: axes.x, type: 'log', grid: true },
    y: { label: axes.y, grid: true },
    color: { type: 'categorical', domain: groups, scheme: 'Observable10' },
    marks: [
      Plot.text([title], { frameAnchor: 'top-left', dy: 24 - PLOT.top, fontWeight: 'bold', fontSize: 14 }),
      ...groups.map((g, k) =>
        Plot.text([`● ${g}`], { frameAnchor: 'top-left', dy: 44 - PLOT.top, dx: 130 * k, fill: OBSERVABLE10[k % OBSERVABLE10.length]! }),
      ),
      ...(level === null
        ? []
        : [
            Plot.ruleY([level.y], { stroke: '#555', strokeDasharray: '4 3' }),
            Plot.text([level.name], { frameAnchor: 'right', y: level.y, dy: -7, fill: '#555' }),
          ]),
      Plot.ruleX(
        points.filter((p) => p.spread > 0),
        { x: 'x', y1: (p: Point) => p.y - p.spread, y2: (p: Point) => p.y + p.spread, stroke: 'group', strokeOpacity: 0.5 },
      ),
      Plot.dot(points, {
        x: 'x',
        y: 'y',
        fill: 'group',
        r: 3.5,
        title: (p: Point) => `${p.name}: ${p.x.toLocaleString('en-US')}, ${p.y.toFixed(3)}`,
      }),
      Plot.text(named(points), { x: 'x', y: 'y', text: 'name', fill: 'group', textAnchor: 'start', dx: 6, fontSize: 10 }),
    ],
  });
  figure.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  return `${figure.outerHTML}\n`;
}
const OBSERVABLE10 = [
  '#4269d0',
  '#efb118',
  '#ff725c',
  '#6cc5b0',
  '#3ca951',
  '#ff8ab7',
  '#a463f2',
  '#97bbf5',
  '#9c6b4e',
  '#9498a0',
] as const;

/** Points whose name overlaps none that is lower. */
function named(points: readonly Point[]): Point[] {
  const range = (of: (p: Point) => number): [number, number] => [Math.min(...points.map(of)), Math.max(...points.map(of))];
  const [x0, x1] = range((p) => Math.log(p.x));
  const [y0, y1] = range((p) => p.y);
  const [across, up] = [PLOT.width - PLOT.left - PLOT.right, PLOT.height - PLOT.top - PLOT.bottom];
  const boxes: { readonly x: number; readonly y: number; readonly width: number; readonly p: Point }[] = [];
  for (const p of [...points].sort((a, b) => Number(b.first ?? false) - Number(a.first ?? false) || a.y - b.y)) {
    const at = {
      x: ((Math.log(p.x) - x0) / (x1 - x0 || 1)) * across,
      y: ((p.y - y0) / (y1 - y0 || 1)) * up,
      width: 6 * p.name.length + 8,
      p,
    };
    if (boxes.every((b) => Math.abs(b.y - at.y) >= 10 || at.x >= b.x + b.width || b.x >= at.x + at.width)) boxes.push(at);
  }
  return boxes.map((b) => b.p);
}

export const writeFigure = (path: string, svg: string): Promise<void> => writeFile(path, svg);
