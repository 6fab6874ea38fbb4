import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import type { ApiProblem } from '../src/api';
import type { Change, Model } from '../src/model';
import { TestServer } from './server';
import { aKernel, aReclaimedKernel, aStatus, instant } from './worlds';

const EVENT = { schema_id: 'https://events.jupyter.org/jupyter_gpu_reclaim/transition/v1' };
let server: TestServer;
let model: Model;

beforeEach(() => {
  server = new TestServer();
  server.answers.set('GET status', { code: 200, body: aStatus() });
  model = server.model();
});

afterEach(() => model.dispose());

function nextChange(): Promise<Change> {
  return new Promise(resolve => {
    const once = (_: Model, change: Change): void => {
      model.changed.disconnect(once);
      resolve(change);
    };
    model.changed.connect(once);
  });
}

async function rejection(promise: Promise<unknown>): Promise<ApiProblem> {
  return promise.then(
    () => Promise.reject(new Error('it did not reject')),
    (error: ApiProblem) => error
  );
}

describe('the model', () => {
  it('has what the server said last, and that which was before', async () => {
    await model.look();
    server.answers.set('GET status', { code: 200, body: aStatus([aReclaimedKernel()]) });
    const change = nextChange();
    await model.look();
    expect((await change).before.status?.kernels[0]?.phase).toBe('resident');
    expect(model.state.status?.kernels[0]?.phase).toBe('reclaimed');
  });

  it('looks as seldom as it is told, also less often than after failures', async () => {
    model.dispose();
    model = server.model(5);
    model.refreshSeconds = 300;
    await model.look();
    model.refreshSeconds = 5;
    await model.look();
    expect(model.state.problem).toBeNull();
  });

  it('looks when an event of ours arrives, and only then', async () => {
    await model.look();
    const before = server.times('GET status');
    server.events.emit({ schema_id: 'https://events.jupyter.org/jupyter_server/kernel_actions/v1' });
    expect(server.times('GET status')).toBe(before);
    server.answers.set('GET status', { code: 200, body: aStatus([aReclaimedKernel()]) });
    const change = nextChange();
    server.events.emit(EVENT);
    await change;
    expect(server.times('GET status')).toBe(before + 1);
  });

  it('makes one look of many events, but one that began after the last of them', async () => {
    await model.look();
    const before = server.times('GET status');
    for (let i = 0; i < 10; i++) {
      server.events.emit(EVENT);
    }
    await model.look();
    expect(server.times('GET status')).toBe(before + 2);
  });

  it('says nothing when the server says nothing new', async () => {
    await model.look();
    let changes = 0;
    model.changed.connect(() => (changes += 1));
    server.answers.set('GET status', { code: 200, body: aStatus(undefined, { taken_at: instant(5) }) });
    await model.look();
    expect(changes).toBe(0);
    server.answers.set('GET status', { code: 200, body: aStatus([aKernel({ due_at: null })]) });
    await model.look();
    expect(changes).toBe(1);
  });

  it('has the newest sentences even where they are no news', async () => {
    await model.look();
    server.answers.set('GET status', { code: 200, body: aStatus([aKernel({ explanation: 'Idle for 7 min.' })]) });
    await model.look();
    expect(model.state.status?.kernels[0]?.explanation).toBe('Idle for 7 min.');
  });

  it('goes by the clock of the server', async () => {
    const ahead = async (ms: number | null): Promise<number> => {
      server.aheadMs = ms;
      await model.look();
      return Math.round((model.now().getTime() - Date.now()) / 60_000);
    };
    expect(await ahead(-180_000)).toBe(-3);
    expect(await ahead(1000)).toBe(0);
    expect(await ahead(3_600_000)).toBe(60);
    expect(await ahead(null)).toBe(0);
  });

  it('keeps the last status when the server goes away, says why, and recovers', async () => {
    await model.look();
    server.answers.set('GET status', new TypeError('connection refused'));
    await model.look();
    expect(model.state.status?.kernels).toHaveLength(1);
    expect(model.state.problem?.kind).toBe('unreachable');
    server.answers.set('GET status', { code: 200, body: aStatus() });
    await model.look();
    expect(model.state.problem).toBeNull();
  });

  it('looks again after an act, whether or not it was allowed', async () => {
    await model.look();
    server.answers.set('POST kernels/k1/reclaim', { code: 409, body: { reason: 'running', message: 'Code is running.' } });
    const before = server.times('GET status');
    const problem = await rejection(model.reclaim('k1'));
    expect([problem.kind, problem.reason, problem.message]).toEqual(['refused', 'running', 'Code is running.']);
    expect(server.times('GET status')).toBe(before + 1);
    server.answers.set('PUT kernels/k1/pin', { code: 200, body: { pinned_until: instant(3600) } });
    expect(await model.keep('k1', 3600)).toBe(instant(3600));
    expect(server.asked.find(asked => asked.method === 'PUT')?.body).toEqual({ seconds: 3600 });
    server.answers.set('DELETE kernels/k1/pin', { code: 204 });
    await model.unkeep('k1');
  });

  it('does not ask a server again for what it does not have', async () => {
    await model.prefetch('k1');
    await model.prefetch('k1');
    await model.lookBack(new Date());
    await model.lookBack(new Date());
    expect(server.times('POST kernels/k1/prefetch')).toBe(1);
    expect(server.times('GET history')).toBe(1);
    expect(model.state.history).toBeNull();
  });

  it('asks again for what was only refused', async () => {
    server.answers.set('POST kernels/k1/prefetch', { code: 409, body: { reason: 'no_room', message: 'No room.' } });
    await model.prefetch('k1');
    await model.prefetch('k1');
    expect(server.times('POST kernels/k1/prefetch')).toBe(2);
  });

  it('has history and totals once asked', async () => {
    const won = { reclaimed_gib_hours: 1, reclaimed_gpu_hours: 1 };
    server.answers.set('GET history', { code: 200, body: { step_seconds: 10, gpus: {} } });
    server.answers.set('GET totals', { code: 200, body: { today: won, week: won, since: null } });
    await model.lookBack(new Date());
    expect(model.state.history?.step_seconds).toBe(10);
    expect(model.state.totals?.week).toEqual(won);
  });

  it('looks again by itself, long before its usual time, while a kernel waits', async () => {
    server.answers.set('GET status', { code: 200, body: aStatus([aKernel({ waiting: 1 })]) });
    await model.look();
    server.answers.set('GET status', { code: 200, body: aStatus([aKernel({ waiting: 2 })]) });
    await nextChange();
    expect(model.state.status?.kernels[0]?.waiting).toBe(2);
  });

  it('says nothing more once disposed', async () => {
    let changes = 0;
    model.changed.connect(() => (changes += 1));
    model.dispose();
    await model.look();
    server.events.emit(EVENT);
    expect(changes).toBe(0);
  });
});

