/** Statuses to test with: a plain one, and whatever differs from it. */

import { nullTranslator } from '@jupyterlab/translation';

import type { State } from '../src/model';
import type { Language } from '../src/select/words';
import type { Gpu, Kernel, Status, Transition } from '../src/types';

export const GIB = 1024 ** 3;
export const NOW = new Date('2026-03-02T14:05:00Z');
export const GPU = 'GPU-1';
export const language: Language = { trans: nullTranslator.load('any'), units: 'binary' };

export function instant(seconds: number): string {
  return new Date(NOW.getTime() + seconds * 1000).toISOString();
}

export function aGpu(differs: Partial<Gpu> = {}): Gpu {
  return {
    uuid: GPU,
    name: 'NVIDIA A100 80GB',
    total_bytes: 80 * GIB,
    used_bytes: 20 * GIB,
    utilization: 0.25,
    power_watts: 61.2,
    simulated: false,
    ...differs
  };
}

/** Resident with 4 GiB, idle for a while. */
export function aKernel(differs: Partial<Kernel> = {}): Kernel {
  return {
    kernel_id: 'k1',
    label: 'work/digits.ipynb',
    managed: true,
    phase: 'resident',
    phase_since: null,
    running_since: null,
    last_active_at: instant(-360),
    pinned_until: null,
    footprint: { [GPU]: 4 * GIB },
    footprint_bytes: 4 * GIB,
    host_bytes: 0,
    gpus: { [GPU]: { allocated_bytes: 4 * GIB, reserved_bytes: 4 * GIB } },
    mechanism: 'torch_offload',
    unmovable: {},
    waiting: 0,
    retry_at: null,
    moved_bytes: null,
    move_total_bytes: null,
    decision: { act: 'keep', kernel_id: 'k1', reason: 'recently_active' },
    explanation: 'Idle for 6 min; reclaimed in 14 min unless used.',
    due_at: instant(840),
    notes: [],
    ...differs
  };
}

/** The kernel with its bytes in host memory. */
export function aReclaimedKernel(differs: Partial<Kernel> = {}): Kernel {
  return aKernel({
    phase: 'reclaimed',
    host_bytes: 4 * GIB,
    gpus: { [GPU]: { allocated_bytes: 0, reserved_bytes: 0 } },
    decision: { act: 'keep', kernel_id: 'k1', reason: 'already_reclaimed' },
    explanation: 'Its 4.0 GiB are safe in host memory and come back when the next cell runs.',
    due_at: null,
    ...differs
  });
}

export function aStatus(kernels: Kernel[] = [aKernel()], differs: Partial<Status> = {}): Status {
  return {
    taken_at: instant(0),
    gpus: [aGpu()],
    problems: [],
    alarms: [],
    policy: { mode: 'on', max_pin_seconds: 12 * 3600 },
    kernels,
    ...differs
  };
}

export function aState(differs: Partial<State> = {}): State {
  return { status: aStatus(), problem: null, history: null, totals: null, ...differs };
}

export function aTransition(differs: Partial<Transition> = {}): Transition {
  return {
    id: 't1',
    at: instant(0),
    kernel_id: 'k1',
    event: 'reclaim_done',
    phase: 'reclaimed',
    episode_id: 'e1',
    reason: 'idle',
    label: 'work/digits.ipynb',
    owner: 'ada',
    mechanism: 'torch_offload',
    footprint: { [GPU]: 4 * GIB },
    moved_bytes: 4 * GIB,
    freed_bytes: { [GPU]: 4 * GIB },
    unmovable: {},
    took_seconds: 0.42,
    detail: '',
    actor: '',
    simulated: false,
    ...differs
  };
}
