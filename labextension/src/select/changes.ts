/** What is new between two looks. Pure. */

import type { State } from '../model';
import type { Kernel, Status } from '../types';
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

/** Kernels whose users are warned that they are about to be reclaimed. */
export function warnedOf(status: Status): Kernel[] {
  return status.kernels.filter(kernel => kernel.phase === 'resident' && kernel.warned_at);
}