describe('the api', () => {
  it('marks what only looks as no activity, and what acts not', async () => {
    await server.api.status();
    await server.api.log({ event: ['reclaim_done', 'restore_done'], gpu: 'GPU-1' }, 'cursor', 10).catch(() => undefined);
    await server.api.reclaim('k 1').catch(() => undefined);
    const [status, log, reclaim] = server.asked.slice(-3);
    expect(status?.query.get('no_track_activity')).toBe('1');
    expect(log?.query.getAll('event')).toEqual(['reclaim_done', 'restore_done']);
    expect(log?.query.get('after')).toBe('cursor');
    expect(reclaim?.query.get('no_track_activity')).toBeNull();
    expect(reclaim?.path).toBe('kernels/k%201/reclaim');
  });

  it.each([
    ['absent', { code: 404, text: '<html></html>' }],
    ['absent', { code: 404, body: { message: 'Not Found', reason: null } }],
    ['refused', { code: 404, body: { reason: 'unknown_kernel', message: 'There is no such kernel.' } }],
    ['forbidden', { code: 403, body: { reason: 'forbidden', message: 'Forbidden' } }],
    ['refused', { code: 503, body: { reason: 'not_running', message: 'Reclaiming GPUs needs Linux.' } }],
    ['unreachable', { code: 502, text: 'Bad gateway' }],
    ['unreachable', new TypeError('Failed to fetch')],
    ['mismatched', { code: 200, body: { version: 2 } }],
    ['mismatched', { code: 200, text: 'hello' }]
  ])('takes for %s what it is', async (kind, answer) => {
    server.answers.set('GET status', answer);
    expect((await rejection(server.api.status())).kind).toBe(kind);
  });
});
