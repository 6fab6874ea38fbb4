/** What was won back: now, today, this week, and over the last hours as a chart's columns. Pure. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { State } from '../model';
import type { GpuHistory, History, WonBack } from '../types';
import { reclaimedBytes } from './cards';
import { bytesInWords, type Language } from './words';

export interface Total {
  term: string;
  value: string;
  title: string;
  /** Whether there is something to be glad of. */
  accent: boolean;
}

/** Columns of one length: seconds since 1970, and bytes. A gap in time is a null. */
export interface Series {
  at: number[];
  reclaimed: (number | null)[];
  resident: (number | null)[];
}

export function totalsOf(state: State, { trans, units }: Language): Total[] {
  if (!state.status) {
    return [];
  }
  const now = reclaimedBytes(state.status);
  return [
    {
      term: trans.__('Won back now'),
      value: bytesInWords(now, units),
      title: trans.__('GPU memory that idle notebooks have given back and will get again'),
      accent: now > 0
    },
    ...(state.totals
      ? [wonBack(trans.__('Today'), state.totals.today, trans), wonBack(trans.__('This week'), state.totals.week, trans)]
      : [])
  ];
}

/** All GPUs together; null where the server keeps no history, or nothing yet. */
export function seriesOf(history: History | null): Series | null {
  const gpus = Object.values(history?.gpus ?? {});
  const stepMs = (history?.step_seconds ?? 10) * 1000;
  const sums = new Map<number, { reclaimed: number; resident: number }>();
  gpus.forEach(gpu => add(gpu, sums));
  const instants = [...sums.keys()].sort((a, b) => a - b);
  if (instants.length < 2) {
    return null;
  }
  const series: Series = { at: [], reclaimed: [], resident: [] };
  instants.forEach((instant, index) => {
    const before = instants[index - 1];
    if (before !== undefined && instant - before > 1.5 * stepMs) {
      push(series, before + stepMs, null, null);
    }
    const here = sums.get(instant);
    push(series, instant, here?.reclaimed ?? null, here?.resident ?? null);
  });
  return series;
}

function add(gpu: GpuHistory, sums: Map<number, { reclaimed: number; resident: number }>): void {
  gpu.at.forEach((at, index) => {
    const instant = Date.parse(at);
    const sum = sums.get(instant) ?? { reclaimed: 0, resident: 0 };
    sum.reclaimed += gpu.reclaimed_bytes[index] ?? 0;
    sum.resident += gpu.resident_bytes[index] ?? 0;
    sums.set(instant, sum);
  });
}

function push(series: Series, instant: number, reclaimed: number | null, resident: number | null): void {
  series.at.push(instant / 1000);
  series.reclaimed.push(reclaimed);
  series.resident.push(resident);
}

function wonBack(term: string, won: WonBack, trans: TranslationBundle): Total {
  return {
    term,
    value: trans.__('%1 GPU-h', won.reclaimed_gpu_hours.toFixed(1)),
    title: trans.__('%1 GiB-hours of GPU memory', won.reclaimed_gib_hours.toFixed(1)),
    accent: won.reclaimed_gpu_hours >= 0.05 // what is not shown as zero
  };
}
