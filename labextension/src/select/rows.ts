/** One row a kernel: what state it is in for its user, why, and what may be done about it. Pure. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { Instant, Kernel, Policy, Status } from '../types';
import { bytesInWords, nameIn, placeInWords, spanInWords, timeInWords, type Language, type Units } from './words';

/** What a kernel looks like to its user; `phase` is only where its bytes are. */
export type RowState =
  'empty' | 'running' | 'resident' | 'kept' | 'left-alone' | 'reclaiming' | 'reclaimed' | 'restoring' | 'waiting' | 'trouble' | 'lost';

export interface Row {
  kernelId: string;
  name: string;
  path: string | null;
  bytes: string;
  state: RowState;
  badge: string;
  why: string;
  progress: number | null;
  keptUntil: string | null;
  canReclaim: boolean;
  canRestore: boolean;
  canKeep: boolean;
}

const MOVING_STATES: readonly RowState[] = ['reclaiming', 'restoring', 'waiting'];
const ORDER: readonly RowState[] = [
  'lost',
  'trouble',
  'waiting',
  'restoring',
  'reclaiming',
  'running',
  'resident',
  'kept',
  'left-alone',
  'reclaimed',
  'empty'
];
const SECONDS_TOLD_MS = 5000;
const MINUTES_TOLD_MS = 30_000;
const BUSY_REASONS = ['running', 'gpu_busy'];
// All is well with it, and it will be reclaimed in its time.
const SETTLED_REASONS = ['recently_active', 'cooldown', 'thrashing', 'already_resident', 'turn', 'in_flight', 'dry_run'];

/**
 * Kernels in the order in which they want attention; those that wait by their place, then by size, then by name.
 * Those in `held` stay in its order, before the others.
 */
export function rowsOf(status: Status, now: Date, language: Language, held: readonly string[] = []): Row[] {
  const places = new Map(held.map((kernelId, place) => [kernelId, place]));
  const placeOf = (row: Row): number => places.get(row.kernelId) ?? held.length;
  return status.kernels
    .map(kernel => ({ row: rowOf(kernel, status.policy, now, language), kernel }))
    .sort(
      (a, b) =>
        placeOf(a.row) - placeOf(b.row) ||
        ORDER.indexOf(a.row.state) - ORDER.indexOf(b.row.state) ||
        (a.kernel.decision.position ?? 0) - (b.kernel.decision.position ?? 0) ||
        b.kernel.footprint_bytes - a.kernel.footprint_bytes ||
        a.row.name.localeCompare(b.row.name)
    )
    .map(({ row }) => row);
}

export function rowOf(kernel: Kernel, policy: Policy, now: Date, language: Language): Row {
  const state = stateOf(kernel, now);
  const resident = kernel.phase === 'resident';
  const moving = MOVING_STATES.includes(state);
  const movable = kernel.managed && kernel.mechanism !== null && kernel.footprint_bytes > 0;
  return {
    kernelId: kernel.kernel_id,
    name: nameIn(kernel.label),
    path: kernel.label.endsWith('.ipynb') ? kernel.label : null,
    bytes: bytesInWords(kernel.footprint_bytes, language.units),
    state,
    badge: badgeOf(kernel, state, language),
    why: whyOf(kernel, state, now, language),
    progress: progressOf(kernel),
    keptUntil: pinned(kernel, now) ? timeInWords(new Date(kernel.pinned_until ?? now), now) : null,
    canReclaim: resident && movable && !moving && state !== 'running',
    canRestore: kernel.phase === 'reclaimed' && state !== 'waiting',
    canKeep: kernel.managed && state !== 'lost' && policy.max_pin_seconds !== 0
  };
}

export function stateOf(kernel: Kernel, now: Date): RowState {
  if (kernel.phase === 'lost' || kernel.phase === 'gone') {
    return 'lost';
  }
  if (kernel.phase === 'restoring' || kernel.phase === 'reclaiming') {
    return kernel.phase;
  }
  if (kernel.decision.act === 'wait') {
    return 'waiting';
  }
  if (kernel.decision.reason === 'retry_later' || (kernel.retry_at !== null && new Date(kernel.retry_at) > now)) {
    return 'trouble';
  }
  if (kernel.phase === 'reclaimed') {
    return 'reclaimed';
  }
  if (kernel.footprint_bytes === 0) {
    return 'empty';
  }
  if (kernel.running_since !== null || BUSY_REASONS.includes(kernel.decision.reason)) {
    return 'running';
  }
  if (pinned(kernel, now)) {
    return 'kept';
  }
  return SETTLED_REASONS.includes(kernel.decision.reason) || kernel.decision.act !== 'keep' ? 'resident' : 'left-alone';
}

