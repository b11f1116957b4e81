// Figures for files: curves drawn by Observable Plot without a browser, as SVG.
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
    marginTop: 52,
    style: { background: 'white', color: '#222', fontSize: '12px' },
    x: { label: axes.x },
    y: { label: axes.y, grid: true },
    color: { type: 'categorical', domain: lines.map((l) => l.name), scheme: 'Observable10' },
    marks: [
      Plot.text([title], { frameAnchor: 'top-left', dy: -44, fontWeight: 'bold', fontSize: 14 }),
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

export const writeFigure = (path: string, svg: string): Promise<void> => writeFile(path, svg);
