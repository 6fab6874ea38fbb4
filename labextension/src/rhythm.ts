/** When to look again: often while something goes on, ever more seldom while nothing does. Pure. */

import type { Instant, Kernel, Status } from './types';

export const LONGEST_MS = 60_000; // while nothing changes, or the server fails
const UNSEEN_MS = 300_000; // while nobody sees the figures that no event tells of
const MOVING_MS = 1000;
const STEADY_LOOKS = 2;
const LATE_MS = 15_000; // a server looks every few seconds itself

export interface Situation {
  status: Status | null;
  now: Date;
  /** Looks in a row that found nothing new. */
  quiet: number;
  refreshMs: number;
  /** Whether utilisation, power and the memory of others are on screen: no event tells of these. */
  inSight: boolean;
}

/**
 * Milliseconds to the next look: `refreshMs`, doubled for each quiet look after the second, up to a minute in sight,
 * else to five. Sooner when a kernel is due for something; quick while bytes move, for the progress shown.
 */
export function msToNextLook({ status, now, quiet, refreshMs, inSight }: Situation): number {
  const kernels = status?.kernels ?? [];
  if (kernels.some(moves)) {
    return Math.min(MOVING_MS, refreshMs);
  }
  const longest = inSight ? LONGEST_MS : UNSEEN_MS;
  const left = kernels
    .flatMap(kernel => dueOf(kernel, status?.policy.warn_before_seconds ?? 0))
    .map(at => at - now.getTime())
    .filter(ms => ms > -LATE_MS);
  return Math.max(refreshMs, Math.min(longest, refreshMs * 2 ** Math.max(0, quiet - STEADY_LOOKS), ...left));
}

/**
 * What a status tells, to be held against another's. Sentences are left out, since they change with the time alone, and
 * so are a GPU's figures where nobody sees them.
 */
export function toldBy(status: Status, inSight: boolean): string {
  const { gpus, problems, alarms, policy, kernels } = status;
  return JSON.stringify([
    inSight ? gpus : gpus && gpus.map(({ uuid }) => uuid),
    problems,
    alarms,
    policy,
    kernels.map(kernel => ({ ...kernel, explanation: '' }))
  ]);
}

function moves(kernel: Kernel): boolean {
  return kernel.phase === 'reclaiming' || kernel.phase === 'restoring' || kernel.waiting > 0;
}

/** Instants, in milliseconds since 1970, at which something will happen to a kernel by time alone. */
function dueOf(kernel: Kernel, warnSeconds: number): number[] {
  const instants = [kernel.due_at, kernel.pinned_until, kernel.retry_at].filter((at): at is Instant => at !== null);
  const warned = kernel.due_at === null ? [] : [Date.parse(kernel.due_at) - 1000 * warnSeconds];
  return [...instants.map(at => Date.parse(at)), ...warned];
}