function pinned(kernel: Kernel, now: Date): boolean {
  return kernel.pinned_until !== null && new Date(kernel.pinned_until) > now;
}

function progressOf(kernel: Kernel): number | null {
  const moves = kernel.phase === 'reclaiming' || kernel.phase === 'restoring';
  return moves && kernel.moved_bytes !== null && kernel.move_total_bytes ? kernel.moved_bytes / kernel.move_total_bytes : null;
}

export function badgeOf(kernel: Kernel, state: RowState, { trans, units }: Language): string {
  switch (state) {
    case 'waiting':
      return placeInWords(kernel.decision.position ?? 1, trans);
    case 'restoring':
    case 'reclaiming': {
      const word = state === 'restoring' ? trans.__('restoring') : trans.__('reclaiming');
      if (kernel.moved_bytes === null || !kernel.move_total_bytes) {
        return word;
      }
      const figures = trans.__('%1 of %2', bytesInWords(kernel.moved_bytes, units), bytesInWords(kernel.move_total_bytes, units));
      return `${word} ${figures}`;
    }
    case 'empty':
      return trans.__('nothing on the GPU');
    case 'running':
      return trans.__('running');
    case 'resident':
      return trans.__('on the GPU');
    case 'kept':
      return trans.__('kept');
    case 'left-alone':
      return trans.__('left alone');
    case 'reclaimed':
      return trans.__('reclaimed');
    case 'trouble':
      return trans.__('tried again soon');
    case 'lost':
      return trans.__('lost');
  }
}

function whyOf(kernel: Kernel, state: RowState, now: Date, { trans, units }: Language): string {
  if (state === 'kept') {
    return trans.__('Kept until %1.', timeInWords(new Date(kernel.pinned_until ?? now), now));
  }
  if (state === 'waiting') {
    return [kernel.explanation, holdersOf(kernel, trans, units), estimateOf(kernel, trans)].filter(Boolean).join(' ');
  }
  // The badge has the figures already.
  return progressOf(kernel) === null ? (timeTold(kernel, now, trans) ?? kernel.explanation) : '';
}

/**
 * The server's sentence where it changes with the time alone, as the server would have it now; null: it does not.
 * (`core/explain.py` has it first; a test holds this against what it says.)
 */
function timeTold(kernel: Kernel, now: Date, trans: TranslationBundle): string | null {
  const since = idleSince(kernel);
  if (isTimed(kernel) && kernel.running_since !== null) {
    return trans.__('Code has been running for %1.', spanInWords(secondsSince(now, kernel.running_since)));
  }
  if (!isTimed(kernel) || since === null) {
    return null;
  }
  const idle = spanInWords(secondsSince(now, since));
  return kernel.due_at === null
    ? trans.__('Idle for %1.', idle)
    : trans.__('Idle for %1; reclaimed in %2 unless used.', idle, spanInWords(-secondsSince(now, kernel.due_at)));
}

/** Milliseconds until a sentence may have changed with the time alone; null: there is none that does. */
export function msToNextWords(status: Status, now: Date): number | null {
  const instants = status.kernels.filter(isTimed).flatMap(kernel => [kernel.running_since ?? idleSince(kernel), kernel.due_at]);
  const spans = instants.filter(at => at !== null).map(at => Math.abs(secondsSince(now, at)));
  if (spans.length === 0) {
    return null;
  }
  return Math.min(...spans) < 120 ? SECONDS_TOLD_MS : MINUTES_TOLD_MS;
}

function isTimed({ decision, running_since }: Kernel): boolean {
  return decision.reason === 'recently_active' || decision.act === 'warn' || (decision.reason === 'running' && running_since !== null);
}

/** Since when it is idle: whoever asked for its restore is about to use it. */
function idleSince({ last_active_at, phase_since }: Kernel): Instant | null {
  return last_active_at !== null && phase_since !== null && new Date(phase_since) > new Date(last_active_at) ? phase_since : last_active_at;
}

function secondsSince(now: Date, since: Instant): number {
  return (now.getTime() - Date.parse(since)) / 1000;
}

function holdersOf(kernel: Kernel, trans: TranslationBundle, units: Units): string {
  const names = (kernel.wait?.holders ?? []).map(holder => {
    const bytes = Object.values(holder.footprint).reduce((total, count) => total + count, 0);
    return bytes > 0 ? `${nameIn(holder.label)} (${bytesInWords(bytes, units)})` : nameIn(holder.label);
  });
  return names.length > 0 ? trans.__('Held by %1.', names.join(', ')) : '';
}

function estimateOf(kernel: Kernel, trans: TranslationBundle): string {
  const seconds = kernel.wait?.estimate_seconds;
  return seconds === null || seconds === undefined ? '' : trans.__('About %1 to go.', spanInWords(seconds));
}
