/** For how long a notebook may be kept on the GPU, within what the operator allows. Pure. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { Policy } from '../types';
import { spanInWords, timeInWords } from './words';

export interface KeepChoice {
  label: string;
  seconds: number;
}

const HOUR = 3600;

/** Shortest first; none where nothing may be kept. Each says when it ends. */
export function keepChoices(policy: Policy, now: Date, trans: TranslationBundle): KeepChoice[] {
  const most = policy.max_pin_seconds ?? 12 * HOUR;
  const midnight = new Date(now.getFullYear(), now.getMonth(), now.getDate() + 1);
  const tonight = Math.floor((midnight.getTime() - now.getTime()) / 1000);
  const wanted: KeepChoice[] = [
    { label: trans.__('For 1 hour'), seconds: HOUR },
    { label: trans.__('For 4 hours'), seconds: 4 * HOUR }
  ];
  if (tonight >= HOUR) {
    // or "Keep", which is the shortest, would keep for a minute at a minute to midnight
    wanted.push({ label: trans.__('Until midnight'), seconds: tonight });
  }
  const allowed = wanted.filter(({ seconds }) => seconds <= most);
  if (allowed.length < wanted.length && most >= 1) {
    allowed.push({ label: trans.__('For %1, the longest allowed', spanInWords(most)), seconds: most });
  }
  return allowed
    .sort((a, b) => a.seconds - b.seconds)
    .map(({ label, seconds }) => {
      const until = timeInWords(new Date(now.getTime() + seconds * 1000), now);
      return { label: trans.__('%1 (until %2)', label, until), seconds };
    });
}
