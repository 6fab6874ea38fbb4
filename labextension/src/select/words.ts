/** Figures as people say them. */

import type { TranslationBundle } from '@jupyterlab/translation';

export type Units = 'binary' | 'decimal';

/** Bytes with one decimal from a thousand (or 1024) on: "512 B", "64.0 MiB", "12.3 GB". */
export function bytesInWords(count: number, units: Units = 'binary'): string {
  const base = units === 'binary' ? 1024 : 1000;
  const names = units === 'binary' ? ['KiB', 'MiB', 'GiB', 'TiB'] : ['kB', 'MB', 'GB', 'TB'];
  if (count < base) {
    return `${count} B`;
  }
  let size = count;
  for (const name of names) {
    size /= base;
    // 1023.95 would be rounded to "1024.0"
    if (size < base - 0.05 || name === names[names.length - 1]) {
      return `${size.toFixed(1)} ${name}`;
    }
  }
  return `${count} B`;
}

/** A span rounded down to its largest unit or two: "40 s", "6 min", "3 h 20 min", "2 d 4 h". */
export function spanInWords(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) {
    return `${whole} s`;
  }
  const [minutes, hours, days] = [60, 3600, 86400].map(unit => Math.floor(whole / unit));
  if (minutes < 60) {
    return `${minutes} min`;
  }
  const [big, small] = hours < 24 ? [`${hours} h`, `${minutes % 60} min`] : [`${days} d`, `${hours % 24} h`];
  return small.startsWith('0 ') ? big : `${big} ${small}`;
}

/** The time of day; with the day, where that is not today's. */
export function timeInWords(at: Date, now: Date, locale?: string): string {
  const time = at.toLocaleTimeString(locale, { hour: '2-digit', minute: '2-digit' });
  if (at.toDateString() === now.toDateString()) {
    return time;
  }
  return `${at.toLocaleDateString(locale, { weekday: 'short', day: 'numeric', month: 'short' })} ${time}`;
}

/** A place in a line: "next in line", "second in line", "number 12 in line". */
export function placeInWords(position: number, trans: TranslationBundle): string {
  const words = [trans.__('next in line'), trans.__('second in line'), trans.__('third in line'), trans.__('fourth in line')];
  return words[position - 1] ?? trans.__('number %1 in line', position);
}

/** The last part of a path. */
export function nameIn(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** What words are made of: the page's language, and the units its user likes. */
export interface Language {
  trans: TranslationBundle;
  units: Units;
}
