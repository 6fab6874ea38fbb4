/** Bytes over time, by uPlot, which is fetched when the first chart is shown. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type uPlot from 'uplot';

import type { Series } from '../select/totals';
import { bytesInWords, type Units } from '../select/words';

const HEIGHT = 72;
const MINUTE = 60;
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180].map(minutes => minutes * MINUTE); // no two labels are the same

export interface ChartProps {
  series: Series;
  units: Units;
  trans: TranslationBundle;
}

/** Colours are read from the theme when it is drawn: give it another key when the theme changes. */
export function Chart({ series, units, trans }: ChartProps): JSX.Element {
  const place = React.useRef<HTMLDivElement>(null);
  const plot = React.useRef<uPlot | null>(null);
  const data = React.useMemo<uPlot.AlignedData>(() => [series.at, series.reclaimed, series.resident], [series]);
  const latest = React.useRef(data);
  latest.current = data;

  React.useEffect(() => {
    const host = place.current;
    let gone = false;
    const resized = new ResizeObserver(() => {
      if (host && host.clientWidth > 0) {
        plot.current?.setSize({ width: host.clientWidth, height: HEIGHT });
      }
    });
    void import('uplot').then(({ default: UPlot }) => {
      if (host && !gone) {
        plot.current = new UPlot(optionsFor(host, units, trans), latest.current, host);
        resized.observe(host);
      }
    });
    return () => {
      gone = true;
      resized.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [units, trans]);

  React.useEffect(() => plot.current?.setData(data), [data]);

  const last = series.reclaimed[series.reclaimed.length - 1] ?? 0;
  const peak = Math.max(...series.reclaimed.map(bytes => bytes ?? 0));
  return (
    <figure className="jp-GpuReclaim-chart">
      <div
        ref={place}
        role="img"
        aria-label={trans.__('Won back over the last hours: at most %1, now %2', bytesInWords(peak, units), bytesInWords(last, units))}
      />
      <figcaption>
        <span data-kind="reclaimed">{trans.__('won back')}</span> <span data-kind="resident">{trans.__('on the GPU')}</span>
      </figcaption>
    </figure>
  );
}

/** Steps of the axis of bytes, so that its labels are round in the units that they are in. */
function byteSteps(units: Units): number[] {
  const steps = units === 'binary' ? [1, 2, 4, 8] : [1, 2, 5];
  const base = units === 'binary' ? 16 : 10;
  return Array.from({ length: 15 }, (_, power) => steps.map(step => step * base ** power)).flat();
}

function timeOfDay(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
}

function optionsFor(host: HTMLElement, units: Units, trans: TranslationBundle): uPlot.Options {
  const style = getComputedStyle(host);
  const colour = (name: string): string => style.getPropertyValue(name).trim();
  const axis: uPlot.Axis = {
    stroke: colour('--jp-ui-font-color2'),
    font: `10px ${style.fontFamily}`,
    grid: { show: false },
    ticks: { show: false }
  };
  return {
    width: Math.max(1, host.clientWidth),
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] } },
    axes: [
      { ...axis, size: 18, space: 60, incrs: TIME_STEPS, values: (_, ticks) => ticks.map(timeOfDay) },
      {
        ...axis,
        size: 52,
        space: 18,
        incrs: byteSteps(units),
        values: (_, ticks) => ticks.map(tick => (tick ? bytesInWords(tick, units) : ''))
      }
    ],
    series: [
      {},
      {
        label: trans.__('won back'),
        stroke: colour('--jp-brand-color1'),
        fill: `color-mix(in srgb, ${colour('--jp-brand-color1')} 25%, transparent)`,
        width: 1.5,
        points: { show: false }
      },
      { label: trans.__('on the GPU'), stroke: colour('--jp-ui-font-color3'), width: 1, points: { show: false } }
    ]
  };
}
