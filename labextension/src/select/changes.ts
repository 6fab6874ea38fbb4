/** What is new between two looks. Pure. */

import type { State } from '../model';
import type { Kernel } from '../types';
import { badgeOf, stateOf } from './rows';
import { nameIn, type Language } from './words';

/** What a screen reader says between two looks: kernels whose bytes have moved, or that wait now. */
export function announcements(before: State, now: State, language: Language): string[] {
  const earlier = new Map(before.status?.kernels.map(kernel => [kernel.kernel_id, kernel]));
  const at = new Date(now.status?.taken_at ?? 0);
  return (now.status?.kernels ?? []).flatMap(kernel => {
    const old = earlier.get(kernel.kernel_id);
    if (!old) {
      return [];
    }
    const state = stateOf(kernel, at);
    const worthSaying = state === 'waiting' || old.phase !== kernel.phase;
    if (!worthSaying || state === stateOf(old, at)) {
      return [];
    }
    return [`${nameIn(kernel.label)}: ${badgeOf(kernel, state, language)}`];
  });
}

/** Kernels that were warned about since the look before, with when they are reclaimed. */
export function newWarnings(before: State, now: State): Kernel[] {
  const warned = new Map(before.status?.kernels.map(kernel => [kernel.kernel_id, kernel.warned_at]));
  return (now.status?.kernels ?? []).filter(kernel => kernel.warned_at && kernel.warned_at !== warned.get(kernel.kernel_id));
}
