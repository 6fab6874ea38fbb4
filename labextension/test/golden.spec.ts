/** The selectors on the golden status, which the Python tests hold to what the server sends. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { cardsOf } from '../src/select/cards';
import { statusBarOf } from '../src/select/indicator';
import { noticesOf } from '../src/select/notices';
import { rowsOf } from '../src/select/rows';
import type { Status } from '../src/types';
import { aState, language } from './worlds';

const status = JSON.parse(readFileSync(join(process.cwd(), 'tests/golden/status.json'), 'utf8')) as Status;
const now = new Date(status.taken_at ?? 0);
const rows = rowsOf(status, now, language);

describe('the golden status', () => {
  it('has each kernel in its state, those first that want attention', () => {
    const states = rows.map(row => [row.name.replace('.ipynb', ''), row.state]);
    expect(states.slice(0, 6)).toEqual([
      ['growing', 'waiting'],
      ['first-in-line', 'waiting'],
      ['second-in-line', 'waiting'],
      ['restoring', 'restoring'],
      ['reclaiming', 'reclaiming'],
      ['running', 'running']
    ]);
    expect(Object.fromEntries(states)).toMatchObject({
      idle: 'resident',
      warned: 'resident',
      'about-to-be-warned': 'resident',
      kept: 'kept',
      'working-behind': 'left-alone',
      jax: 'left-alone',
      unmanaged: 'left-alone',
      distrusted: 'left-alone',
      reclaimed: 'reclaimed',
      'no-spare-room': 'reclaimed',
      empty: 'empty'
    });
  });

  it('says of each kernel why, unless it says how far it is', () => {
    expect(rows.filter(row => row.why === '').map(row => row.state)).toEqual(['restoring', 'reclaiming']);
    expect(rows[1]?.why).toContain('Held by running.ipynb (40.0 GiB), growing.ipynb (20.0 GiB), another user (15.0 GiB).');
  });

  it('says what changes with the time alone in the words of the server', () => {
    const timed = status.kernels.filter(
      ({ decision }) => decision.act === 'warn' || ['recently_active', 'running'].includes(decision.reason)
    );
    const whys = new Map(rows.map(row => [row.kernelId, row.why]));
    expect(timed.map(kernel => whys.get(kernel.kernel_id))).toEqual(timed.map(kernel => kernel.explanation));
    expect(timed.length).toBeGreaterThan(3);
  });

  it('shares out each GPU to the last byte', () => {
    for (const card of cardsOf(status, language)) {
      expect(card.segments.reduce((total, segment) => total + segment.share, 0)).toBeCloseTo(1, 12);
    }
    expect(cardsOf(status, language).map(card => card.simulated)).toEqual([false, true]);
  });

  it('tells of the alarm once, and who is next in line', () => {
    expect(noticesOf(aState({ status }), language.trans).map(notice => notice.tone)).toEqual(['error']);
    expect(statusBarOf(status, now, language)?.text).toBe('growing.ipynb: next in line');
  });
});
