import { describe, expect, it } from 'vitest';

import { msToNextWords, rowOf, rowsOf, type RowState } from '../src/select/rows';
import type { Kernel } from '../src/types';
import { aKernel, aReclaimedKernel, aStatus, GIB, GPU, instant, language, NOW } from './worlds';

const { policy } = aStatus();
const row = (kernel: Kernel) => rowOf(kernel, policy, NOW, language);
const keep = (reason: string) => ({ act: 'keep', kernel_id: 'k1', reason });

const STATES: [RowState, Kernel, string][] = [
  ['resident', aKernel(), 'on the GPU'],
  ['empty', aKernel({ footprint: {}, footprint_bytes: 0, decision: keep('no_gpu_memory') }), 'nothing on the GPU'],
  ['running', aKernel({ running_since: instant(-40), decision: keep('running') }), 'running'],
  ['running', aKernel({ decision: keep('gpu_busy') }), 'running'],
  ['kept', aKernel({ pinned_until: instant(3600), decision: keep('pinned') }), 'kept'],
  ['left-alone', aKernel({ decision: keep('background_work') }), 'left alone'],
  ['left-alone', aKernel({ managed: false, mechanism: null, decision: keep('unmanaged') }), 'left alone'],
  ['reclaiming', aKernel({ phase: 'reclaiming', moved_bytes: GIB, move_total_bytes: 4 * GIB }), 'reclaiming 1.0 GiB of 4.0 GiB'],
  ['reclaimed', aReclaimedKernel(), 'reclaimed'],
  ['restoring', aReclaimedKernel({ phase: 'restoring', moved_bytes: 3 * GIB, move_total_bytes: 4 * GIB }), 'restoring 3.0 GiB of 4.0 GiB'],
  ['restoring', aReclaimedKernel({ phase: 'restoring' }), 'restoring'],
  [
    'waiting',
    aReclaimedKernel({ waiting: 1, decision: { act: 'wait', kernel_id: 'k1', reason: 'no_room', position: 2 } }),
    'second in line'
  ],
  ['trouble', aReclaimedKernel({ retry_at: instant(20), decision: keep('retry_later') }), 'tried again soon'],
  ['lost', aKernel({ phase: 'lost', decision: keep('lost') }), 'lost']
];

describe('a row', () => {
  it.each(STATES)('says %s for a kernel in that state', (state, kernel, badge) => {
    expect(row(kernel)).toMatchObject({ state, badge, name: 'digits.ipynb', path: 'work/digits.ipynb' });
  });

  it('gives the reason in the words of the server, whatever the reason is', () => {
    const busy = aKernel({ decision: keep('background_work'), explanation: 'A DataLoader worker still uses the GPU.' });
    expect(row(busy).why).toBe('A DataLoader worker still uses the GPU.');
  });

  it('goes on counting while the server is not asked', () => {
    const whyIn = (kernel: Kernel, seconds: number) => rowOf(kernel, policy, new Date(instant(seconds)), language).why;
    expect(whyIn(aKernel(), 0)).toBe('Idle for 6 min; reclaimed in 14 min unless used.');
    expect(whyIn(aKernel(), 800)).toBe('Idle for 19 min; reclaimed in 40 s unless used.');
    expect(whyIn(aKernel({ due_at: null }), 60)).toBe('Idle for 7 min.');
    expect(whyIn(aKernel({ phase_since: instant(-60) }), 0)).toContain('Idle for 1 min;');
    expect(whyIn(aKernel({ running_since: instant(-40), decision: keep('running') }), 20)).toBe('Code has been running for 1 min.');
  });

  it('is drawn again with the time only where its words change', () => {
    const pause = (kernel: Kernel) => msToNextWords(aStatus([kernel]), NOW);
    expect(pause(aReclaimedKernel())).toBeNull();
    expect(pause(aKernel({ decision: keep('background_work') }))).toBeNull();
    expect(pause(aKernel())).toBe(30_000);
    expect(pause(aKernel({ due_at: instant(100) }))).toBe(5000);
  });

  it('says that it runs where nobody knows yet what could move it', () => {
    const first = aKernel({ running_since: instant(-40), mechanism: null, decision: keep('running') });
    expect(row(first)).toMatchObject({ state: 'running', why: 'Code has been running for 40 s.', canReclaim: false });
  });

  it('says until when a kernel is kept, and that it can be taken back', () => {
    const kept = row(aKernel({ pinned_until: instant(3600), decision: keep('pinned') }));
    expect(kept.why).toContain(kept.keptUntil ?? '?');
    expect(kept.keptUntil).not.toBeNull();
    expect(row(aKernel({ pinned_until: instant(-1) })).keptUntil).toBeNull();
  });

  it('names who holds the room that a waiting kernel needs, and how long it may take', () => {
    const waiting = aReclaimedKernel({
      decision: { act: 'wait', kernel_id: 'k1', reason: 'no_room', position: 1 },
      explanation: 'Waiting for room on the GPU.',
      wait: {
        since: instant(-5),
        position: 1,
        reason: 'no_room',
        needed: { [GPU]: 4 * GIB },
        missing: { [GPU]: GIB },
        holders: [
          { kernel_id: 'k2', label: 'a/train.ipynb', footprint: { [GPU]: 2 * GIB } },
          { kernel_id: null, label: 'another user', footprint: {} }
        ],
        estimate_seconds: 90
      }
    });
    expect(row(waiting).why).toBe('Waiting for room on the GPU. Held by train.ipynb (2.0 GiB), another user. About 1 min to go.');
  });

  it('offers only what can be done', () => {
    expect(row(aKernel())).toMatchObject({ canReclaim: true, canRestore: false, canKeep: true });
    expect(row(aReclaimedKernel())).toMatchObject({ canReclaim: false, canRestore: true, canKeep: true });
    expect(row(aKernel({ managed: false, mechanism: null }))).toMatchObject({ canReclaim: false, canKeep: false });
    expect(rowOf(aKernel(), { ...policy, max_pin_seconds: 0 }, NOW, language).canKeep).toBe(false);
  });

  it('is a link only where the kernel has a notebook', () => {
    expect(row(aKernel({ label: 'python3' })).path).toBeNull();
  });
});

describe('rows', () => {
  it('put first who wants attention, then who holds most, then go by name', () => {
    const kernels = [
      aReclaimedKernel({ kernel_id: 'away' }),
      aKernel({ kernel_id: 'small', footprint_bytes: GIB }),
      aKernel({ kernel_id: 'b', label: 'b.ipynb' }),
      aKernel({ kernel_id: 'a', label: 'a.ipynb' }),
      aReclaimedKernel({ kernel_id: 'waits', decision: { act: 'wait', kernel_id: 'waits', reason: 'no_room' } }),
      aKernel({ kernel_id: 'gone', phase: 'lost' })
    ];
    expect(rowsOf(aStatus(kernels), NOW, language).map(row => row.kernelId)).toEqual(['gone', 'waits', 'a', 'b', 'small', 'away']);
  });

  it('stay where they are while they are held, and newcomers come last', () => {
    const lost = aKernel({ kernel_id: 'first', phase: 'lost' });
    const status = aStatus([lost, aKernel({ kernel_id: 'b' }), aReclaimedKernel({ kernel_id: 'a' })]);
    expect(rowsOf(status, NOW, language, ['gone', 'a', 'b']).map(row => row.kernelId)).toEqual(['a', 'b', 'first']);
  });
});
