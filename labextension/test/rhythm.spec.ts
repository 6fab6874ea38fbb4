import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Model } from '../src/model';
import { msToNextLook, toldBy } from '../src/rhythm';
import type { Kernel } from '../src/types';
import { TestServer } from './server';
import { aGpu, aKernel, aReclaimedKernel, aStatus, instant, NOW } from './worlds';

const undated = aKernel({ due_at: null });
const pause = (kernels: Kernel[], quiet: number, inSight = false, refreshMs = 5000) =>
  msToNextLook({ status: aStatus(kernels), now: NOW, quiet, refreshMs, inSight }) / 1000;

describe('the pause before the next look', () => {
  it('doubles while nothing changes, up to a minute in sight, else to five', () => {
    expect([0, 1, 2, 3, 4, 5, 6, 7, 99].map(quiet => pause([undated], quiet))).toEqual([5, 5, 5, 10, 20, 40, 80, 160, 300]);
    expect([0, 2, 3, 4, 5, 6, 99].map(quiet => pause([undated], quiet, true))).toEqual([5, 5, 10, 20, 40, 60, 60]);
  });

  it('is never shorter than the setting, except while bytes move or somebody waits', () => {
    expect(pause([undated], 99, false, 600_000)).toBe(600);
    expect(pause([aKernel({ phase: 'reclaiming' })], 99)).toBe(1);
    expect(pause([aReclaimedKernel({ waiting: 1 })], 99, false, 500)).toBe(0.5);
  });

  it('ends when a kernel is due for something, and for a while after that nothing is taken for granted', () => {
    expect(pause([aKernel({ due_at: instant(33) })], 99)).toBe(33);
    expect(pause([aKernel({ due_at: null, pinned_until: instant(20) })], 99)).toBe(20);
    expect(pause([aKernel({ due_at: null, retry_at: instant(2) })], 99)).toBe(5);
    expect(pause([aKernel({ due_at: instant(-10) })], 99)).toBe(5);
    expect(pause([aKernel({ due_at: instant(-60) })], 99)).toBe(300);
    const status = aStatus([aKernel({ due_at: instant(90) })], { policy: { mode: 'on', warn_before_seconds: 60 } });
    expect(msToNextLook({ status, now: NOW, quiet: 99, refreshMs: 5000, inSight: false })).toBe(30_000);
  });
});

describe('what a status tells', () => {
  it('is the same whenever it was taken, whatever its sentences count, and whatever else a server sends', () => {
    const later = { ...aStatus([aKernel({ explanation: 'Idle for 7 min.' })], { taken_at: instant(60) }), host_available_bytes: 17 };
    expect(toldBy(later, true)).toBe(toldBy(aStatus(), true));
    expect(toldBy(aStatus([aReclaimedKernel()]), false)).not.toBe(toldBy(aStatus(), false));
  });

  it("has a GPU's figures only where they are seen", () => {
    const busy = aStatus(undefined, { gpus: [aGpu({ utilization: 0.9 })] });
    expect(toldBy(busy, false)).toBe(toldBy(aStatus(), false));
    expect(toldBy(busy, true)).not.toBe(toldBy(aStatus(), true));
    expect(toldBy(aStatus(undefined, { gpus: [] }), false)).not.toBe(toldBy(aStatus(), false));
  });
});

describe('a page that nobody touches', () => {
  let server: TestServer;
  let model: Model;

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: NOW });
    server = new TestServer();
    server.answers.set('GET status', { code: 200, body: aStatus([undated]) });
    model = server.model(5);
  });

  afterEach(() => {
    model.dispose();
    vi.useRealTimers();
  });

  async function looksIn(seconds: number): Promise<number> {
    const before = server.times('GET status');
    await vi.advanceTimersByTimeAsync(1000 * seconds);
    return server.times('GET status') - before;
  }

  it('looks once in five minutes in the end', async () => {
    expect(await looksIn(16)).toBe(4);
    await looksIn(600);
    expect(await looksIn(1200)).toBe(4);
  });

  it('looks at once on an event, then often for a while', async () => {
    await looksIn(600);
    server.events.emit({ schema_id: 'https://events.jupyter.org/jupyter_gpu_reclaim/transition/v1' });
    expect(await looksIn(0)).toBe(1);
    expect(await looksIn(11)).toBe(2);
  });

  it('looks soon once a cell runs, however many cells run', async () => {
    await looksIn(600);
    for (let i = 0; i < 4; i++) {
      model.stir();
      expect(await looksIn(1)).toBe(0);
    }
    expect(await looksIn(2)).toBe(1);
  });

  it('looks at once when the sidebar, the page or the network comes back', async () => {
    await looksIn(600);
    model.inSight = true;
    expect(await looksIn(0)).toBe(1);
    await looksIn(300);
    expect(await looksIn(600)).toBe(10); // in sight once a minute in the end
    document.dispatchEvent(new Event('visibilitychange'));
    expect(await looksIn(0)).toBe(1);
    window.dispatchEvent(new Event('online'));
    expect(await looksIn(0)).toBe(1);
  });

  it('looks again soon after a failure, and is seldom only once it has seen the server well', async () => {
    await looksIn(600);
    server.answers.set('GET status', new TypeError('connection refused'));
    await model.look();
    expect(model.state.problem?.kind).toBe('unreachable');
    server.answers.set('GET status', { code: 200, body: aStatus([undated]) });
    expect(await looksIn(6)).toBe(1);
    expect(model.state.problem).toBeNull();
    expect(await looksIn(11)).toBe(2);
  });
});
